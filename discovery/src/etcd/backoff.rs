//! Which member is next, and when.

use std::time::Duration;

/// Upper bound of the first wait; it doubles with every failure.
const BASE: Duration = Duration::from_millis(100);

/// Upper bound of every wait.
const CAP: Duration = Duration::from_secs(3);

/// Goes through the members of a cluster.
#[derive(Debug)]
pub(super) struct Turns {
    endpoints: Vec<String>,
    next: usize,
    failures: u32,
}

impl Turns {
    /// Begins anywhere, so that not all begin at the same member.
    pub(super) fn new(endpoints: Vec<String>) -> Self {
        let next = random() as usize % endpoints.len().max(1);
        Self {
            endpoints,
            next,
            failures: 0,
        }
    }

    /// The member to try next.
    pub(super) fn endpoint(&mut self) -> String {
        self.next = (self.next + 1) % self.endpoints.len();
        self.endpoints[self.next].clone()
    }

    /// The member does what it should.
    pub(super) fn worked(&mut self) {
        self.failures = 0;
    }

    /// It does not: how long to wait before the next is tried. With jitter, so that those who lost
    /// the same member do not come back together.
    pub(super) fn failed(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let bound = BASE.saturating_mul(factor).min(CAP);
        bound / 2 + bound.mul_f64(f64::from(random()) / f64::from(u32::MAX)) / 2
    }
}

/// Without randomness the waits are merely the same everywhere.
fn random() -> u32 {
    getrandom::u32().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_gets_its_turn() {
        let mut turns = Turns::new(["a", "b", "c"].map(String::from).into());
        let mut three: Vec<_> = (0..3).map(|_| turns.endpoint()).collect();
        assert_eq!(turns.endpoint(), three[0]);
        three.sort();
        assert_eq!(three, ["a", "b", "c"]);
    }

    #[test]
    fn waits_grow_up_to_a_bound_and_begin_anew() {
        let mut turns = Turns::new(vec!["a".into()]);
        for failures in 0..100 {
            let bound = (BASE * (1 << failures.min(10))).min(CAP);
            let wait = turns.failed();
            assert!(wait >= bound / 2 && wait <= bound, "{failures}: {wait:?}");
        }
        turns.worked();
        assert!(turns.failed() <= BASE);
    }
}
