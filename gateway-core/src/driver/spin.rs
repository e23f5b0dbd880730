//! Looking on for a while before sleeping: to be woken costs more than that, if something comes soon.

use std::time::Duration;

/// For how long a shard that has run out of work looks on (`tick.spin_us`).
#[derive(Debug)]
pub(super) struct Spin {
    time: Duration,
    until: Duration,
}

impl Spin {
    /// Looks on for `micros` after the last work. 0: never.
    pub(super) fn new(micros: u64) -> Self {
        Self {
            time: Duration::from_micros(micros),
            until: Duration::ZERO,
        }
    }

    /// There was work.
    pub(super) fn worked(&mut self, now: Duration) {
        self.until = now + self.time;
    }

    /// Whether to look on instead of sleeping.
    pub(super) fn goes_on(&self, now: Duration) -> bool {
        now < self.until
    }

    /// Until when to look on.
    pub(super) fn until(&self) -> Duration {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_for_its_time_after_the_last_work() {
        let at = Duration::from_micros;
        let mut spin = Spin::new(50);
        assert!(!spin.goes_on(at(0)), "there was no work");
        spin.worked(at(100));
        assert!(spin.goes_on(at(149)) && !spin.goes_on(at(150)));
        let mut never = Spin::new(0);
        never.worked(at(100));
        assert!(!never.goes_on(at(100)));
    }
}
