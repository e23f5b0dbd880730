//! What is to happen when. Time jumps from one entry to the next.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use super::net::{Owner, Socket};

/// Something that happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// Bytes, or an end, arrive at a socket.
    Arrive(Socket),
    /// An attempt to connect reaches the other side.
    Dialled(Socket),
    /// Somebody runs: has news, or a deadline.
    Run(Owner),
    /// An entry of the plan.
    Act(usize),
}

/// The future of a world.
#[derive(Debug, Default)]
pub struct Agenda {
    heap: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    /// Entries at the same time happen in the order in which they were made.
    made: u64,
    /// When each one runs next; other entries for it are stale.
    runs: BTreeMap<Owner, Duration>,
}

impl Agenda {
    /// `event` happens at `at`.
    pub fn at(&mut self, at: Duration, event: Event) {
        self.made += 1;
        self.heap.push(Reverse((at, self.made, event)));
    }

    /// `owner` runs at `at`, unless it runs before that anyway.
    pub fn run_at(&mut self, at: Duration, owner: Owner) {
        if self.runs.get(&owner).is_none_or(|planned| at < *planned) {
            self.runs.insert(owner, at);
            self.at(at, Event::Run(owner));
        }
    }

    /// `owner` is no more.
    pub fn forget(&mut self, owner: Owner) {
        self.runs.remove(&owner);
    }

    /// The next event and its time, not after `until`.
    pub fn next(&mut self, until: Duration) -> Option<(Duration, Event)> {
        loop {
            let Reverse((at, _, _)) = self.heap.peek()?;
            if *at > until {
                return None;
            }
            let Reverse((at, _, event)) = self.heap.pop()?;
            if let Event::Run(owner) = event {
                if self.runs.get(&owner) != Some(&at) {
                    continue;
                }
                self.runs.remove(&owner);
            }
            return Some((at, event));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn somebody_who_is_to_run_sooner_does_not_run_later_again() {
        let mut agenda = Agenda::default();
        let owner = Owner::Client(3);
        for seconds in [5, 2, 9] {
            agenda.run_at(seconds * SECOND, owner);
        }
        let end = 100 * SECOND;
        assert_eq!(agenda.next(end), Some((2 * SECOND, Event::Run(owner))));
        assert_eq!(agenda.next(end), None);
    }

    #[test]
    fn events_of_one_time_keep_their_order() {
        let mut agenda = Agenda::default();
        for act in [4, 1, 3] {
            agenda.at(SECOND, Event::Act(act));
        }
        let acts: Vec<_> = std::iter::from_fn(|| agenda.next(SECOND)).collect();
        let expected = [4, 1, 3].map(|act| (SECOND, Event::Act(act)));
        assert_eq!(acts, expected);
        agenda.at(2 * SECOND, Event::Act(0));
        assert_eq!(agenda.next(SECOND), None, "not yet");
    }
}
