//! The client itself.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::query::Question;
use gateway_proto::v1::{self, ReceiptMode, disconnect, subscribe, unsubscribe};
use tokio::time::{Instant, timeout, timeout_at};

use crate::builder::{Builder, Overflow};
use crate::client::closing::{goal, leftovers, over, settled};
use crate::core::buffer::Item;
use crate::core::inbox::Events;
use crate::core::lock;
use crate::core::many::Many;
use crate::core::mesh::{Mesh, Refusal};
use crate::core::query::QueryId;
use crate::core::queue::Ending;
use crate::core::receipts::{Receipt, Ticket};
use crate::core::returned::ReturnReason;
use crate::driver::Clock;
use crate::error::{ConfirmError, FlushError, PushError, TryPushError};
use crate::push::{Push, Recipient};
use crate::query::{Answers, Place};
use crate::stats::Stats;

/// The streams of a logic service to every shard of its gateways.
///
/// Cheap to clone; clones share the streams. When the last clone is dropped without
/// [`close`](Self::close), what was not sent is handed back
/// ([`ReturnReason::Closed`](crate::ReturnReason::Closed)).
#[derive(Clone)]
pub struct LogicClient {
    handle: Arc<Handle>,
}

/// Ends the streams when it is dropped.
struct Handle {
    mesh: Arc<Mesh>,
    clock: Clock,
    events: Mutex<Option<Events>>,
    /// Unknown commands that callers of `flush` were told of.
    told: AtomicU64,
}

/// What [`LogicClient::close`] could not finish.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Leftovers {
    /// Pushes that were not sent, in the order of the calls; with what is left of their time to
    /// live. One that only some of its gateways or shards did not get is here once for each of them, and goes
    /// only there when it is pushed again, as after [`Returned::push`](crate::Returned::push).
    pub pushes: Vec<Push>,
    /// Other commands that were not sent.
    pub commands: u64,
    /// Commands that were sent and not acknowledged: they may have been done or not.
    pub unknown: u64,
    /// The pushes among them, in the order of the calls, confirmed ones excepted.
    pub unknown_pushes: Vec<Push>,
}

impl LogicClient {
    /// Sets up a client.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(mesh: Arc<Mesh>, clock: Clock) -> Self {
        let events = Mutex::new(Some(Events::new(Arc::clone(&mesh.inbox))));
        Self {
            handle: Arc::new(Handle {
                mesh,
                clock,
                events,
                told: AtomicU64::new(0),
            }),
        }
    }

    /// Pushes a message: fire and forget. Waits while the buffer of a stream it is for is full,
    /// unless [`Builder::overflow`](crate::Builder::overflow) says otherwise.
    ///
    /// The pushes of one task arrive at each target in the order of the calls. What is not sent
    /// after all, or may not have arrived, is handed back
    /// ([`Builder::on_returned`](crate::Builder::on_returned)). Dropping the future before it is ready
    /// pushes nothing.
    ///
    /// # Errors
    /// [`PushError::Closed`], [`PushError::Invalid`], [`PushError::Full`].
    pub async fn push(&self, push: Push) -> Result<(), PushError> {
        // A task that only pushes must let the streams' tasks run.
        tokio::task::coop::consume_budget().await;
        let item = self.item(push);
        match self.handle.mesh.offer(|| self.now(), item) {
            Ok(()) => Ok(()),
            // Boxed: the usual push has no need of the room.
            Err(refusal) => Box::pin(self.refused(refusal)).await,
        }
    }

    /// Pushes many messages, in this order; each stream is locked once for all of its own. Waits as
    /// [`push`](Self::push) does, but a full stream holds up only what is for it, and what comes behind a
    /// push for several streams that does not fit. Gives back what was refused, and why; empty: nothing was. Where one
    /// is refused because a buffer is full, all behind it for the same stream are, too.
    ///
    /// Dropping the future before it is ready leaves some pushed and some not.
    pub async fn push_many(
        &self,
        pushes: impl IntoIterator<Item = Push>,
    ) -> Vec<(Push, PushError)> {
        tokio::task::coop::consume_budget().await;
        let mesh = &self.handle.mesh;
        let items = pushes.into_iter().map(|push| self.item(push)).collect();
        let mut many = Many::new(items, self.waits());
        mesh.send_many(|| self.now(), &mut many).await;
        many.refused.sort_by_key(|(item, _)| item.stamp.order);
        let now = self.now();
        let push = |(item, error): (Item, PushError)| Some((item.into_push(now)?, error));
        many.refused.into_iter().filter_map(push).collect()
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
        let now = self.now_for(&push);
        self.handle.mesh.try_push(now, push)
    }

    /// Pushes a message and waits until every delivery of it is decided. Dropping the future
    /// before that leaves the push on its way.
    ///
    /// # Errors
    /// Of several parts, for several gateways or shards, one at least has failed: what the others came to,
    /// and what may be pushed again, is in the error. It is one of [`push`](Self::push), or
    /// [`PushError::Unknown`], [`PushError::Rejected`], [`PushError::TooManyReceipts`],
    /// [`PushError::NotSent`].
    pub async fn push_confirmed(&self, push: Push) -> Result<Receipt, ConfirmError> {
        let mesh = &self.handle.mesh;
        let (ticket, answer) = mesh.await_receipt(&push);
        let _awaited = Awaited { mesh, ticket };
        let item = self.item(push);
        self.send(item.with_ticket(ticket)).await?;
        answer.await.unwrap_or(Err(PushError::Closed.into()))
    }

    /// [`push_confirmed`](Self::push_confirmed), and says what became of the push on each connection
    /// ([`Receipt::targets`]).
    ///
    /// # Errors
    /// Those of [`push_confirmed`](Self::push_confirmed).
    pub async fn push_confirmed_targets(&self, mut push: Push) -> Result<Receipt, ConfirmError> {
        let delivery = push.request.delivery.get_or_insert_default();
        delivery.set_receipt(ReceiptMode::Targets);
        self.push_confirmed(push).await
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

    /// Where a user is, as the gateways have told; empty for one who is nowhere, and always without
    /// [`Locate::Directory`](crate::Locate).
    #[must_use]
    pub fn whereis(&self, user: &str) -> Vec<Place> {
        self.handle.mesh.whereis(user)
    }

    /// Asks every gateway for the connections of a user, for at most
    /// [`query_timeout`](crate::Builder::query_timeout).
    ///
    /// # Errors
    /// [`PushError::Closed`], [`PushError::Invalid`]. Gateways that do not answer are no error:
    /// [`Answers::missing`] names them.
    pub async fn query_user(&self, user: impl Into<String>) -> Result<Answers, PushError> {
        self.query(Question::UserId(user.into())).await
    }

    /// Asks every gateway how many users and connections it has.
    ///
    /// # Errors
    /// As for [`query_user`](Self::query_user).
    pub async fn query_totals(&self) -> Result<Answers, PushError> {
        self.query(Question::Totals(v1::query::Totals {})).await
    }

    /// Asks every gateway for the members of a topic.
    ///
    /// # Errors
    /// As for [`query_user`](Self::query_user).
    pub async fn query_topic(&self, topic: impl Into<String>) -> Result<Answers, PushError> {
        self.query(Question::Topic(topic.into())).await
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
        mesh.keep_unknown();
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
        leftovers(mesh, self.now(), &queues, unknown)
    }

    /// Figures of this moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.handle.mesh.stats()
    }

    fn now(&self) -> Duration {
        self.handle.clock.now()
    }

    fn is_closed(&self) -> bool {
        self.handle.mesh.routes().closed
    }

    async fn query(&self, question: Question) -> Result<Answers, PushError> {
        let mesh = &self.handle.mesh;
        let (query, mut answers) = mesh.query(self.now(), question)?;
        let _asked = Asked { mesh, query };
        let patience = mesh.settings.query_timeout;
        let answers = match timeout(patience, &mut answers).await {
            Ok(answers) => answers,
            Err(_) => {
                mesh.end_query(query);
                answers.await
            }
        };
        answers.map_err(|_| PushError::Closed)
    }

    async fn command(&self, body: Body) -> Result<(), PushError> {
        let item = self.handle.mesh.item(Duration::ZERO, body, None);
        self.send(item).await
    }

    async fn send(&self, item: Item) -> Result<(), PushError> {
        match self.handle.mesh.offer(|| self.now(), item) {
            Ok(()) => Ok(()),
            Err(refusal) => self.refused(refusal).await,
        }
    }

    /// Waits for room, if that is what is missing and wanted.
    async fn refused(&self, refusal: Refusal) -> Result<(), PushError> {
        match refusal {
            Refusal::Full(item, _) if self.waits() => {
                let sent = self.handle.mesh.send(|| self.now(), item).await;
                sent.map_err(PushError::from)
            }
            refusal => Err(refusal.into()),
        }
    }

    fn waits(&self) -> bool {
        self.handle.mesh.settings.overflow == Overflow::Wait
    }

    fn item(&self, push: Push) -> Item {
        let now = self.now_for(&push);
        let mesh = &self.handle.mesh;
        mesh.push_item(now, push)
    }

    /// The time, where it matters: a look at the clock costs as much as the rest of a push.
    fn now_for(&self, push: &Push) -> Duration {
        push.ttl.map_or(Duration::ZERO, |_| self.now())
    }
}

/// An answer is awaited as long as this lives.
struct Asked<'a> {
    mesh: &'a Mesh,
    query: QueryId,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.mesh.end_query(self.query);
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
        let now = self.clock.now();
        for queue in self.mesh.end(Ending::Abandon) {
            for item in queue.drain() {
                self.mesh.hand_back(now, &queue, item, ReturnReason::Closed);
            }
        }
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
            Refusal::Closed(_) => Self::Closed,
            Refusal::Full(..) => Self::Full,
            Refusal::Gone(_, reason) => Self::NotSent(reason),
        }
    }
}

mod closing;
