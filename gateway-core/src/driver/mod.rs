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
//! There is one driver so far, [`monoio`], on io_uring or on epoll.

use std::{
    fmt, io,
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    config::{self, DriverChoice},
    gateway::Gateway,
    lanes::Lanes,
    metrics::Metrics,
};
#[cfg(doc)]
use crate::{shard::Shard, timesheet::Timesheet};

pub mod budget;
pub mod listen;
pub mod mailbox;
pub mod monoio;
pub mod placement;
pub mod watch;

use mailbox::{Mailbox, Port};

/// Overrides `shards.driver = "auto"`: so that every test can be made to run on epoll.
pub const DRIVER_VARIABLE: &str = "RINGWAY_SHARDS_DRIVER";

/// What moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// monoio on io_uring.
    IoUring(monoio::RingFlags),
    /// monoio on epoll.
    Epoll,
}

/// Why there is no driver.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// io_uring was asked for, and this host does not offer it.
    #[error(
        "shards.driver = \"io_uring\": this host does not offer it; allowed: \"epoll\", or \"auto\" to fall back to it"
    )]
    NoRing(#[source] io::Error),
    /// [`DRIVER_VARIABLE`] makes no sense.
    #[error("{DRIVER_VARIABLE} = {0:?}: must be auto, io_uring or epoll")]
    Variable(String),
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

/// Finds out what may move the bytes: io_uring where the kernel allows it, epoll otherwise.
///
/// # Errors
/// io_uring was asked for by name and is not there, or [`DRIVER_VARIABLE`] makes no sense.
pub fn choose(config: &config::Shards) -> Result<Driver, DriverError> {
    let variable = std::env::var(DRIVER_VARIABLE).unwrap_or_default();
    match (choice(config.driver, &variable)?, monoio::probe()) {
        (DriverChoice::Epoll, _) => Ok(Driver::Epoll),
        (_, Ok(flags)) => Ok(Driver::IoUring(flags)),
        (DriverChoice::IoUring, Err(error)) => Err(DriverError::NoRing(error)),
        (DriverChoice::Auto, Err(error)) => {
            tracing::warn!(
                %error,
                "io_uring is not available here, falling back to epoll: every connection and message costs more"
            );
            Ok(Driver::Epoll)
        }
    }
}

/// What the settings ask for; the environment decides where they leave it open.
fn choice(config: DriverChoice, variable: &str) -> Result<DriverChoice, DriverError> {
    match (config, variable) {
        (DriverChoice::Auto, "" | "auto") => Ok(DriverChoice::Auto),
        (DriverChoice::Auto, "io_uring") => Ok(DriverChoice::IoUring),
        (DriverChoice::Auto, "epoll") => Ok(DriverChoice::Epoll),
        (DriverChoice::Auto, _) => Err(DriverError::Variable(variable.to_owned())),
        (named, _) => Ok(named),
    }
}

impl Driver {
    /// Runs a shard on this thread until it has drained or is stopped. `up` is called once it is ready for work.
    ///
    /// # Errors
    /// The kernel refuses the ring, the epoll instance or a registration.
    pub fn run(self, seat: Seat, up: impl FnOnce()) -> io::Result<()> {
        match self {
            Self::IoUring(flags) => monoio::run_on_ring(flags, seat, up),
            Self::Epoll => monoio::run_on_epoll(seat, up),
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IoUring(_) => "monoio (io_uring)",
            Self::Epoll => "monoio (epoll)",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_decides_where_settings_do_not() {
        let chosen = |config, variable| choice(config, variable).unwrap();
        assert_eq!(chosen(DriverChoice::Auto, ""), DriverChoice::Auto);
        assert_eq!(chosen(DriverChoice::Auto, "epoll"), DriverChoice::Epoll);
        assert_eq!(
            chosen(DriverChoice::IoUring, "epoll"),
            DriverChoice::IoUring
        );
        assert!(choice(DriverChoice::Auto, "kqueue").is_err());
    }
}
