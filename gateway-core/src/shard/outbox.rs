//! The bounded queue of a connection: frames in flight, and frames pending behind them.
//!
//! Pending frames lie one behind the other in one buffer, so that a flush hands all of them to one send without
//! copying. A long frame for many is not copied at all: its outboxes share it, and it leaves with a send of its own. What is
//! in flight stays put until it is sent; conflation, expiry and drops touch pending frames only. An idle outbox owns no
//! buffer: buffers live in the shard's [`Pool`].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    batch::{Batch, Left, Load, Pool},
    jobs::JobId,
};
use crate::{
    command::{Outcome, Priority},
    config,
    mutation::{self, Rule},
    ws::frames::Head,
};

/// Frames for one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    pending: Option<Box<Batch>>,
    flight: Option<Box<Batch>>,
}

/// The bytes of a frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame<'a> {
    /// The header; the default one is empty.
    pub head: Head,
    /// What comes behind it.
    pub payload: &'a [u8],
    /// Both in one, to be shared with other outboxes instead of being copied.
    pub whole: Option<&'a Bytes>,
}

/// What a frame is besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Meta<'a> {
    /// What it is.
    pub kind: Kind,
    /// What goes first when the outbox fills.
    pub priority: Priority,
    /// When it is no longer of use, in milliseconds of the shard's clock. `u64::MAX`: never.
    pub expires_ms: u64,
    /// A newer frame with the same key takes its place.
    pub conflation: Option<&'a Arc<str>>,
    /// Who wants to know what became of it.
    pub job: Option<JobId>,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A message.
    #[default]
    Message,
    /// A frame of the protocol (ping, pong). It has room of its own, for a few; it never gives way, and nothing gives
    /// way to it.
    Control,
    /// The last bytes: there is always room for them.
    Last,
}

/// The outbox is full of frames that are not less important.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// What a send has brought about.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// The flight is over.
    pub landed: bool,
    /// It is not: its next bytes can be sent at once.
    pub goes_on: bool,
    /// Messages that have left with it.
    pub messages: u64,
    /// When its oldest message came.
    pub oldest: Option<Duration>,
}

/// Most pings and pongs that wait in an outbox: one who reads so few does not need more.
const MOST_CONTROL: usize = 16;

impl Frame<'_> {
    /// How many they are.
    pub fn len(&self) -> usize {
        self.head.bytes().len() + self.payload.len()
    }
}

impl Default for Meta<'_> {
    fn default() -> Self {
        Self {
            kind: Kind::Message,
            priority: Priority::Normal,
            expires_ms: u64::MAX,
            conflation: None,
            job: None,
        }
    }
}

impl Outbox {
    /// Appends a frame. `drop` is told of every frame that gives way.
    ///
    /// # Errors
    /// [`Full`] when nothing can give way and the setting is to close such connections; the frame was not taken.
    #[inline]
    pub fn push(
        &mut self,
        pool: &mut Pool,
        limits: &config::Outbox,
        now: Duration,
        frame: Frame<'_>,
        meta: Meta<'_>,
        drop: &mut impl FnMut(Option<JobId>, Outcome),
    ) -> Result<(), Full> {
        let in_flight = self.in_flight();
        let batch = self.pending.get_or_insert_with(|| pool.take());
        let before = batch.live_bytes();
        if let Some(key) = meta.conflation {
            batch.conflate(key, drop);
        }
        let fits = match meta.kind {
            Kind::Message => {
                batch.make_room(limits, now, in_flight, frame.len(), meta.priority, drop)
            }
            Kind::Control => batch.control() < MOST_CONTROL || mutation::is_off(Rule::OutboxBound),
            Kind::Last => true,
        };
        pool.shrink(before - batch.live_bytes());
        if !fits {
            return Err(Full);
        }
        batch.append(now, frame, meta);
        pool.grow(frame.len());
        Ok(())
    }

    /// Whether the bound is reached before the kernel was offered anything: no sign of a slow client, but of a long
    /// tick. What comes next should wait for the flush.
    pub fn awaits_flush(&self, limits: &config::Outbox) -> bool {
        let pending = self.pending.as_ref();
        self.flight.is_none()
            && pending.is_some_and(|batch| {
                let load = batch.load();
                load.messages >= limits.max_messages || load.bytes * 2 > limits.max_bytes
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
            pool.shrink(before - batch.live_bytes());
            if batch.live_bytes() == 0 {
                pool.give(batch);
            } else {
                self.flight = Some(batch);
            }
        }
        self.flight.as_mut().map_or(&[], |batch| batch.offer())
    }

    /// The kernel took `n` bytes of the flight. `written` is told of every job when the last byte is gone.
    pub fn sent(
        &mut self,
        pool: &mut Pool,
        n: usize,
        written: &mut impl FnMut(Option<JobId>, Outcome),
    ) -> Sent {
        let Some(batch) = &mut self.flight else {
            return Sent::default();
        };
        let left = batch.fly(n);
        let mut sent = Sent {
            landed: left == Left::Nothing,
            goes_on: left == Left::Next,
            messages: match left {
                Left::Rest => 0,
                Left::Next | Left::Nothing => batch.take_sent() as u64,
            },
            oldest: None,
        };
        if let Some(batch) = self.flight.take_if(|_| sent.landed) {
            batch
                .jobs()
                .for_each(|job| written(Some(job), Outcome::Written));
            sent.oldest = batch.oldest();
            pool.shrink(batch.live_bytes());
            pool.give(batch);
        }
        sent
    }

    /// Throws pending frames away: the connection is going. What is in flight stays.
    pub fn drop_pending(
        &mut self,
        pool: &mut Pool,
        outcome: Outcome,
        drop: &mut impl FnMut(Option<JobId>, Outcome),
    ) {
        if let Some(batch) = self.pending.take() {
            pool.shrink(batch.live_bytes());
            batch.report(outcome, drop);
            pool.give(batch);
        }
    }

    /// Throws everything away: the socket is gone.
    pub fn clear(&mut self, pool: &mut Pool, drop: &mut impl FnMut(Option<JobId>, Outcome)) {
        self.drop_pending(pool, Outcome::Closed, drop);
        if let Some(batch) = self.flight.take() {
            pool.shrink(batch.live_bytes());
            batch.report(Outcome::Closed, drop);
            pool.give(batch);
        }
    }

    /// Whether a send could begin.
    pub fn is_ready(&self) -> bool {
        match &self.flight {
            Some(batch) => !batch.is_offered(),
            None => self.pending.is_some(),
        }
    }

    /// Whether bytes are on their way, or could be.
    pub fn is_empty(&self) -> bool {
        self.flight.is_none() && self.pending.is_none()
    }

    /// Whether bytes are on their way.
    pub fn is_flying(&self) -> bool {
        self.flight.as_ref().is_some_and(|batch| batch.is_offered())
    }

    /// Whether bytes have left the pending ones, be they on their way or not yet offered.
    pub fn has_flight(&self) -> bool {
        self.flight.is_some()
    }

    /// Messages and their bytes, pending and in flight.
    pub fn load(&self) -> (usize, usize) {
        let flight = self.in_flight();
        let pending = self.pending.as_ref();
        let pending = pending.map_or(Load::default(), |batch| batch.load());
        (
            pending.messages + flight.messages,
            pending.bytes + flight.bytes,
        )
    }

    /// Bytes of all frames that are not dropped.
    pub fn bytes(&self) -> usize {
        let batches = [&self.pending, &self.flight].into_iter().flatten();
        batches.map(|batch| batch.live_bytes()).sum()
    }

    /// Bytes of memory that pending frames take.
    #[cfg(test)]
    fn memory(&self) -> usize {
        self.pending.as_ref().map_or(0, |batch| batch.memory())
    }

    /// All of the flight: what was sent keeps its memory until the rest is.
    fn in_flight(&self) -> Load {
        let flight = self.flight.as_ref();
        flight.map_or(Load::default(), |batch| batch.load())
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
