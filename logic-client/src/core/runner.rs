//! Keeps one stream alive, without doing anything itself: it has the gateway described, the shard
//! dialled, speaks on the connection, and in time has another take its place.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::builder::Streams;
use crate::core::buffer::GaveWay;
use crate::core::common_port::{Doubts, LOOK};
use crate::core::inbox::Delivery;
use crate::core::link::Link;
use crate::core::mesh::Mesh;
use crate::core::queue::{Ending, Queue};
use crate::core::stream::{Identity, Rules, Stream};
use crate::error::GatewayError;
use crate::query::Locate;

use attempt::{Attempt, Replacement};
use health::Health;

/// Names a connection of one runner; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

/// What the driver of a runner is to do.
#[derive(Debug)]
pub enum Wish {
    /// Have the runner's gateway described, and answer with [`Runner::described`]. What was answered
    /// to another at `since` or later will do. A new wish takes the place of an old one.
    Describe {
        /// How old the answer may be.
        since: Duration,
    },
    /// Run a stream to a shard there was none to yet, with a runner of its own.
    Start {
        /// The new stream.
        queue: Arc<Queue>,
    },
    /// Connect, and answer with [`Runner::dialled`].
    Dial {
        /// Names the connection from here on.
        connection: ConnectionId,
        /// "host:port".
        address: String,
    },
    /// Hang up, or stop dialling. Nothing more is to be told about the connection.
    Close {
        /// Which.
        connection: ConnectionId,
    },
    /// The stream has ended for good; so has the runner.
    End,
}

/// What runs one stream. The driver polls it, carries out its wishes, moves the bytes of its
/// connections, and polls it again when something came, at the deadline, or when the queue wakes it.
pub struct Runner {
    mesh: Arc<Mesh>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) stream: Stream,
    /// The older first. Mostly there is one; two while one takes the place of the other.
    connections: Vec<Connection>,
    attempt: Attempt,
    replacement: Replacement,
    doubts: Doubts,
    /// Streams to the shards, which begin when this one, through the common port, has ended.
    successors: Vec<Arc<Queue>>,
    health: Health,
    wishes: VecDeque<Wish>,
    /// Answers of the gateway about itself from then on count.
    since: Duration,
    /// Numbers the connections.
    dialled: u64,
    /// When a stream that retires gives up.
    retire: Option<Duration>,
    is_over: bool,
    /// What became too old in the buffer, on its way to the application.
    gave_way: GaveWay,
    /// Events on their way to the inbox, all at once.
    deliveries: VecDeque<Delivery>,
}

struct Connection {
    id: ConnectionId,
    link: Link,
    address: String,
    /// Bytes have come since it was looked at.
    heard: bool,
    /// Why reading or writing failed.
    failure: Option<String>,
    /// It was replaced; for so long it is still read.
    until: Option<Duration>,
}

impl Runner {
    /// Credit of HTTP/2 that the gateway has not got back: 0 once every event is handled.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub fn unreleased(&self) -> usize {
        let links = self.connections.iter().map(|connection| &connection.link);
        links.map(Link::unreleased).sum()
    }

    /// Runs the stream of `queue`, until that ends.
    pub fn new(mesh: Arc<Mesh>, queue: Arc<Queue>) -> Self {
        let settings = &mesh.settings;
        let identity = Identity {
            service: settings.service.clone(),
            session: mesh.session,
            index: queue.index,
            shard: queue.shard,
            any_shard: queue.common,
            whole: queue.common || settings.streams == Streams::One,
            receive: settings.receive,
            directory: settings.locate == Locate::Directory,
        };
        let rules = Rules {
            pace: settings.pace,
            welcome: settings.attempt_timeout,
            receipts: settings.max_receipts,
            resume: settings.resume,
            resend_unknown: settings.resend_unknown,
            patience: settings.buffer.age,
        };
        let seed = mesh.seed(u64::from(queue.index) + 1);
        let stream = Stream::new(identity, rules, seed, Arc::clone(&settings.entropy));
        // A connection to another shard could not go on where this one is.
        let age = match queue.common {
            true => LOOK,
            false => settings.max_stream_age,
        };
        Self {
            replacement: Replacement::new(age, !seed),
            doubts: Doubts::default(),
            successors: Vec::new(),
            mesh,
            queue,
            stream,
            connections: Vec::new(),
            attempt: Attempt::None,
            health: Health::default(),
            wishes: VecDeque::new(),
            since: Duration::ZERO,
            dialled: 0,
            retire: None,
            is_over: false,
            gave_way: GaveWay::new(),
            deliveries: VecDeque::new(),
        }
    }

    /// The address of the gateway, for [`Wish::Describe`].
    pub fn gateway(&self) -> &str {
        &self.queue.address
    }

    /// Does everything that can be done now; says whether that was anything.
    pub fn poll(&mut self, now: Duration) -> bool {
        if self.is_over {
            return false;
        }
        let mut busy = self.time_out(now);
        if self.connections.is_empty() && self.has_no_reason() {
            self.end(now);
            return true;
        }
        busy |= self.serve(now);
        if self.is_over {
            return true;
        }
        busy |= self.attempt(now);
        if busy {
            self.queue.publish(&mut self.stream);
        }
        self.watch(now);
        busy
    }

    /// What is to be done next.
    pub fn next_wish(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }

    /// Bytes have come.
    pub fn receive(&mut self, now: Duration, connection: ConnectionId, bytes: &[u8]) {
        if let Some(connection) = self.connection_mut(connection) {
            connection.heard = true;
            connection.link.receive(now, bytes);
        }
    }

    /// No more bytes will come.
    pub fn receive_eof(&mut self, now: Duration, connection: ConnectionId) {
        if let Some(connection) = self.connection_mut(connection) {
            connection.heard = true;
            connection.link.receive_eof(now);
        }
    }

    /// Reading or writing failed. Nothing more is to be written; but what the gateway said before it
    /// hung up, above all acks, is still wanted: the connection is given up at the first poll before
    /// which nothing was received.
    pub fn failed(&mut self, connection: ConnectionId, reason: String) {
        if let Some(connection) = self.connection_mut(connection) {
            connection.failure.get_or_insert(reason);
        }
    }

    /// Whether bytes of the connection are to be read.
    pub fn wants_bytes(&self, connection: ConnectionId) -> bool {
        let mut connections = self.connections.iter();
        let connection = connections.find(|known| known.id == connection);
        connection.is_some_and(|connection| connection.link.wants_bytes())
    }

    /// Appends bytes for the connection to `out`, at most `max`; says how many.
    pub fn write_output(
        &mut self,
        connection: ConnectionId,
        out: &mut Vec<u8>,
        max: usize,
    ) -> usize {
        match self.connection_mut(connection) {
            Some(connection) if connection.failure.is_none() && connection.link.has_output() => {
                connection.link.write_output(out, max)
            }
            _ => 0,
        }
    }

    /// When to poll at the latest.
    pub fn next_deadline(&self) -> Option<Duration> {
        if self.is_over {
            return None;
        }
        let connections = self.connections.iter();
        let connections =
            connections.flat_map(|connection| [connection.link.next_deadline(), connection.until]);
        let others = [
            self.stream.next_deadline(),
            self.next_attempt(),
            self.retire,
            self.health.next_deadline(),
            self.queue.next_deadline(),
        ];
        connections.chain(others).flatten().min()
    }

    /// For the driver: waits until callers have something to do for the runner.
    pub(crate) async fn sleep(&self) {
        let room = |connection: &Connection| connection.link.room(&self.stream) > 0;
        self.queue.sleep(self.connections.iter().any(room)).await;
    }

    /// Whether there is no reason to connect (again).
    fn has_no_reason(&self) -> bool {
        match self.queue.ending() {
            Ending::No => false,
            // What was sent and not acknowledged waits for the stream to be resumed.
            Ending::Close => self.stream.is_quiet() && self.queue.lock().buffer.is_empty(),
            Ending::Retire | Ending::Abandon => true,
        }
    }

    fn end(&mut self, now: Duration) {
        self.stop_dialling();
        for connection in std::mem::take(&mut self.connections) {
            let connection = connection.id;
            self.wishes.push_back(Wish::Close { connection });
        }
        self.is_over = true;
        // What is unknown may go on to the streams that take the place of this one.
        self.stream.end(self.queue.ending() == Ending::Retire);
        self.pass_on(now);
        self.is_down();
        self.queue.publish(&mut self.stream);
        self.mesh.ended(now, &self.queue);
        let successors = self.successors.drain(..);
        let started = successors.map(|queue| Wish::Start { queue });
        self.wishes.extend(started);
        self.wishes.push_back(Wish::End);
    }

    /// What the shard has told is out of date. Not for a stream that retires: its shard has a new stream, with a snapshot
    /// of its own, or its gateway is gone. Where that one waits for this to end, it has none yet.
    fn is_down(&self) {
        if self.queue.ending() != Ending::Retire || self.queue.common {
            let whole = self.queue.common || self.mesh.settings.streams == Streams::One;
            let shard = (!whole).then_some(self.queue.shard);
            self.mesh.presence.lost(self.queue.gateway, shard);
        }
    }

    fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|known| known.id == id)
    }
}

pub(crate) fn silent(address: &str, waiting_for: &'static str) -> GatewayError {
    GatewayError::Silent {
        address: address.to_owned(),
        waiting_for,
    }
}

pub(crate) fn unreachable(address: &str, reason: &impl ToString) -> GatewayError {
    GatewayError::Unreachable {
        address: address.to_owned(),
        reason: reason.to_string(),
    }
}

mod attempt;
mod health;
mod serving;
#[cfg(test)]
mod tests;
