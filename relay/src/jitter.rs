//! Randomness that spreads load. It never reaches bytes that are served or stored.

use ring::rand::{SecureRandom, SystemRandom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where the randomness comes from: the system, unless a simulation gives a seed. Clones draw from one source.
#[derive(Debug, Clone, Default)]
pub struct Jitter(Option<Arc<AtomicU64>>);

impl Jitter {
    /// A source that gives the same numbers for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Some(Arc::new(AtomicU64::new(seed))))
    }

    /// A number between 0 and 1. Without a random source it is one half: late, but not wrong.
    pub fn fraction(&self) -> f64 {
        if let Some(state) = &self.0 {
            return split_mix(state);
        }
        let mut bytes = [0; 4];
        match SystemRandom::new().fill(&mut bytes) {
            Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
            Err(_) => 0.5,
        }
    }

    /// A random share of a time.
    pub fn share_of(&self, time: Duration) -> Duration {
        time.mul_f64(self.fraction())
    }

    /// A time give or take a fifth.
    pub fn around(&self, time: Duration) -> Duration {
        time.mul_f64(0.8 + 0.4 * self.fraction())
    }

    /// How long to wait after so many failures in a row: full jitter, doubling from `base`, at most `cap`.
    pub fn back_off(&self, failures: u32, base: Duration, cap: Duration) -> Duration {
        let doubled = base.saturating_mul(2_u32.saturating_pow(failures.min(16)));
        self.share_of(doubled.min(cap)).max(base.min(cap) / 2)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014), its upper half as a fraction.
fn split_mix(state: &AtomicU64) -> f64 {
    const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut mixed = state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let upper = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or(u32::MAX);
    f64::from(upper) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stay_in_their_bounds() {
        let (base, cap) = (Duration::from_secs(5), Duration::from_mins(1));
        for jitter in [Jitter::default(), Jitter::seeded(1)] {
            for failures in 0..100 {
                assert!(jitter.back_off(failures, base, cap) <= cap);
                assert!(jitter.back_off(failures, base, cap) >= base / 2);
                assert!((Duration::from_secs(4)..=Duration::from_secs(6)).contains(&jitter.around(base)));
            }
        }
    }

    #[test]
    fn a_seed_gives_its_own_numbers_again() {
        let numbers = |seed| {
            let jitter = Jitter::seeded(seed);
            std::iter::repeat_with(move || jitter.fraction()).take(10).collect::<Vec<_>>()
        };
        assert_eq!(numbers(1), numbers(1));
        assert_ne!(numbers(1), numbers(2));
    }
}
