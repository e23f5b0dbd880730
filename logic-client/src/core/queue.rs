//! What the application and the runner of one stream share.

use std::collections::VecDeque;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use crate::core::buffer::{Bounds, Buffer, GaveWay, Item, Load};
use crate::core::lock;
use crate::core::returned::ReturnReason;
use crate::core::router::GatewayId;
use crate::core::stream::Stream;
use crate::error::GatewayError;
use crate::stats::{Counters, StreamState, StreamStats};

/// One stream, as seen from outside its runner. The lock is held for a few instructions, never
/// across an await; the runner takes whole batches under it.
#[derive(Debug)]
pub struct Queue {
    pub(crate) gateway: GatewayId,
    pub(crate) address: Arc<str>,
    pub(crate) shard: u32,
    /// It leads to whichever shard answers at the gateway's common port.
    pub(crate) common: bool,
    /// Names the stream among all the client ever has.
    pub(crate) index: u32,
    state: Mutex<State>,
    /// Wakes whoever polls the runner.
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
    /// The runner rests and would send a command.
    hungry: bool,
    handled: Option<Handled>,
    /// The newest command that was ever put in.
    newest: Option<u64>,
    /// The stream is not open, or nothing it sends is acknowledged.
    pub(crate) stuck: bool,
    /// The stream is open, or nothing has failed since it was open last.
    reachable: bool,
    /// The gateway is in the set no more, and is let go then.
    leaves_at: Option<Duration>,
    /// The gateway may be another than the stream knows.
    doubt: bool,
    pub(crate) ending: Ending,
    pub(crate) report: Report,
    /// Commands handed back.
    returned: Counters,
}

/// What the runner has told about its stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) state: StreamState,
    pub(crate) counters: Counters,
    /// The place of the oldest command that was taken and is not done with.
    oldest: Option<u64>,
    /// Sent and not acknowledged.
    pub(crate) unacked: Load,
    pub(crate) error: Option<GatewayError>,
}

/// What a runner finds in its queue.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Commands were taken.
    pub(crate) any: bool,
    pub(crate) handled: Option<Handled>,
    /// See [`Queue::doubt`].
    pub(crate) doubt: bool,
    /// The gateway is to be let go.
    pub(crate) leaves: bool,
    pub(crate) ending: Ending,
    /// Nothing is left to be sent.
    pub(crate) empty: bool,
}

impl Queue {
    pub(crate) fn new(
        gateway: GatewayId,
        address: Arc<str>,
        shard: u32,
        common: bool,
        index: u32,
        bounds: Bounds,
    ) -> Self {
        let state = State {
            buffer: Buffer::new(bounds),
            hungry: false,
            handled: None,
            newest: None,
            stuck: true,
            reachable: true,
            leaves_at: None,
            doubt: false,
            ending: Ending::No,
            report: Report::default(),
            returned: Counters::default(),
        };
        Self {
            gateway,
            address,
            shard,
            common,
            index,
            state: Mutex::new(state),
            wake: Notify::new(),
            room: Notify::new(),
            progress: Notify::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Puts a command in, and wakes the runner if that rests; hands it back when there is no room.
    /// What gives way is the caller's to hand back.
    #[expect(
        clippy::result_large_err,
        reason = "the command is handed back as it came"
    )]
    #[inline]
    pub(crate) fn offer(&self, item: Item, gave_way: &mut GaveWay) -> Result<(), Item> {
        let mut state = self.lock();
        if !state.buffer.fits(slice::from_ref(&item)) {
            return Err(item);
        }
        let wake = state.push(item, gave_way);
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Puts commands in until one does not fit; hands back that one and all behind it.
    pub(crate) fn offer_all(&self, items: Vec<Item>, gave_way: &mut GaveWay) -> Vec<Item> {
        let mut items = items.into_iter();
        let mut wake = false;
        let mut state = self.lock();
        let first = items.find_map(|item| {
            if !state.buffer.fits(slice::from_ref(&item)) {
                return Some(item);
            }
            wake |= state.push(item, gave_way);
            None
        });
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        first.into_iter().chain(items).collect()
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

    /// The gateway may be another than the stream knows: it is to look.
    pub(crate) fn doubt(&self) {
        self.lock().doubt = true;
        self.wake.notify_one();
    }

    /// For the runner: whether the stream is stuck. Who waits for room may go on without it.
    pub(crate) fn set_stuck(&self, stuck: bool) {
        let was = std::mem::replace(&mut self.lock().stuck, stuck);
        if stuck && !was {
            self.room.notify_waiters();
        }
    }

    /// For the runner: whether the stream is open, or may be soon.
    pub(crate) fn set_reachable(&self, reachable: bool) {
        self.lock().reachable = reachable;
    }

    pub(crate) fn is_reachable(&self) -> bool {
        self.lock().reachable
    }

    /// When the gateway, which is in the set no more, is let go.
    pub(crate) fn leave_at(&self, at: Option<Duration>) {
        if std::mem::replace(&mut self.lock().leaves_at, at) != at {
            self.wake.notify_one();
        }
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
        // Whoever was here before has woken the runner.
        let wake = before.is_none();
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// For the runner: what there is to do, and commands of about `room` bytes. None of a stream that
    /// retires: what is left in its buffer is to be sent elsewhere.
    pub(crate) fn take(
        &self,
        now: Duration,
        room: usize,
        inbox: &mut VecDeque<Item>,
        gave_way: &mut GaveWay,
    ) -> Taken {
        let mut state = self.lock();
        state.hungry = false;
        let sends = room > 0 && state.ending != Ending::Retire;
        let any = sends && !state.buffer.is_empty();
        if any {
            state.buffer.take(now, room, inbox, gave_way);
        }
        if state.buffer.about_now() < now {
            state.buffer.expire(now, gave_way);
        }
        // What the runner has begins with this one, until it tells otherwise.
        let newest = inbox.front().map(Item::place);
        state.report.oldest = state.report.oldest.or(newest);
        let taken = Taken {
            any,
            handled: state.handled.take(),
            doubt: std::mem::take(&mut state.doubt),
            leaves: state.leaves_at.is_some_and(|at| at <= now),
            ending: state.ending,
            empty: state.buffer.is_empty(),
        };
        drop(state);
        if any || !gave_way.is_empty() {
            self.room.notify_waiters();
        }
        taken
    }

    /// When the runner is to look again, because something in the buffer becomes too old, or because
    /// the gateway is to be let go.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let mut state = self.lock();
        let leaves_at = state.leaves_at;
        leaves_at
            .into_iter()
            .chain(state.buffer.next_deadline())
            .min()
    }

    /// For the driver: waits until the runner has something to do. `hungry`: a new command is.
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

    /// For the runner: tells how the stream is doing.
    pub(crate) fn publish(&self, stream: &mut Stream) {
        let mut state = self.lock();
        let released = stream.take_released();
        state.buffer.release(released);
        state.report.state = stream.state();
        state.report.counters = stream.counters();
        state.report.oldest = stream.oldest();
        state.report.unacked = stream.unacked();
        drop(state);
        self.progress.notify_waiters();
        if released.items > 0 {
            self.room.notify_waiters();
        }
    }

    /// For the runner: the gateway has not taken these; they are sent before all others.
    pub(crate) fn put_back(&self, items: Vec<Item>) {
        self.lock().buffer.put_back(items);
    }

    /// Counts a command that is handed back.
    pub(crate) fn count_returned(&self, reason: &ReturnReason) {
        self.lock().returned.count_returned(reason);
    }

    /// For the runner: tells what went wrong.
    pub(crate) fn publish_error(&self, error: GatewayError) {
        self.lock().report.error = Some(error);
    }

    pub(crate) fn stats(&self) -> StreamStats {
        let state = self.lock();
        StreamStats {
            gateway: self.address.to_string(),
            shard: self.shard,
            common_port: self.common,
            state: state.report.state,
            buffered: state.buffer.len(),
            buffered_bytes: state.buffer.bytes(),
            unacked: state.report.unacked.items,
            unacked_bytes: state.report.unacked.bytes,
            counters: state.counters(),
            last_error: state.report.error.clone(),
        }
    }
}

impl State {
    /// Commands of the buffer up to this place are acknowledged, handed back or given up.
    pub(crate) fn settled(&self) -> u64 {
        let oldest = self.report.oldest.into_iter().chain(self.buffer.oldest());
        oldest
            .min()
            .map_or(self.buffer.pushed(), |oldest| oldest - 1)
    }

    pub(crate) fn newest(&self) -> Option<u64> {
        self.newest
    }

    /// What has happened on the stream so far.
    pub(crate) fn counters(&self) -> Counters {
        self.report.counters + self.returned
    }

    /// Puts a command in, for which there is room. Says whether the runner is to be woken.
    #[inline]
    #[must_use]
    pub(crate) fn push(&mut self, item: Item, gave_way: &mut GaveWay) -> bool {
        self.newest = self.newest.max(Some(item.stamp.order));
        self.buffer.push(item, gave_way) | std::mem::take(&mut self.hungry)
    }

    /// Puts a command of another buffer in, room or not. Says whether the runner is to be woken.
    #[must_use]
    pub(crate) fn put(&mut self, item: Item) -> bool {
        self.newest = self.newest.max(Some(item.stamp.order));
        self.buffer.append(item) | std::mem::take(&mut self.hungry)
    }
}
