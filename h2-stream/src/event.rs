use std::time::Duration;

use bytes::Bytes;

use crate::metadata::Metadata;
use crate::status::Status;

/// A stream of one connection: its HTTP/2 stream id.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct StreamId(pub u32);

/// What a client did, as the server sees it. In order per stream.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ServerEvent {
    /// A call begins. The owner answers it in its own time, at last with
    /// [`finish`](crate::Server::finish): for an unknown method with
    /// [`Status::unimplemented`].
    Request {
        /// The call's stream.
        stream: StreamId,
        /// The path, `/package.Service/Method`.
        method: String,
        /// What the client said besides.
        metadata: Metadata,
        /// When the call's time is over (`grpc-timeout`), on the clock of `now`. The server
        /// then ends it by itself.
        deadline: Option<Duration>,
    },
    /// A message of the client.
    Message {
        /// Whose message.
        stream: StreamId,
        /// The encoded protobuf message, inflated if it was compressed. It may be a slice of
        /// a larger buffer: copy what is kept for long.
        message: Bytes,
        /// To be given back with [`release`](crate::Server::release) once handled, in bytes.
        credit: usize,
    },
    /// The client will send no more messages on this stream.
    HalfClosed {
        /// Which stream.
        stream: StreamId,
    },
    /// The stream is over without the owner's doing. No more events of it come.
    Closed {
        /// Which stream.
        stream: StreamId,
        /// Why.
        reason: CloseReason,
    },
}

/// What a server did, as the client sees it. In order per stream.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ClientEvent {
    /// The response begins. Does not come when the call ends without a message.
    Headers {
        /// The call's stream.
        id: StreamId,
        /// What the server said.
        metadata: Metadata,
    },
    /// A message of the server.
    Message {
        /// Whose message.
        id: StreamId,
        /// As in [`ServerEvent::Message`].
        message: Bytes,
        /// To be given back with [`release`](crate::Client::release) once handled, in bytes.
        credit: usize,
    },
    /// The call is over. No more events of it come.
    Finished {
        /// Which stream.
        id: StreamId,
        /// The server's status, or one made here: `DEADLINE_EXCEEDED` when the time was
        /// over, `UNAVAILABLE` when the connection was lost.
        status: Status,
        /// The server said so, in trailers: it had sent everything before, and was done with the
        /// call. False for a status made here.
        told: bool,
    },
    /// The server takes no new calls on this connection (GOAWAY); open ones go on.
    GoAway {
        /// What the server said, for the log.
        reason: String,
    },
    /// The connection is over, expected or not. The last event, after every stream's
    /// [`Finished`](ClientEvent::Finished) (held streams excepted).
    ConnectionLost {
        /// Why, for the log.
        reason: String,
    },
}

/// Why a stream is over without the owner's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client reset the stream, with this HTTP/2 error code (RFC 9113 section 7); 8 is
    /// CANCEL.
    Reset(u32),
    /// The client's time was over; it was told `DEADLINE_EXCEEDED`.
    DeadlineExceeded,
    /// A message above the limit, also after inflating, or too many incomplete ones; the
    /// client was told `RESOURCE_EXHAUSTED`.
    MessageTooLarge,
    /// Bytes that are no gRPC message: unknown flags, compressed without an encoding, corrupt
    /// gzip. The client was told `INTERNAL`.
    BadMessage,
    /// The stream ended inside a message; the client was told `INVALID_ARGUMENT`.
    Truncated,
    /// The connection is over.
    ConnectionLost,
}

/// What a server refused and what went wrong, counted since the connection began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Connections that broke HTTP/2, or did not begin with its preface in time: 0 or 1.
    pub protocol_errors: u64,
    /// Connections that did not answer a PING: 0 or 1.
    pub unanswered_pings: u64,
    /// Requests that came through: one `Request` event each.
    pub requests: u64,
    /// Requests whose HTTP method is not POST, answered with 405.
    pub wrong_method: u64,
    /// Requests whose content type is not gRPC's, answered with 415.
    pub wrong_content_type: u64,
    /// Requests with a `grpc-timeout` that cannot be read, answered with `INTERNAL`.
    pub bad_timeout: u64,
    /// Requests with an unknown `grpc-encoding`, answered with `UNIMPLEMENTED`.
    pub unknown_encoding: u64,
    /// Streams ended by [`CloseReason::MessageTooLarge`].
    pub message_too_large: u64,
    /// Streams ended by [`CloseReason::BadMessage`].
    pub bad_message: u64,
    /// Streams ended by [`CloseReason::Truncated`].
    pub truncated: u64,
    /// Streams ended by [`CloseReason::DeadlineExceeded`].
    pub deadline_exceeded: u64,
    /// Streams ended by [`CloseReason::Reset`].
    pub reset_by_client: u64,
    /// Streams ended by [`CloseReason::ConnectionLost`].
    pub lost: u64,
}
