//! What a logic service links to push messages to WebSocket clients through Ringway gateways, and
//! to receive what those clients send.
//!
//! A [`LogicClient`] asks each gateway what it is (`Describe`), opens one gRPC stream to each of
//! its shards, and sends every push straight to the shard that owns the user. Streams that break
//! are opened again, with exponential backoff; meanwhile pushes wait in bounded buffers.
//!
//! ```no_run
//! use std::time::Duration;
//! use logic_client::{Event, LogicClient, Push};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = LogicClient::builder()
//!     .gateway("127.0.0.1:9000")
//!     .service("greeter")
//!     .receive_messages(true)
//!     .connect()
//!     .await?;
//!
//! // Fire and forget: waits only while the buffer is full.
//! client.push(Push::user("alice").text("hi")).await?;
//!
//! // With a receipt: how many connections got it?
//! let receipt = client.push_confirmed(Push::topic("news").text("extra!")).await?;
//! println!("written to {} connections", receipt.written);
//!
//! // What clients do. An event is acknowledged when the next one is asked for.
//! let mut events = client.events().ok_or("events were taken")?;
//! while let Some(event) = events.next().await {
//!     if let Event::Message(message) = event {
//!         client.push(message.reply().text("got it")).await?;
//!         break;
//!     }
//! }
//!
//! let left = client.close(Duration::from_secs(5)).await;
//! println!("{} pushes were not sent", left.pushes.len());
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! - The pushes of one task reach each target in order, within one run of a gateway.
//! - A stream keeps what it has sent until the gateway has taken it. When it breaks, the next one
//!   resumes it: what was not taken is sent again, and nothing is done twice. A stream that is
//!   replaced while it is open loses nothing in either direction.
//! - Nothing is lost silently. A push that is not sent after all, or may not have arrived because its
//!   gateway came back without a memory of it, is handed back with the reason
//!   ([`Builder::on_returned`], [`ReturnReason`]) and counted ([`Counters::returned_for`]);
//!   [`push_confirmed`](LogicClient::push_confirmed) tells its caller instead. Commands that are no
//!   pushes (subscribe, unsubscribe, disconnect) are told as [`What::CommandReturned`].
//! - What waits is bounded by number, bytes and age ([`Builder::buffer`], [`Builder::buffer_age`]);
//!   what is sent and not acknowledged counts. Time to live, priority and conflation work there as
//!   in the gateway.
//! - Events of clients come at least once, in order per user: again after a stream broke before they
//!   were acknowledged.
//! - A gateway that is slow or gone fills only the buffers of its own streams. Of a push for several
//!   gateways the part for one that is full and has been stuck for 250 ms is handed back as
//!   [`Full`](ReturnReason::Full); [`try_push`](LogicClient::try_push) never waits.
//! - Pushes that wait are joined into large writes; a push never waits for others to join it.

mod builder;
mod client;
mod core;
mod driver;
mod error;
mod event;
#[doc(hidden)]
pub mod mutation;
mod push;
mod query;
pub mod resolver;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation;
mod stats;

pub use bytes::Bytes;

pub use builder::{Builder, Overflow, Streams};
pub use client::{Leftovers, LogicClient};
pub use core::inbox::Events;
pub use core::receipts::{Outcome, Receipt};
pub use core::returned::{ReturnReason, Returned};
pub use error::{
    ConfirmError, ConnectError, FlushError, GatewayError, Invalid, PushError, RejectReason,
    Rejection, TryPushError,
};
pub use event::{Closed, Event, Message, Notice, Opened, What};
pub use push::{Connection, Kind, Priority, Push, Recipient};
pub use query::{Answers, GatewayAnswer, Locate, Place};
pub use stats::{Counters, DirectoryStats, Stats, StreamState, StreamStats};

/// The samples of the guide compile.
#[cfg(doctest)]
#[doc = include_str!("../../docs/client.md")]
struct Guide;
