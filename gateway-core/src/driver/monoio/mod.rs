//! The monoio driver: sockets and timers of the monoio runtime, on io_uring or on epoll.
//!
//! There is no task per connection. The runtime's main future *is* the tick; each socket that waits has one pending poll
//! operation, whose waker is the socket's number (`ready.rs`). Reading and sending are plain nonblocking calls: by measurement
//! the ring makes a send no cheaper, and an idle connection needs no buffer that way, only its pending poll.

use std::io;

use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

use super::Seat;

mod accept;
mod pump;
mod read;
mod ready;
mod ring;
mod run;
mod send;
mod socket;
mod table;
mod timer;

pub use ring::{RingFlags, probe};

/// Runs a shard on a ring of this thread's own.
///
/// # Errors
/// The kernel refuses the ring, or a registration.
pub fn run_on_ring(flags: RingFlags, seat: Seat, up: impl FnOnce()) -> io::Result<()> {
    RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(ring::ENTRIES)
        .uring_builder(flags.builder())
        .enable_timer()
        .build()?
        .block_on(run::run(seat, up))
}

/// Runs a shard on an epoll instance of this thread's own.
///
/// # Errors
/// The kernel refuses the epoll instance, or a registration.
pub fn run_on_epoll(seat: Seat, up: impl FnOnce()) -> io::Result<()> {
    RuntimeBuilder::<LegacyDriver>::new()
        .enable_timer()
        .build()?
        .block_on(run::run(seat, up))
}
