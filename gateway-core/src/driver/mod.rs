//! Drivers: they move bytes between sockets and a shard, and know no rules.
//!
//! A driver runs one shard on one thread. It owns the sockets, the clock and the timer; the [`Shard`] is a state machine
//! that takes bytes and the time, and gives back bytes, actions and the next deadline. In each tick a driver
//!
//! 1. takes orders and moved sockets from its [`Mailbox`], and accepts;
//! 2. reads: from clients what is there, from links as much as the tick's byte budget allows, in fair parts;
//! 3. calls [`Shard::tick`];
//! 4. sends what [`Shard::next_dirty`] names, one call per socket: [`Shard::to_send`] shows the bytes, which stay put until
//!    [`Shard::sent`] has covered them all;
//! 5. does what [`Shard::next_action`] says, and wakes the shards of [`Shard::take_wakes`];
//! 6. parks until a socket, the bell or [`Shard::next_deadline`]; while [`Shard::has_work`] it polls for completions and goes
//!    on instead.
//!
//! A socket is the shard's until [`Shard::closed`] or [`Action::Close`](crate::shard::Action::Close), whichever comes first.
//! The driver keeps the counts of ticks, bytes, sends and accept errors; the shard all others.
//!
//! For the [timesheet](crate::timesheet) a driver does three things:
//!
//! - [`watch::start`] when it has made its shard, on the shard's thread;
//! - [`Timesheet::begin`] with the time at which a tick begins, and [`Timesheet::end`] with the time at which it ends,
//!   before it sleeps or goes on;
//! - [`Timesheet::kernel`] around its system calls, so that they are told from its own work. (A call that waits is rest,
//!   not this.)
//!
//! [`choose`] says which driver it is. One more driver is one more module, one more [`Driver`], and its line in `choice.rs`; one on an
//! asynchronous runtime shares what is in `runtime/`.

use std::{
    fmt, io,
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{gateway::Gateway, lanes::Lanes, metrics::Metrics};
#[cfg(doc)]
use crate::{shard::Shard, timesheet::Timesheet};

pub mod budget;
mod choice;
mod failures;
#[cfg(feature = "glommio")]
pub mod glommio;
pub mod listen;
pub mod mailbox;
pub mod monoio;
pub mod placement;
mod runtime;
mod spin;
mod tick;
mod turns;
pub mod uring;
pub mod watch;

pub use choice::{Chosen, DRIVER_VARIABLE, DriverError, choose};
use mailbox::{Mailbox, Port};

/// What moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// A bare io_uring.
    Uring,
    /// monoio on io_uring.
    MonoioRing(monoio::RingFlags),
    /// monoio on epoll.
    MonoioEpoll,
    /// glommio.
    #[cfg(feature = "glommio")]
    Glommio,
}

/// The monotonic clock that all shards of a process share.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

/// All that one shard's thread is started with.
pub struct Seat {
    /// What all shards share.
    pub gateway: Arc<Gateway>,
    /// What this one counts.
    pub metrics: Arc<Metrics>,
    /// Its ends of the lanes.
    pub lanes: Lanes,
    /// Its mailbox.
    pub mailbox: Mailbox,
    /// Every shard's port, in order.
    pub ports: Vec<Port>,
    /// Where clients connect.
    pub ws: TcpListener,
    /// Where logic services connect: the common port, and this shard's own.
    pub grpc: Vec<TcpListener>,
    /// The process' clock.
    pub clock: Clock,
    /// Seeds hashes and generations.
    pub seed: u64,
}

impl Driver {
    /// Runs a shard on this thread until it has drained or is stopped. `up` is called once it is ready for work.
    ///
    /// # Errors
    /// The kernel refuses the ring, the epoll instance or a registration.
    pub fn run(self, seat: Seat, up: impl FnOnce()) -> io::Result<()> {
        match self {
            Self::Uring => uring::run(seat, up),
            Self::MonoioRing(flags) => monoio::run_on_ring(flags, seat, up),
            Self::MonoioEpoll => monoio::run_on_epoll(seat, up),
            #[cfg(feature = "glommio")]
            Self::Glommio => glommio::run(seat, up),
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "uring",
            Self::MonoioRing(_) => "monoio (io_uring)",
            Self::MonoioEpoll => "monoio (epoll)",
            #[cfg(feature = "glommio")]
            Self::Glommio => "glommio",
        })
    }
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.0.elapsed()
    }

    /// The instant at which the clock shows `time`.
    #[must_use]
    pub fn at(&self, time: Duration) -> Instant {
        self.0 + time
    }
}
