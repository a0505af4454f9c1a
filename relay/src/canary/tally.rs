//! Counting answers, and what follows from the counts.

/// With fewer answers than this a share says nothing.
pub const MIN_REQUESTS: u64 = 20;

/// Answers of Envoys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All that were completed.
    pub completed: u64,
    /// Those with a 5xx.
    pub errors: u64,
}

/// What several Envoys answered since counting began. Their counters begin at zero again when they restart.
#[derive(Debug)]
pub struct Tally {
    last: Vec<Option<Counts>>,
    unread: Vec<bool>,
    sum: Counts,
}

impl Tally {
    /// Counts of so many Envoys, from their next reading on.
    pub fn new(envoys: usize) -> Self {
        Self { last: vec![None; envoys], unread: vec![true; envoys], sum: Counts::default() }
    }

    /// Takes note of what an Envoy's counters show now; none if they cannot be read.
    pub fn note(&mut self, envoy: usize, counts: Option<Counts>) {
        let (Some(last), Some(unread)) = (self.last.get_mut(envoy), self.unread.get_mut(envoy)) else {
            return;
        };
        *unread = counts.is_none();
        let Some(now) = counts else { return };
        // The first reading is where counting begins.
        let before = last.replace(now).unwrap_or(now);
        let restarted = now.completed < before.completed || now.errors < before.errors;
        let before = if restarted { Counts::default() } else { before };
        self.sum.completed = self.sum.completed.saturating_add(now.completed - before.completed);
        self.sum.errors = self.sum.errors.saturating_add(now.errors - before.errors);
    }

    /// All answers since counting began.
    pub fn sum(&self) -> Counts {
        self.sum
    }

    /// Whether the share of errors is within the bound, in percent. Too few answers, or an Envoy that cannot be read, and
    /// it is unknown; what the others show can still be too much.
    pub fn judge(&self, max_error_percent: u8) -> Option<bool> {
        let Counts { completed, errors } = self.sum;
        if completed.max(errors) < MIN_REQUESTS {
            return None;
        }
        let beyond =
            u128::from(errors) * 100 > u128::from(max_error_percent) * u128::from(completed.max(errors));
        match (beyond, self.unread.contains(&true)) {
            (true, _) => Some(false),
            (false, true) => None,
            (false, false) => Some(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings of each Envoy in turn (completed, errors), none for one that failed; the bound; what follows.
    #[test]
    fn shares_are_judged() {
        type Reading = Option<(u64, u64)>;
        type Case<'a> = (&'a [&'a [Reading]], u8, Option<bool>);
        let cases: &[Case<'_>] = &[
            // Nothing read, one reading only, too few answers.
            (&[&[None]], 5, None),
            (&[&[Some((1000, 900))]], 5, None),
            (&[&[Some((0, 0)), Some((19, 19))]], 5, None),
            // What was before the step does not count.
            (&[&[Some((1000, 900)), Some((1100, 900))]], 5, Some(true)),
            // At the bound, above it.
            (&[&[Some((0, 0)), Some((100, 5))]], 5, Some(true)),
            (&[&[Some((0, 0)), Some((100, 6))]], 5, Some(false)),
            (&[&[Some((0, 0)), Some((100, 1))]], 0, Some(false)),
            (&[&[Some((0, 0)), Some((100, 100))]], 100, Some(true)),
            // A restart: counters begin at zero.
            (&[&[Some((1000, 10)), Some((1010, 10)), Some((15, 0))]], 5, Some(true)),
            (&[&[Some((1000, 10)), Some((1010, 10)), Some((15, 9))]], 5, Some(false)),
            // Unread at last: unknown, unless what was read is too much.
            (&[&[Some((0, 0)), Some((100, 0)), None]], 5, None),
            (&[&[Some((0, 0)), Some((100, 50)), None]], 5, Some(false)),
            (&[&[Some((0, 0)), None, Some((100, 0))]], 5, Some(true)),
            // Two Envoys: both count, and both must be read.
            (&[&[Some((0, 0)), Some((100, 0))], &[Some((0, 0)), Some((100, 20))]], 9, Some(false)),
            (&[&[Some((0, 0)), Some((100, 0))], &[Some((0, 0)), Some((100, 20))]], 10, Some(true)),
            (&[&[Some((0, 0)), Some((100, 0))], &[None, None]], 10, None),
            // Counters that make no sense neither panic nor pass.
            (&[&[Some((0, 0)), Some((0, u64::MAX))]], 10, Some(false)),
            (&[&[Some((0, 0)), Some((u64::MAX, 0)), Some((u64::MAX, u64::MAX))]], 10, Some(false)),
        ];
        for (number, (envoys, bound, expected)) in cases.iter().enumerate() {
            let mut tally = Tally::new(envoys.len());
            for (envoy, readings) in envoys.iter().enumerate() {
                for reading in *readings {
                    tally.note(envoy, reading.map(|(completed, errors)| Counts { completed, errors }));
                }
            }
            assert_eq!(tally.judge(*bound), *expected, "case {number}");
        }
    }
}
