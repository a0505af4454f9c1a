//! Randomness that spreads load. It never reaches bytes that are served or stored.

use ring::rand::{SecureRandom, SystemRandom};
use std::time::Duration;

/// A number between 0 and 1. Without a random source it is one half: late, but not wrong.
pub fn fraction() -> f64 {
    let mut bytes = [0; 4];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

/// A random share of a time.
pub fn share_of(time: Duration) -> Duration {
    time.mul_f64(fraction())
}

/// A time give or take a fifth.
pub fn around(time: Duration) -> Duration {
    time.mul_f64(0.8 + 0.4 * fraction())
}

/// How long to wait after so many failures in a row: full jitter, doubling from `base`, at most `cap`.
pub fn back_off(failures: u32, base: Duration, cap: Duration) -> Duration {
    let doubled = base.saturating_mul(2_u32.saturating_pow(failures.min(16)));
    share_of(doubled.min(cap)).max(base.min(cap) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stay_in_their_bounds() {
        let (base, cap) = (Duration::from_secs(5), Duration::from_mins(1));
        for failures in 0..100 {
            assert!(back_off(failures, base, cap) <= cap);
            assert!(back_off(failures, base, cap) >= base / 2);
            assert!((Duration::from_secs(4)..=Duration::from_secs(6)).contains(&around(base)));
        }
    }
}
