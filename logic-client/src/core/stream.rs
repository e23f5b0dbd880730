//! The life of one stream, across all its connections.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::{Capability, ClientAck, Hello, LogicFrame, Receive, Scope};

use crate::core::backoff::{Backoff, Pace};
use crate::core::buffer::{Batch, Item};
use crate::core::receipts::{Answer, Receipt, Ticket};
use crate::error::{GatewayError, PushError};
use crate::event::{Event, What};
use crate::stats::{Counters, StreamState};

/// What never changes in a stream's life.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) service: String,
    pub(crate) session: [u8; 16],
    pub(crate) index: u32,
    pub(crate) shard: u32,
    /// Whether it receives what clients do.
    pub(crate) receive: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) pace: Pace,
    /// How long the gateway may take to answer `Hello`.
    pub(crate) welcome: Duration,
    /// Most receipts awaited at once.
    pub(crate) receipts: usize,
}

/// What a connection is expected to lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) address: String,
    pub(crate) gateway_id: String,
    pub(crate) epoch: u64,
    pub(crate) shards: u32,
}

/// What the owner is to pass on.
#[derive(Debug)]
pub(crate) enum Output {
    /// To the application; `run` and `id` for [`Stream::acknowledge`].
    Event {
        event: Event,
        run: u64,
        id: u64,
        credit: usize,
    },
    /// To who waits for the receipt.
    Settled(Ticket, Answer),
    /// To who wants to know.
    Notice(What),
}

/// One stream: says Hello, numbers what it sends, and knows what became of it.
#[derive(Debug)]
pub(crate) struct Stream {
    identity: Identity,
    rules: Rules,
    phase: Phase,
    backoff: Backoff,
    /// The run of the gateway the stream was open to last; 0: none.
    epoch: u64,
    /// Numbers the connections.
    run: u64,
    other_epochs: u32,
    /// The number given last. It rises as long as the stream lives.
    sequence: u64,
    /// Everything up to here is acknowledged, or given up.
    acked: u64,
    /// What is sent and not acknowledged, in batches.
    flight: VecDeque<Flight>,
    /// Commands of the buffer up to here are done with.
    settled: u64,
    /// Receipts awaited, by number.
    receipts: BTreeMap<u64, Ticket>,
    /// The newest event to be acknowledged.
    ack: Option<u64>,
    counters: Counters,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
enum Phase {
    Waiting {
        until: Duration,
    },
    Connecting,
    Greeting {
        expected: Expected,
        until: Duration,
    },
    Open {
        expected: Expected,
        since: Duration,
        draining: bool,
    },
    Ended,
}

/// Commands of one batch: the number of the last, and its place in the buffer.
#[derive(Debug)]
struct Flight {
    sequence: u64,
    position: u64,
}

impl Stream {
    pub(crate) fn new(identity: Identity, rules: Rules, seed: u64) -> Self {
        Self {
            identity,
            rules,
            phase: Phase::Connecting,
            backoff: Backoff::new(rules.pace, seed),
            epoch: 0,
            run: 0,
            other_epochs: 0,
            sequence: 0,
            acked: 0,
            flight: VecDeque::new(),
            settled: 0,
            receipts: BTreeMap::new(),
            ack: None,
            counters: Counters::default(),
            outputs: VecDeque::new(),
        }
    }

    /// When to have the gateway described and to connect to the shard, after a failure. Then
    /// comes [`Stream::connected`] or [`Stream::lost`].
    pub(crate) fn next_attempt(&self) -> Duration {
        match self.phase {
            Phase::Waiting { until } => until,
            _ => Duration::ZERO,
        }
    }

    /// An attempt begins.
    pub(crate) fn connect(&mut self) {
        self.phase = Phase::Connecting;
    }

    /// There is a connection: this is the first frame on it.
    pub(crate) fn connected(&mut self, now: Duration, expected: Expected) -> LogicFrame {
        let mut hello = Hello {
            service: self.identity.service.clone(),
            session_id: self.identity.session.to_vec().into(),
            stream_index: self.identity.index,
            gateway_epoch: self.epoch,
            expected_shard_plus_one: self.identity.shard + 1,
            ..Hello::default()
        };
        hello.set_scope(Scope::Shard);
        hello.push_capabilities(Capability::Receipts);
        hello.push_capabilities(Capability::ClientAck);
        if self.identity.receive {
            hello.push_receive(Receive::Messages);
        }
        self.run += 1;
        let until = now + self.rules.welcome;
        self.phase = Phase::Greeting { expected, until };
        frame(0, Body::Hello(hello))
    }

    /// Whether commands may be sent.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open { .. })
    }

    /// Numbers what came out of the buffer, and gives it to `send`.
    pub(crate) fn commands(
        &mut self,
        now: Duration,
        batch: &mut Batch,
        mut send: impl FnMut(&LogicFrame),
    ) {
        for item in batch.expired.drain(..) {
            self.counters.expired += 1;
            let expired = Receipt {
                expired: 1,
                ..Receipt::default()
            };
            self.settle(item.ticket, Ok(expired));
        }
        for item in batch.items.drain(..) {
            if item.ticket.is_some() && self.receipts.len() >= self.rules.receipts {
                self.counters.over_receipts += 1;
                self.settle(item.ticket, Err(PushError::TooManyReceipts));
                continue;
            }
            self.sequence += 1;
            self.counters.sent += 1;
            if let Some(ticket) = item.ticket {
                self.receipts.insert(self.sequence, ticket);
            }
            send(&frame(self.sequence, body(now, item)));
        }
        let position = batch.position;
        let last = self
            .flight
            .back()
            .map_or(self.acked, |flight| flight.sequence);
        match self.flight.back_mut() {
            _ if self.sequence > last => {
                let sequence = self.sequence;
                self.flight.push_back(Flight { sequence, position });
            }
            Some(flight) => flight.position = position,
            None => self.settled = position,
        }
    }

    /// The application has handled the events of a connection up to `id`.
    pub(crate) fn acknowledge(&mut self, run: u64, id: u64) {
        if run == self.run && self.is_open() {
            self.ack = self.ack.max(Some(id));
        }
    }

    /// An acknowledgement to be sent. One serves many events.
    pub(crate) fn poll_ack(&mut self) -> Option<LogicFrame> {
        let id = self.ack.take().filter(|_| self.is_open())?;
        Some(frame(0, Body::ClientAck(ClientAck { id })))
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The connection is gone, or could not be made.
    pub(crate) fn lost(&mut self, now: Duration, error: GatewayError) {
        match self.phase {
            Phase::Open { since, .. } => self.backoff.was_open(now.saturating_sub(since)),
            _ => self.counters.failed_attempts += 1,
        }
        let until = now + self.backoff.next();
        self.phase = Phase::Waiting { until };
        let unknown = self.give_up();
        self.outputs
            .push_back(Output::Notice(What::Lost { error, unknown }));
    }

    /// The stream will not be opened again.
    pub(crate) fn end(&mut self) {
        self.phase = Phase::Ended;
        self.give_up();
    }

    /// When to call [`Stream::handle_timeout`] while the stream runs.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::Greeting { until, .. } => Some(until),
            _ => None,
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Duration) -> Result<(), GatewayError> {
        match &self.phase {
            Phase::Greeting { until, expected } if *until <= now => Err(GatewayError::Silent {
                address: expected.address.clone(),
                waiting_for: "Welcome",
            }),
            _ => Ok(()),
        }
    }

    /// Nothing is on its way: everything sent is acknowledged, and every receipt is here.
    pub(crate) fn is_quiet(&self) -> bool {
        self.acked == self.sequence && self.receipts.is_empty()
    }

    /// Commands of the buffer up to this place are acknowledged, expired or given up.
    pub(crate) fn settled(&self) -> u64 {
        self.settled
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    pub(crate) fn run(&self) -> u64 {
        self.run
    }

    pub(crate) fn state(&self) -> StreamState {
        match self.phase {
            Phase::Waiting { .. } => StreamState::Waiting,
            Phase::Connecting | Phase::Greeting { .. } => StreamState::Connecting,
            Phase::Open {
                draining: false, ..
            } => StreamState::Open,
            Phase::Open { draining: true, .. } => StreamState::Draining,
            Phase::Ended => StreamState::Ended,
        }
    }

    /// Which gateway and shard should answer, for people.
    pub(crate) fn expectation(&self) -> String {
        match &self.phase {
            Phase::Greeting { expected, .. } | Phase::Open { expected, .. } => {
                describe(&expected.gateway_id, self.identity.shard, expected.epoch)
            }
            _ => String::new(),
        }
    }

    /// What is on its way may have arrived or not. Says how many commands.
    fn give_up(&mut self) -> u64 {
        let unknown = self.sequence - self.acked;
        self.counters.unknown += unknown;
        self.acked = self.sequence;
        if let Some(flight) = self.flight.back() {
            self.settled = flight.position;
        }
        self.flight.clear();
        self.ack = None;
        for ticket in std::mem::take(&mut self.receipts).into_values() {
            self.settle(Some(ticket), Err(PushError::Unknown));
        }
        unknown
    }

    fn settle(&mut self, ticket: Option<Ticket>, answer: Answer) {
        let settled = ticket.map(|ticket| Output::Settled(ticket, answer));
        self.outputs.extend(settled);
    }
}

fn frame(sequence: u64, body: Body) -> LogicFrame {
    LogicFrame {
        sequence,
        body: Some(body),
    }
}

/// What goes on the wire: with what is left of the time to live, and asking for a receipt.
fn body(now: Duration, item: Item) -> Body {
    let mut body = item.body;
    if let Body::Push(push) = &mut body
        && (item.expires.is_some() || item.ticket.is_some())
    {
        let delivery = push.delivery.get_or_insert_default();
        if let Some(expires) = item.expires {
            // Rounded up: 0 would mean that it never expires.
            let left = expires
                .saturating_sub(now)
                .as_micros()
                .div_ceil(1000)
                .max(1);
            delivery.ttl_ms = u32::try_from(left).unwrap_or(u32::MAX);
        }
        if item.ticket.is_some() {
            delivery.set_receipt(gateway_proto::v1::ReceiptMode::Counts);
        }
    }
    body
}

fn describe(gateway_id: &str, shard: u32, epoch: u64) -> String {
    format!("gateway {gateway_id:?}, shard {shard}, epoch {epoch:016x}")
}

mod inbound;
#[cfg(test)]
mod tests;
