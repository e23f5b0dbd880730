//! What a client hands back, and why.

use std::fmt;
use std::sync::Arc;

use crate::core::receipts::{Answer, Receipt};
use crate::error::{PushError, Rejection};
use crate::push::Push;

/// A push that was not sent, or may not have arrived; see
/// [`Builder::on_returned`](crate::Builder::on_returned).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Returned {
    /// The push, with what is left of its time to live. Of a list of users, those it concerns.
    pub push: Push,
    /// Why it comes back.
    pub reason: ReturnReason,
    /// The gateway's address, as it was given to the builder. A push for several gateways or shards
    /// comes back for each of them on its own.
    pub gateway: String,
    /// The shard.
    pub shard: u32,
}

/// Why a push comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReturnReason {
    /// Its time to live ran out before it was sent.
    Expired,
    /// It waited in the buffer for longer than
    /// [`Builder::buffer_age`](crate::Builder::buffer_age).
    TooOld,
    /// It gave way to another in a full buffer: to a more important one, or to a newer one with
    /// [`Overflow::DropOldest`](crate::Overflow::DropOldest).
    Displaced,
    /// A newer push with the same target and conflation key took its place. Counted; handed back
    /// only as the receipt of a confirmed push.
    Conflated,
    /// It was sent, and the stream broke for good before it was acknowledged: it may have been
    /// delivered or not.
    Unknown,
    /// There is nobody it is for.
    NoTarget,
    /// The gateway it waited for is no more.
    GatewayRemoved,
    /// The gateway came back with another number of shards, of which some may have it.
    ShardsChanged,
    /// The stream is stuck and its buffer full, while others took the push.
    Full,
    /// The gateway refused it.
    Rejected(Rejection),
    /// The client was closed before it was sent.
    Closed,
}

/// Called from a stream's task, or from the task that pushes: be quick.
pub(crate) type ReturnedFn = Arc<dyn Fn(Returned) + Send + Sync>;

impl ReturnReason {
    /// How many reasons there are.
    pub(crate) const COUNT: usize = 11;

    /// A place in a table of counts.
    pub(crate) fn index(&self) -> usize {
        match self {
            Self::Expired => 0,
            Self::TooOld => 1,
            Self::Displaced => 2,
            Self::Conflated => 3,
            Self::Unknown => 4,
            Self::NoTarget => 5,
            Self::GatewayRemoved => 6,
            Self::ShardsChanged => 7,
            Self::Full => 8,
            Self::Rejected(_) => 9,
            Self::Closed => 10,
        }
    }

    /// What who waits for the receipt is told.
    pub(crate) fn into_answer(self) -> Answer {
        let mut receipt = Receipt::default();
        match self {
            Self::Expired => receipt.expired = 1,
            Self::Conflated => receipt.conflated = 1,
            Self::NoTarget => receipt.no_target = 1,
            Self::Unknown => return Err(PushError::Unknown),
            Self::Rejected(rejection) => return Err(PushError::Rejected(rejection)),
            Self::Closed => return Err(PushError::Closed),
            Self::Full => return Err(PushError::Full),
            reason => return Err(PushError::NotSent(reason)),
        }
        Ok(receipt)
    }
}

impl fmt::Display for ReturnReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "its time to live ran out",
            Self::TooOld => "it waited too long",
            Self::Displaced => "it gave way in a full buffer",
            Self::Conflated => "a newer one took its place",
            Self::Unknown => "the stream broke before the answer",
            Self::NoTarget => "there is nobody it is for",
            Self::GatewayRemoved => "the gateway is no more",
            Self::ShardsChanged => "the gateway has other shards now",
            Self::Full => "the stream is stuck and its buffer full",
            Self::Rejected(rejection) => return rejection.fmt(f),
            Self::Closed => "the client is closed",
        })
    }
}
