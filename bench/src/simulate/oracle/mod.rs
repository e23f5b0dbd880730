//! What was promised, and whether it is kept.
//!
//! The oracle is told what services push, what gateways' kernels take, what clients get, and how each push ended for its
//! sender. It knows nothing of how Ringway works inside.

mod conn;
mod down;
mod issued;
mod members;
mod up;

use std::time::Duration;

pub use down::Down;
pub use issued::{Answer, Fate, Issued, Target};
pub use up::{Source, Up};

/// Everything that is watched.
#[derive(Debug, Default)]
pub struct Oracle {
    /// From services to clients.
    pub down: Down,
    /// From clients to services.
    pub up: Up,
    /// Gateways soon forget services: what those were to get is lost.
    forgets: bool,
    /// What others have found.
    other: Option<String>,
}

impl Oracle {
    /// For a world in which gateways soon forget services, or do not.
    #[must_use]
    pub fn new(forgets: bool) -> Self {
        Self {
            forgets,
            ..Self::default()
        }
    }

    /// A promise was broken.
    pub fn fail(&mut self, what: String) {
        self.other.get_or_insert(what);
    }

    /// The first promise that was broken.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        let all = [&self.other, &self.down.failure, &self.up.failure];
        all.into_iter().flatten().next().map(String::as_str)
    }

    /// A gateway took a client's message.
    pub fn taken(&mut self, now: Duration, connection: u32, payload: &[u8]) {
        let Some(conn) = self.down.conn(connection) else {
            return;
        };
        self.up.taken(now, conn.epoch, conn.shard(), payload);
    }

    /// The world is quiet: what must have happened by now?
    pub fn finish(&mut self) {
        self.down.finish();
        let down = &self.down;
        // The only service is never forgotten.
        if !self.forgets || self.up.groups() == 1 {
            self.up.finish(|epoch, connection| {
                down.runs(epoch) && !down.conn(connection).is_some_and(|conn| conn.gave_up())
            });
        }
    }
}

/// The number that a payload begins with.
#[must_use]
pub fn number(payload: &[u8]) -> Option<usize> {
    let digits = payload.split(|byte| *byte == b':').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
