//! The turns of links: fair parts of a tick's byte budget.

use std::{collections::VecDeque, time::Duration};

use super::budget::Budget;

/// Bytes read from a link by one call: more would only leave the caches before the shard looks at them.
pub(super) const LINK_READ: usize = 256 << 10;
/// Least bytes of the budget that a link gets in its turn: less is not worth a system call.
const LEAST: usize = 4 << 10;

/// Links with data, in the order of their turns, and what they may take together.
///
/// In every round each link gets an equal part of what is left. (Bytes can be cut anywhere, so no link is owed anything from
/// one round to the next, and there are no deficits to keep.) Who has not had its turn is first in the next tick.
#[derive(Debug)]
pub(super) struct Turns<Link> {
    line: VecDeque<Link>,
    budget: Budget,
}

/// What a tick has taken of its budget.
#[derive(Debug)]
pub(super) struct Taking {
    links: usize,
    budget: usize,
    left: usize,
    /// Of the round: turns that are to come, and the part of each.
    turns: usize,
    part: usize,
}

impl<Link> Turns<Link> {
    /// Nobody has data. No tick takes more than `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        Self {
            line: VecDeque::new(),
            budget: Budget::new(most),
        }
    }

    /// A link has data, or may have more.
    pub(super) fn line_up(&mut self, link: Link) {
        self.line.push_back(link);
    }

    /// Whether no link has data.
    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// A tick begins to take.
    pub(super) fn begin(&self) -> Taking {
        let budget = self.budget.bytes();
        Taking {
            links: self.line.len(),
            budget,
            left: budget,
            turns: 0,
            part: 0,
        }
    }

    /// Whose turn it is, and how many bytes it may take, [`LINK_READ`] at most. `None`: the budget is used, or nothing is left.
    pub(super) fn next(&mut self, taking: &mut Taking) -> Option<(Link, usize)> {
        if taking.left == 0 {
            return None;
        }
        if taking.turns == 0 {
            taking.turns = self.line.len();
            taking.part = (taking.left / taking.turns.max(1)).max(LEAST);
        }
        taking.turns = taking.turns.saturating_sub(1);
        let link = self.line.pop_front()?;
        Some((link, taking.part.min(taking.left).min(LINK_READ)))
    }

    /// What a tick has taken was dealt with in `took`, sends left out.
    pub(super) fn spent(&mut self, taking: &Taking, took: Duration) {
        self.budget.spent(taking.links, taking.taken(), took);
    }
}

impl Taking {
    /// The link whose turn it was has taken so many bytes.
    pub(super) fn takes(&mut self, bytes: usize) {
        self.left -= bytes;
    }

    /// How many bytes all have taken.
    pub(super) fn taken(&self) -> usize {
        self.budget - self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 256 << 10;

    // Every link has more than there is.
    fn take_all(turns: &mut Turns<char>) -> Vec<(char, usize)> {
        let mut taking = turns.begin();
        let mut all = Vec::new();
        while let Some((link, part)) = turns.next(&mut taking) {
            taking.takes(part);
            turns.line_up(link);
            all.push((link, part));
        }
        all
    }

    #[test]
    fn each_link_gets_an_equal_part() {
        let mut turns = Turns::new(MOST);
        for link in ['a', 'b', 'c', 'd'] {
            turns.line_up(link);
        }
        let part = MOST / 4;
        assert_eq!(
            take_all(&mut turns),
            [('a', part), ('b', part), ('c', part), ('d', part)]
        );
    }

    #[test]
    fn what_one_leaves_is_shared_by_the_others() {
        let mut turns = Turns::new(MOST);
        turns.line_up('a');
        turns.line_up('b');
        let mut taking = turns.begin();
        assert_eq!(turns.next(&mut taking), Some(('a', MOST / 2)));
        taking.takes(1);
        assert_eq!(turns.next(&mut taking), Some(('b', MOST / 2)));
        taking.takes(MOST / 2);
        turns.line_up('b');
        assert_eq!(turns.next(&mut taking), Some(('b', MOST / 2 - 1)));
        taking.takes(2);
        assert_eq!(turns.next(&mut taking), None, "nobody has any more");
        assert_eq!(taking.taken(), MOST / 2 + 3);
    }

    #[test]
    fn who_had_no_turn_is_first_in_the_next_tick() {
        let mut turns = Turns::new(2 * LEAST);
        for link in ['a', 'b', 'c'] {
            turns.line_up(link);
        }
        assert_eq!(take_all(&mut turns), [('a', LEAST), ('b', LEAST)]);
        assert_eq!(take_all(&mut turns)[0].0, 'c');
    }
}
