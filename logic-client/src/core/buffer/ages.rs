//! How long commands have waited, without a look at the clock for each.

use std::collections::VecDeque;
use std::time::Duration;

/// A buffer notes from time to time what it has. What came between two notes counts from the
/// second: it is handed back at most an eighth of the age too late.
const NOTES: u32 = 8;

/// When commands came, by their places.
#[derive(Debug)]
pub(super) struct Ages {
    age: Duration,
    /// Everything up to a place was there at a time. At most one more than [`NOTES`].
    notes: VecDeque<(u64, Duration)>,
    /// When was looked last.
    looked: Duration,
    /// Everything up to here is too old.
    too_old: u64,
}

impl Ages {
    pub(super) fn new(age: Duration) -> Self {
        Self {
            age,
            notes: VecDeque::new(),
            looked: Duration::ZERO,
            too_old: 0,
        }
    }

    /// Commands up to `last` have come so far.
    pub(super) fn look(&mut self, now: Duration, last: u64) {
        let newest = self.notes.back();
        let is_due = newest.is_none_or(|(_, at)| now >= at.saturating_add(self.age / NOTES));
        if is_due && newest.is_none_or(|(place, _)| *place < last) {
            self.notes.push_back((last, now));
        }
        self.looked = now;
        while let Some((place, _)) = self
            .notes
            .pop_front_if(|(_, at)| at.saturating_add(self.age) <= now)
        {
            self.too_old = place;
        }
    }

    /// Commands up to this place are too old.
    pub(super) fn too_old(&self) -> u64 {
        self.too_old
    }

    /// When to look again, if the newest command has the place `last`.
    pub(super) fn next_look(&self, last: u64) -> Duration {
        let oldest = self.notes.front().map(|(_, at)| *at + self.age);
        let unnoted = self.notes.back().is_none_or(|(place, _)| *place < last);
        let note = unnoted.then(|| self.looked.saturating_add(self.age / NOTES));
        oldest
            .into_iter()
            .chain(note)
            .min()
            .unwrap_or(Duration::MAX)
    }

    /// When was looked last.
    pub(super) fn looked(&self) -> Duration {
        self.looked
    }

    /// Nothing waits any more.
    pub(super) fn clear(&mut self) {
        self.notes.clear();
    }
}
