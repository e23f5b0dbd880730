//! What logic services ask of a shard, checked and in our own terms.

use std::sync::Arc;

use bytes::Bytes;
use gateway_proto::{UserId, plain::Plain, v1::PayloadKind};

use crate::identity::{ConnId, ShardIndex};

/// Something to be done, on this shard or on another.
#[derive(Clone, Debug)]
pub enum Command {
    /// A message for clients.
    Push(Push),
    /// Messages on their way to the shard that has their users.
    Convoy(Convoy),
    /// Adds to a topic.
    Subscribe {
        /// Who is added.
        who: Who,
        /// The topic.
        topic: Box<str>,
    },
    /// Takes out of a topic.
    Unsubscribe {
        /// Who is taken out.
        who: Who,
        /// The topic.
        topic: Box<str>,
    },
    /// Closes connections.
    Disconnect {
        /// Whose.
        who: Who,
        /// Close code.
        code: u16,
        /// At most 123 bytes.
        reason: Box<str>,
    },
    /// A question about users.
    Query {
        /// What is asked.
        question: Question,
        /// The shard that sums up, and its name for the query. `None`: it came from a stream of this shard.
        of: Option<(ShardIndex, u64)>,
    },
    /// What a connection sent before its Close is acknowledged. It travels behind the pushes that came before the
    /// acknowledgement, so that they reach the connection first.
    Settle(ConnId),
}

/// What a query asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// The connections of a user.
    User(Box<str>),
    /// How many users and connections there are.
    Totals,
    /// The members of a topic.
    Topic(Box<str>),
}

/// One user, or one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// All connections of a user.
    User(Box<str>),
    /// One connection of this epoch.
    Conn(ConnId),
    /// A connection of another epoch: nobody.
    Gone,
}

/// Whom a push is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One user or connection.
    One(Who),
    /// Several users.
    Users(Vec<UserId>),
    /// The members of a topic.
    Topic(Box<str>),
    /// Every connection.
    Everyone,
}

/// One message for a target.
#[derive(Clone, Debug)]
pub struct Push {
    /// Whom it is for.
    pub target: Target,
    /// What the client gets.
    pub payload: Bytes,
    /// A text message; otherwise binary.
    pub text: bool,
    /// How it is treated on its way.
    pub delivery: Delivery,
}

impl Push {
    /// One target for all of its members: of several shards, each has a part of it.
    #[must_use]
    pub fn is_collective(&self) -> bool {
        matches!(self.target, Target::Topic(_) | Target::Everyone)
    }
}

/// A push for one user with nothing else asked for, where it lies in the bytes that brought it: what most pushes are.
/// Nothing is allocated for it.
#[derive(Debug)]
pub struct PlainPush {
    bytes: Bytes,
    at: Plain,
}

impl PlainPush {
    /// `at` was read from `bytes`.
    #[must_use]
    pub fn new(bytes: Bytes, at: Plain) -> Self {
        Self { bytes, at }
    }

    /// The user's name: UTF-8.
    #[must_use]
    pub fn user(&self) -> &[u8] {
        self.at.user.of(&self.bytes)
    }

    /// What the client gets.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.at.payload.of(&self.bytes)
    }

    /// A text message; otherwise binary.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.at.kind != PayloadKind::Binary as i32
    }
}

/// Plain pushes that cross to another shard together, in one piece of memory for all.
#[derive(Clone, Debug, Default)]
pub struct Convoy {
    bytes: Vec<u8>,
    pushes: Vec<Plain>,
    /// How many of them were done.
    done: usize,
}

impl Convoy {
    /// An empty one with room for so many messages, and for so many bytes of names and payloads.
    #[must_use]
    pub fn with_capacity(messages: usize, bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            pushes: Vec::with_capacity(messages),
            done: 0,
        }
    }

    /// Adds one.
    pub fn add(&mut self, push: &PlainPush) {
        let copy = push.at.copy(&push.bytes, &mut self.bytes);
        self.pushes.push(copy);
    }

    /// How many are still to be done.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pushes.len() - self.done
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Does one after the other, until one can't be done now.
    pub fn advance(&mut self, mut push: impl FnMut(&PlainPush) -> bool) {
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        let Some(&at) = self.pushes.get(self.done) else {
            return;
        };
        let mut next = PlainPush::new(bytes, at);
        while let Some(&at) = self.pushes.get(self.done) {
            next.at = at;
            if !push(&next) {
                break;
            }
            self.done += 1;
        }
        self.bytes = next.bytes.into();
    }
}

impl From<PlainPush> for Push {
    fn from(plain: PlainPush) -> Self {
        let user = String::from_utf8_lossy(plain.user());
        Self {
            target: Target::One(Who::User(user.into())),
            payload: plain.bytes.slice_ref(plain.payload()),
            text: plain.is_text(),
            delivery: Delivery::default(),
        }
    }
}

/// How a message is treated on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// What is left of its time to live. 0: it never expires.
    pub ttl_ms: u32,
    /// What goes first when an outbox fills.
    pub priority: Priority,
    /// A newer message with the same key takes its place.
    pub conflation: Option<Arc<str>>,
    /// Whether the sender asked for a receipt.
    pub receipt: Receipt,
}

/// What goes first when an outbox fills: the lower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Dropped first.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Dropped last.
    High,
}

/// Whether the sender asked for a receipt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Receipt {
    /// No.
    #[default]
    None,
    /// A count per outcome.
    Counts,
    /// The connections per outcome as well.
    Targets,
}

/// What became of one delivery. The discriminants are those of `ringway.v1.Outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel took the bytes.
    Written = 1,
    /// A newer message took its place.
    Conflated = 2,
    /// Its time to live ran out.
    Expired = 3,
    /// The outbox was full.
    DroppedSlow = 4,
    /// It gave way to a more important message.
    DroppedPriority = 5,
    /// Nobody there.
    NoTarget = 6,
    /// The connection ended before.
    Closed = 7,
}

impl Outcome {
    /// How many there are, with one unused at 0.
    pub const COUNT: usize = 8;

    /// The label in `ringway_drops_total`; `None` for what was written.
    #[inline]
    #[must_use]
    pub fn drop_label(self) -> Option<&'static str> {
        match self {
            Self::Written => None,
            Self::Conflated => Some("conflated"),
            Self::Expired => Some("expired"),
            Self::DroppedSlow => Some("slow"),
            Self::DroppedPriority => Some("priority"),
            Self::NoTarget => Some("no_target"),
            Self::Closed => Some("closed"),
        }
    }
}
