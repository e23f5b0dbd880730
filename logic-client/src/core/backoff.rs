//! When to try again: exponential backoff with full jitter.

use std::time::Duration;

/// How long to wait between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Upper bound of the first wait.
    pub(crate) base: Duration,
    /// Upper bound of every wait.
    pub(crate) cap: Duration,
    /// How long a stream must have been open for the waits to begin anew.
    pub(crate) stable: Duration,
}

/// Waits drawn evenly from zero to a bound that doubles with every failure.
#[derive(Debug)]
pub(crate) struct Backoff {
    pace: Pace,
    failures: u32,
    random: SplitMix,
}

impl Backoff {
    pub(crate) fn new(pace: Pace, seed: u64) -> Self {
        Self {
            pace,
            failures: 0,
            random: SplitMix(seed),
        }
    }

    /// The wait before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let bound = self.bound();
        self.failures = self.failures.saturating_add(1);
        self.random.up_to(bound)
    }

    /// A stream was open for `open`.
    pub(crate) fn was_open(&mut self, open: Duration) {
        if open >= self.pace.stable {
            self.failures = 0;
        }
    }

    fn bound(&self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.pace.base.saturating_mul(factor).min(self.pace.cap)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded, good enough for jitter.
#[derive(Debug)]
pub(crate) struct SplitMix(u64);

impl SplitMix {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A time from zero to `bound`, each as likely.
    pub(crate) fn up_to(&mut self, bound: Duration) -> Duration {
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        // The high half of the product is even enough, and never above the bound.
        let part = (u128::from(self.next()) * u128::from(nanos)) >> 64;
        Duration::from_nanos(part as u64)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        base: Duration::from_millis(50),
        cap: Duration::from_secs(5),
        stable: Duration::from_secs(10),
    };

    #[test]
    fn waits_stay_below_a_bound_that_doubles_up_to_the_cap() {
        for seed in 0..200 {
            let mut backoff = Backoff::new(PACE, seed);
            for attempt in 0..40 {
                let bound = (PACE.base * (1 << attempt.min(10))).min(PACE.cap);
                assert!(backoff.next() <= bound, "seed {seed}, attempt {attempt}");
            }
        }
    }

    #[test]
    fn waits_use_the_whole_range() {
        // Full jitter: many clients that lost the same gateway must not come back together.
        let waits: Vec<_> = (0..1000)
            .map(|seed| Backoff::new(PACE, seed).next())
            .collect();
        let early = waits.iter().filter(|wait| **wait < PACE.base / 4).count();
        let late = waits
            .iter()
            .filter(|wait| **wait > PACE.base * 3 / 4)
            .count();
        assert!(
            (150..350).contains(&early) && (150..350).contains(&late),
            "{early} {late}"
        );
    }

    #[test]
    fn only_a_stable_stream_resets_the_waits() {
        let mut backoff = Backoff::new(PACE, 1);
        for _ in 0..10 {
            backoff.next();
        }
        backoff.was_open(PACE.stable / 2);
        assert_eq!(backoff.bound(), PACE.cap);
        backoff.was_open(PACE.stable);
        assert_eq!(backoff.bound(), PACE.base);
    }
}
