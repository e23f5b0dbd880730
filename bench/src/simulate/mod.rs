//! Gateways, clients, services and the network between them in one thread, on virtual time, from one seed.
//!
//! Real: shards and what is below them, lanes, HTTP/2, and the core of `logic-client`. Simulated: their drivers, the
//! network, WebSocket clients, and what finds gateways. A world follows from its seed alone, so a failure can be lived
//! through again.

mod agenda;
mod client;
mod context;
mod coverage;
mod credit;
mod frames;
mod gateway;
pub mod hol;
mod net;
mod oracle;
mod plan;
mod rest;
pub(crate) mod rng;
mod run;
mod seat;
mod service;
mod tally;
mod trace;
mod world;

pub use oracle::{Target, number};
pub use plan::{Act, Kind, Plan};
pub use rng::Rng;
pub use run::{Options, Report, run};
pub use service::Wanted;
pub use world::{Outcome, live};

/// A payload that begins with a number.
#[must_use]
pub fn payload(number: usize, size: usize) -> Vec<u8> {
    let mut payload = format!("{number}:").into_bytes();
    let size = size.max(payload.len());
    payload.resize(size, b'.');
    payload
}

/// The name of a user.
#[must_use]
pub fn user(user: u32) -> String {
    format!("user-{user}")
}

/// The name of a topic.
#[must_use]
pub fn topic(topic: u32) -> String {
    format!("topic-{topic}")
}

/// The name of a variant.
fn label(debug: &str) -> String {
    let end = debug.find([' ', '(', '{']).unwrap_or(debug.len());
    debug[..end].to_owned()
}

/// The user of a name.
fn user_number(name: &str) -> Option<u32> {
    name.strip_prefix("user-")?.parse().ok()
}
