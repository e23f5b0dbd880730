//! gRPC streaming over the `h2` crate, without io: bytes and time in; bytes, events and the
//! next deadline out.
//!
//! A [`Server`] or a [`Client`] is one connection. It owns no socket, reads no clock and spawns
//! no task; whoever owns it runs this loop:
//!
//! 1. While [`wants_bytes`](Server::wants_bytes), read the socket and [`receive`](Server::receive)
//!    what it gave; at its end [`receive_eof`](Server::receive_eof).
//! 2. Take events with [`poll_event`](Server::poll_event) until there is none. Messages are pulled:
//!    what is not asked for stays with the peer.
//! 3. Answer: [`send`](Server::send), [`finish`](Server::finish), and
//!    [`release`](Server::release) for each message that was handled.
//! 4. While [`has_output`](Server::has_output), [`write_output`](Server::write_output) and write that
//!    to the socket.
//! 5. At [`next_deadline`](Server::next_deadline) call [`handle_timeout`](Server::handle_timeout), then
//!    go on with 2.
//! 6. When it [`is_closed`](Server::is_closed) and nothing is left to poll or to write, close the
//!    socket.
//!
//! # Messages
//!
//! Sent messages queue on their stream, and leave as DATA frames of up to 16 KiB when
//! [`write_output`](Server::write_output) asks for bytes and the peer's window has room: what is sent
//! between two calls is joined. [`can_send`](Server::can_send) bounds the queue.
//!
//! Received messages are slices of the DATA frame that brought them, or are collected when they
//! lie in several. Identity and gzip are understood; compressed messages are never sent.
//!
//! # Credit
//!
//! HTTP/2 lets a peer send as many bytes as its window says. Each message carries the credit of
//! its bytes; [`release`](Server::release) gives it back. A slow owner thus slows its peer, stream
//! by stream, and the connection as a whole. Bytes of an incomplete message are credited on
//! arrival, so that a message larger than the window gets through;
//! [`Config::max_incomplete`] bounds those. When a stream ends all of its credit goes back.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use h2_stream::{Client, ClientEvent, Config, Metadata, Server, ServerEvent, Status};
//!
//! let now = Duration::ZERO;
//! let mut server = Server::new(Config::default(), now);
//! let mut client = Client::new(Config::default(), "gateway:9000", now);
//!
//! let call = client.open("/chat.Chat/Say", Metadata::new(), None, now)?;
//! client.send_encoded(call, b"hello");
//! client.half_close(call);
//!
//! let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
//! let status = 'done: loop {
//!     client.write_output(&mut to_server, 64 << 10);
//!     server.receive(now, &to_server);
//!     to_server.clear();
//!     while let Some(event) = server.poll_event(now) {
//!         match event {
//!             ServerEvent::Request { method, .. } => assert_eq!(method, "/chat.Chat/Say"),
//!             ServerEvent::Message { stream, message, credit } => {
//!                 server.send_encoded(stream, &message);
//!                 server.release(stream, credit);
//!             }
//!             ServerEvent::HalfClosed { stream } => server.finish(stream, Status::ok()),
//!             other => panic!("{other:?}"),
//!         }
//!     }
//!     server.write_output(&mut to_client, 64 << 10);
//!     client.receive(now, &to_client);
//!     to_client.clear();
//!     while let Some(event) = client.poll_event(now) {
//!         match event {
//!             ClientEvent::Message { id, message, credit } => {
//!                 assert_eq!(&message[..], b"hello");
//!                 client.release(id, credit);
//!             }
//!             ClientEvent::Finished { status, .. } => break 'done status,
//!             _ => {}
//!         }
//!     }
//! };
//! assert!(status.is_ok());
//! # Ok::<(), h2_stream::OpenError>(())
//! ```

mod client;
mod config;
mod engine;
mod event;
mod inbound;
mod inflate;
mod keepalive;
mod metadata;
mod outbound;
mod pipe;
mod prefix;
mod request;
mod server;
mod status;
mod streams;
mod timeout;
mod transport;
mod wake;

pub use client::{Client, OpenError};
pub use config::Config;
pub use event::{ClientEvent, CloseReason, Counters, ServerEvent, StreamId};
pub use metadata::{InvalidMetadata, Metadata};
pub use prefix::{PREFIX, append_message};
pub use server::Server;
pub use status::{Code, Status};
