//! How much of its links a tick takes: as much as keeps the wait of others short.

use std::time::Duration;

/// The byte budget of a tick. It grows while ticks that use it up are short, and shrinks when they become long: under load
/// ticks grow, and what comes together leaves together; whoever comes meanwhile waits no longer than the bound.
#[derive(Debug)]
pub struct Budget {
    bytes: usize,
    most: usize,
    /// Ticks for which links are still taken to share the shard.
    shared: u32,
}

/// Below this a tick costs more than what it reads.
const LEAST: usize = 64 << 10;

/// How long the commands of one link may take in a tick while no other has any.
const ALONE: Duration = Duration::from_millis(2);

/// How long those of all links together may take: each of them waits for the others.
const SHARED: Duration = Duration::from_micros(250);

/// So many ticks after the last one with several links the next is expected.
const REMEMBERED: u32 = 256;

impl Budget {
    /// A budget that never is over `most`.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            bytes: most.min(4 * LEAST),
            most,
            shared: 0,
        }
    }

    /// What a tick may take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A tick has taken `taken` bytes of `links` links, and dealt with them in `took`, sends left out.
    pub fn spent(&mut self, links: usize, taken: usize, took: Duration) {
        self.shared = match links {
            0 | 1 => self.shared.saturating_sub(1),
            _ => REMEMBERED,
        };
        let bound = if self.shared > 0 { SHARED } else { ALONE };
        if took > bound {
            self.bytes = (self.bytes / 2).max(LEAST).min(self.most);
        } else if taken >= self.bytes && took < bound / 2 {
            self.bytes = (self.bytes * 2).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1 << 20;

    #[test]
    fn short_ticks_that_use_it_up_make_it_grow_to_the_setting() {
        let mut budget = Budget::new(MOST);
        for _ in 0..10 {
            budget.spent(1, budget.bytes(), Duration::from_micros(100));
        }
        assert_eq!(budget.bytes(), MOST);
        budget.spent(1, 10, Duration::from_micros(10));
        assert_eq!(budget.bytes(), MOST, "idle ticks tell nothing");
    }

    #[test]
    fn long_ticks_make_it_shrink_to_what_a_tick_is_worth() {
        let mut budget = Budget::new(MOST);
        for _ in 0..10 {
            budget.spent(1, budget.bytes(), Duration::from_millis(3));
        }
        assert_eq!(budget.bytes(), LEAST);
        assert_eq!(Budget::new(1).bytes(), 1, "a setting below that holds");
    }

    #[test]
    fn links_that_share_a_shard_wait_less_for_each_other() {
        let mut budget = Budget::new(MOST);
        for _ in 0..10 {
            budget.spent(2, budget.bytes(), Duration::from_millis(1));
        }
        assert_eq!(budget.bytes(), LEAST);
        budget.spent(1, LEAST, Duration::from_micros(200));
        assert_eq!(budget.bytes(), LEAST, "the other one will be back");
    }
}
