//! The open streams of a connection, and which of them have something to do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crate::inbound::{Failure, Inbound, Step};
use crate::outbound::Outbound;
use crate::prefix::Violation;
use crate::wake::ReadyList;

pub(crate) struct Stream {
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
    pub(crate) deadline: Option<Duration>,
    /// The owner is done with it: only what is queued still leaves.
    pub(crate) finished: bool,
    /// In `readable`.
    readable: bool,
    /// In `sendable`.
    sendable: bool,
}

/// Streams by id. Ordered, so that a run can be repeated exactly, and a peer that chooses the
/// ids cannot make look-ups slow.
pub(crate) struct Streams {
    map: BTreeMap<u32, Box<Stream>>,
    /// Streams that may have a next step, in the order they are asked.
    readable: VecDeque<u32>,
    /// Streams that may have something for `h2`.
    sendable: VecDeque<u32>,
    /// Streams with credit `h2` was not told of.
    owing: Vec<u32>,
    deadlines: BTreeSet<(Duration, u32)>,
    received: Arc<ReadyList>,
    writable: Arc<ReadyList>,
    woken: Vec<u32>,
    /// Bytes of incomplete messages, of all streams.
    incomplete: usize,
    max_incomplete: usize,
    /// Streams that were reset while nobody was listening.
    gone: VecDeque<(u32, Failure)>,
    /// The connection is over.
    lost: bool,
}

impl Streams {
    pub(crate) fn new(max_incomplete: usize) -> Self {
        Self {
            map: BTreeMap::new(),
            readable: VecDeque::new(),
            sendable: VecDeque::new(),
            owing: Vec::new(),
            deadlines: BTreeSet::new(),
            received: Arc::default(),
            writable: Arc::default(),
            woken: Vec::new(),
            incomplete: 0,
            max_incomplete,
            gone: VecDeque::new(),
            lost: false,
        }
    }

    pub(crate) fn received_waker(&self, id: u32) -> Waker {
        self.received.waker(id)
    }

    pub(crate) fn writable_waker(&self, id: u32) -> Waker {
        self.writable.waker(id)
    }

    pub(crate) fn insert(
        &mut self,
        id: u32,
        inbound: Inbound,
        mut outbound: Outbound,
        deadline: Option<Duration>,
    ) {
        // Registers for the news of a reset; one that came already is found with the data.
        let _ = outbound.poll_reset();
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
        }
        let stream = Stream {
            inbound,
            outbound,
            deadline,
            finished: false,
            readable: false,
            sendable: false,
        };
        self.map.insert(id, Box::new(stream));
        self.mark_readable(id);
    }

    /// Removes the stream. Dropping its handles returns its credit, and resets it if the peer
    /// is still sending; says whether it did.
    pub(crate) fn remove(&mut self, id: u32) -> bool {
        let Some(mut stream) = self.map.remove(&id) else {
            return false;
        };
        self.incomplete -= stream.inbound.incomplete();
        stream.inbound.drop_body();
        if let Some(deadline) = stream.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        !stream.inbound.is_ended()
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Stream> {
        self.map.get(&id).map(|stream| &**stream)
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        self.map.get_mut(&id).map(|stream| &mut **stream)
    }

    /// The stream, if its owner is not done with it.
    pub(crate) fn open(&mut self, id: u32) -> Option<&mut Stream> {
        let stream = self.map.get_mut(&id)?;
        (!stream.finished).then_some(&mut **stream)
    }

    /// The owner is done: nothing more is received, what is queued leaves.
    pub(crate) fn finish(&mut self, id: u32) {
        if let Some(stream) = self.map.get_mut(&id) {
            stream.finished = true;
            self.incomplete -= stream.inbound.incomplete();
            stream.inbound.drop_body();
            self.mark_sendable(id);
        }
    }

    pub(crate) fn ids(&self) -> Vec<u32> {
        self.map.keys().copied().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// The connection is over: every stream ends with what it has.
    pub(crate) fn lose(&mut self) {
        self.lost = true;
        for id in self.ids() {
            if self.map[&id].finished {
                self.remove(id);
            } else {
                self.mark_readable(id);
            }
        }
    }

    pub(crate) fn mark_readable(&mut self, id: u32) {
        if let Some(stream) = self.map.get_mut(&id)
            && !std::mem::replace(&mut stream.readable, true)
        {
            self.readable.push_back(id);
        }
    }

    pub(crate) fn mark_sendable(&mut self, id: u32) {
        if let Some(stream) = self.map.get_mut(&id)
            && !std::mem::replace(&mut stream.sendable, true)
        {
            self.sendable.push_back(id);
        }
    }

    pub(crate) fn pause(&mut self, id: u32) {
        if let Some(stream) = self.open(id) {
            stream.inbound.pause();
        }
    }

    pub(crate) fn resume(&mut self, id: u32) {
        if let Some(stream) = self.open(id) {
            stream.inbound.resume();
            self.mark_readable(id);
        }
    }

    pub(crate) fn release(&mut self, id: u32, credit: usize) {
        if let Some(stream) = self.map.get_mut(&id) {
            let owed = stream.inbound.owes();
            stream.inbound.release(credit);
            if !owed && stream.inbound.owes() {
                self.owing.push(id);
            }
        }
    }

    /// Credit of all streams that was not given back.
    pub(crate) fn unreleased(&self) -> usize {
        let streams = self.map.values();
        streams.map(|stream| stream.inbound.unreleased()).sum()
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// A stream whose deadline is over; each is told once.
    pub(crate) fn pop_expired(&mut self, now: Duration) -> Option<u32> {
        let &(deadline, id) = self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.deadlines.pop_first();
        if let Some(stream) = self.map.get_mut(&id) {
            stream.deadline = None;
        }
        Some(id)
    }

    /// The next step of any stream: all that one has from the last read, then the next one.
    pub(crate) fn next_step(&mut self) -> Option<(u32, Step)> {
        while let Some(&id) = self.readable.front() {
            let Some(stream) = self.map.get_mut(&id).filter(|stream| !stream.finished) else {
                self.readable.pop_front();
                continue;
            };
            if let Some(step) = stream.inbound.next_slice() {
                return Some((id, step));
            }
            let (incomplete, owed) = (stream.inbound.incomplete(), stream.inbound.owes());
            let step = stream.inbound.next();
            let rest = stream.inbound.incomplete();
            if !owed && stream.inbound.owes() {
                self.owing.push(id);
            }
            self.incomplete = self.incomplete - incomplete + rest;
            let Step::Pending = step else {
                return Some((id, step));
            };
            stream.readable = false;
            self.readable.pop_front();
            if self.incomplete > self.max_incomplete && rest > 0 {
                let failure = Failure::Violation(Violation::TooMuchIncomplete);
                return Some((id, Step::Failed(failure)));
            }
            if self.lost && !stream.inbound.is_paused() {
                return Some((id, Step::Failed(Failure::Lost)));
            }
        }
        self.gone
            .pop_front()
            .map(|(id, failure)| (id, Step::Failed(failure)))
    }

    /// Looks at the streams `h2` woke; says whether there were any.
    pub(crate) fn collect_woken(&mut self) -> bool {
        let mut woken = std::mem::take(&mut self.woken);
        self.received.take_into(&mut woken);
        let mut any = !woken.is_empty();
        for id in woken.drain(..) {
            self.mark_readable(id);
        }
        self.writable.take_into(&mut woken);
        any |= !woken.is_empty();
        for id in woken.drain(..) {
            self.look_at_sender(id);
        }
        self.woken = woken;
        any
    }

    /// Whether [`Streams::flush`] or [`Streams::settle`] would do something.
    pub(crate) fn has_work(&self) -> bool {
        !self.sendable.is_empty() || !self.owing.is_empty() || !self.writable.is_empty()
    }

    /// Tells `h2` of all credit given back.
    pub(crate) fn settle(&mut self) {
        for id in self.owing.drain(..) {
            if let Some(stream) = self.map.get_mut(&id) {
                stream.inbound.settle();
            }
        }
    }

    /// Gives `h2` what it has room for. Streams that are through are removed; says how many
    /// of them were reset.
    pub(crate) fn flush(&mut self) -> usize {
        let mut resets = 0;
        while let Some(id) = self.sendable.pop_front() {
            let Some(stream) = self.map.get_mut(&id) else {
                continue;
            };
            stream.sendable = false;
            stream.outbound.flush();
            if stream.finished && stream.outbound.is_done() {
                resets += usize::from(self.remove(id));
            }
        }
        resets
    }

    /// The sender was woken: for room, or because the stream was reset. Who is listening
    /// learns of a reset behind the messages before it; the others learn it here. When the
    /// connection is over, [`Streams::lose`] takes care of all.
    fn look_at_sender(&mut self, id: u32) {
        let Some(stream) = self.map.get_mut(&id) else {
            return;
        };
        let Some(failure) = stream.outbound.poll_reset() else {
            self.mark_sendable(id);
            return;
        };
        let (ended, paused) = (stream.inbound.is_ended(), stream.inbound.is_paused());
        if stream.finished {
            self.remove(id);
        } else if !self.lost && (ended || paused) {
            self.gone.push_back((id, failure));
        }
    }
}
