//! What the streams of a client share: where commands go, who waits for receipts, and how a
//! gateway that has changed is taken over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use gateway_proto::v1::logic_frame::Body;
use tokio::sync::{Notify, oneshot};

use crate::builder::Settings;
use crate::core::buffer::Item;
use crate::core::check::check;
use crate::core::receipts::{Answer, Receipt, Receipts, Ticket};
use crate::core::router::{Paths, Router};
use crate::driver::events::Inbox;
use crate::driver::gateway::Gateway;
use crate::driver::queue::{Ending, Queue, State};
use crate::driver::{Clock, lock};
use crate::error::Invalid;
use crate::stats::{Counters, Stats, StreamState};

/// What the streams of a client share.
pub(crate) struct Mesh {
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) session: [u8; 16],
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) inbox: Arc<Inbox>,
    /// Locked for writing only while a gateway is taken over; then no command is on its way
    /// into a buffer.
    routes: RwLock<Routes>,
    receipts: Mutex<Receipts<oneshot::Sender<Answer>>>,
    stamp: AtomicU64,
    no_target: AtomicU64,
    past: Mutex<Past>,
    closing: Notify,
}

pub(crate) struct Routes {
    pub(crate) router: Router<Arc<Queue>>,
    /// No more commands are taken.
    pub(crate) closed: bool,
}

/// Streams to shards that are no more.
#[derive(Default)]
struct Past {
    /// Those that still wait for answers.
    retired: Vec<Arc<Queue>>,
    /// What the others have counted.
    counters: Counters,
}

/// Why a command was not taken; it is handed back.
pub(crate) enum Refusal {
    /// That stream's buffer is full.
    Full(Item, Arc<Queue>),
    Closed(Item),
    Invalid(Item, Invalid),
}

impl Mesh {
    pub(crate) fn new(settings: Settings, session: [u8; 16]) -> Self {
        let gateways: Vec<_> = settings
            .gateways
            .iter()
            .cloned()
            .map(Gateway::new)
            .collect();
        let router = Router::new(gateways.len());
        Self {
            settings,
            clock: Clock::start(),
            session,
            gateways,
            inbox: Arc::default(),
            routes: RwLock::new(Routes {
                router,
                closed: false,
            }),
            receipts: Mutex::new(Receipts::new()),
            stamp: AtomicU64::new(0),
            no_target: AtomicU64::new(0),
            past: Mutex::default(),
            closing: Notify::new(),
        }
    }

    /// A command, numbered in the order of the calls.
    pub(crate) fn item(&self, body: Body, ttl: Option<std::time::Duration>) -> Item {
        let stamp = self.stamp.fetch_add(1, Ordering::Relaxed);
        let expires = ttl.map(|ttl| self.clock.now().saturating_add(ttl));
        Item::new(stamp, body, expires)
    }

    /// Puts a command into the buffers of all streams it goes to, or of none.
    #[expect(
        clippy::result_large_err,
        reason = "the command is handed back as it came"
    )]
    pub(crate) fn offer(&self, item: Item) -> Result<(), Refusal> {
        let routes = self.routes();
        if routes.closed {
            return Err(Refusal::Closed(item));
        }
        if let Err(invalid) = check(&item.body, routes.router.limits()) {
            return Err(Refusal::Invalid(item, invalid));
        }
        match routes.router.paths(&item.body) {
            Paths::None => {
                self.no_target(item);
                Ok(())
            }
            Paths::One(queue) => {
                let ticket = item.ticket;
                self.expect(ticket, 1, 0);
                queue.offer(item).map_err(|item| {
                    self.expect(ticket, 0, 1);
                    Refusal::Full(item, Arc::clone(queue))
                })
            }
            Paths::Many(parts) => self.offer_parts(item, parts),
        }
    }

    /// [`Mesh::offer`] that waits for room. Dropping the future leaves the command nowhere.
    pub(crate) async fn send(&self, mut item: Item) -> Result<(), Refusal> {
        loop {
            let full;
            (item, full) = match self.offer(item) {
                Err(Refusal::Full(item, full)) => (item, full),
                other => return other,
            };
            let room = full.room().notified();
            // Room made between the two looks is seen by the second.
            let still;
            (item, still) = match self.offer(item) {
                Err(Refusal::Full(item, full)) => (item, full),
                other => return other,
            };
            if Arc::ptr_eq(&full, &still) {
                room.await;
            }
        }
    }

    /// All streams' locks are taken in the order of the routes, so two callers cannot block
    /// each other.
    #[expect(
        clippy::result_large_err,
        reason = "the command is handed back as it came"
    )]
    fn offer_parts(&self, item: Item, parts: Vec<(&Arc<Queue>, Body)>) -> Result<(), Refusal> {
        let mut shares: Vec<(&Arc<Queue>, Vec<Item>)> = Vec::with_capacity(parts.len());
        for (queue, body) in parts {
            let part = item.part(body);
            match shares.last_mut() {
                Some((last, share)) if Arc::ptr_eq(last, queue) => share.push(part),
                _ => shares.push((queue, vec![part])),
            }
        }
        let mut states: Vec<_> = shares.iter().map(|(queue, _)| queue.lock()).collect();
        for (state, (queue, share)) in states.iter().zip(&shares) {
            if !state.buffer.has_room(share.iter().map(Item::size).sum()) {
                return Err(Refusal::Full(item, Arc::clone(queue)));
            }
        }
        self.expect(
            item.ticket,
            shares.iter().map(|(_, share)| share.len()).sum(),
            0,
        );
        let mut wakes = Vec::new();
        for (state, (queue, share)) in states.iter_mut().zip(shares) {
            if share
                .into_iter()
                .fold(false, |wake, part| State::put(state, part) | wake)
            {
                wakes.push(queue);
            }
        }
        drop(states);
        wakes.into_iter().for_each(|queue| queue.wake());
        Ok(())
    }

    /// A command for a connection of no known gateway.
    pub(crate) fn no_target(&self, item: Item) {
        self.no_target.fetch_add(1, Ordering::Relaxed);
        if let Some(ticket) = item.ticket {
            let receipt = Receipt {
                no_target: 1,
                ..Receipt::default()
            };
            self.settle(ticket, Ok(receipt));
        }
    }

    pub(crate) fn await_receipt(&self, list: bool) -> (Ticket, oneshot::Receiver<Answer>) {
        let (waiter, answer) = oneshot::channel();
        (lock(&self.receipts).open(waiter, list), answer)
    }

    pub(crate) fn cancel_receipt(&self, ticket: Ticket) {
        lock(&self.receipts).cancel(ticket);
    }

    pub(crate) fn expect(&self, ticket: Option<Ticket>, come: usize, gone: usize) {
        if let Some(ticket) = ticket {
            lock(&self.receipts).expect(ticket, come, gone);
        }
    }

    pub(crate) fn settle(&self, ticket: Ticket, answer: Answer) {
        let settled = lock(&self.receipts).settle(ticket, answer);
        if let Some((waiter, answer)) = settled {
            // Nobody waits any more: nothing to tell.
            let _ = waiter.send(answer);
        }
    }

    pub(crate) fn routes(&self) -> RwLockReadGuard<'_, Routes> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn routes_mut(&self) -> RwLockWriteGuard<'_, Routes> {
        self.routes.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The streams there are, also those that wait for their last answers.
    pub(crate) fn queues(&self) -> Vec<Arc<Queue>> {
        let routes = self.routes();
        let past = lock(&self.past);
        routes
            .router
            .streams()
            .chain(&past.retired)
            .cloned()
            .collect()
    }

    /// Takes no more commands, and has every stream end in that way.
    pub(crate) fn end(&self, ending: Ending) -> Vec<Arc<Queue>> {
        self.routes_mut().closed = true;
        self.closing.notify_waiters();
        let queues = self.queues();
        for queue in &queues {
            queue.end(ending);
        }
        queues
    }

    /// Waits until [`Mesh::end`] is called.
    pub(crate) async fn closing(&self) {
        let closing = self.closing.notified();
        if !self.routes().closed {
            closing.await;
        }
    }

    /// The shards of these streams are no more.
    pub(crate) fn retire(&self, queues: Vec<Arc<Queue>>) {
        for queue in &queues {
            queue.end(Ending::Retire);
        }
        lock(&self.past).retired.extend(queues);
    }

    /// A stream has ended for good.
    pub(crate) fn ended(&self, queue: &Queue) {
        let mut past = lock(&self.past);
        let of = past
            .retired
            .iter()
            .position(|other| std::ptr::eq(&**other, queue));
        if let Some(at) = of {
            past.retired.swap_remove(at);
            past.counters += queue.lock().report.counters;
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let routes = self.routes();
        let streams = routes.router.streams();
        let address = |queue: &Queue| self.gateways[queue.gateway].address.clone();
        let missing = |gateway: &usize| routes.router.route(*gateway).is_none();
        let missing = (0..self.gateways.len()).filter(missing);
        let past = lock(&self.past);
        let retired = past
            .retired
            .iter()
            .map(|queue| queue.lock().report.counters);
        Stats {
            streams: streams.map(|queue| queue.stats(address(queue))).collect(),
            missing: missing
                .map(|gateway| self.gateways[gateway].address.clone())
                .collect(),
            past: retired.fold(past.counters, |sum, counters| sum + counters),
            no_target: self.no_target.load(Ordering::Relaxed),
        }
    }
}

/// Whether a stream has ended for good.
pub(crate) fn is_over(queue: &Queue) -> bool {
    queue.lock().report.state == StreamState::Ended
}
