//! The life of one stream, across all its connections.
//!
//! # How it is driven
//!
//! A stream has at most one connection that commands go to, one that is greeting, and one that was
//! replaced and is still read. Each has a number, its *run*; frames and ends are told with it, and
//! those of a run the stream is done with are passed over. The owner moves bytes and keeps time:
//!
//! - To open: wait for [`Stream::next_attempt`], call [`Stream::connect`], dial. Then
//!   [`Stream::connected`] gives the run and its first frame, or [`Stream::failed`] tells that there
//!   is no connection.
//! - To replace a connection that is open: dial beside it, then [`Stream::connected`]. Go on moving
//!   bytes of both. Commands stay on the old one until `Welcome` has come on the new one
//!   ([`Stream::open_run`] changes). Read the old one until it ends, or close it a second later;
//!   either way call [`Stream::lost`] with its run. If the new one fails, [`Stream::lost`] with its
//!   run, and the old one goes on.
//! - [`Stream::receive`] takes each frame. An error means that this connection is over: close it,
//!   and call [`Stream::lost`] with the error.
//! - [`Stream::lost`] tells how a connection ended ([`Ending`]): that decides what becomes of what was
//!   sent and not acknowledged.
//! - To send on the connection of [`Stream::open_run`]: first [`Stream::resend`], as often as there is
//!   room, until [`Stream::takes_commands`]; then have [`Buffer::take`](crate::core::buffer::Buffer::take)
//!   fill [`Stream::inbox`], and call [`Stream::commands`]; and [`Stream::poll_ack`].
//! - After every call: pass on all of [`Stream::poll_output`], *before* more is taken out of the
//!   buffer ([`Output::Unsent`] goes to its front), and give
//!   [`Stream::take_released`] to [`Buffer::release`](crate::core::buffer::Buffer::release).
//! - [`Stream::next_deadline`], [`Stream::handle_timeout`]: greetings that take too long, and commands
//!   whose fate stays unknown for too long.
//!
//! # What becomes of commands
//!
//! What was sent is kept until it is acknowledged. When a connection breaks it waits for the next
//! `Welcome`: RESUMED says how far the gateway had come, and the rest is sent again under its old
//! numbers. With any other answer, without a token to resume with, and after [`Rules::patience`], it
//! is handed back as unknown, or with [`Rules::resend_unknown`] goes back to the buffer. After a
//! clean end nothing unacknowledged was taken, so it goes back to the buffer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use gateway_proto::v1::gateway_frame::Body as Up;
use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::{ClientAck, LogicFrame, QueryResult};

use crate::core::backoff::{Backoff, Pace};
use crate::core::buffer::{Item, Load};
use crate::core::receipts::{Answer, Ticket};
use crate::core::returned::ReturnReason;
use crate::error::GatewayError;
use crate::event::{Event, What};
use crate::stats::{Counters, StreamState};

use outgoing::Outgoing;
use retained::Retained;

/// What never changes in a stream's life.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) service: String,
    /// The session to begin with; see [`Entropy`].
    pub(crate) session: [u8; 16],
    pub(crate) index: u32,
    pub(crate) shard: u32,
    /// Whether any shard will do.
    pub(crate) any_shard: bool,
    /// Whether it speaks to the whole gateway, through that shard.
    pub(crate) whole: bool,
    /// Whether it receives what clients do.
    pub(crate) receive: bool,
    /// Whether it is told who is online.
    pub(crate) directory: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) pace: Pace,
    /// How long the gateway may take to answer `Hello`.
    pub(crate) welcome: Duration,
    /// Most receipts awaited at once.
    pub(crate) receipts: usize,
    /// Whether what was sent is kept, to be sent again when the connection breaks.
    pub(crate) resume: bool,
    /// Whether what is unknown is sent again, and may arrive twice.
    pub(crate) resend_unknown: bool,
    /// How long a stream that is not open keeps what was sent.
    pub(crate) patience: Duration,
}

/// Random bytes for a new session, when somebody shares the one there was. Two processes that began
/// with the same state must not draw the same.
pub(crate) type Entropy = Arc<dyn Fn() -> [u8; 16] + Send + Sync>;

/// What a connection is expected to lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) address: String,
    pub(crate) gateway_id: String,
    pub(crate) epoch: u64,
    pub(crate) shards: u32,
}

/// The end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    pub(crate) error: GatewayError,
    pub(crate) ending: Ending,
}

impl Loss {
    /// An end that says nothing about what was taken.
    pub(crate) fn broken(error: GatewayError) -> Self {
        let ending = Ending::Broken;
        Self { error, ending }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The gateway said UNAVAILABLE in trailers: what it has not acknowledged it has not taken.
    Clean,
    /// The gateway said ABORTED in trailers: a newer stream of the session took the place.
    Replaced,
    /// The gateway said ALREADY_EXISTS in trailers: the session is another's.
    Refused,
    /// Anything else: nobody knows what was taken.
    Broken,
}

/// What the owner is to pass on, in this order.
#[derive(Debug)]
pub(crate) enum Output {
    /// To the application. `run` and `id` for [`Stream::acknowledge`]; `credit` goes back to the
    /// connection `run`, if it is still there.
    Event {
        event: Event,
        run: u64,
        id: u64,
        credit: usize,
    },
    /// To who waits for the receipt.
    Settled(Ticket, Answer),
    /// To who has asked.
    Answered(Ticket, QueryResult),
    /// To the directory: who is online on the gateway, as its epoch `epoch` tells it on the
    /// connection `run`.
    Directory { epoch: u64, run: u64, frame: Up },
    /// To be handed back to the application; its ticket, if it has one, gets the answer.
    Returned(Item, ReturnReason),
    /// Not taken by the gateway: to the front of the buffer, in this order
    /// ([`Buffer::put_back`](crate::core::buffer::Buffer::put_back)).
    Unsent(Vec<Item>),
    /// To who wants to know.
    Notice(What),
}

/// One stream: says Hello, numbers what it sends, keeps it, and knows what became of it.
pub(crate) struct Stream {
    identity: Identity,
    rules: Rules,
    entropy: Entropy,
    /// The session and what names this stream in it; another one after somebody shared it.
    session: [u8; 16],
    /// Given by the last Welcome; 0: there is nothing to resume.
    token: u64,
    backoff: Backoff,
    /// Numbers the connections.
    run: u64,
    attempt: Attempt,
    open: Option<Open>,
    replaced: Option<Replaced>,
    /// The run of the gateway the stream was open to last; 0: none.
    epoch: u64,
    other_epochs: u32,
    /// The number given last. It rises as long as the stream lives.
    sequence: u64,
    /// The highest number the gateway's session is known to have taken.
    acked: u64,
    /// Taken out of the buffer, and without a number yet.
    inbox: VecDeque<Item>,
    retained: Retained,
    /// Since when the stream is not open.
    broken: Option<Duration>,
    /// Receipts awaited, by number.
    receipts: BTreeMap<u64, Ticket>,
    events: inbound::Numbering,
    /// Hello was said, and no Welcome came.
    unanswered: bool,
    /// The newest event to be acknowledged.
    ack: Option<u64>,
    counters: Counters,
    outputs: VecDeque<Output>,
}

/// The way to the next connection.
#[derive(Debug)]
enum Attempt {
    None,
    Waiting { until: Duration },
    Connecting,
    Greeting(Greeting),
    Ended,
}

/// A connection that waits for Welcome.
#[derive(Debug)]
struct Greeting {
    run: u64,
    expected: Expected,
    until: Duration,
    /// The connection that was open when Hello was said.
    replaces: Option<u64>,
    /// That one ended before Welcome, and not because it was replaced; or another Hello before got no
    /// answer. Something may have come that was not read.
    cut: bool,
}

/// The connection commands go to.
#[derive(Debug)]
struct Open {
    run: u64,
    expected: Expected,
    since: Duration,
    draining: bool,
    /// Another connection said Hello meanwhile: the gateway may end this one.
    challenged: bool,
}

/// A connection that another took the place of, still read.
#[derive(Debug)]
struct Replaced {
    run: u64,
    /// What its gateway had taken then. Receipts for these may still come on it.
    taken: u64,
}

impl Stream {
    pub(crate) fn new(identity: Identity, rules: Rules, seed: u64, entropy: Entropy) -> Self {
        Self {
            session: identity.session,
            identity,
            rules,
            entropy,
            token: 0,
            backoff: Backoff::new(rules.pace, seed),
            run: 0,
            attempt: Attempt::Connecting,
            open: None,
            replaced: None,
            epoch: 0,
            other_epochs: 0,
            sequence: 0,
            acked: 0,
            inbox: VecDeque::new(),
            retained: Retained::default(),
            broken: None,
            receipts: BTreeMap::new(),
            events: inbound::Numbering::default(),
            unanswered: false,
            ack: None,
            counters: Counters::default(),
            outputs: VecDeque::new(),
        }
    }

    /// When to have the gateway described and to connect to the shard, after a failure.
    pub(crate) fn next_attempt(&self) -> Duration {
        match self.attempt {
            Attempt::Waiting { until } => until,
            _ => Duration::ZERO,
        }
    }

    /// An attempt begins, while no connection is open.
    pub(crate) fn connect(&mut self) {
        self.attempt = Attempt::Connecting;
    }

    /// The connection commands go to.
    pub(crate) fn open_run(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.run)
    }

    /// Whether commands may be sent.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether another connection can go on where this one is.
    pub(crate) fn resumes(&self) -> bool {
        self.token != 0
    }

    /// Whether the stream is open, and what is to be sent again is sent.
    pub(crate) fn takes_commands(&self) -> bool {
        self.is_open() && !self.retained.has_unsent()
    }

    /// Sends again about `room` bytes of what the gateway has not taken, under the numbers it had.
    /// Says whether that was anything.
    pub(crate) fn resend(
        &mut self,
        now: Duration,
        mut room: usize,
        mut send: impl FnMut(Outgoing<'_>),
    ) -> bool {
        let mut any = false;
        while room > 0
            && self.open.is_some()
            && let Some(size) = self.retained.send_again(now, &mut send)
        {
            any = true;
            self.counters.resent += 1;
            room = room.saturating_sub(size);
        }
        any
    }

    /// Where the buffer puts what is to be sent; [`Stream::commands`] must follow.
    pub(crate) fn inbox(&mut self) -> &mut VecDeque<Item> {
        &mut self.inbox
    }

    /// Numbers what came out of the buffer, and gives it to `send`. Only when
    /// [`Stream::takes_commands`].
    pub(crate) fn commands(&mut self, now: Duration, mut send: impl FnMut(Outgoing<'_>)) {
        let mut inbox = std::mem::take(&mut self.inbox);
        for item in &mut inbox {
            if let Some(ticket) = item.ticket {
                if self.receipts.len() >= self.rules.receipts {
                    self.counters.over_receipts += 1;
                    self.retained.pass_over(item);
                    let item = item.clone();
                    let reason = ReturnReason::TooManyReceipts;
                    self.outputs.push_back(Output::Returned(item, reason));
                    continue;
                }
                self.receipts.insert(self.sequence + 1, ticket);
            }
            self.sequence += 1;
            self.counters.sent += 1;
            item.sequence = self.sequence;
            let keeps = self.rules.resume;
            self.retained.send(now, item, keeps, &mut send);
        }
        self.retained.flush(self.rules.resume, &mut send);
        inbox.clear();
        self.inbox = inbox;
    }

    /// The application has handled the events of a connection up to `id`.
    pub(crate) fn acknowledge(&mut self, run: u64, id: u64) {
        if self.is_open() && self.events.covers(run) {
            self.ack = self.ack.max(Some(id));
        }
    }

    /// An acknowledgement to be sent on the open connection. One serves many events.
    pub(crate) fn poll_ack(&mut self) -> Option<LogicFrame> {
        let id = self.ack.take().filter(|_| self.is_open())?;
        Some(frame(0, Body::ClientAck(ClientAck { id })))
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What left this stream since the last call: the buffer has room for as much again.
    pub(crate) fn take_released(&mut self) -> Load {
        self.retained.take_released()
    }

    /// When to call [`Stream::handle_timeout`].
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let greeting = match &self.attempt {
            Attempt::Greeting(greeting) => Some(greeting.until),
            _ => None,
        };
        let patience = self.gives_up_at();
        greeting.into_iter().chain(patience).min()
    }

    /// Does what is due.
    ///
    /// # Errors
    /// This run is over: close it, and call [`Stream::lost`].
    pub(crate) fn handle_timeout(&mut self, now: Duration) -> Result<(), (u64, GatewayError)> {
        if self.gives_up_at().is_some_and(|at| at <= now) {
            self.give_up();
        }
        match &self.attempt {
            Attempt::Greeting(greeting) if greeting.until <= now => {
                let error = GatewayError::Silent {
                    address: greeting.expected.address.clone(),
                    waiting_for: "Welcome",
                };
                Err((greeting.run, error))
            }
            _ => Ok(()),
        }
    }

    /// Nothing is on its way: everything sent is acknowledged, and every receipt is here.
    pub(crate) fn is_quiet(&self) -> bool {
        self.retained.is_empty() && self.receipts.is_empty()
    }

    /// The place in the buffer of the oldest command that is sent and not acknowledged.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.retained.oldest()
    }

    /// Commands that are sent and not acknowledged.
    pub(crate) fn unacked(&self) -> Load {
        self.retained.load()
    }

    /// Receipts awaited, and how many may be.
    #[cfg(feature = "simulation")]
    pub(crate) fn receipts(&self) -> (usize, usize) {
        (self.receipts.len(), self.rules.receipts)
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    pub(crate) fn state(&self) -> StreamState {
        match (&self.open, &self.attempt) {
            (_, Attempt::Ended) => StreamState::Ended,
            (Some(open), _) if open.draining => StreamState::Draining,
            (Some(_), _) => StreamState::Open,
            (None, Attempt::Waiting { .. }) => StreamState::Waiting,
            (None, _) => StreamState::Connecting,
        }
    }

    /// Which gateway and shard should answer, for people.
    pub(crate) fn expectation(&self) -> String {
        let expected = match (&self.attempt, &self.open) {
            (Attempt::Greeting(greeting), _) => &greeting.expected,
            (_, Some(open)) => &open.expected,
            _ => return String::new(),
        };
        describe(&expected.gateway_id, self.identity.shard, expected.epoch)
    }

    fn settle(&mut self, ticket: Option<Ticket>, answer: Answer) {
        let settled = ticket.map(|ticket| Output::Settled(ticket, answer));
        self.outputs.extend(settled);
    }

    fn notify(&mut self, what: What) {
        self.outputs.push_back(Output::Notice(what));
    }
}

fn frame(sequence: u64, body: Body) -> LogicFrame {
    LogicFrame {
        sequence,
        body: Some(body),
    }
}

fn describe(gateway_id: &str, shard: u32, epoch: u64) -> String {
    format!("gateway {gateway_id:?}, shard {shard}, epoch {epoch:016x}")
}

mod ending;
mod frames;
mod greeting;
mod inbound;
mod outgoing;
mod retained;
#[cfg(test)]
mod tests;
