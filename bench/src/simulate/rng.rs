//! The one source of chance: everything that a world leaves to luck is drawn from here, in the order in which it happens.

use std::time::Duration;

/// SplitMix64: small, and good enough for choosing.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The same seed gives the same numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Any number but 0.
    pub fn nonzero(&mut self) -> u64 {
        self.draw() | 1
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound as u64) as usize
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True in so many cases of a hundred.
    pub fn percent(&mut self, cases: usize) -> bool {
        self.below(100) < cases
    }

    /// One of several; there is at least one.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A time below `bound`.
    pub fn time(&mut self, bound: Duration) -> Duration {
        let nanos = bound.as_nanos() as u64;
        Duration::from_nanos(self.draw() % nanos.max(1))
    }

    /// Another source, which does not depend on how much is drawn from this one later.
    pub fn fork(&mut self) -> Self {
        Self(self.draw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (mut one, mut other) = (Rng::new(7), Rng::new(7));
        let numbers: Vec<_> = (0..100).map(|_| one.draw()).collect();
        assert!(numbers.iter().all(|number| *number == other.draw()));
        assert_ne!(Rng::new(8).draw(), numbers[0]);
    }

    #[test]
    fn chance_stays_within_its_bounds() {
        let mut rng = Rng::new(1);
        for _ in 0..1000 {
            assert!((3..=5).contains(&rng.between(3, 5)));
            assert!(rng.time(Duration::from_micros(9)) < Duration::from_micros(9));
        }
        assert!(!rng.percent(0) && rng.percent(100));
    }
}
