//! The bare ring: io_uring without a runtime.
//!
//! - Clients are accepted into *direct descriptors*: places in a ring's own table, so a gateway with 100,000 clients needs a
//!   few dozen ordinary descriptors. A table holds at most as many as the process may have ordinary ones; a shard with more
//!   clients has several rings (`rings.rs`).
//! - Receiving: once at a time during the handshake, so that nothing is pending when a connection moves to its shard; then a
//!   multishot receive into the ring's buffers, which all connections take turns with (`buffers.rs`). An idle client has 12
//!   bytes here.
//! - Sending: one request for each dirty socket, all of a tick's handed over by one system call, and done when it returns
//!   (`send.rs`): the kernel never holds on to an outbox.
//! - Links are few and carry much: they have ordinary descriptors, polled by the ring and read 256 KiB at a time.
//!
//! Sleeping, polling and handing over are the same call, `io_uring_enter`: one per ring and tick, and one more before a
//! shard sleeps, which must know by then what became of its sends.

use std::io;

use rustix::process::{Resource, getrlimit};

use super::Seat;
use crate::config;

mod accept;
mod act;
mod alarm;
mod buffers;
mod links;
mod probe;
mod receive;
mod ring;
mod rings;
mod run;
mod send;
mod services;
mod table;
mod token;

pub use probe::probe;

/// Runs a shard on rings of this thread's own.
///
/// # Errors
/// The kernel refuses a ring, or takes no more requests.
pub fn run(seat: Seat, up: impl FnOnce()) -> io::Result<()> {
    run::Reactor::new(seat)?.run(up)
}

/// What rings are made of, as far as the process' limit of descriptors allows.
fn shape(config: &config::Uring) -> ring::Shape {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    ring::Shape {
        descriptors: u64::from(config.ring_descriptors).min(limit) as u32,
        buffers: buffers::BufferShape {
            count: config.ring_buffers,
            bytes: config.buffer_bytes,
        },
    }
}
