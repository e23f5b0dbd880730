//! What clients did, on its way to the application.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::core::lock;
use crate::core::queue::Queue;
use crate::event::Event;

/// An event, and whom to tell when it is handled.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) event: Event,
    pub(crate) from: Arc<Queue>,
    pub(crate) run: u64,
    pub(crate) id: u64,
    pub(crate) credit: usize,
}

/// Events of all streams. Bounded by credit: each stream's gateway may be ahead of the
/// application by the event window, and gets that back only as the application takes events.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct State {
    deliveries: VecDeque<Delivery>,
    closed: bool,
}

impl Inbox {
    /// Moves what is in `deliveries` here.
    pub(crate) fn put(&self, deliveries: &mut VecDeque<Delivery>) {
        lock(&self.state).deliveries.append(deliveries);
        self.ready.notify_one();
    }

    /// No more will come.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.ready.notify_one();
    }

    /// Everything there is; `None`: nothing yet. Empty when no more will come.
    fn try_take(&self) -> Option<VecDeque<Delivery>> {
        let mut state = lock(&self.state);
        let any = state.closed || !state.deliveries.is_empty();
        any.then(|| std::mem::take(&mut state.deliveries))
    }

    /// [`Inbox::try_take`] that waits. Only one may wait.
    async fn take(&self) -> VecDeque<Delivery> {
        loop {
            if let Some(deliveries) = self.try_take() {
                return deliveries;
            }
            self.ready.notified().await;
        }
    }
}

/// What clients do, one event after the other; see
/// [`LogicClient::events`](crate::LogicClient::events).
///
/// An event counts as handled, and is acknowledged to its gateway, when the next one is asked for,
/// or with [`Events::acknowledge`]. Bytes of events that are not handled are held back from the
/// gateway's credit, so it stops sending when the application is too slow; on the same
/// stream travel the answers to pushes, so hand long work to tasks of its own.
#[derive(Debug)]
pub struct Events {
    inbox: Arc<Inbox>,
    /// Taken out of the inbox at once, given out one by one.
    ready: VecDeque<Delivery>,
    /// Given out, not handled: stream, run, id and credit.
    current: Option<(Arc<Queue>, u64, u64, usize)>,
}

impl Events {
    pub(crate) fn new(inbox: Arc<Inbox>) -> Self {
        Self {
            inbox,
            ready: VecDeque::new(),
            current: None,
        }
    }

    /// The next event; the one before counts as handled. `None` when the client is closed.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        self.acknowledge();
        if self.ready.is_empty() {
            self.ready = self.inbox.take().await;
        }
        self.give_out()
    }

    /// The next event, if there is one already; the one before counts as handled either way.
    pub fn try_next(&mut self) -> Option<Event> {
        self.acknowledge();
        if self.ready.is_empty() {
            self.ready = self.inbox.try_take()?;
        }
        self.give_out()
    }

    /// The event that was given out last is handled.
    pub fn acknowledge(&mut self) {
        if let Some((from, run, id, credit)) = self.current.take() {
            from.handled(run, id, credit);
        }
    }

    fn give_out(&mut self) -> Option<Event> {
        let delivery = self.ready.pop_front()?;
        self.current = Some((delivery.from, delivery.run, delivery.id, delivery.credit));
        Some(delivery.event)
    }
}
