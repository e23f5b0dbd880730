//! Consecutive frames of an outbox in one buffer, and where such buffers wait for their next outbox.

use std::{sync::Arc, time::Duration};

use super::{
    jobs::JobId,
    outbox::{Frame, Kind, Meta},
};
use crate::{
    command::{Outcome, Priority},
    config::{self, WhenFull},
    mutation::{self, Rule},
};
use flight::{Flown, Shared};

pub use flight::Left;

mod flight;

/// Consecutive frames, each with an entry.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// Of those entries that have one.
    extras: Vec<Extra>,
    /// Frames that many outboxes have, in the order of their entries: they are not in `bytes`.
    shared: Vec<Shared>,
    shared_bytes: usize,
    /// How far a batch in flight was sent, and whether its next bytes were offered to the kernel.
    flown: Flown,
    offered: bool,
    /// Entries and bytes that are dropped but not yet cut out.
    dead: usize,
    dead_bytes: usize,
    /// Entries and bytes that are no messages; these are never dropped.
    control: usize,
    control_bytes: usize,
    oldest: Option<Duration>,
}

/// A frame. Small, because every message has one.
#[derive(Clone, Copy, Debug)]
struct Entry {
    len: u32,
    /// Its place in `extras`, or [`NO_EXTRA`].
    extra: u32,
    priority: Priority,
    control: bool,
    dead: bool,
    /// Its bytes are the next of `shared`.
    shared: bool,
}

/// What most messages do not have: a time to live, a key, somebody who asks.
#[derive(Debug)]
struct Extra {
    expires_ms: u64,
    conflation: Option<Arc<str>>,
    job: Option<JobId>,
}

/// Messages that are not dropped, and their bytes: what limits are for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// How many.
    pub messages: usize,
    /// Bytes of their frames.
    pub bytes: usize,
}

/// Buffers waiting for their next outbox.
#[derive(Debug, Default)]
pub struct Pool {
    // Boxed, because that is how outboxes hold them: a batch in a pocket of 8 bytes.
    #[allow(clippy::vec_box)]
    free: Vec<Box<Batch>>,
    /// Memory of their buffers.
    free_bytes: usize,
    /// Bytes in all outboxes of the shard.
    bytes: usize,
}

const NO_EXTRA: u32 = u32::MAX;

/// So many dropped entries are not worth cutting out.
const FEW_DEAD: usize = 16;

/// Enough for all outboxes that fill within one tick. A buffer that goes back to the allocator costs page faults when it comes
/// again, far more than the copy into it: so the bound is on the memory of all, not on each.
const MOST_FREE: usize = 4096;
const MOST_FREE_BYTES: usize = 16 << 20;

impl Pool {
    /// Bytes in all outboxes of the shard.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// So many bytes have come.
    pub fn grow(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// So many bytes have gone.
    pub fn shrink(&mut self, bytes: usize) {
        self.bytes -= bytes;
    }

    /// An empty one.
    pub fn take(&mut self) -> Box<Batch> {
        let batch = self.free.pop().unwrap_or_default();
        self.free_bytes -= batch.bytes.capacity();
        batch
    }

    /// One that is not needed any more.
    pub fn give(&mut self, mut batch: Box<Batch>) {
        let memory = batch.bytes.capacity();
        if self.free.len() < MOST_FREE && self.free_bytes + memory <= MOST_FREE_BYTES {
            batch.clear();
            self.free_bytes += memory;
            self.free.push(batch);
        }
    }
}

impl Batch {
    /// Bytes that are not dropped.
    pub fn live_bytes(&self) -> usize {
        self.bytes.len() + self.shared_bytes - self.dead_bytes
    }

    /// Messages that are not dropped, nor told to be sent.
    pub fn load(&self) -> Load {
        Load {
            messages: self.messages() - self.flown.messages,
            bytes: self.live_bytes() - self.control_bytes,
        }
    }

    /// Frames that are no messages.
    pub fn control(&self) -> usize {
        self.control
    }

    /// When the oldest message came.
    pub fn oldest(&self) -> Option<Duration> {
        self.oldest
    }

    /// Who wants to know what becomes of what is not dropped.
    pub fn jobs(&self) -> impl Iterator<Item = JobId> + '_ {
        self.extras.iter().filter_map(|extra| extra.job)
    }

    /// Adds a frame.
    #[inline]
    pub fn append(&mut self, now: Duration, frame: Frame<'_>, meta: Meta<'_>) {
        let control = meta.kind != Kind::Message;
        if control {
            self.control += 1;
            self.control_bytes += frame.len();
        } else {
            self.oldest.get_or_insert(now);
        }
        let mut extra = NO_EXTRA;
        if meta.job.is_some() || meta.conflation.is_some() || meta.expires_ms != u64::MAX {
            extra = self.extras.len() as u32;
            self.extras.push(Extra {
                expires_ms: meta.expires_ms,
                conflation: meta.conflation.cloned(),
                job: meta.job,
            });
        }
        if let Some(whole) = frame.whole {
            self.shared_bytes += whole.len();
            self.shared.push(Shared {
                at: self.bytes.len(),
                messages: self.messages(),
                frame: whole.clone(),
            });
        } else {
            self.bytes.reserve(frame.len());
            self.bytes.extend_from_slice(frame.head.bytes());
            self.bytes.extend_from_slice(frame.payload);
        }
        self.entries.push(Entry {
            // A payload has at most 1 GiB (`limits.max_payload_bytes`).
            len: frame.len() as u32,
            extra,
            priority: meta.priority,
            control,
            dead: false,
            shared: frame.whole.is_some(),
        });
    }

    /// Newest wins: at most one live entry has the key.
    pub fn conflate(&mut self, key: &str, drop: &mut impl FnMut(Option<JobId>, Outcome)) {
        let same = |entry: &Entry| {
            let extra = self.extra(entry);
            !entry.dead && extra.is_some_and(|extra| extra.conflation.as_deref() == Some(key))
        };
        if let Some(at) = self.entries.iter().rposition(same) {
            let job = self.kill(at);
            drop(job, Outcome::Conflated);
            // Or what a key leaves behind would grow for as long as nothing is sent.
            if self.dead > FEW_DEAD.max(self.entries.len() / 2) {
                self.compact();
            }
        }
    }

    /// Drops what is of no use any more.
    pub fn expire(&mut self, now: Duration, drop: &mut impl FnMut(Option<JobId>, Outcome)) {
        if self.extras.is_empty() {
            return;
        }
        let now_ms = now.as_millis() as u64;
        for at in 0..self.entries.len() {
            let entry = &self.entries[at];
            let extra = self.extra(entry);
            if !entry.dead && extra.is_some_and(|extra| extra.expires_ms <= now_ms) {
                let job = self.kill(at);
                drop(job, Outcome::Expired);
            }
        }
    }

    /// Makes room for a message: expired ones go first, then less important ones, then, if that is the setting, the
    /// oldest. Whether there is room.
    pub fn make_room(
        &mut self,
        limits: &config::Outbox,
        now: Duration,
        flight: Load,
        len: usize,
        priority: Priority,
        drop: &mut impl FnMut(Option<JobId>, Outcome),
    ) -> bool {
        let fits = |batch: &Self| {
            let load = batch.load();
            let messages = load.messages + flight.messages;
            let bytes = load.bytes + flight.bytes + len;
            // A frame alone always fits: its size was checked against the payload limit.
            messages == 0 || (messages < limits.max_messages && bytes <= limits.max_bytes)
        };
        if fits(self) || mutation::is_off(Rule::OutboxBound) {
            return true;
        }
        self.expire(now, drop);
        for lower in [Priority::Low, Priority::Normal] {
            if lower >= priority {
                break;
            }
            self.kill_oldest(
                |entry| entry.priority == lower,
                Outcome::DroppedPriority,
                &fits,
                drop,
            );
        }
        if limits.when_full == WhenFull::DropOldest {
            let not_above = |entry: &Entry| entry.priority <= priority;
            self.kill_oldest(not_above, Outcome::DroppedSlow, &fits, drop);
        }
        let fits = fits(self);
        if self.dead_bytes > self.live_bytes() {
            self.compact();
        }
        fits
    }

    /// Cuts dropped frames out.
    pub fn compact(&mut self) {
        if self.dead == 0 {
            return;
        }
        let (mut from, mut to, mut extras, mut shared) = (0, 0, 0, 0);
        let mut messages = 0;
        for entry in &mut self.entries {
            let len = if entry.shared { 0 } else { entry.len as usize };
            if entry.shared && entry.dead {
                self.shared_bytes -= self.shared.remove(shared).frame.len();
            } else if entry.shared {
                self.shared[shared].at = to;
                self.shared[shared].messages = messages;
                shared += 1;
            }
            messages += usize::from(!entry.dead && !entry.control);
            if !entry.dead {
                self.bytes.copy_within(from..from + len, to);
                to += len;
                if entry.extra != NO_EXTRA {
                    // Extras stand in the order of their entries, so those behind are not disturbed.
                    self.extras.swap(extras, entry.extra as usize);
                    entry.extra = extras as u32;
                    extras += 1;
                }
            }
            from += len;
        }
        self.bytes.truncate(to);
        self.extras.truncate(extras);
        self.entries.retain(|entry| !entry.dead);
        (self.dead, self.dead_bytes) = (0, 0);
    }

    /// Tells what became of every message that is not dropped, and who asked for those that are told to be sent.
    pub fn report(&self, outcome: Outcome, drop: &mut impl FnMut(Option<JobId>, Outcome)) {
        let live = self.entries.iter().filter(|entry| !entry.dead);
        for (at, entry) in live.filter(|entry| !entry.control).enumerate() {
            let job = self.extra(entry).and_then(|extra| extra.job);
            if at >= self.flown.messages {
                drop(job, outcome);
            } else if job.is_some() {
                drop(job, Outcome::Written);
            }
        }
    }

    #[cfg(test)]
    pub fn memory(&self) -> usize {
        self.bytes.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.extras.capacity() * size_of::<Extra>()
    }

    /// All that it was is gone, but for its buffers. In place: it is large, and each send needs one.
    fn clear(&mut self) {
        let Self {
            bytes,
            entries,
            extras,
            shared,
            shared_bytes,
            flown,
            offered,
            dead,
            dead_bytes,
            control,
            control_bytes,
            oldest,
        } = self;
        bytes.clear();
        entries.clear();
        extras.clear();
        shared.clear();
        (*shared_bytes, *flown, *offered) = (0, Flown::default(), false);
        (*dead, *dead_bytes) = (0, 0);
        (*control, *control_bytes, *oldest) = (0, 0, None);
    }

    fn messages(&self) -> usize {
        self.entries.len() - self.dead - self.control
    }

    fn extra(&self, entry: &Entry) -> Option<&Extra> {
        self.extras.get(entry.extra as usize)
    }

    fn kill(&mut self, at: usize) -> Option<JobId> {
        let entry = &mut self.entries[at];
        entry.dead = true;
        self.dead += 1;
        self.dead_bytes += entry.len as usize;
        let extra = self.extras.get_mut(entry.extra as usize)?;
        extra.conflation = None;
        extra.job.take()
    }

    fn kill_oldest(
        &mut self,
        wanted: impl Fn(&Entry) -> bool,
        outcome: Outcome,
        enough: &impl Fn(&Self) -> bool,
        drop: &mut impl FnMut(Option<JobId>, Outcome),
    ) {
        for at in 0..self.entries.len() {
            if enough(self) {
                return;
            }
            let entry = &self.entries[at];
            if !entry.dead && !entry.control && wanted(entry) {
                let job = self.kill(at);
                drop(job, outcome);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_message_costs_is_small() {
        assert_eq!(size_of::<Entry>(), 12);
        assert_eq!(size_of::<Extra>(), 32);
    }
}
