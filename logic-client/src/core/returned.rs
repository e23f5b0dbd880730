//! What a client hands back, and why.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::core::again::{Again, Only};
use crate::core::buffer::{Item, name};
use crate::core::lock;
use crate::core::mesh::Mesh;
use crate::core::queue::Queue;
use crate::core::receipts::Receipt;
use crate::error::{ConfirmError, PushError, RejectReason, Rejection};
use crate::event::{Notice, What};
use crate::push::Push;

/// A push that was not sent, or may not have arrived; see
/// [`Builder::on_returned`](crate::Builder::on_returned). A push for several gateways or shards comes
/// back in parts, each for the gateway or shard that it concerns; the others get theirs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Returned {
    /// What to push to try again, if that [makes sense](Self::is_retriable): it has what is left of its
    /// time to live, and goes only where it did not go. Of a part: to that gateway, or that shard of it,
    /// and of a list to those users; with [`Push::anew`] to all it is for. It comes behind what was pushed
    /// meanwhile.
    pub push: Push,
    /// Why it comes back.
    pub reason: ReturnReason,
    /// The gateway's address, as it was given to the builder.
    pub gateway: String,
    /// The shard.
    pub shard: u32,
    /// How often it has come back, this time included: to give up after so many.
    pub attempts: u32,
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
    /// The gateway it waited for is no more. A push that was only for it goes to others by itself, unless
    /// there are none, or it would come behind something newer there.
    GatewayRemoved,
    /// The gateway came back with another number of shards: some of the old ones may have done it, or it
    /// would come behind something newer.
    ShardsChanged,
    /// The stream is stuck and its buffer full, while others took the push.
    Full,
    /// As many receipts are awaited on the stream as
    /// [`Builder::max_receipts`](crate::Builder::max_receipts) allows. Only for confirmed pushes.
    TooManyReceipts,
    /// The gateway refused it.
    Rejected(Rejection),
    /// The client was closed before it was sent.
    Closed,
}

/// Called from a stream's task, or from the task that pushes: be quick.
pub(crate) type ReturnedFn = Arc<dyn Fn(Returned) + Send + Sync>;

impl Returned {
    pub(crate) fn new(push: Push, reason: ReturnReason, gateway: String, shard: u32) -> Self {
        let attempts = push.again.as_ref().map_or(1, |again| again.times);
        Self {
            push,
            reason,
            gateway,
            shard,
            attempts,
        }
    }

    /// Whether this is a part of a push: other gateways or shards have got theirs, or will.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.only().is_some()
    }

    /// Whether it makes sense to push [`Self::push`] again: nothing of it was done, its place is still
    /// there, the reason may pass, and nobody who has stayed on his gateway gets it twice by it.
    ///
    /// So not what [may have arrived](ReturnReason::Unknown); what its caller has set an end to
    /// ([`Expired`](ReturnReason::Expired), [`TooOld`](ReturnReason::TooOld),
    /// [`Displaced`](ReturnReason::Displaced)); what the gateway will refuse again; a part for a gateway
    /// that is gone, whose users may be where others have got it; and nothing with a conflation key, for
    /// it would take the place of something newer.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        let passes = match &self.reason {
            ReturnReason::Full | ReturnReason::TooManyReceipts => true,
            ReturnReason::GatewayRemoved => !self.is_partial(),
            // The old shards are known to have got nothing only if all of it is here.
            ReturnReason::ShardsChanged => !self.only().is_some_and(Only::is_of_shard),
            ReturnReason::Rejected(rejection) => rejection.reason == RejectReason::Overloaded,
            _ => false,
        };
        passes && !self.push.is_conflating()
    }

    fn only(&self) -> Option<&Only> {
        self.push.again.as_ref()?.only.as_ref()
    }
}

impl Mesh {
    /// Hands a command of a stream back: to who waits for its receipt, or to the application.
    pub(crate) fn hand_back(&self, now: Duration, queue: &Queue, item: Item, reason: ReturnReason) {
        // Not to be sent again is not: not sent.
        let reason = match reason {
            ReturnReason::Conflated | ReturnReason::Rejected(_) => reason,
            _ if item.doubtful => ReturnReason::Unknown,
            _ => reason,
        };
        queue.count_returned(&reason);
        if let Some(ticket) = item.ticket {
            let answer = reason.clone().into_answer().map_err(|error| {
                let mut error = ConfirmError::from(error);
                error.returned.extend(returned(now, queue, item, reason));
                error
            });
            self.settle(ticket, answer);
            return;
        }
        if reason == ReturnReason::Unknown
            && let Some(unknown) = &mut *lock(&self.unknown)
        {
            unknown.push((Again::after(&item, queue), item));
            return;
        }
        let command = name(&item.body);
        let Some(back) = returned(now, queue, item, reason.clone()) else {
            let what = What::CommandReturned { command, reason };
            self.notify(&Notice {
                gateway: queue.address.to_string(),
                shard: queue.shard,
                what,
            });
            return;
        };
        tracing::debug!(gateway = back.gateway, shard = back.shard, %reason, "a push is handed back");
        if reason == ReturnReason::Conflated {
            // A newer one says what it would have said.
            return;
        }
        if let Some(on_returned) = &self.settings.on_returned {
            on_returned(back);
        }
    }

    /// From now on keeps what is unknown, instead of handing it back.
    pub(crate) fn keep_unknown(&self) {
        lock(&self.unknown).get_or_insert_default();
    }

    /// What was kept.
    pub(crate) fn take_unknown(&self) -> Vec<(Again, Item)> {
        lock(&self.unknown).take().unwrap_or_default()
    }
}

impl ReturnReason {
    /// How many reasons there are.
    pub(crate) const COUNT: usize = 12;

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
            Self::TooManyReceipts => 11,
        }
    }

    /// What who waits for the receipt is told.
    pub(crate) fn into_answer(self) -> Result<Receipt, PushError> {
        let mut receipt = Receipt::default();
        match self {
            Self::Expired => receipt.expired = 1,
            Self::Conflated => receipt.conflated = 1,
            Self::NoTarget => receipt.no_target = 1,
            Self::Unknown => return Err(PushError::Unknown),
            Self::Rejected(rejection) => return Err(PushError::Rejected(rejection)),
            Self::Closed => return Err(PushError::Closed),
            Self::Full => return Err(PushError::Full),
            Self::TooManyReceipts => return Err(PushError::TooManyReceipts),
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
            Self::TooManyReceipts => "too many receipts are awaited",
            Self::Rejected(rejection) => return rejection.fmt(f),
            Self::Closed => "the client is closed",
        })
    }
}

/// A push that a stream hands back; `None` for another command.
fn returned(now: Duration, from: &Queue, item: Item, reason: ReturnReason) -> Option<Returned> {
    let again = Again::after(&item, from);
    let push = item.into_returned(now, again)?;
    let gateway = from.address.to_string();
    Some(Returned::new(push, reason, gateway, from.shard))
}
