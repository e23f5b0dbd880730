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
//! - Nothing is lost silently. What was sent and not acknowledged when a stream broke is counted
//!   as unknown ([`Counters::unknown`]), and [`push_confirmed`](LogicClient::push_confirmed) fails
//!   with [`PushError::Unknown`]; what was not sent is sent when the stream is open again, also
//!   when the gateway came back with another number of shards.
//! - A gateway that is slow or gone fills only the buffers of its own streams. A push that is for
//!   it too then waits; [`try_push`](LogicClient::try_push) hands it back.
//! - Pushes that wait are joined into large writes; a push never waits for others to join it.

mod builder;
mod client;
mod core;
mod driver;
mod error;
mod event;
mod push;
mod stats;

pub use bytes::Bytes;

pub use builder::Builder;
pub use client::{Leftovers, LogicClient};
pub use core::receipts::Receipt;
pub use driver::events::Events;
pub use error::{
    ConnectError, FlushError, GatewayError, Invalid, PushError, RejectReason, Rejection,
    TryPushError,
};
pub use event::{Closed, Event, Message, Notice, Opened, What};
pub use push::{Connection, Kind, Priority, Push, Recipient};
pub use stats::{Counters, Stats, StreamState, StreamStats};
