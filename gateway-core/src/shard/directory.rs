//! Who is online, told to the streams that ask.
//!
//! Changes go into one queue for all listeners; each has its place in it, so a hundred of them cost no more memory than
//! one. A snapshot is a walk over the table of users: it goes on from tick to tick while users come and go, and keeps
//! nothing but its place. A listener is told of all changes before its next chunk, so the versions it sees never fall.
//! Whoever falls behind the queue's bound begins anew.

use std::collections::VecDeque;

use gateway_proto::v1::{self, gateway_frame::Body, snapshot::Stage as Wire};

use super::registry::Users;
use crate::{
    config,
    identity::ShardIndex,
    lanes::{ReceiverRef, StreamRef},
    metrics::Metrics,
};

/// A shard's directory, and who listens.
#[derive(Debug)]
pub struct Directory {
    limits: config::Directory,
    /// Rises with every change of a user.
    version: u64,
    /// Users that have changed since the last tick, while anybody listens.
    changed: Vec<Box<str>>,
    log: Log,
    listeners: Vec<Listener>,
    /// Whose turn it is to be told first.
    turn: usize,
    /// Somebody could be told more at once.
    has_work: bool,
    /// A lane had no room.
    waits_for_lane: bool,
    /// Streams of this shard that have got parts of other shards' directories: told when they have room.
    pub(super) owed: Vec<(ShardIndex, StreamRef)>,
    /// Streams of this shard that listen to all shards.
    pub(super) announced: Vec<ReceiverRef>,
    /// Connections that pushes reach.
    pub open_connections: u64,
}

/// Changes that somebody has not been told of.
#[derive(Debug, Default)]
struct Log {
    changes: VecDeque<Change>,
    /// The place of the front one.
    first: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Change {
    user: Box<str>,
    version: u64,
    /// 0: offline.
    connections: u32,
}

#[derive(Clone, Debug)]
struct Listener {
    to: ReceiverRef,
    stage: Stage,
    /// The place of the first change it has not been told of.
    place: u64,
    /// Of another shard: what was sent last has not been taken yet.
    waits: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It has been told nothing.
    New,
    /// It has been told of users below this index.
    Walking(usize),
    /// It has a whole snapshot.
    Told,
}

/// Most bytes in a chunk, so that what comes behind it on the stream does not wait long.
const CHUNK_BYTES: usize = 64 << 10;

/// Most places of the table looked at for one chunk: it may have been larger once.
const MOST_LOOKS: usize = 8192;

/// So many looks at empty places cost about as much as telling one user.
const LOOKS_PER_USER: usize = 8;

impl Directory {
    /// Nobody listens yet.
    pub fn new(limits: config::Directory) -> Self {
        Self {
            limits,
            version: 0,
            changed: Vec::new(),
            log: Log::default(),
            listeners: Vec::new(),
            turn: 0,
            has_work: false,
            waits_for_lane: false,
            owed: Vec::new(),
            announced: Vec::new(),
            open_connections: 0,
        }
    }

    /// A user's connections have changed, or are about to in this tick.
    pub fn changed(&mut self, user: &str) {
        if self.listeners.is_empty() {
            self.version += 1;
        } else {
            self.changed.push(user.into());
        }
    }

    /// Another tick should follow at once.
    pub fn has_work(&self) -> bool {
        self.has_work || !self.changed.is_empty()
    }

    /// Room in a lane is waited for.
    pub fn waits_for_lane(&self) -> bool {
        self.waits_for_lane
    }

    /// How many streams listen.
    pub fn listeners(&self) -> usize {
        self.listeners.len()
    }

    /// Bytes of changes that somebody has not been told of.
    pub fn queued(&self) -> usize {
        self.log.bytes
    }

    /// Whether another stream of this shard may listen.
    pub fn is_full(&self, index: ShardIndex) -> bool {
        let local = self.listeners.iter().filter(|of| of.to.shard == index);
        local.count() >= self.limits.max_streams
    }

    /// A stream wants to be told.
    pub fn add(&mut self, to: ReceiverRef) {
        if !self.listeners.iter().any(|other| other.to == to) {
            self.listeners.push(Listener {
                to,
                stage: Stage::New,
                place: 0,
                waits: false,
            });
        }
        self.has_work = true;
    }

    /// The stream is gone. Whether it listened.
    pub fn remove(&mut self, to: ReceiverRef) {
        self.listeners.retain(|other| other.to != to);
        if self.listeners.is_empty() {
            self.version += self.changed.len() as u64;
            self.changed.clear();
            self.log.clear();
            (self.has_work, self.waits_for_lane) = (false, false);
        }
    }

    /// A stream of another shard has taken what it was sent.
    pub fn has_room(&mut self, to: ReceiverRef) {
        for listener in &mut self.listeners {
            if listener.to == to {
                listener.waits = false;
            }
        }
    }

    /// Puts this tick's changes into the queue. Several of one user are one.
    pub fn note_changes(&mut self, users: &Users, metrics: &Metrics) {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        metrics.directory_changes.add(changed.len() as u64);
        for user in changed {
            self.version += 1;
            let index = users.find(&user);
            let connections = index.map_or(0, |index| users.get(index).conns.len() as u32);
            self.log.push(Change {
                user,
                version: self.version,
                connections,
            });
        }
        while self.log.bytes > self.limits.max_queue_bytes {
            self.log.pop();
        }
        for listener in &mut self.listeners {
            if listener.stage != Stage::New && listener.place < self.log.first {
                metrics.directory_restarts.add(1);
                listener.stage = Stage::New;
            }
        }
    }

    /// Tells listeners what is new, within the bounds of a tick. `room`: whether a stream takes more now; `send`: passes
    /// frames on, `false` when that was not possible.
    pub fn tell(
        &mut self,
        index: ShardIndex,
        users: &Users,
        metrics: &Metrics,
        mut room: impl FnMut(&ReceiverRef) -> bool,
        mut send: impl FnMut(ReceiverRef, Vec<Body>) -> bool,
    ) {
        (self.has_work, self.waits_for_lane) = (false, false);
        let mut left = self.limits.slice;
        let count = self.listeners.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            let listener = &self.listeners[at];
            if !self.has_news(listener) || listener.waits || !room(&listener.to) {
                continue;
            }
            if left == 0 {
                // The next tick begins where this one ends.
                self.turn = at;
                self.has_work = true;
                return;
            }
            let before = listener.clone();
            let frames = self.next_frames(at, index, users, &mut left);
            if !send(before.to, frames) {
                self.waits_for_lane = true;
                self.listeners[at] = before;
                continue;
            }
            let begun = before.stage == Stage::New;
            metrics.directory_snapshots.add(u64::from(begun));
            let listener = &mut self.listeners[at];
            listener.waits = listener.to.shard != index;
            let listener = &self.listeners[at];
            self.has_work |= !listener.waits && self.has_news(listener) && room(&listener.to);
        }
    }

    /// Forgets changes that everybody was told of.
    pub fn tidy(&mut self) {
        let behind = self.listeners.iter().filter(|of| of.stage != Stage::New);
        let slowest = behind.map(|of| of.place).min();
        let slowest = slowest.unwrap_or(self.log.end());
        while self.log.first < slowest {
            self.log.pop();
        }
    }

    fn has_news(&self, listener: &Listener) -> bool {
        listener.stage != Stage::Told || listener.place < self.log.end()
    }

    /// What a listener is told next: changes, and then a chunk of its snapshot.
    fn next_frames(
        &mut self,
        at: usize,
        index: ShardIndex,
        users: &Users,
        left: &mut usize,
    ) -> Vec<Body> {
        let listener = &mut self.listeners[at];
        let mut frames = Vec::new();
        if listener.stage == Stage::New {
            let begin = v1::snapshot::Begin {
                version: self.version,
            };
            frames.push(snapshot(index, Wire::Begin(begin)));
            (listener.stage, listener.place) = (Stage::Walking(0), self.log.end());
        }
        let mut bytes = 0;
        while bytes < CHUNK_BYTES
            && *left > 0
            && let Some(change) = self.log.get(listener.place)
        {
            bytes += change.bytes();
            *left -= 1;
            listener.place += 1;
            frames.push(change.frame());
        }
        if let Stage::Walking(from) = listener.stage
            && listener.place == self.log.end()
        {
            let most = self.limits.chunk_users.min(*left);
            let (chunk, next) = walk(users, from, most, self.version);
            // Where nobody is any more, looking is the work.
            let looks = next - from;
            *left -= chunk.users.len().max(looks / LOOKS_PER_USER).min(*left);
            if !chunk.users.is_empty() {
                frames.push(snapshot(index, Wire::Chunk(chunk)));
            }
            listener.stage = Stage::Walking(next);
            if next >= users.slots() {
                let end = v1::snapshot::End {
                    version: self.version,
                };
                frames.push(snapshot(index, Wire::End(end)));
                listener.stage = Stage::Told;
            }
        }
        frames
    }
}

impl Log {
    fn end(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    fn get(&self, place: u64) -> Option<&Change> {
        let at = place.checked_sub(self.first)?;
        self.changes.get(at as usize)
    }

    fn push(&mut self, change: Change) {
        self.bytes += change.bytes();
        self.changes.push_back(change);
    }

    fn pop(&mut self) {
        if let Some(change) = self.changes.pop_front() {
            self.first += 1;
            self.bytes -= change.bytes();
        }
        if self.changes.is_empty() {
            // A burst must not keep its memory.
            self.changes.shrink_to(SMALL_LOG);
        }
    }

    fn clear(&mut self) {
        self.first = self.end();
        (self.changes, self.bytes) = (VecDeque::new(), 0);
    }
}

/// A queue that is empty keeps room for this many changes.
const SMALL_LOG: usize = 64;

impl Change {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.user.len()
    }

    fn frame(&self) -> Body {
        let (user_id, version) = (self.user.to_string(), self.version);
        match self.connections {
            0 => Body::Offline(v1::UserOffline { user_id, version }),
            connections => Body::Online(v1::UserOnline {
                user_id,
                version,
                connections,
            }),
        }
    }
}

/// Users online from an index on, at most `most`; and the index to go on from.
fn walk(users: &Users, from: usize, most: usize, version: u64) -> (v1::snapshot::Chunk, usize) {
    let mut chunk = v1::snapshot::Chunk::default();
    let mut bytes = 0;
    let end = users.slots().min(from + MOST_LOOKS);
    let mut at = from;
    while at < end && chunk.users.len() < most && bytes < CHUNK_BYTES {
        if let Some(user) = users.at(at)
            && !user.conns.is_empty()
        {
            bytes += size_of::<u64>() + user.id.len();
            chunk.users.push(v1::UserOnline {
                user_id: user.id.to_string(),
                version,
                connections: user.conns.len() as u32,
            });
        }
        at += 1;
    }
    (chunk, at)
}

fn snapshot(shard: ShardIndex, stage: Wire) -> Body {
    Body::Snapshot(v1::Snapshot {
        stage: Some(stage),
        shard: u32::from(shard),
    })
}
