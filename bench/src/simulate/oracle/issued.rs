//! Pushes, and how they end.

use std::time::Duration;

/// Whom a push is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A user.
    User(u32),
    /// Several.
    Users(Vec<u32>),
    /// A topic.
    Topic(u32),
    /// All.
    Everyone,
    /// A client's connection, by its number in the network.
    Connection(u32),
}

/// A push that a service has made.
#[derive(Debug)]
pub struct Issued {
    /// Who: order holds among the pushes of one source.
    pub source: u64,
    /// For whom.
    pub target: Target,
    /// When.
    pub at: Duration,
    /// Nothing may drop it: it has no time to live, no key, and the usual priority.
    pub plain: bool,
    /// Its sender waits for what becomes of it.
    pub confirmed: bool,
    /// Its sender wants it sent again when it does not know what became of it.
    pub may_repeat: bool,
    /// The places of gateways it goes to.
    pub places: Vec<usize>,
}

impl Issued {
    /// Whether it goes to a single shard: it fails as a whole or not at all.
    pub(super) fn is_whole(&self) -> bool {
        self.places.len() == 1 && matches!(self.target, Target::User(_) | Target::Connection(_))
    }
}

/// What its sender was told of a push, or of the part of it for one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Handed back: it had no effect.
    Returned,
    /// Handed back: it may have had an effect.
    Unknown,
}

/// The answer to a push that was confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// So many connections were written to; of so many it is known that they were not.
    Receipt {
        /// The kernel took it.
        written: u64,
        /// It was dropped, or the connection ended.
        lost: u64,
    },
    /// It is not known, for some part at least, what became of it.
    Unknown,
    /// It was refused, or not sent.
    Failed,
}
