//! What the streams of a client share: where commands go, who waits for receipts, and how a
//! gateway that has changed is taken over.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::Poll;
use std::time::Duration;

use gateway_proto::v1::MessageRequest;
use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::message_request::Target;
use tokio::sync::{Notify, oneshot};

use crate::builder::Settings;
use crate::core::again::Again;
use crate::core::buffer::{GaveWay, Item};
use crate::core::check::check;
use crate::core::gateways::Gateway;
use crate::core::inbox::Inbox;
use crate::core::locate::Located;
use crate::core::lock;
use crate::core::presence::Presence;
use crate::core::queue::{Ending, Queue, State};
use crate::core::receipts::{Answer, Receipt, Receipts, Ticket};
use crate::core::reroute::split;
use crate::core::returned::ReturnReason;
use crate::core::router::{Paths, Router};
use crate::error::{Invalid, TryPushError};
use crate::event::{Notice, What};
use crate::push::Push;
use crate::stats::{Counters, Stats, StreamState};

/// What the streams of a client share.
pub struct Mesh {
    pub(crate) settings: Settings,
    pub(crate) session: [u8; 16],
    pub(crate) inbox: Arc<Inbox>,
    /// Locked for writing only while a gateway is taken over; then no command is on its way
    /// into a buffer.
    routes: RwLock<Routes>,
    pub(crate) receipts: Mutex<Receipts<oneshot::Sender<Answer>>>,
    stamp: AtomicU64,
    pub(super) next_gateway: AtomicU32,
    pub(super) next_stream: AtomicU32,
    no_target: AtomicU64,
    /// While the client is being closed: what is unknown, for [`Mesh::take_unknown`].
    pub(super) unknown: Mutex<Option<Vec<(Again, Item)>>>,
    past: Mutex<Past>,
    pub(super) presence: Presence,
    /// Wakes those who wait for the gateways to be found.
    pub(super) outlook: Notify,
    closing: Notify,
}

pub(crate) struct Routes {
    pub(crate) router: Router<Arc<Queue>>,
    /// In the order they were added.
    pub(super) gateways: Vec<Gateway>,
    /// The resolver, if there is one, has told a set.
    pub(super) told: bool,
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

/// What is to be handed back once no lock is held.
pub(crate) type GoneFrom = Vec<(Arc<Queue>, Item, ReturnReason)>;

/// What has left the buffer of a stream.
pub(crate) fn from(
    queue: &Arc<Queue>,
    items: GaveWay,
) -> impl Iterator<Item = (Arc<Queue>, Item, ReturnReason)> {
    let from = move |(item, reason)| (Arc::clone(queue), item, reason);
    items.into_iter().map(from)
}

/// Why a command was not taken; it is handed back.
pub(crate) enum Refusal {
    /// The buffers of these streams are full; room in one may be enough.
    Full(Item, Vec<Arc<Queue>>),
    Closed(Item),
    Invalid(Item, Invalid),
    /// What it is only for is no more.
    Gone(Item, ReturnReason),
}

impl Mesh {
    pub(crate) fn new(settings: Settings, session: [u8; 16]) -> Self {
        let told = !settings.resolves;
        Self {
            presence: Presence::new(settings.locate, settings.directory_entries),
            settings,
            session,
            inbox: Arc::default(),
            routes: RwLock::new(Routes {
                router: Router::new(),
                gateways: Vec::new(),
                told,
                closed: false,
            }),
            receipts: Mutex::new(Receipts::new()),
            stamp: AtomicU64::new(0),
            next_gateway: AtomicU32::new(0),
            next_stream: AtomicU32::new(0),
            no_target: AtomicU64::new(0),
            unknown: Mutex::new(None),
            past: Mutex::default(),
            outlook: Notify::new(),
            closing: Notify::new(),
        }
    }

    /// A command, numbered in the order of the calls.
    pub(crate) fn item(&self, now: Duration, body: Body, ttl: Option<Duration>) -> Item {
        let stamp = self.stamp.fetch_add(1, Ordering::Relaxed);
        let expires = ttl.map(|ttl| now.saturating_add(ttl));
        Item::new(stamp, body, expires)
    }

    /// A push, numbered like [`Mesh::item`].
    pub(crate) fn push_item(&self, now: Duration, push: Push) -> Item {
        let mut item = self.item(now, Body::Push(push.request), push.ttl);
        item.again = push.again;
        item
    }

    /// Puts a command into the buffers of all streams it goes to, or of none. A part for a stream
    /// that is full and stuck is handed back, if another stream takes its own.
    #[expect(
        clippy::result_large_err,
        reason = "the command is handed back as it came"
    )]
    pub(crate) fn offer(&self, now: impl Fn() -> Duration, item: Item) -> Result<(), Refusal> {
        let mut returned = Vec::new();
        let offered = self.place(item, &mut returned);
        // Who is told may push: no lock is held.
        if !returned.is_empty() {
            let now = now();
            for (queue, item, reason) in returned {
                self.hand_back(now, &queue, item, reason);
            }
        }
        offered
    }

    #[expect(
        clippy::result_large_err,
        reason = "the command is handed back as it came"
    )]
    #[inline]
    fn place(&self, mut item: Item, returned: &mut GoneFrom) -> Result<(), Refusal> {
        let routes = self.routes();
        if routes.closed {
            return Err(Refusal::Closed(item));
        }
        if let Err(invalid) = check(&item.body, routes.router.limits()) {
            return Err(Refusal::Invalid(item, invalid));
        }
        let Located { paths, nowhere } = match self.aim(&routes, &mut item) {
            Ok(located) => located,
            Err(reason) => return Err(Refusal::Gone(item, reason)),
        };
        match paths {
            Paths::None => {
                self.no_target(item.ticket, nowhere);
                Ok(())
            }
            Paths::One(queue) => {
                let ticket = item.ticket;
                self.expect(ticket, 1, 0);
                let mut items = GaveWay::new();
                let offered = queue.offer(item, &mut items).map_err(|item| {
                    self.expect(ticket, 0, 1);
                    Refusal::Full(item, vec![Arc::clone(queue)])
                });
                returned.extend(from(queue, items));
                offered
            }
            Paths::Many(parts) => {
                // Users of a list who are nowhere have an answer of their own.
                let nobody = item.ticket.filter(|_| nowhere > 0);
                self.expect(nobody, 1, 0);
                let placed = self.place_parts(item, parts, returned);
                match &placed {
                    Ok(()) => self.no_target(nobody, nowhere),
                    Err(_) => self.expect(nobody, 0, 1),
                }
                placed
            }
        }
    }

    /// [`Mesh::offer`] of a push, which comes back as it was.
    #[expect(
        clippy::result_large_err,
        reason = "the push is handed back as it came"
    )]
    pub fn try_push(&self, now: Duration, push: Push) -> Result<(), TryPushError> {
        let ttl = push.ttl;
        let item = self.push_item(now, push);
        let back = |item: Item| {
            let request = match item.body {
                Body::Push(request) => request,
                _ => MessageRequest::default(),
            };
            let again = item.again;
            Push {
                request,
                ttl,
                again,
            }
        };
        self.offer(|| now, item).map_err(|refusal| match refusal {
            Refusal::Full(item, _) => TryPushError::Full(back(item)),
            Refusal::Closed(item) => TryPushError::Closed(back(item)),
            Refusal::Invalid(item, invalid) => TryPushError::Invalid(back(item), invalid),
            Refusal::Gone(item, reason) => TryPushError::NotSent(back(item), reason),
        })
    }

    /// [`Mesh::offer`] that waits for room. Dropping the future leaves the command nowhere.
    pub(crate) async fn send(
        &self,
        now: impl Fn() -> Duration,
        mut item: Item,
    ) -> Result<(), Refusal> {
        loop {
            let full;
            (item, full) = match self.offer(&now, item) {
                Err(Refusal::Full(item, full)) => (item, full),
                other => return other,
            };
            let rooms = full.iter().map(|queue| queue.room().notified());
            let rooms: Vec<_> = rooms.map(Box::pin).collect();
            // Room made between the two looks is seen by the second.
            let still;
            (item, still) = match self.offer(&now, item) {
                Err(Refusal::Full(item, full)) => (item, full),
                other => return other,
            };
            let same = |(one, other): (&Arc<Queue>, &Arc<Queue>)| Arc::ptr_eq(one, other);
            if full.len() == still.len() && full.iter().zip(&still).all(same) {
                any(rooms).await;
            }
        }
    }

    /// Gives back the parts of streams that are stuck. All streams' locks are taken in the order of
    /// the routes, so two callers cannot block each other.
    #[expect(
        clippy::result_large_err,
        reason = "the command is handed back as it came"
    )]
    fn place_parts(
        &self,
        item: Item,
        parts: Vec<(&Arc<Queue>, Body)>,
        returned: &mut GoneFrom,
    ) -> Result<(), Refusal> {
        let parts = split(&item, parts);
        let count = parts.len();
        let mut shares: Vec<(&Arc<Queue>, Vec<Item>)> = Vec::with_capacity(count);
        for (queue, part) in parts {
            match shares.last_mut() {
                Some((last, share)) if Arc::ptr_eq(last, queue) => share.push(part),
                _ => shares.push((queue, vec![part])),
            }
        }
        let mut states: Vec<_> = shares.iter().map(|(queue, _)| queue.lock()).collect();
        let fits = states.iter().zip(&shares);
        let full: Vec<bool> = fits
            .map(|(state, (_, share))| !state.buffer.fits(share))
            .collect();
        let all = full.iter().all(|full| *full);
        let waits = states.iter().zip(&full);
        let waits = waits.map(|(state, full)| *full && (all || !state.stuck));
        let waits = shares.iter().zip(waits).filter(|(_, waits)| *waits);
        let waits: Vec<_> = waits.map(|((queue, _), _)| Arc::clone(queue)).collect();
        if !waits.is_empty() {
            return Err(Refusal::Full(item, waits));
        }
        self.expect(item.ticket, count, 0);
        let mut wakes = Vec::new();
        for ((state, full), (queue, share)) in states.iter_mut().zip(full).zip(shares) {
            let mut items = GaveWay::new();
            if full {
                items.extend(share.into_iter().map(|part| (part, ReturnReason::Full)));
            } else if share.into_iter().fold(false, |wake, part| {
                State::push(state, part, &mut items) | wake
            }) {
                wakes.push(queue);
            }
            returned.extend(from(queue, items));
        }
        drop(states);
        wakes.into_iter().for_each(|queue| queue.wake());
        Ok(())
    }

    /// A command is for nobody, or a list has users that are nowhere.
    fn no_target(&self, ticket: Option<Ticket>, nowhere: u64) {
        self.no_target.fetch_add(nowhere, Ordering::Relaxed);
        if let Some(ticket) = ticket {
            let receipt = Receipt {
                no_target: nowhere,
                ..Receipt::default()
            };
            self.settle(ticket, Ok(receipt));
        }
    }

    /// Somebody will wait for the receipt of `push`.
    pub(crate) fn await_receipt(&self, push: &Push) -> (Ticket, oneshot::Receiver<Answer>) {
        let list = matches!(push.request.target, Some(Target::Users(_)));
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
        if ticket.is_of_query() {
            return self.answered(ticket, None);
        }
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
        let mut routes = self.routes_mut();
        routes.closed = true;
        for gateway in &routes.gateways {
            gateway.wake().notify_one();
        }
        drop(routes);
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

    /// These streams take no more commands.
    pub(super) fn retired(&self, queues: Vec<Arc<Queue>>) {
        lock(&self.past).retired.extend(queues);
    }

    /// A stream has ended for good.
    pub(crate) fn ended(&self, now: Duration, queue: &Arc<Queue>) {
        self.move_rest(now, queue);
        let mut past = lock(&self.past);
        let of = past
            .retired
            .iter()
            .position(|other| Arc::ptr_eq(other, queue));
        if let Some(at) = of {
            past.retired.swap_remove(at);
            past.counters += queue.lock().counters();
        }
    }

    /// Tells the application and the log what happened to a stream.
    pub(crate) fn notify(&self, notice: &Notice) {
        match notice.what {
            What::Lost { .. }
            | What::Unknown { .. }
            | What::SharedSession
            | What::CommonPort
            | What::DirectoryFull
            | What::Resolver { .. } => tracing::warn!("{notice}"),
            // One a command would flood the log; they are counted.
            What::Rejected(_) | What::CommandReturned { .. } => tracing::debug!("{notice}"),
            _ => tracing::info!("{notice}"),
        }
        if let Some(on_notice) = &self.settings.on_notice {
            on_notice(notice);
        }
    }

    /// Figures of this moment.
    pub fn stats(&self) -> Stats {
        let routes = self.routes();
        let streams = routes.router.streams();
        let gateways = routes.gateways.iter();
        let missing = gateways.filter(|gateway| routes.router.route(gateway.id).is_none());
        let past = lock(&self.past);
        let retired = past.retired.iter().map(|queue| queue.lock().counters());
        Stats {
            streams: streams.map(|queue| queue.stats()).collect(),
            missing: missing.map(|gateway| gateway.address.to_string()).collect(),
            past: retired.fold(past.counters, |sum, counters| sum + counters),
            no_target: self.no_target.load(Ordering::Relaxed),
            directory: self.presence.stats(),
        }
    }
}

/// Whether a stream has ended for good.
pub(crate) fn is_over(queue: &Queue) -> bool {
    queue.lock().report.state == StreamState::Ended
}

/// Waits for the first of several.
pub(crate) async fn any<F: Future + Unpin>(mut futures: Vec<F>) {
    poll_fn(|context| {
        let mut ready = futures
            .iter_mut()
            .map(|future| Pin::new(future).poll(context));
        match ready.any(|poll| poll.is_ready()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

#[cfg(test)]
mod tests;
