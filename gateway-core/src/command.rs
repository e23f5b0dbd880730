//! What logic services ask of a shard, checked and in our own terms.

use bytes::Bytes;

use crate::identity::{ConnId, ShardIndex};

/// Something to be done, on this shard or on another.
#[derive(Clone, Debug)]
pub enum Command {
    /// A message for clients.
    Push(Push),
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
    Users(Vec<String>),
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

/// How a message is treated on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// What is left of its time to live. 0: it never expires.
    pub ttl_ms: u32,
    /// What goes first when an outbox fills.
    pub priority: Priority,
    /// A newer message with the same key takes its place.
    pub conflation: Option<Box<str>>,
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
