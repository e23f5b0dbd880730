//! What can go wrong, and who must act.

use std::fmt;

use gateway_proto::v1;

use crate::core::receipts::Receipt;
use crate::core::returned::{ReturnReason, Returned};
use crate::push::Push;

/// What is wrong with a gateway, or with the way to it. The operator must act, or it passes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// No connection, or it broke.
    #[error("gateway {address}: {reason}")]
    Unreachable {
        /// The address that was dialled.
        address: String,
        /// What the system or HTTP/2 said.
        reason: String,
    },
    /// Something between this client and the gateways chooses where connections go.
    #[error(
        "gateway {address}: expected {expected}, found {found}: this address is load-balanced; name \
         the gateways themselves, for example with a headless service"
    )]
    LoadBalanced {
        /// The address that was dialled.
        address: String,
        /// Which gateway and shard should have answered.
        expected: String,
        /// What answered.
        found: String,
    },
    /// The gateway refused or ended the stream.
    #[error("gateway {address}: the stream ended: {status}")]
    Ended {
        /// The address that was dialled.
        address: String,
        /// The gRPC status.
        status: String,
    },
    /// The gateway did what the protocol does not allow.
    #[error("gateway {address}: {detail}")]
    Protocol {
        /// The address that was dialled.
        address: String,
        /// What it did.
        detail: String,
    },
    /// No answer in time.
    #[error("gateway {address}: no answer in time ({waiting_for})")]
    Silent {
        /// The address that was dialled.
        address: String,
        /// What was waited for.
        waiting_for: &'static str,
    },
}

/// Why [`Builder::connect`](crate::Builder::connect) gave up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The builder was given something that cannot work; the caller must act.
    #[error("{setting}: {problem}")]
    Setting {
        /// Which call of the builder.
        setting: &'static str,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// Two addresses lead to the same gateway: everything would be sent twice.
    #[error("{first} and {second} lead to the same gateway; name each gateway once")]
    SameGateway {
        /// One address.
        first: String,
        /// The other.
        second: String,
    },
    /// No gateway could be used in time; this is what one of them said last.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// The resolver has named no gateway in time.
    #[error("the resolver has named no gateway in time")]
    NoGateway,
    /// The system gave no random bytes.
    #[error("no random bytes: {0}")]
    Random(String),
}

/// What is wrong with a push or command; the caller must act. Nothing of it was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// A user, topic or conflation key that is empty or longer than 256 bytes.
    #[error("{what} of {bytes} bytes: 1 to 256 are allowed")]
    Name {
        /// Which name.
        what: &'static str,
        /// How long it is.
        bytes: usize,
    },
    /// An empty list of users.
    #[error("an empty list of users")]
    NoUsers,
    /// A payload longer than the gateways take.
    #[error("a payload of {bytes} bytes: the gateways take at most {max}")]
    PayloadTooLarge {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        max: usize,
    },
    /// A close reason longer than 123 bytes.
    #[error("a close reason of {bytes} bytes: at most 123 are allowed")]
    ReasonTooLong {
        /// How long it is.
        bytes: usize,
    },
}

/// Why a push or command failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The client was closed before the push was sent.
    #[error("the client is closed")]
    Closed,
    /// See [`Invalid`].
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The stream broke after the push was sent and before it was answered: it may have been
    /// delivered or not.
    #[error("the stream broke before the answer: the push may have been delivered or not")]
    Unknown,
    /// The gateway refused it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// As many receipts are awaited on a stream as
    /// [`Builder::max_receipts`](crate::Builder::max_receipts) allows; the push was not sent.
    #[error("too many receipts are awaited; the push was not sent")]
    TooManyReceipts,
    /// A buffer it is for is full, and the client is not to wait; or the stream is stuck, while others took
    /// their parts.
    #[error("the buffer is full")]
    Full,
    /// It was taken out of the buffer before it was sent, or a part of it; others may have theirs
    /// ([`ConfirmError::delivered`]). Or it is what came back from a gateway
    /// ([`Returned::push`](crate::Returned::push)) that is no more, or has other shards now.
    #[error("not sent: {0}")]
    NotSent(ReturnReason),
}

/// Why a push was not confirmed, or not by all ([`LogicClient::push_confirmed`](crate::LogicClient::push_confirmed)).
///
/// A push for several gateways or shards has a part for each, and some of them may fail while others arrive.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ConfirmError {
    /// What went wrong: [`PushError::Unknown`] if a part of it may have been delivered beyond what
    /// [`delivered`](Self::delivered) says; otherwise what failed first.
    pub error: PushError,
    /// What the other parts came to: this was delivered, in spite of the error.
    pub delivered: Box<Receipt>,
    /// The parts that failed, each as [`Builder::on_returned`](crate::Builder::on_returned) would have told it, to
    /// be pushed again or not. Not here: a push that was not taken at all, and a part of which only the answer
    /// was lost.
    pub returned: Vec<Returned>,
}

/// Why [`LogicClient::try_push`](crate::LogicClient::try_push) failed. The push is handed back.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TryPushError {
    /// The buffer of a stream it is for is full.
    #[error("the buffer is full")]
    Full(Push),
    /// The client is closed.
    #[error("the client is closed")]
    Closed(Push),
    /// See [`Invalid`].
    #[error("{1}")]
    Invalid(Push, Invalid),
    /// It is what came back from a gateway ([`Returned::push`](crate::Returned::push)) that is no more, or
    /// has other shards now.
    #[error("not sent: {1}")]
    NotSent(Push, ReturnReason),
}

/// Why [`LogicClient::flush`](crate::LogicClient::flush) cannot vouch for everything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// Streams broke since the last flush; what was sent on them and not acknowledged may have
    /// been delivered or not.
    #[error("streams broke: {count} commands may have been delivered or not")]
    Unknown {
        /// How many commands, over all streams.
        count: u64,
    },
}

/// A gateway's refusal of one command. The stream goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gateway refused it ({reason}): {detail}")]
#[non_exhaustive]
pub struct Rejection {
    /// Why.
    pub reason: RejectReason,
    /// For people: what was wrong, and what is allowed.
    pub detail: String,
}

/// Why a gateway refused a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RejectReason {
    /// A target the gateway does not know.
    UnknownTarget,
    /// A name that is empty or too long.
    InvalidName,
    /// Text that is not UTF-8.
    InvalidText,
    /// A limit of the gateway was passed.
    TooLarge,
    /// The user or connection belongs to another shard.
    WrongShard,
    /// A sequence that did not rise; a fault of this library.
    BadSequence,
    /// A close code or reason that may not be sent.
    BadClose,
    /// A frame the gateway does not know.
    UnknownFrame,
    /// A part of the protocol the gateway does not offer.
    Unsupported,
    /// A bound of the gateway: topics, subscriptions or open receipts.
    Overloaded,
    /// A reason this library does not know.
    Other,
}

impl RejectReason {
    /// Every reason, in order.
    pub const ALL: [Self; 11] = [
        Self::UnknownTarget,
        Self::InvalidName,
        Self::InvalidText,
        Self::TooLarge,
        Self::WrongShard,
        Self::BadSequence,
        Self::BadClose,
        Self::UnknownFrame,
        Self::Unsupported,
        Self::Overloaded,
        Self::Other,
    ];

    pub(crate) fn from_wire(reason: v1::RejectReason) -> Self {
        use v1::RejectReason as Wire;
        match reason {
            Wire::UnknownTarget => Self::UnknownTarget,
            Wire::InvalidName => Self::InvalidName,
            Wire::InvalidText => Self::InvalidText,
            Wire::TooLarge => Self::TooLarge,
            Wire::WrongShard => Self::WrongShard,
            Wire::BadSequence => Self::BadSequence,
            Wire::BadClose => Self::BadClose,
            Wire::UnknownFrame => Self::UnknownFrame,
            Wire::Unsupported => Self::Unsupported,
            Wire::Overloaded => Self::Overloaded,
            Wire::Unspecified => Self::Other,
        }
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownTarget => "unknown target",
            Self::InvalidName => "invalid name",
            Self::InvalidText => "invalid text",
            Self::TooLarge => "too large",
            Self::WrongShard => "wrong shard",
            Self::BadSequence => "bad sequence",
            Self::BadClose => "bad close",
            Self::UnknownFrame => "unknown frame",
            Self::Unsupported => "unsupported",
            Self::Overloaded => "overloaded",
            Self::Other => "other",
        })
    }
}

impl ConfirmError {
    /// Another part failed.
    pub(crate) fn add(&mut self, other: Self) {
        if other.error == PushError::Unknown {
            self.error = other.error;
        }
        self.returned.extend(other.returned);
    }
}

impl From<PushError> for ConfirmError {
    fn from(error: PushError) -> Self {
        Self {
            error,
            delivered: Box::default(),
            returned: Vec::new(),
        }
    }
}

impl std::error::Error for ConfirmError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl fmt::Display for ConfirmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)?;
        match self.delivered.written {
            0 => Ok(()),
            written => write!(f, "; it was written to {written} connections"),
        }
    }
}

impl TryPushError {
    /// The push, handed back.
    pub fn into_push(self) -> Push {
        match self {
            Self::Full(push)
            | Self::Closed(push)
            | Self::Invalid(push, _)
            | Self::NotSent(push, _) => push,
        }
    }
}
