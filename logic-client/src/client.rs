//! The client itself.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::message_request::Target;
use gateway_proto::v1::{self, disconnect, subscribe, unsubscribe};
use tokio::time::{Instant, timeout_at};

use crate::builder::Builder;
use crate::core::buffer::Item;
use crate::core::receipts::{Receipt, Ticket};
use crate::core::reroute::join;
use crate::driver::events::Events;
use crate::driver::lock;
use crate::driver::mesh::{Mesh, Refusal, is_over};
use crate::driver::queue::{Ending, Queue};
use crate::error::{FlushError, PushError, TryPushError};
use crate::push::{Push, Recipient};
use crate::stats::Stats;

/// The streams of a logic service to every shard of its gateways.
///
/// Cheap to clone; clones share the streams. When the last clone is dropped without
/// [`close`](Self::close), what was not sent is lost.
#[derive(Clone)]
pub struct LogicClient {
    handle: Arc<Handle>,
}

/// Ends the streams when it is dropped.
struct Handle {
    mesh: Arc<Mesh>,
    events: Mutex<Option<Events>>,
    /// Unknown commands that callers of `flush` were told of.
    told: AtomicU64,
}

/// What [`LogicClient::close`] could not finish.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Leftovers {
    /// Pushes that were not sent, in the order of the calls; with what is left of their time to
    /// live. One for several shards is here as long as one of them did not get it.
    pub pushes: Vec<Push>,
    /// Other commands that were not sent.
    pub commands: u64,
    /// Commands that were sent and not acknowledged: they may have been done or not.
    pub unknown: u64,
}

impl LogicClient {
    /// Sets up a client.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(mesh: Arc<Mesh>) -> Self {
        let events = Mutex::new(Some(Events::new(Arc::clone(&mesh.inbox))));
        Self {
            handle: Arc::new(Handle {
                mesh,
                events,
                told: AtomicU64::new(0),
            }),
        }
    }

    /// Pushes a message: fire and forget. Waits while the buffer of a stream it is for is full.
    ///
    /// The pushes of one task arrive at each target in the order of the calls, unless a stream
    /// breaks and what was on its way is lost. Dropping the future before it is ready pushes
    /// nothing.
    ///
    /// # Errors
    /// [`PushError::Closed`], [`PushError::Invalid`].
    pub async fn push(&self, push: Push) -> Result<(), PushError> {
        // A task that only pushes must let the streams' tasks run.
        tokio::task::coop::consume_budget().await;
        let mesh = &self.handle.mesh;
        let item = mesh.item(Body::Push(push.request), push.ttl);
        mesh.send(item).await.map_err(PushError::from)
    }

    /// Pushes a message, if the buffers of all streams it is for have room.
    ///
    /// # Errors
    /// The push is handed back, with the reason.
    #[expect(
        clippy::result_large_err,
        reason = "the push is handed back as it came"
    )]
    pub fn try_push(&self, push: Push) -> Result<(), TryPushError> {
        let mesh = &self.handle.mesh;
        let ttl = push.ttl;
        let item = mesh.item(Body::Push(push.request), ttl);
        let back = |item: Item| {
            let request = match item.body {
                Body::Push(request) => request,
                _ => v1::MessageRequest::default(),
            };
            Push { request, ttl }
        };
        mesh.offer(item).map_err(|refusal| match refusal {
            Refusal::Full(item, _) => TryPushError::Full(back(item)),
            Refusal::Closed(item) => TryPushError::Closed(back(item)),
            Refusal::Invalid(item, invalid) => TryPushError::Invalid(back(item), invalid),
        })
    }

    /// Pushes a message and waits until every delivery of it is decided. Dropping the future
    /// before that leaves the push on its way.
    ///
    /// # Errors
    /// Those of [`push`](Self::push), and [`PushError::Unknown`], [`PushError::Rejected`],
    /// [`PushError::TooManyReceipts`].
    pub async fn push_confirmed(&self, push: Push) -> Result<Receipt, PushError> {
        let mesh = &self.handle.mesh;
        let list = matches!(push.request.target, Some(Target::Users(_)));
        let (ticket, answer) = mesh.await_receipt(list);
        let _awaited = Awaited { mesh, ticket };
        let item = mesh.item(Body::Push(push.request), push.ttl);
        mesh.send(item.with_ticket(ticket)).await?;
        answer.await.unwrap_or(Err(PushError::Closed))
    }

    /// Adds a user's present and coming connections, or one connection, to a topic. For a user it
    /// lasts until [`unsubscribe`](Self::unsubscribe) or the end of the gateway's epoch
    /// (see [`What::Connected`](crate::What::Connected)). In order with pushes to the same target.
    ///
    /// # Errors
    /// Those of [`push`](Self::push).
    pub async fn subscribe(
        &self,
        whom: impl Into<Recipient>,
        topic: impl Into<String>,
    ) -> Result<(), PushError> {
        let target = Some(match whom.into() {
            Recipient::User(user) => subscribe::Target::UserId(user),
            Recipient::Connection(connection) => subscribe::Target::Connection(connection.into()),
        });
        let topic = topic.into();
        self.command(Body::Subscribe(v1::Subscribe { target, topic }))
            .await
    }

    /// Takes a user or a connection out of a topic.
    ///
    /// # Errors
    /// Those of [`push`](Self::push).
    pub async fn unsubscribe(
        &self,
        whom: impl Into<Recipient>,
        topic: impl Into<String>,
    ) -> Result<(), PushError> {
        let target = Some(match whom.into() {
            Recipient::User(user) => unsubscribe::Target::UserId(user),
            Recipient::Connection(connection) => unsubscribe::Target::Connection(connection.into()),
        });
        let topic = topic.into();
        self.command(Body::Unsubscribe(v1::Unsubscribe { target, topic }))
            .await
    }

    /// Closes a connection, or all connections of a user, after what is pending for them; with a
    /// close code (1000, 1008, 1011 to 1013, 3000 to 4999; 0 means 1000) and a reason of at most
    /// 123 bytes.
    ///
    /// # Errors
    /// Those of [`push`](Self::push).
    pub async fn disconnect(
        &self,
        whom: impl Into<Recipient>,
        code: u16,
        reason: impl Into<String>,
    ) -> Result<(), PushError> {
        let target = Some(match whom.into() {
            Recipient::User(user) => disconnect::Target::UserId(user),
            Recipient::Connection(connection) => disconnect::Target::Connection(connection.into()),
        });
        let (code, reason) = (code.into(), reason.into());
        self.command(Body::Disconnect(v1::Disconnect {
            target,
            code,
            reason,
        }))
        .await
    }

    /// What clients do. `None` the second time: events are acknowledged in order, so there is
    /// only one who takes them. Nothing comes without
    /// [`receive_messages`](crate::Builder::receive_messages).
    #[must_use]
    pub fn events(&self) -> Option<Events> {
        lock(&self.handle.events).take()
    }

    /// Waits until everything that was pushed or commanded before this call is acknowledged: it
    /// is in an outbox, on its way to its shard, or answered. Waits for streams that are broken.
    ///
    /// # Errors
    /// [`FlushError::Unknown`]: streams broke since the last flush.
    pub async fn flush(&self) -> Result<(), FlushError> {
        let mesh = &self.handle.mesh;
        loop {
            let goals: Vec<_> = mesh.queues().into_iter().map(goal).collect();
            let mut all = true;
            for (queue, goal) in &goals {
                all &= settled(queue, *goal).await;
            }
            // What a stream did not send, because its shard is no more, is on others now.
            if all || self.is_closed() {
                break;
            }
        }
        let unknown = mesh.stats().total().unknown;
        let told = self.handle.told.fetch_max(unknown, Ordering::Relaxed);
        match unknown.saturating_sub(told) {
            0 => Ok(()),
            count => Err(FlushError::Unknown { count }),
        }
    }

    /// Takes no more pushes, sends what is buffered, waits for all answers, and ends the streams;
    /// for at most `patience`. Gives back what is left. Other clones find the client closed.
    pub async fn close(self, patience: Duration) -> Leftovers {
        let deadline = Instant::now() + patience;
        let mesh = &self.handle.mesh;
        let before = mesh.stats().total().unknown;
        let queues = mesh.end(Ending::Close);
        for queue in &queues {
            if timeout_at(deadline, over(queue)).await.is_err() {
                break;
            }
        }
        mesh.end(Ending::Abandon);
        for queue in &queues {
            over(queue).await;
        }
        mesh.inbox.close();
        let unknown = mesh.stats().total().unknown.saturating_sub(before);
        leftovers(mesh, &queues, unknown)
    }

    /// Figures of this moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.handle.mesh.stats()
    }

    fn is_closed(&self) -> bool {
        self.handle.mesh.routes().closed
    }

    async fn command(&self, body: Body) -> Result<(), PushError> {
        let mesh = &self.handle.mesh;
        mesh.send(mesh.item(body, None))
            .await
            .map_err(PushError::from)
    }
}

/// A receipt is awaited as long as this lives.
struct Awaited<'a> {
    mesh: &'a Mesh,
    ticket: Ticket,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.mesh.cancel_receipt(self.ticket);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.mesh.end(Ending::Abandon);
        self.mesh.inbox.close();
    }
}

impl fmt::Debug for LogicClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogicClient")
            .field("gateways", &self.handle.mesh.settings.gateways)
            .finish_non_exhaustive()
    }
}

impl From<Refusal> for PushError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(_, invalid) => Self::Invalid(invalid),
            // `Mesh::send` waits instead of giving up on a full buffer.
            Refusal::Closed(_) | Refusal::Full(..) => Self::Closed,
        }
    }
}

/// How far a stream's buffer has to be settled for everything up to now to be.
fn goal(queue: Arc<Queue>) -> (Arc<Queue>, u64) {
    let goal = queue.lock().buffer.pushed();
    (queue, goal)
}

/// Waits for that; false when the stream has ended before.
async fn settled(queue: &Queue, goal: u64) -> bool {
    loop {
        let progress = queue.progress().notified();
        if queue.lock().report.settled >= goal {
            return true;
        }
        if is_over(queue) {
            return false;
        }
        progress.await;
    }
}

async fn over(queue: &Queue) {
    loop {
        let progress = queue.progress().notified();
        if is_over(queue) {
            return;
        }
        progress.await;
    }
}

/// Takes out what the streams have not sent. The parts of one push become one again.
fn leftovers(mesh: &Mesh, queues: &[Arc<Queue>], unknown: u64) -> Leftovers {
    let mut unsent: Vec<Item> = queues.iter().flat_map(|queue| queue.drain()).collect();
    unsent.sort_by_key(|item| item.stamp);
    let mut wholes: Vec<Item> = Vec::new();
    for item in unsent {
        if let Some(ticket) = item.ticket {
            mesh.settle(ticket, Err(PushError::Closed));
        }
        match wholes.last_mut() {
            Some(whole) if whole.stamp == item.stamp => join(whole, item),
            _ => wholes.push(item),
        }
    }
    let total = wholes.len();
    let now = mesh.clock.now();
    let pushes: Vec<_> = wholes
        .into_iter()
        .filter_map(|item| item.into_push(now))
        .collect();
    Leftovers {
        commands: (total - pushes.len()) as u64,
        pushes,
        unknown,
    }
}
