//! The bounded queue of a connection: frames in flight, and frames pending behind them.
//!
//! Pending frames lie one behind the other in one buffer, so that a flush hands all of them to one send without
//! copying. What is in flight stays put until it is sent; conflation, expiry and drops touch pending frames only. An
//! idle outbox owns no buffer: buffers live in the shard's [`Pool`].

use std::time::Duration;

use super::jobs::JobId;
use crate::{
    command::{Outcome, Priority},
    config::{self, WhenFull},
    mutation::{self, Rule},
};

/// Frames for one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    pending: Option<Box<Batch>>,
    flight: Option<Box<Batch>>,
    /// Bytes of the flight that were sent.
    flown: usize,
}

/// What a frame carries besides its bytes.
#[derive(Debug, Default)]
pub struct Meta {
    /// What goes first when the outbox fills.
    pub priority: Priority,
    /// When it is no longer of use, in milliseconds of the shard's clock. `u64::MAX`: never.
    pub expires_ms: u64,
    /// A newer frame with the same key takes its place.
    pub conflation: Option<Box<str>>,
    /// Who wants to know what became of it.
    pub job: Option<JobId>,
    /// A frame of the protocol (ping, pong, close), not a message.
    pub control: bool,
    /// Nothing comes after it: there is room for it, and nothing gives way to it.
    pub last: bool,
}

/// The outbox is full of frames that are not less important.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// What a send has brought about.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// The flight is over.
    pub landed: bool,
    /// Messages that were in it.
    pub messages: u64,
    /// When its oldest message came.
    pub oldest: Option<Duration>,
}

/// Consecutive frames, each with an entry.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// Entries and bytes that are dropped but not yet cut out.
    dead: usize,
    dead_bytes: usize,
    oldest: Option<Duration>,
}

#[derive(Debug)]
struct Entry {
    len: usize,
    dead: bool,
    meta: Meta,
}

/// Buffers waiting for their next outbox.
#[derive(Debug, Default)]
pub struct Pool {
    // Boxed, because that is how outboxes hold them: a batch in a pocket of 8 bytes, not 80.
    #[allow(clippy::vec_box)]
    free: Vec<Box<Batch>>,
    /// Bytes in all outboxes of the shard.
    bytes: usize,
}

impl Pool {
    /// Bytes in all outboxes of the shard.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn take(&mut self) -> Box<Batch> {
        self.free.pop().unwrap_or_default()
    }

    fn give(&mut self, mut batch: Box<Batch>) {
        if self.free.len() < MOST_FREE && batch.bytes.capacity() <= LARGEST_FREE {
            batch.bytes.clear();
            batch.entries.clear();
            (batch.dead, batch.dead_bytes, batch.oldest) = (0, 0, None);
            self.free.push(batch);
        }
    }
}

/// Enough for all outboxes that fill within one tick; larger buffers go back to the allocator.
const MOST_FREE: usize = 4096;
const LARGEST_FREE: usize = 16 << 10;

impl Outbox {
    /// Appends a frame. `drop` is told of every frame that gives way.
    ///
    /// # Errors
    /// [`Full`] when nothing can give way and the setting is to close such connections; the frame was not taken.
    pub fn push(
        &mut self,
        pool: &mut Pool,
        limits: &config::Outbox,
        now: Duration,
        frame: &[u8],
        meta: Meta,
        drop: &mut impl FnMut(Option<JobId>, Outcome),
    ) -> Result<(), Full> {
        let in_flight = self.in_flight();
        let batch = self.pending.get_or_insert_with(|| pool.take());
        let before = batch.live_bytes();
        if let Some(key) = &meta.conflation {
            batch.conflate(key, drop);
        }
        let fits =
            meta.last || batch.make_room(limits, now, in_flight, frame.len(), meta.priority, drop);
        pool.bytes -= before - batch.live_bytes();
        if !fits {
            return Err(Full);
        }
        if !meta.control {
            batch.oldest.get_or_insert(now);
        }
        batch.bytes.extend_from_slice(frame);
        batch.entries.push(Entry {
            len: frame.len(),
            dead: false,
            meta,
        });
        pool.bytes += frame.len();
        Ok(())
    }

    /// Whether the bound is reached before the kernel was offered anything: no sign of a slow client, but of a long
    /// tick. What comes next should wait for the flush.
    pub fn awaits_flush(&self, limits: &config::Outbox) -> bool {
        let pending = self.pending.as_ref();
        self.flight.is_none()
            && pending.is_some_and(|batch| {
                batch.live() >= limits.max_messages || batch.live_bytes() * 2 > limits.max_bytes
            })
    }

    /// The bytes to be sent next. They stay put until all of them are [`Outbox::sent`]. Empty: there is nothing to send.
    pub fn freeze(
        &mut self,
        pool: &mut Pool,
        now: Duration,
        drop: &mut impl FnMut(Option<JobId>, Outcome),
    ) -> &[u8] {
        if self.flight.is_none()
            && let Some(mut batch) = self.pending.take()
        {
            let before = batch.live_bytes();
            batch.expire(now, drop);
            batch.compact();
            pool.bytes -= before - batch.bytes.len();
            if batch.bytes.is_empty() {
                pool.give(batch);
            } else {
                self.flight = Some(batch);
                self.flown = 0;
            }
        }
        self.flight
            .as_ref()
            .map_or(&[], |batch| &batch.bytes[self.flown..])
    }

    /// The kernel took `n` bytes of the flight. `written` is told of every frame when the last byte is gone.
    pub fn sent(
        &mut self,
        pool: &mut Pool,
        n: usize,
        written: &mut impl FnMut(Option<JobId>, Outcome),
    ) -> Sent {
        self.flown += n;
        match self.flight.take_if(|batch| self.flown >= batch.bytes.len()) {
            None => Sent::default(),
            Some(batch) => {
                let mut messages = 0;
                for entry in batch.entries.iter().filter(|entry| !entry.meta.control) {
                    messages += 1;
                    written(entry.meta.job, Outcome::Written);
                }
                let oldest = batch.oldest;
                pool.bytes -= batch.bytes.len();
                pool.give(batch);
                Sent {
                    landed: true,
                    messages,
                    oldest,
                }
            }
        }
    }

    /// Throws pending frames away: the connection is going. What is in flight stays.
    pub fn drop_pending(
        &mut self,
        pool: &mut Pool,
        outcome: Outcome,
        drop: &mut impl FnMut(Option<JobId>, Outcome),
    ) {
        if let Some(batch) = self.pending.take() {
            pool.bytes -= batch.live_bytes();
            batch.report(outcome, drop);
            pool.give(batch);
        }
    }

    /// Throws everything away: the socket is gone.
    pub fn clear(&mut self, pool: &mut Pool, drop: &mut impl FnMut(Option<JobId>, Outcome)) {
        self.drop_pending(pool, Outcome::Closed, drop);
        if let Some(batch) = self.flight.take() {
            pool.bytes -= batch.live_bytes();
            batch.report(Outcome::Closed, drop);
            pool.give(batch);
        }
    }

    /// Whether bytes are on their way, or could be.
    pub fn is_empty(&self) -> bool {
        self.flight.is_none() && self.pending.is_none()
    }

    /// Whether bytes are on their way.
    pub fn is_flying(&self) -> bool {
        self.flight.is_some()
    }

    /// Messages and bytes, pending and in flight.
    pub fn load(&self) -> (usize, usize) {
        let flight = self.in_flight();
        let pending = self.pending.as_ref();
        let (messages, bytes) = pending.map_or((0, 0), |batch| (batch.live(), batch.live_bytes()));
        (messages + flight.messages, bytes + flight.bytes)
    }

    fn in_flight(&self) -> Load {
        let flight = self.flight.as_ref();
        Load {
            // All of it: what was sent keeps its memory until the rest is.
            bytes: flight.map_or(0, |batch| batch.bytes.len()),
            messages: flight.map_or(0, |batch| batch.entries.len()),
        }
    }
}

#[derive(Clone, Copy)]
struct Load {
    bytes: usize,
    messages: usize,
}

impl Batch {
    fn live_bytes(&self) -> usize {
        self.bytes.len() - self.dead_bytes
    }

    fn live(&self) -> usize {
        self.entries.len() - self.dead
    }

    fn kill(&mut self, at: usize) -> Option<JobId> {
        let entry = &mut self.entries[at];
        entry.dead = true;
        self.dead += 1;
        self.dead_bytes += entry.len;
        entry.meta.job.take()
    }

    /// Newest wins: at most one live entry has the key.
    fn conflate(&mut self, key: &str, drop: &mut impl FnMut(Option<JobId>, Outcome)) {
        let same = |entry: &Entry| !entry.dead && entry.meta.conflation.as_deref() == Some(key);
        if let Some(at) = self.entries.iter().rposition(same) {
            let job = self.kill(at);
            drop(job, Outcome::Conflated);
        }
    }

    fn expire(&mut self, now: Duration, drop: &mut impl FnMut(Option<JobId>, Outcome)) {
        let now_ms = now.as_millis() as u64;
        for at in 0..self.entries.len() {
            let entry = &self.entries[at];
            if !entry.dead && entry.meta.expires_ms <= now_ms {
                let job = self.kill(at);
                drop(job, Outcome::Expired);
            }
        }
    }

    /// Makes room for a frame: expired ones go first, then less important ones, then, if that is the setting, the
    /// oldest. Whether there is room.
    fn make_room(
        &mut self,
        limits: &config::Outbox,
        now: Duration,
        flight: Load,
        len: usize,
        priority: Priority,
        drop: &mut impl FnMut(Option<JobId>, Outcome),
    ) -> bool {
        let fits = |batch: &Self| {
            let messages = batch.live() + flight.messages;
            let bytes = batch.live_bytes() + flight.bytes + len;
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
                |entry| entry.meta.priority == lower,
                Outcome::DroppedPriority,
                &fits,
                drop,
            );
        }
        if limits.when_full == WhenFull::DropOldest {
            let not_above = |entry: &Entry| entry.meta.priority <= priority;
            self.kill_oldest(not_above, Outcome::DroppedSlow, &fits, drop);
        }
        let fits = fits(self);
        if self.dead_bytes > self.live_bytes() {
            self.compact();
        }
        fits
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
            if !entry.dead && !entry.meta.control && wanted(entry) {
                let job = self.kill(at);
                drop(job, outcome);
            }
        }
    }

    /// Cuts dead frames out.
    fn compact(&mut self) {
        if self.dead == 0 {
            return;
        }
        let (mut from, mut to) = (0, 0);
        for entry in &self.entries {
            if !entry.dead {
                self.bytes.copy_within(from..from + entry.len, to);
                to += entry.len;
            }
            from += entry.len;
        }
        self.bytes.truncate(to);
        self.entries.retain(|entry| !entry.dead);
        (self.dead, self.dead_bytes) = (0, 0);
    }

    fn report(&self, outcome: Outcome, drop: &mut impl FnMut(Option<JobId>, Outcome)) {
        let live = self.entries.iter().filter(|entry| !entry.dead);
        for entry in live.filter(|entry| !entry.meta.control) {
            drop(entry.meta.job, outcome);
        }
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
