//! What the application and the task of one stream share.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use crate::core::buffer::{Batch, Bounds, Buffer, Item};
use crate::core::stream::Stream;
use crate::driver::lock;
use crate::error::GatewayError;
use crate::stats::{Counters, StreamState, StreamStats};

/// One stream, as seen from outside its task. The lock is held for a few instructions, never
/// across an await; the stream's task takes whole batches under it.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The place of the gateway among those configured.
    pub(crate) gateway: usize,
    pub(crate) shard: u32,
    state: Mutex<State>,
    /// Wakes the task.
    wake: Notify,
    /// Wakes those who wait for room.
    room: Notify,
    /// Wakes those who wait for acknowledgements, the opening or the end of the stream.
    progress: Notify,
}

/// How the stream is to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    #[default]
    No,
    /// Send what there is, then end.
    Close,
    /// The gateway has other shards now: what is here was moved; wait for the answers to what was
    /// sent for a while, then end.
    Retire,
    /// End at once.
    Abandon,
}

/// Events the application has handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Handled {
    pub(crate) run: u64,
    pub(crate) id: u64,
    pub(crate) credit: usize,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) buffer: Buffer,
    /// The task sleeps and would send a command.
    hungry: bool,
    handled: Option<Handled>,
    pub(crate) ending: Ending,
    pub(crate) report: Report,
}

/// What the task has told about its stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) state: StreamState,
    pub(crate) counters: Counters,
    pub(crate) settled: u64,
    pub(crate) error: Option<GatewayError>,
}

/// What a task finds in its queue.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Commands were taken.
    pub(crate) any: bool,
    pub(crate) handled: Option<Handled>,
    pub(crate) ending: Ending,
    /// Nothing is left to be sent.
    pub(crate) empty: bool,
}

impl Queue {
    pub(crate) fn new(gateway: usize, shard: u32, bounds: Bounds) -> Self {
        let state = State {
            buffer: Buffer::new(bounds),
            hungry: false,
            handled: None,
            ending: Ending::No,
            report: Report::default(),
        };
        Self {
            gateway,
            shard,
            state: Mutex::new(state),
            wake: Notify::new(),
            room: Notify::new(),
            progress: Notify::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Puts a command in, and wakes the task if that sleeps; hands it back when there is no room.
    #[expect(
        clippy::result_large_err,
        reason = "the command is handed back as it came"
    )]
    pub(crate) fn offer(&self, item: Item) -> Result<(), Item> {
        let mut state = self.lock();
        if !state.buffer.has_room(item.size()) {
            return Err(item);
        }
        let wake = state.put(item);
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }

    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until there may be room. The caller creates this before it looks.
    pub(crate) fn room(&self) -> &Notify {
        &self.room
    }

    /// Waits until the report may have changed. The caller creates this before it looks.
    pub(crate) fn progress(&self) -> &Notify {
        &self.progress
    }

    /// Takes everything out: it goes elsewhere.
    pub(crate) fn drain(&self) -> Vec<Item> {
        let items = self.lock().buffer.drain();
        self.room.notify_waiters();
        items
    }

    /// How the stream is to end; it never becomes milder.
    pub(crate) fn end(&self, ending: Ending) {
        let mut state = self.lock();
        state.ending = state.ending.max(ending);
        drop(state);
        self.wake.notify_one();
        self.room.notify_waiters();
        self.progress.notify_waiters();
    }

    pub(crate) fn ending(&self) -> Ending {
        self.lock().ending
    }

    /// The application has handled events up to here.
    pub(crate) fn handled(&self, run: u64, id: u64, credit: usize) {
        let mut state = self.lock();
        let before = state.handled.take().filter(|handled| handled.run == run);
        let credit = credit + before.map_or(0, |handled| handled.credit);
        state.handled = Some(Handled { run, id, credit });
        // Whoever was here before has woken the task.
        let wake = before.is_none();
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// For the task: what there is to do, and commands of about `room` bytes.
    pub(crate) fn take(&self, now: Duration, room: usize, batch: &mut Batch) -> Taken {
        let mut state = self.lock();
        state.hungry = false;
        let any = room > 0 && !state.buffer.is_empty();
        if any {
            state.buffer.take(now, room, batch);
        }
        let taken = Taken {
            any,
            handled: state.handled.take(),
            ending: state.ending,
            empty: state.buffer.is_empty(),
        };
        drop(state);
        if any {
            self.room.notify_waiters();
        }
        taken
    }

    /// For the task: waits until there is something to do. `hungry`: a new command is.
    pub(crate) async fn sleep(&self, hungry: bool) {
        if hungry {
            let mut state = self.lock();
            if !state.buffer.is_empty() {
                return;
            }
            state.hungry = true;
        }
        self.wake.notified().await;
    }

    /// For the task: tells how the stream is doing.
    pub(crate) fn publish(&self, stream: &Stream) {
        let mut state = self.lock();
        state.report.state = stream.state();
        state.report.counters = stream.counters();
        state.report.settled = stream.settled();
        drop(state);
        self.progress.notify_waiters();
    }

    /// For the task: tells what went wrong.
    pub(crate) fn publish_error(&self, error: GatewayError) {
        self.lock().report.error = Some(error);
    }

    pub(crate) fn stats(&self, gateway: String) -> StreamStats {
        let state = self.lock();
        StreamStats {
            gateway,
            shard: self.shard,
            state: state.report.state,
            buffered: state.buffer.len(),
            buffered_bytes: state.buffer.bytes(),
            counters: state.report.counters,
            last_error: state.report.error.clone(),
        }
    }
}

impl State {
    /// Puts a command in, room or not. Says whether the task is to be woken.
    #[must_use]
    pub(crate) fn put(&mut self, item: Item) -> bool {
        self.buffer.push(item);
        std::mem::take(&mut self.hungry)
    }
}
