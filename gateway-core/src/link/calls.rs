//! The calls of a link, from request to end.

use std::vec;

use bytes::Bytes;
use gateway_proto::{
    names,
    plain::{self, Plain},
    v1,
};
use h2_stream::{Counters, Status, StreamId};
use prost::{DecodeError, Message as _};

use super::{
    Ended, Exchange, Input, Link, Progress, Rejection, Stage, Ticket, check::Checks,
    services::Service,
};
use crate::command::{Command, PlainPush};

/// What a stream is.
pub(super) enum Call {
    PushStream,
    Push,
    PushMany,
    Exchange(Exchange),
    Service(Service),
}

/// The messages of a batch, handed out one by one.
pub(super) struct Flat {
    pub(super) stream: StreamId,
    pub(super) sequence: u64,
    pub(super) messages: Messages,
    /// HTTP/2 credit of the whole.
    pub(super) credit: usize,
}

/// Messages that came together.
pub(super) enum Messages {
    Parsed(vec::IntoIter<v1::MessageRequest>),
    /// All of them plain, in these bytes.
    Plain(Bytes, vec::IntoIter<Plain>),
}

/// A message, not checked yet.
pub(super) enum Message {
    Parsed(v1::MessageRequest),
    Plain(PlainPush),
}

impl Flat {
    /// Passes over messages that were dealt with on an earlier stream of the session.
    pub(super) fn skip(mut self, done: usize) -> Self {
        self.messages.by_ref().take(done).for_each(drop);
        self
    }
}

impl Message {
    /// Reads one, where it lies if that is possible.
    pub(super) fn read(bytes: Bytes) -> Result<Self, DecodeError> {
        Ok(match plain::request(&bytes) {
            Some(at) => Self::Plain(PlainPush::new(bytes, at)),
            None => Self::Parsed(v1::MessageRequest::decode(bytes)?),
        })
    }
}

impl Messages {
    /// Reads a batch, where it lies if that is possible.
    pub(super) fn read(bytes: Bytes) -> Result<Self, DecodeError> {
        Ok(match plain::batch(&bytes) {
            Some(batch) => Self::plain(bytes, batch),
            None => Self::parsed(v1::PushBatch::decode(bytes)?),
        })
    }

    pub(super) fn parsed(batch: v1::PushBatch) -> Self {
        Self::Parsed(batch.messages.into_iter())
    }

    pub(super) fn plain(bytes: Bytes, batch: Vec<Plain>) -> Self {
        Self::Plain(bytes, batch.into_iter())
    }

    /// How many are left.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Parsed(messages) => messages.len(),
            Self::Plain(_, messages) => messages.len(),
        }
    }
}

impl Iterator for Messages {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        match self {
            Self::Parsed(messages) => messages.next().map(Message::Parsed),
            Self::Plain(bytes, messages) => {
                let at = messages.next()?;
                Some(Message::Plain(PlainPush::new(bytes.clone(), at)))
            }
        }
    }
}

/// How a stream ends with the gateway.
pub(super) fn going_away() -> Status {
    Status::new(h2_stream::Code::Unavailable, "the gateway is going away")
}

impl Link {
    pub(super) fn on_request(&mut self, stream: StreamId, method: &str) -> Option<Input> {
        if self.stage == Stage::Ended {
            self.server.finish(stream, going_away());
            return None;
        }
        let (call, input) = match method {
            names::EXCHANGE => {
                self.server.start(stream);
                (Call::Exchange(Exchange::waiting()), None)
            }
            names::PUSH_STREAM => (Call::PushStream, Some(Input::CallStarted(stream))),
            names::PUSH => (Call::Push, Some(Input::CallStarted(stream))),
            names::PUSH_MANY => (Call::PushMany, Some(Input::CallStarted(stream))),
            _ => match Service::of(method) {
                Some(service) => (Call::Service(service), None),
                None => {
                    self.metrics.stream_errors.count("unknown_method");
                    let detail = format!("this gateway has no method {method}");
                    let status = Status::new(h2_stream::Code::Unimplemented, detail);
                    self.server.finish(stream, status);
                    return None;
                }
            },
        };
        self.metrics.streams.add(1);
        self.calls.insert(stream, call);
        input
    }

    /// The next message of a batch, as a command.
    pub(super) fn next_of_batch(&mut self) -> Option<Input> {
        loop {
            let flat = self.batch.as_mut()?;
            let (stream, sequence, credit) = (flat.stream, flat.sequence, flat.credit);
            let message = flat.messages.next();
            let last = flat.messages.len() == 0;
            if last {
                self.batch = None;
            }
            let (whole_gateway, counting) = match self.calls.get(&stream) {
                Some(Call::Exchange(exchange)) => (exchange.whole_gateway(), false),
                Some(_) => (true, true),
                None => {
                    // The stream ended in the middle of the batch; its credit still belongs to the connection.
                    self.batch = None;
                    self.server.release(stream, credit);
                    continue;
                }
            };
            let ticket = Ticket {
                stream,
                sequence,
                whole_gateway,
                counting,
                last,
                credit,
            };
            let Some(message) = message else {
                // An empty batch is a command that does nothing.
                self.handled(ticket, None);
                continue;
            };
            return Some(self.checked(ticket, message));
        }
    }

    /// A message as a command, or that it was refused.
    pub(super) fn checked(&mut self, ticket: Ticket, message: Message) -> Input {
        self.metrics.messages_in_logic.add(1);
        let checks = Checks::new(&self.gateway);
        let checked = match message {
            Message::Plain(push) => checks.plain(&push).map(|()| Input::Plain(ticket, push)),
            Message::Parsed(message) => checks
                .push(message, ticket.counting)
                .map(|push| Input::Command(ticket, Command::Push(push))),
        };
        checked.unwrap_or_else(|rejection| {
            let unary = matches!(self.calls.get(&ticket.stream), Some(Call::Push));
            self.handled(ticket, Some(rejection));
            if unary {
                Input::Gone(ticket.stream, None)
            } else {
                Input::Refused(ticket)
            }
        })
    }

    /// Tells the sender that a command had no effect.
    pub(super) fn reject(&mut self, stream: StreamId, sequence: u64, rejection: &Rejection) {
        self.metrics.rejected.count(rejection.label());
        match self.calls.get(&stream) {
            Some(Call::Exchange(_)) => {
                let rejected = v1::Rejected {
                    sequence,
                    reason: rejection.reason.into(),
                    detail: rejection.detail.to_string(),
                };
                self.send_frame(stream, v1::gateway_frame::Body::Rejected(rejected));
            }
            Some(Call::Push) => {
                let detail = rejection.detail.to_string();
                let status = Status::new(h2_stream::Code::InvalidArgument, detail);
                self.finish(stream, status);
            }
            _ => {}
        }
    }

    /// Bytes that are no protobuf end the stream: what follows them can't be trusted either.
    pub(super) fn fail_decode(
        &mut self,
        stream: StreamId,
        error: &prost::DecodeError,
    ) -> Option<Input> {
        self.metrics.stream_errors.count("invalid_protobuf");
        let detail = format!("not a message of this method: {error}");
        self.finish(
            stream,
            Status::new(h2_stream::Code::InvalidArgument, detail),
        )
    }

    /// Counts what never became a call, and how a connection broke; the rest is counted where it is dealt with.
    pub(super) fn count_refused(&mut self) {
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

    /// Ends a stream from our side, behind the ack of everything that was dealt with.
    pub(super) fn finish(&mut self, stream: StreamId, status: Status) -> Option<Input> {
        self.flush_acks();
        self.server.finish(stream, status);
        self.forget(stream)
    }

    /// What the shard must be told, if the stream was known.
    pub(super) fn forget(&mut self, stream: StreamId) -> Option<Input> {
        let call = self.calls.remove(&stream)?;
        self.metrics.streams.sub(1);
        Some(Input::Gone(stream, self.remains(stream, call)))
    }

    /// What is left of a call that has ended.
    pub(super) fn remains(&self, stream: StreamId, call: Call) -> Option<Box<Ended>> {
        let Call::Exchange(exchange) = call else {
            return None;
        };
        let progress = self.progress_of(stream, &exchange);
        let unacked = exchange.events.bytes() as u64;
        self.metrics.unacked_bytes.sub(unacked);
        Some(Box::new(exchange.end(progress)))
    }

    /// One more message of a batch was dealt with, and others follow.
    pub(super) fn note_part(&mut self, ticket: Ticket) {
        let (stream, sequence, done) = &mut self.partial;
        if (*stream, *sequence) == (ticket.stream, ticket.sequence) {
            *done += 1;
        } else {
            self.partial = (ticket.stream, ticket.sequence, 1);
        }
    }

    pub(super) fn progress_of(&self, stream: StreamId, exchange: &Exchange) -> Progress {
        let (of, sequence, done) = self.partial;
        let partial = (of == stream).then_some((sequence, done));
        exchange.progress(partial)
    }

    pub(super) fn exchange(&mut self, stream: StreamId) -> Option<&mut Exchange> {
        match self.calls.get_mut(&stream) {
            Some(Call::Exchange(exchange)) => Some(exchange),
            _ => None,
        }
    }

    pub(super) fn send_frame(&mut self, stream: StreamId, body: v1::gateway_frame::Body) {
        self.server
            .send(stream, &v1::GatewayFrame { body: Some(body) });
    }

    pub(super) fn flush_acks(&mut self) {
        for stream in self.acks.take() {
            if let Some(sequence) = self.exchange(stream).and_then(Exchange::ack) {
                let ack = v1::gateway_frame::Body::Ack(v1::Ack { sequence });
                self.send_frame(stream, ack);
            }
        }
    }

    pub(super) fn streams_where(&self, wanted: impl Fn(&Call) -> bool) -> Vec<StreamId> {
        let matching = self.calls.iter().filter(|(_, call)| wanted(call));
        matching.map(|(stream, _)| *stream).collect()
    }
}
