//! One timer for a whole shard.

use std::{future::Future, pin::Pin, task::Context, time::Duration};

use crate::driver::{Clock, tick::HEARTBEAT};

/// Wakes the tick: at the next deadline, or at once after a look at the completions.
pub(super) struct Timer {
    timer: glommio::timer::Timer,
    at: Duration,
}

impl Timer {
    /// A timer that wakes nobody yet.
    pub(super) fn new() -> Self {
        Self {
            timer: glommio::timer::Timer::new(HEARTBEAT),
            at: Duration::ZERO,
        }
    }

    /// Has the tick polled again as soon as glommio has looked at timers, which it does after the completions.
    pub(super) fn wake_now(&mut self, cx: &mut Context<'_>) {
        self.at = Duration::ZERO;
        self.wake_in(Duration::ZERO, cx);
    }

    /// Has the tick polled at `deadline` at the latest. A timer that is due earlier is left alone: one tick too many costs less
    /// than setting the timer in every tick.
    pub(super) fn wake_at(&mut self, clock: &Clock, deadline: Duration, cx: &mut Context<'_>) {
        let now = clock.now();
        if self.at > deadline || self.at <= now {
            self.at = deadline;
            self.wake_in(deadline.saturating_sub(now), cx);
        }
    }

    /// A timer that is due when it is polled is never registered; one that is registered may become due. So it is polled
    /// with time to spare, and then reset.
    fn wake_in(&mut self, time: Duration, cx: &mut Context<'_>) {
        self.timer.reset(HEARTBEAT);
        if Pin::new(&mut self.timer).poll(cx).is_ready() {
            // A second has passed meanwhile.
            cx.waker().wake_by_ref();
        }
        self.timer.reset(time);
    }
}
