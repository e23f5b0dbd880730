//! What moves the bytes of [`core`](crate::core), on tokio: one task per stream, and what the
//! tasks and the application share.

pub(crate) mod describe;
pub(crate) mod events;
pub(crate) mod gateway;
pub(crate) mod mesh;
pub(crate) mod queue;
pub(crate) mod socket;

pub(crate) mod task;

use std::sync::{Mutex, MutexGuard, PoisonError};
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

/// Locks; the state behind is sound even if another thread panicked, for nothing in it is left
/// half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
