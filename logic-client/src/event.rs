//! What clients of the gateways do, and what happens to the streams.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use gateway_proto::v1;

use crate::core::returned::ReturnReason;
use crate::error::{GatewayError, Rejection};
use crate::push::{Connection, Kind, Push};

/// What a client did. In order per user.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A client has connected.
    Opened(Opened),
    /// A client has sent a message.
    Message(Message),
    /// A client's connection has ended.
    Closed(Closed),
}

/// A client has connected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Opened {
    /// The new connection.
    pub connection: Connection,
    /// Whose it is; `None`: anonymous.
    pub user: Option<String>,
    /// "address:port" of the peer.
    pub remote_address: String,
    /// Path of the handshake, for example "/ws".
    pub path: String,
    /// Query of the handshake without its "?", secrets removed.
    pub query: String,
    /// The subprotocol agreed on; empty: none.
    pub subprotocol: String,
    /// The headers of the handshake that the gateway passes on: name in lower case, value.
    pub headers: Vec<(String, String)>,
}

/// A client has sent a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// Where it came from.
    pub connection: Connection,
    /// Who sent it; `None`: anonymous.
    pub user: Option<String>,
    /// What was sent, byte for byte. A slice of a network buffer of up to 16 KiB: copy what is
    /// kept for long.
    pub payload: Bytes,
    /// Whether it was text or binary.
    pub kind: Kind,
}

/// A client's connection has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// The connection that ended.
    pub connection: Connection,
    /// Whose it was; `None`: anonymous.
    pub user: Option<String>,
    /// The WebSocket close code; 1005 when the Close carried none, 1006 when there was none.
    pub code: u16,
    /// The reason that came with it.
    pub reason: String,
}

impl Message {
    /// The payload as text; `None` when the message is binary.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self.kind {
            Kind::Text => std::str::from_utf8(&self.payload).ok(),
            Kind::Binary => None,
        }
    }

    /// A push to the connection this came from; the payload is still to be set.
    pub fn reply(&self) -> Push {
        Push::connection(self.connection)
    }
}

/// What happened to a stream, or to the set of gateways; see
/// [`Builder::on_notice`](crate::Builder::on_notice).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notice {
    /// The gateway's address, as the builder or the resolver named it; empty when it is about the
    /// resolver.
    pub gateway: String,
    /// The shard the stream leads to; 0 when it is about the gateway as a whole.
    pub shard: u32,
    /// What happened.
    pub what: What,
}

/// What happened to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// The stream is open.
    Connected {
        /// The run of the gateway. When it is a new one, connections and subscriptions are gone.
        epoch: u64,
    },
    /// The stream ended, or could not be opened; it will be tried again.
    Lost {
        /// Why.
        error: GatewayError,
        /// Commands that were sent and not acknowledged. What became of them is known when the stream
        /// is open again.
        unacked: u64,
    },
    /// A gateway is in the set now, and will be connected to.
    GatewayAdded,
    /// A gateway is in the set no more. Its streams end when what they sent is answered, after 5 s at
    /// the latest.
    GatewayRemoved,
    /// The resolver cannot find out which gateways there are, or there may be none. The set that was
    /// known last stays.
    Resolver {
        /// What it says.
        trouble: String,
    },
    /// The ports of the gateway's shards are out of reach: one stream through its common port takes
    /// the place of those to the shards. Commands take another hop, and the stream cannot resume. The
    /// shards' ports are tried again about every 30 s.
    CommonPort,
    /// The directory has no room for all users ([`Builder::directory_entries`](crate::Builder::directory_entries)):
    /// pushes for users go to all gateways of which it does not know all, too. Told once, until it has
    /// room for all again.
    DirectoryFull,
    /// A shard can be reached at its own port again: so are they all from now on.
    ShardPorts,
    /// A newer connection took the place of the one the stream had; nothing is lost.
    Replaced,
    /// Commands that were sent are not acknowledged and will not be: they may have been done or not.
    Unknown {
        /// How many.
        count: u64,
    },
    /// A command that is no push was not done, or may not have been.
    CommandReturned {
        /// Which, for people.
        command: String,
        /// Why.
        reason: ReturnReason,
    },
    /// Another client uses the session of this stream, which now has one of its own. Two processes
    /// should never come from one copy of memory.
    SharedSession,
    /// A command was refused.
    Rejected(Rejection),
    /// The gateway is going away. Commands are taken until the stream ends.
    Draining {
        /// How long it means to take, in milliseconds.
        remaining_ms: u32,
    },
}

/// Called from the stream's task: be quick.
pub(crate) type NoticeFn = Arc<dyn Fn(&Notice) + Send + Sync>;

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Resolver { trouble } => return write!(f, "finding gateways: {trouble}"),
            What::GatewayAdded => return write!(f, "gateway {}: added", self.gateway),
            What::GatewayRemoved => return write!(f, "gateway {}: removed", self.gateway),
            What::CommonPort => {
                return write!(
                    f,
                    "gateway {}: its shards' ports are out of reach, using the common port; open them, or \
                     correct what the gateway advertises",
                    self.gateway
                );
            }
            What::ShardPorts => {
                return write!(f, "gateway {}: using its shards' ports again", self.gateway);
            }
            _ => write!(f, "gateway {} shard {}: ", self.gateway, self.shard)?,
        }
        match &self.what {
            What::Connected { epoch } => write!(f, "connected, epoch {epoch:016x}"),
            What::Lost { error, unacked } => write!(f, "lost: {error} ({unacked} unacknowledged)"),
            What::Replaced => f.write_str("a new connection took over"),
            What::Unknown { count } => write!(f, "{count} commands may have been done or not"),
            What::CommandReturned { command, reason } => write!(f, "{command}: {reason}"),
            What::DirectoryFull => f.write_str(
                "the directory is full, pushes for users go to all gateways it does not know whole; see \
                 directory_entries",
            ),
            What::SharedSession => f.write_str("somebody shares the session; taking another"),
            What::GatewayAdded
            | What::GatewayRemoved
            | What::CommonPort
            | What::ShardPorts
            | What::Resolver { .. } => Ok(()),
            What::Rejected(rejection) => rejection.fmt(f),
            What::Draining { remaining_ms } => write!(f, "draining, {remaining_ms} ms left"),
        }
    }
}

impl From<v1::ClientOpened> for Opened {
    fn from(opened: v1::ClientOpened) -> Self {
        let headers = opened.headers.into_iter();
        Self {
            connection: opened.connection.unwrap_or_default().into(),
            user: opened.user_id,
            remote_address: opened.remote_address,
            path: opened.path,
            query: opened.query,
            subprotocol: opened.subprotocol,
            headers: headers.map(|header| (header.name, header.value)).collect(),
        }
    }
}

impl From<v1::ClientMessage> for Message {
    fn from(message: v1::ClientMessage) -> Self {
        let kind = match message.kind() {
            v1::PayloadKind::Binary => Kind::Binary,
            v1::PayloadKind::Text | v1::PayloadKind::Unspecified => Kind::Text,
        };
        Self {
            connection: message.connection.unwrap_or_default().into(),
            user: message.user_id,
            payload: message.payload,
            kind,
        }
    }
}

impl From<v1::ClientClosed> for Closed {
    fn from(closed: v1::ClientClosed) -> Self {
        Self {
            connection: closed.connection.unwrap_or_default().into(),
            user: closed.user_id,
            code: u16::try_from(closed.code).unwrap_or(1005),
            reason: closed.reason,
        }
    }
}
