//! One timer for a whole shard.

use std::{future::Future, pin::Pin, task::Context, time::Duration};

use monoio::time::{Instant, Sleep, sleep_until};

use crate::driver::Clock;

/// Wakes the tick at the next deadline, to the millisecond above.
pub(super) struct Timer {
    sleep: Pin<Box<Sleep>>,
    at: Duration,
}

impl Timer {
    /// A timer that is due at once.
    pub(super) fn new(clock: &Clock) -> Self {
        let sleep = Box::pin(sleep_until(Instant::from_std(clock.at(Duration::ZERO))));
        Self {
            sleep,
            at: Duration::ZERO,
        }
    }

    /// Has the tick polled at `deadline` at the latest. A timer that is due earlier is left alone: one tick too many costs less
    /// than setting the timer in every tick.
    pub(super) fn wake_at(&mut self, clock: &Clock, deadline: Duration, cx: &mut Context<'_>) {
        if self.at > deadline || self.sleep.is_elapsed() {
            self.at = deadline;
            self.sleep
                .as_mut()
                .reset(Instant::from_std(clock.at(deadline)));
        }
        // Ready means that it is due: the pump or the next tick will see to it.
        if self.sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}
