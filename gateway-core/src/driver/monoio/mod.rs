//! The monoio driver: sockets and timers of the monoio runtime, on io_uring or on epoll.
//!
//! What it shares with other runtimes is in `driver/runtime`.

use std::{
    io,
    os::fd::AsFd,
    task::{Context, Waker},
    time::Duration,
};

use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

use super::{
    Clock, Seat,
    mailbox::Bell,
    runtime::{self, Interest, Runtime, Token, Watched},
};

mod pump;
mod ring;
mod socket;
mod timer;

use pump::Pump;
pub use ring::{RingFlags, probe};
use socket::{Fd, Poll};
use timer::Timer;

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
        .block_on(runtime::run::<Monoio>(seat, up))
}

/// Runs a shard on an epoll instance of this thread's own.
///
/// # Errors
/// The kernel refuses the epoll instance, or a registration.
pub fn run_on_epoll(seat: Seat, up: impl FnOnce()) -> io::Result<()> {
    RuntimeBuilder::<LegacyDriver>::new()
        .enable_timer()
        .build()?
        .block_on(runtime::run::<Monoio>(seat, up))
}

/// monoio, on either.
struct Monoio {
    clock: Clock,
    bell: Fd,
    bell_interest: Interest<Poll>,
    pump: Pump,
    timer: Timer,
}

impl Runtime for Monoio {
    type Stream = Fd;
    type Listener = Fd;

    fn start(tick: &Waker, clock: Clock, bell: &Bell) -> io::Result<Self> {
        let mut monoio = Self {
            clock,
            bell: Fd::new(bell.as_fd().try_clone_to_owned()?)?,
            bell_interest: Interest::Idle,
            pump: Pump::start(tick.clone()),
            timer: Timer::new(&clock),
        };
        monoio.await_bell();
        Ok(monoio)
    }

    /// Nothing to do but to wait for the next time, since every tick looks into the mailbox.
    fn bell_rang(&mut self, bell: &Bell) {
        if self.bell_interest.take_ready(Token::Bell) {
            bell.silence();
            self.await_bell();
        }
    }

    fn again(&mut self, _: &mut Context<'_>) {
        self.pump.again();
    }

    fn wake_at(&mut self, deadline: Duration, cx: &mut Context<'_>) {
        self.timer.wake_at(&self.clock, deadline, cx);
    }

    fn end(self, _: &Bell) {}
}

impl Monoio {
    fn await_bell(&mut self) {
        let bell = &mut self.bell;
        self.bell_interest
            .wait(Token::Bell, |waker| bell.await_readable(waker));
    }
}
