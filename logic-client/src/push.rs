//! What a logic service sends: one message for a target.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use gateway_proto::v1::message_request::Target;
use gateway_proto::v1::{self, Delivery, MessageRequest};

use crate::core::again::Again;

/// One message for a target.
///
/// ```
/// use std::time::Duration;
/// use logic_client::{Priority, Push};
///
/// let greeting = Push::user("alice").text("hi");
/// let tick = Push::everyone()
///     .text(r#"{"price":12.5}"#)
///     .conflate("price")
///     .ttl(Duration::from_secs(5))
///     .priority(Priority::Low);
/// # let _ = (greeting, tick);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a push does nothing until it is given to a client"]
pub struct Push {
    pub(crate) request: MessageRequest,
    pub(crate) ttl: Option<Duration>,
    /// It was handed back.
    pub(crate) again: Option<Box<Again>>,
}

/// One client WebSocket of one run of a gateway. Goes stale with its socket: a push to a stale one
/// finds no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Connection {
    /// The run of the gateway that gave the id.
    pub epoch: u64,
    /// Opaque.
    pub id: u64,
}

/// A user, or one of its connections: what can be subscribed to a topic, or disconnected.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Recipient {
    /// All connections of a user, wherever they are.
    User(String),
    /// One connection.
    Connection(Connection),
}

/// How a payload is framed for the WebSocket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A text message; the payload must be UTF-8.
    #[default]
    Text,
    /// A binary message.
    Binary,
}

/// Which pending messages of a full outbox go first. The order of a target's messages never
/// depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// Dropped first.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Dropped last.
    High,
}

impl Push {
    /// To all connections of a user (1 to 256 bytes), on every gateway.
    pub fn user(user: impl Into<String>) -> Self {
        Self::to(Target::UserId(user.into()))
    }

    /// To all connections of several users; each gets it once on every connection. The list is
    /// split by shard, and where it is longer than a gateway takes at once.
    pub fn users<U: Into<String>>(users: impl IntoIterator<Item = U>) -> Self {
        let user_ids = users.into_iter().map(|user| user.into().into());
        Self::to(Target::Users(v1::Users {
            user_ids: user_ids.collect(),
        }))
    }

    /// To one connection.
    pub fn connection(connection: Connection) -> Self {
        Self::to(Target::Connection(connection.into()))
    }

    /// To all connections subscribed to a topic (1 to 256 bytes), on every gateway.
    pub fn topic(topic: impl Into<String>) -> Self {
        Self::to(Target::Topic(topic.into()))
    }

    /// To all connections of every gateway.
    pub fn everyone() -> Self {
        Self::to(Target::Everyone(v1::Everyone {}))
    }

    /// The payload, as a text message.
    pub fn text(self, text: impl Into<String>) -> Self {
        self.payload(Kind::Text, text.into())
    }

    /// The payload, as a binary message.
    pub fn binary(self, bytes: impl Into<Bytes>) -> Self {
        self.payload(Kind::Binary, bytes)
    }

    /// The payload. The gateway rejects a [`Kind::Text`] that is not UTF-8.
    pub fn payload(mut self, kind: Kind, payload: impl Into<Bytes>) -> Self {
        self.request.payload = payload.into();
        self.request.set_kind(match kind {
            Kind::Text => v1::PayloadKind::Text,
            Kind::Binary => v1::PayloadKind::Binary,
        });
        self
    }

    /// How long the message is worth delivering, from the call that pushes it; in steps of a
    /// millisecond, at most 49 days. Later it is dropped and counted as expired, wherever it waits.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Which messages of a full outbox go first.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.delivery().set_priority(match priority {
            Priority::Low => v1::Priority::Low,
            Priority::Normal => v1::Priority::Normal,
            Priority::High => v1::Priority::High,
        });
        self
    }

    /// Per connection, a newer message with the same key (1 to 256 bytes) replaces a pending
    /// older one.
    pub fn conflate(mut self, key: impl Into<String>) -> Self {
        self.delivery().conflation_key = key.into();
        self
    }

    /// A push that was handed back, as if it had never been pushed: it goes to all it is for, also
    /// to those who have it. Without this it goes only where it did not go
    /// ([`Returned::push`](crate::Returned::push)).
    pub fn anew(mut self) -> Self {
        self.again = None;
        self
    }

    pub(crate) fn is_conflating(&self) -> bool {
        let delivery = self.request.delivery.as_ref();
        delivery.is_some_and(|delivery| !delivery.conflation_key.is_empty())
    }

    fn to(target: Target) -> Self {
        let request = MessageRequest {
            target: Some(target),
            ..MessageRequest::default()
        };
        Self {
            request,
            ttl: None,
            again: None,
        }
    }

    fn delivery(&mut self) -> &mut Delivery {
        self.request.delivery.get_or_insert_default()
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.epoch, self.id)
    }
}

impl From<Connection> for v1::Connection {
    fn from(Connection { epoch, id }: Connection) -> Self {
        Self { epoch, id }
    }
}

impl From<v1::Connection> for Connection {
    fn from(v1::Connection { epoch, id }: v1::Connection) -> Self {
        Self { epoch, id }
    }
}

impl From<&str> for Recipient {
    fn from(user: &str) -> Self {
        Self::User(user.to_owned())
    }
}

impl From<String> for Recipient {
    fn from(user: String) -> Self {
        Self::User(user)
    }
}

impl From<Connection> for Recipient {
    fn from(connection: Connection) -> Self {
        Self::Connection(connection)
    }
}
