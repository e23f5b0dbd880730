//! One HTTP/2 connection of a logic service: bytes in, checked commands out; acks, receipts and client events back.
//!
//! A link speaks the protocol and knows nothing of connections. [`Link::next`] hands out what its shard must deal with,
//! in order; whatever the shard cannot take yet it keeps, and calls `next` no more: HTTP/2 credit then stays away, and
//! the sender waits.

mod acks;
mod calls;
mod check;
mod commands;
mod events;
mod exchange;
mod reflection;
mod services;
mod session;
mod upward;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use gateway_proto::{
    plain,
    v1::{self, gateway_frame::Body},
};
use h2_stream::{Counters, Server, ServerEvent, Status, StreamId};
use prost::Message as _;

use crate::{
    command::{Command, PlainPush},
    gateway::Gateway,
    identity::{ConnId, ShardIndex},
    metrics::Metrics,
    mutation::{self, Rule},
};

use acks::Acks;
use calls::{Call, Flat, Message, Messages};
pub use check::Rejection;
pub use events::Events;
pub use exchange::Exchange;
pub use session::{Claim, Ended, Progress, Resumption, SessionKey};
pub use upward::{Load, Wanted};

/// What a shard must deal with.
#[derive(Debug)]
pub enum Input {
    /// A counting call has begun: what becomes of its commands is summed up for [`Link::respond`].
    CallStarted(StreamId),
    /// Do this, then call [`Link::handled`] with the ticket.
    Command(Ticket, Command),
    /// The same, for what most commands are.
    Plain(Ticket, PlainPush),
    /// A message was refused, and its sender told: it is to be counted, and may be the last of its frame.
    Refused(Ticket),
    /// All messages of a counting call were handed out.
    CallEnded(StreamId),
    /// An `Exchange` stream begins: answer with [`Link::welcome`], or end it.
    Hello(StreamId, Box<v1::Hello>),
    /// An `Exchange` stream wants to know who is online.
    Directory {
        /// The stream.
        stream: StreamId,
        /// It asks about the whole gateway.
        whole_gateway: bool,
    },
    /// These connections waited for an acknowledgement, which has come.
    Settled(Vec<ConnId>),
    /// The last event of these connections is acknowledged.
    Left(Vec<ConnId>),
    /// The stream is gone. What is left of it, if it was an `Exchange` stream.
    Gone(StreamId, Option<Box<Ended>>),
}

/// A command on its way through the shard.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// The stream it came on.
    pub stream: StreamId,
    /// Its number on an `Exchange` stream; 0 on others.
    pub sequence: u64,
    /// The stream speaks to the whole gateway.
    pub whole_gateway: bool,
    /// It came on a counting call.
    pub counting: bool,
    /// The last command of its frame: with it the frame is acknowledged.
    pub last: bool,
    /// HTTP/2 credit that comes back with it.
    credit: usize,
}

impl Ticket {
    /// That of the only message of a gRPC message on a counting call.
    fn counting(stream: StreamId, credit: usize) -> Self {
        Self {
            stream,
            sequence: 0,
            whole_gateway: true,
            counting: true,
            last: true,
            credit,
        }
    }
}

/// The session of one logic service on one HTTP/2 connection.
pub struct Link {
    server: Server,
    gateway: Arc<Gateway>,
    metrics: Arc<Metrics>,
    shard: ShardIndex,
    /// Ordered: mostly one, found without hashing; and a run can be repeated exactly.
    calls: BTreeMap<StreamId, Call>,
    /// Messages of one batch that are not handed out yet. While there are any, no other event is looked at.
    batch: Option<Flat>,
    /// The newest batch of which a part was dealt with: stream, sequence, messages.
    partial: (StreamId, u64, usize),
    /// Handed out before anything else is looked at.
    later: VecDeque<Input>,
    acks: Acks,
    /// When the gateway means to be gone.
    drain_ends: Option<Duration>,
    stage: Stage,
    now: Duration,
    /// What of the server's counters is in the metrics.
    counted: Counters,
}

/// How much of a link is still wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// All of it.
    Open,
    /// Nothing that comes is looked at.
    Deaf,
    /// Its streams have ended; new ones are refused.
    Ended,
}

impl Link {
    /// A link that has just been accepted.
    #[must_use]
    pub fn new(
        gateway: Arc<Gateway>,
        metrics: Arc<Metrics>,
        shard: ShardIndex,
        window: u32,
        now: Duration,
    ) -> Self {
        Self {
            server: Server::new(services::config(&gateway.config, window), now),
            gateway,
            metrics,
            shard,
            calls: BTreeMap::new(),
            batch: None,
            partial: (StreamId(0), 0, 0),
            later: VecDeque::new(),
            acks: Acks::default(),
            drain_ends: None,
            stage: Stage::Open,
            now,
            counted: Counters::default(),
        }
    }

    /// Bytes from the socket.
    pub fn receive(&mut self, now: Duration, bytes: &[u8]) {
        self.server.receive(now, bytes);
    }

    /// Whether more bytes may come.
    #[must_use]
    pub fn wants_bytes(&self) -> bool {
        self.server.wants_bytes()
    }

    /// A PING was not answered: nothing that is still to be sent will arrive.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.server.counters().unanswered_pings > 0
    }

    /// Keepalive and call deadlines.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.server.handle_timeout(now);
    }

    /// When [`Link::handle_timeout`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.server.next_deadline()
    }

    /// The next thing for the shard to deal with.
    pub fn next(&mut self, now: Duration) -> Option<Input> {
        self.now = now;
        loop {
            if let Some(input) = self.later.pop_front().or_else(|| self.next_of_batch()) {
                return Some(input);
            }
            if self.stage == Stage::Deaf {
                return None;
            }
            let Some(event) = self.server.poll_event(now) else {
                self.count_refused();
                return None;
            };
            if let Some(input) = self.on_event(event) {
                return Some(input);
            }
        }
    }

    /// A command handed out by [`Link::next`] has been dealt with, or was refused by the shard.
    pub fn handled(&mut self, ticket: Ticket, refused: Option<Rejection>) {
        if let Some(rejection) = refused {
            self.reject(ticket.stream, ticket.sequence, &rejection);
        }
        if !ticket.last {
            self.note_part(ticket);
            return;
        }
        if !mutation::is_off(Rule::CreditReturn) {
            self.server.release(ticket.stream, ticket.credit);
        }
        if let Some(Call::Exchange(exchange)) = self.calls.get_mut(&ticket.stream) {
            let first = exchange.take(ticket.sequence).then_some(ticket.stream);
            self.acks.owe(self.now, ticket.credit, first);
        }
    }

    /// Ends a counting call with what became of its messages.
    pub fn respond(&mut self, stream: StreamId, response: &v1::MessageResponse) {
        if self.calls.remove(&stream).is_some() {
            self.metrics.streams.sub(1);
            self.server.send(stream, response);
            self.server.finish(stream, Status::ok());
        }
    }

    /// Sends what became of a push.
    pub fn send_receipt(&mut self, stream: StreamId, receipt: v1::Receipt) {
        self.send_frame(stream, Body::Receipt(receipt));
    }

    /// Sends who is online, or what has changed, if there is such a stream.
    pub fn send_directory(&mut self, stream: StreamId, frame: Body) {
        if self.exchange(stream).is_some() {
            self.send_frame(stream, frame);
        }
    }

    /// A stream asked for the directory, and there are too many already.
    pub fn refuse_directory(&mut self, stream: StreamId) {
        let detail = "as many streams as can be receive the directory here (directory.max_streams)";
        let rejection = Rejection::new(v1::RejectReason::Overloaded, detail);
        self.reject(stream, 0, &rejection);
    }

    /// Sends the answer to a query.
    pub fn send_answer(&mut self, stream: StreamId, answer: v1::QueryResult) {
        self.send_frame(stream, Body::Result(answer));
    }

    /// How far the commands of an `Exchange` stream have come.
    #[must_use]
    pub fn progress(&self, stream: StreamId) -> Option<Progress> {
        match self.calls.get(&stream) {
            Some(Call::Exchange(exchange)) => Some(self.progress_of(stream, exchange)),
            _ => None,
        }
    }

    /// Ends an `Exchange` stream whose session goes on elsewhere, or belongs to somebody else. Nothing of it is handed
    /// out any more. What is left of it.
    pub fn end(&mut self, stream: StreamId, status: Status) -> Option<Box<Ended>> {
        self.batch.take_if(|batch| batch.stream == stream);
        match self.finish(stream, status) {
            Some(Input::Gone(_, ended)) => ended,
            _ => None,
        }
    }

    /// Ends a stream that asked for client events which it can't get. It is handed out as gone.
    pub fn refuse_receiver(&mut self, stream: StreamId) {
        let detail = "this gateway knows as many services as it can (upstream.max_services)";
        let status = Status::new(h2_stream::Code::ResourceExhausted, detail);
        let gone = self.finish(stream, status);
        self.later.extend(gone);
    }

    /// Changes the flow-control windows of the connection and of its coming streams.
    pub fn set_windows(&mut self, stream: u32, connection: u32) {
        self.server.set_windows(stream, connection);
    }

    /// Appends about `max` bytes for the socket; acks too, if they are due, or something else leaves anyway.
    pub fn write_output(&mut self, out: &mut Vec<u8>, max: usize) -> usize {
        let mut written = 0;
        if !self.are_acks_due() {
            written = self.server.write_output(out, max);
            if written == 0 || self.acks.due().is_none() {
                return written;
            }
        }
        self.flush_acks();
        written + self.server.write_output(out, max)
    }

    /// Whether there may be bytes for the socket. Acks that wait for company are none.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.are_acks_due() || self.server.has_output()
    }

    /// When acks that wait for company leave without it.
    #[must_use]
    pub fn acks_due(&self) -> Option<Duration> {
        self.acks.due()
    }

    fn are_acks_due(&self) -> bool {
        self.acks.due().is_some_and(|due| due <= self.now)
    }

    /// Nothing more will come: after the last output the socket can be closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.server.is_closed()
    }

    /// Tells every stream that the gateway is going away in `remaining`.
    pub fn drain(&mut self, now: Duration, remaining: Duration) {
        self.now = now;
        self.drain_ends = Some(now + remaining);
        let exchanges = self.streams_where(
            |call| matches!(call, Call::Exchange(exchange) if exchange.is_welcome()),
        );
        for stream in exchanges {
            self.send_draining(stream);
        }
        self.update_watches();
    }

    /// Takes no more commands: what comes from now on is never handed out, nor acknowledged. The rest of a batch is.
    pub fn take_no_more(&mut self) {
        if self.stage == Stage::Open {
            self.stage = Stage::Deaf;
        }
    }

    /// Whether a part of this command's batch was dealt with.
    #[must_use]
    pub fn has_begun(&self, ticket: &Ticket) -> bool {
        let (stream, sequence, done) = self.partial;
        done > 0 && (stream, sequence) == (ticket.stream, ticket.sequence)
    }

    /// Ends every stream behind its acks, then the connection (GOAWAY): everything that was dealt with is acknowledged
    /// before, and nothing is handed out after. A client can count on that. Call it again until the link
    /// [is closed](Self::is_closed): nobody is waited for who has nothing more to get.
    pub fn shutdown(&mut self, now: Duration) {
        if self.stage == Stage::Ended {
            if self.server.open_streams() == 0 && !self.server.has_output() {
                self.server.abort();
            }
            return;
        }
        self.stage = Stage::Ended;
        self.flush_acks();
        (self.batch, self.later) = (None, VecDeque::new());
        for (stream, call) in std::mem::take(&mut self.calls) {
            self.metrics.streams.sub(1);
            self.server.finish(stream, calls::going_away());
            let remains = self.remains(stream, call);
            self.later.push_back(Input::Gone(stream, remains));
        }
        self.server.shutdown(now);
    }

    /// Whether [`Link::shutdown`] was called.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.stage == Stage::Ended
    }

    /// Whether messages of a batch are still to be handed out.
    #[must_use]
    pub fn is_mid_batch(&self) -> bool {
        self.batch.is_some()
    }

    /// Every open stream, for the shard to forget when the socket is gone, with what is left of it.
    pub fn take_streams(&mut self) -> Vec<(StreamId, Option<Box<Ended>>)> {
        let calls = std::mem::take(&mut self.calls);
        self.metrics.streams.sub(calls.len() as u64);
        calls
            .into_iter()
            .map(|(stream, call)| (stream, self.remains(stream, call)))
            .collect()
    }

    fn on_event(&mut self, event: ServerEvent) -> Option<Input> {
        match event {
            ServerEvent::Request { stream, method, .. } => self.on_request(stream, &method),
            ServerEvent::Message {
                stream,
                message,
                credit,
            } => self.on_message(stream, message, credit),
            ServerEvent::HalfClosed { stream } => self.on_half_closed(stream),
            ServerEvent::Closed { stream, reason } => {
                self.metrics.stream_errors.count(services::label(&reason));
                self.forget(stream)
            }
            _ => None,
        }
    }

    fn on_message(&mut self, stream: StreamId, message: Bytes, credit: usize) -> Option<Input> {
        let input = match self.calls.get(&stream) {
            Some(Call::Exchange(exchange)) => {
                if exchange.is_open()
                    && let Some((sequence, body)) = plain::frame(&message)
                {
                    return self.on_plain_frame(stream, sequence, (message, body), credit);
                }
                match v1::LogicFrame::decode(message) {
                    Ok(frame) => return self.on_frame(stream, frame, credit),
                    Err(error) => self.fail_decode(stream, &error),
                }
            }
            Some(Call::PushStream | Call::Push) => match Message::read(message) {
                Ok(message) => {
                    let ticket = Ticket::counting(stream, credit);
                    return Some(self.checked(ticket, message));
                }
                Err(error) => self.fail_decode(stream, &error),
            },
            Some(Call::PushMany) => match Messages::read(message) {
                Ok(messages) => match check::Checks::new(&self.gateway).batch(messages.len()) {
                    Ok(()) => {
                        self.batch = Some(Flat {
                            stream,
                            sequence: 0,
                            messages,
                            credit,
                        });
                        return None;
                    }
                    Err(too_many) => {
                        let code = h2_stream::Code::InvalidArgument;
                        self.finish(stream, Status::new(code, too_many.detail))
                    }
                },
                Err(error) => self.fail_decode(stream, &error),
            },
            Some(Call::Service(_)) => {
                self.on_service_message(stream, message);
                None
            }
            None => None,
        };
        self.server.release(stream, credit);
        input
    }

    fn on_half_closed(&mut self, stream: StreamId) -> Option<Input> {
        match self.calls.get(&stream)? {
            Call::PushStream | Call::Push | Call::PushMany => Some(Input::CallEnded(stream)),
            // Everything before was dealt with: the last ack leaves before the end of the stream.
            Call::Exchange(_) => self.finish(stream, Status::ok()),
            Call::Service(service) => {
                if !service.is_watch() {
                    self.finish(stream, Status::ok());
                }
                None
            }
        }
    }
}
