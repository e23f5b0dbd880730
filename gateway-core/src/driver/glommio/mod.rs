//! The glommio driver: sockets and timers of the glommio runtime, on its three rings.
//!
//! What it shares with other runtimes is in `driver/runtime`. Particular to glommio:
//!
//! - It tells readiness only by way of a read that found nothing, so its own nonblocking calls do the reading and sending
//!   (`socket.rs`).
//! - Its wakers may be woken from any thread: the bell is one.
//! - It takes completions only when no task can run. A tick with work left over therefore does not wake itself; it lets
//!   a timer do so that is due at once (`timer.rs`).

use std::{
    io,
    task::{Context, Waker},
    time::Duration,
};

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};

use super::{
    Clock, Seat,
    mailbox::Bell,
    runtime::{self, Runtime},
};

mod probe;
mod socket;
mod timer;

pub use probe::probe;
use socket::{Door, Socket};
use timer::Timer;

/// Requests that fit into a ring before they must be handed over: glommio keeps the others in a queue.
const ENTRIES: usize = 1024;

/// When glommio is to interrupt tasks. There is one, and its ticks are short. Should the timer go off before a task that is to run
/// has run, the executor would sleep over it, as happens when the thread does not get its CPU for a while.
const NEVER: Duration = Duration::from_hours(24);

/// Runs a shard on an executor of this thread's own.
///
/// # Errors
/// The kernel refuses a ring, or too little memory may be locked.
pub fn run(seat: Seat, up: impl FnOnce()) -> io::Result<()> {
    executor()?.run(runtime::run::<Glommio>(seat, up))
}

/// An executor of this thread's own. The thread that it keeps for files (of which there are none) would be a second one of the
/// shard's name: threads begin with the name of the one that starts them.
fn executor() -> io::Result<LocalExecutor> {
    let shard = rustix::thread::name()?;
    rustix::thread::set_name(c"glommio-files")?;
    // Unbound: the thread is where it should be already, and the shard has a spin of its own.
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .ring_depth(ENTRIES)
        .preempt_timer(NEVER)
        // For files, too.
        .io_memory(0)
        .make();
    rustix::thread::set_name(&shard)?;
    Ok(executor?)
}

struct Glommio {
    clock: Clock,
    timer: Timer,
}

impl Runtime for Glommio {
    type Stream = Socket;
    type Listener = Door;

    fn start(tick: &Waker, clock: Clock, bell: &Bell) -> io::Result<Self> {
        bell.wake_with(Some(tick.clone()));
        let timer = Timer::new();
        Ok(Self { clock, timer })
    }

    /// It wakes the tick without a token.
    fn bell_rang(&mut self, _: &Bell) {}

    fn again(&mut self, cx: &mut Context<'_>) {
        self.timer.wake_now(cx);
    }

    fn wake_at(&mut self, deadline: Duration, cx: &mut Context<'_>) {
        self.timer.wake_at(&self.clock, deadline, cx);
    }

    /// Wakers go while the executor is there: it would not free a task whose last waker goes later.
    fn end(self, bell: &Bell) {
        bell.wake_with(None);
    }
}
