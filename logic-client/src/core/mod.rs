//! The client's protocol, without a runtime: commands, bytes and the time in; frames, events and
//! the next deadline out. It opens no socket, reads no clock and spawns no task.
//!
//! - [`router`] says which streams a command goes to, [`reroute`] moves what was not sent when
//!   a gateway has changed;
//! - [`buffer`] holds what one stream has not sent;
//! - [`stream`] is the life of one stream across its connections: numbers, acks, events, backoff;
//! - [`link`] is one connection of a stream: bytes to frames and back;
//! - [`receipts`] puts the answers of several streams together.

pub(crate) mod backoff;
pub(crate) mod buffer;
pub(crate) mod check;
pub(crate) mod link;
pub(crate) mod receipts;
pub(crate) mod reroute;
pub(crate) mod router;
pub(crate) mod stream;
