//! What moves the bytes of [`core`](crate::core), on tokio: sockets, timers, and a task for each
//! runner. No rules.

pub(crate) mod connect;
pub(crate) mod describe;
pub(crate) mod resolve;
pub(crate) mod seek;
pub(crate) mod socket;
pub(crate) mod task;

use std::time::Duration;

use tokio::time::Instant;

/// The only clock of the client: time since it was built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }

    pub(crate) fn instant(self, at: Duration) -> Instant {
        self.0 + at
    }
}
