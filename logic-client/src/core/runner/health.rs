//! Whether a stream is stuck, so that others need not wait for it.

use std::time::Duration;

use crate::core::runner::Runner;

/// A stream that has something to be acknowledged, and had nothing acknowledged for so long, is stuck.
const STUCK: Duration = Duration::from_millis(250);

/// What a stream has got done lately.
#[derive(Debug)]
pub(super) struct Health {
    /// Commands acknowledged so far.
    acked: u64,
    /// When that changed, or something to be acknowledged came.
    since: Duration,
    /// Nothing is sent or to be sent.
    idle: bool,
    stuck: bool,
}

impl Default for Health {
    /// Of a stream that was never open.
    fn default() -> Self {
        Self {
            acked: 0,
            since: Duration::ZERO,
            idle: true,
            stuck: true,
        }
    }
}

impl Health {
    /// When to look again.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        (!self.idle && !self.stuck).then(|| self.since + STUCK)
    }
}

impl Runner {
    /// Tells the queue when the stream gets stuck or goes on.
    pub(super) fn watch(&mut self, now: Duration) {
        let acked = self.stream.counters().acked;
        let idle = self.stream.unacked().items == 0 && self.queue.lock().buffer.is_empty();
        let health = &mut self.health;
        if health.idle || idle || acked != health.acked {
            health.since = now;
        }
        (health.acked, health.idle) = (acked, idle);
        let stuck = !self.stream.is_open() || now >= health.since + STUCK;
        if stuck != health.stuck {
            health.stuck = stuck;
            self.queue.set_stuck(stuck);
        }
    }
}
