//! One HTTP/2 connection of a logic service: bytes in, checked commands out; acks, receipts and client events back.
//!
//! A link speaks the protocol and knows nothing of connections. [`Link::next`] hands out what its shard must deal with,
//! in order; whatever the shard cannot take yet it keeps, and calls `next` no more: HTTP/2 credit then stays away, and
//! the sender waits.

mod calls;
mod check;
mod commands;
mod exchange;
mod reflection;
mod services;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use gateway_proto::v1::{self, gateway_frame::Body};
use h2_stream::{Counters, Server, ServerEvent, Status, StreamId};
use prost::Message;

use crate::{
    command::Command,
    gateway::Gateway,
    identity::{ConnId, ShardIndex},
    metrics::Metrics,
};

use calls::{Call, Flat};
pub use check::Rejection;
pub use exchange::Exchange;

/// What a shard must deal with.
#[derive(Debug)]
pub enum Input {
    /// A counting call has begun: what becomes of its commands is summed up for [`Link::respond`].
    CallStarted(StreamId),
    /// Do this, then call [`Link::handled`] with the ticket.
    Command(Ticket, Command),
    /// A message was refused, and its sender told: it is to be counted, and may be the last of its frame.
    Refused(Ticket),
    /// All messages of a counting call were handed out.
    CallEnded(StreamId),
    /// An `Exchange` stream wants client events of this service.
    Receive {
        /// The stream.
        stream: StreamId,
        /// The consumer group.
        service: Arc<str>,
        /// It wants those of the whole gateway.
        whole_gateway: bool,
        /// It acknowledges what it has handled.
        acks: bool,
    },
    /// These connections waited for an acknowledgement, which has come.
    Settled(Vec<ConnId>),
    /// The stream is gone.
    Gone(StreamId),
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

/// The session of one logic service on one HTTP/2 connection.
pub struct Link {
    server: Server,
    gateway: Arc<Gateway>,
    metrics: Arc<Metrics>,
    shard: ShardIndex,
    calls: HashMap<StreamId, Call>,
    /// Messages of one batch that are not handed out yet. While there are any, no other event is looked at.
    batch: Option<Flat>,
    /// `Exchange` streams with an ack to be sent.
    acks: Vec<StreamId>,
    draining: bool,
    /// What of the server's counters is in the metrics.
    counted: Counters,
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
            calls: HashMap::new(),
            batch: None,
            acks: Vec::new(),
            draining: false,
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
        loop {
            if let Some(input) = self.next_of_batch() {
                return Some(input);
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
            return;
        }
        self.server.release(ticket.stream, ticket.credit);
        if let Some(Call::Exchange(exchange)) = self.calls.get_mut(&ticket.stream)
            && exchange.take(ticket.sequence)
        {
            self.acks.push(ticket.stream);
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

    /// Sends a client's event to a stream that receives them. Whether there was such a stream.
    pub fn send_event(&mut self, stream: StreamId, mut event: Body) -> bool {
        let Some(Call::Exchange(exchange)) = self.calls.get_mut(&stream) else {
            return false;
        };
        exchange.number(&mut event);
        self.send_frame(stream, event);
        self.metrics.messages_out_logic.add(1);
        true
    }

    /// Marks the place of `conn` behind all events sent so far. `true`: all of them are acknowledged already, or
    /// nobody will ever acknowledge them.
    pub fn settle(&mut self, stream: StreamId, conn: ConnId) -> bool {
        match self.calls.get_mut(&stream) {
            Some(Call::Exchange(exchange)) => exchange.settle(conn),
            _ => true,
        }
    }

    /// Ends a stream that asked for client events which it can't get.
    pub fn refuse_receiver(&mut self, stream: StreamId) {
        let detail = "this gateway knows as many services as it can (upstream.max_services)";
        self.finish(
            stream,
            Status::new(h2_stream::Code::ResourceExhausted, detail),
        );
    }

    /// Changes the flow-control windows of the connection and of its coming streams.
    pub fn set_windows(&mut self, stream: u32, connection: u32) {
        self.server.set_windows(stream, connection);
    }

    /// How many bytes wait to be sent on a stream.
    #[must_use]
    pub fn queued(&self, stream: StreamId) -> usize {
        self.server.queued(stream)
    }

    /// Appends about `max` bytes for the socket, acks included.
    pub fn write_output(&mut self, out: &mut Vec<u8>, max: usize) -> usize {
        self.flush_acks();
        self.server.write_output(out, max)
    }

    /// Whether there may be bytes for the socket.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.acks.is_empty() || self.server.has_output()
    }

    /// Nothing more will come: after the last output the socket can be closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.server.is_closed()
    }

    /// Tells every stream that the gateway is going away in `remaining`.
    pub fn drain(&mut self, remaining: Duration) {
        self.draining = true;
        let remaining_ms = remaining.as_millis() as u32;
        let exchanges: Vec<StreamId> = self.streams_where(|call| matches!(call, Call::Exchange(_)));
        for stream in exchanges {
            self.send_frame(stream, Body::Draining(v1::Draining { remaining_ms }));
        }
        self.update_watches();
    }

    /// Ends every stream, then the connection (GOAWAY), once what is queued was sent.
    pub fn shutdown(&mut self, now: Duration) {
        for (stream, _) in std::mem::take(&mut self.calls) {
            self.metrics.streams.sub(1);
            let status = Status::new(h2_stream::Code::Unavailable, "the gateway is going away");
            self.server.finish(stream, status);
        }
        self.server.shutdown(now);
    }

    /// Every open stream, for the shard to forget when the socket is gone.
    pub fn take_streams(&mut self) -> Vec<StreamId> {
        self.metrics.streams.sub(self.calls.len() as u64);
        self.calls.drain().map(|(stream, _)| stream).collect()
    }

    /// Counts what never became a call, and how a connection broke; the rest is counted where it is dealt with.
    fn count_refused(&mut self) {
        let before = std::mem::replace(&mut self.counted, *self.server.counters());
        let now = &self.counted;
        let requests = |c: &Counters| {
            c.wrong_method + c.wrong_content_type + c.bad_timeout + c.unknown_encoding
        };
        let errors = &self.metrics.stream_errors;
        errors.add("bad_request", requests(now) - requests(&before));
        errors.add(
            "link_protocol",
            now.protocol_errors - before.protocol_errors,
        );
        errors.add("keepalive", now.unanswered_pings - before.unanswered_pings);
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
                self.forget(stream).then_some(Input::Gone(stream))
            }
            _ => None,
        }
    }

    fn on_message(&mut self, stream: StreamId, message: Bytes, credit: usize) -> Option<Input> {
        let input = match self.calls.get_mut(&stream) {
            Some(Call::Exchange(_)) => match v1::LogicFrame::decode(message) {
                Ok(frame) => return self.on_frame(stream, frame, credit),
                Err(error) => self.fail_decode(stream, &error),
            },
            Some(Call::PushStream | Call::Push) => match v1::MessageRequest::decode(message) {
                Ok(push) => {
                    self.batch = Some(Flat::new(stream, 0, vec![push], credit));
                    return None;
                }
                Err(error) => self.fail_decode(stream, &error),
            },
            Some(Call::PushMany) => match v1::PushBatch::decode(message) {
                Ok(batch) if !check::Checks::new(&self.gateway).fits(&batch) => {
                    let detail = check::Checks::new(&self.gateway).too_many(&batch).detail;
                    self.finish(
                        stream,
                        Status::new(h2_stream::Code::InvalidArgument, detail),
                    )
                }
                Ok(batch) => {
                    self.batch = Some(Flat::new(stream, 0, batch.messages, credit));
                    return None;
                }
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
            Call::Exchange(_) => {
                // What was acked so far leaves before the end of the stream.
                self.flush_acks();
                self.finish(stream, Status::ok())
            }
            Call::Service(service) => {
                if !service.is_watch() {
                    self.finish(stream, Status::ok());
                }
                None
            }
        }
    }
}
