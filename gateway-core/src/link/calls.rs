//! The calls of a link, from request to end.

use std::vec;

use gateway_proto::{names, v1};
use h2_stream::{Status, StreamId};

use super::{Exchange, Input, Link, Rejection, Ticket, services::Service};

/// What a stream is.
pub(super) enum Call {
    PushStream,
    Push,
    PushMany,
    Exchange(Exchange),
    Service(Service),
}

/// The messages of one gRPC message, handed out one by one.
pub(super) struct Flat {
    pub(super) stream: StreamId,
    pub(super) sequence: u64,
    pub(super) messages: vec::IntoIter<v1::MessageRequest>,
    /// HTTP/2 credit of the whole.
    pub(super) credit: usize,
}

impl Flat {
    pub(super) fn new(
        stream: StreamId,
        sequence: u64,
        messages: Vec<v1::MessageRequest>,
        credit: usize,
    ) -> Self {
        Self {
            stream,
            sequence,
            messages: messages.into_iter(),
            credit,
        }
    }
}

impl Link {
    pub(super) fn on_request(&mut self, stream: StreamId, method: &str) -> Option<Input> {
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
            if let Some(input) = self.checked(ticket, message) {
                return Some(input);
            }
        }
    }

    fn checked(&mut self, ticket: Ticket, message: v1::MessageRequest) -> Option<Input> {
        self.metrics.messages_in_logic.add(1);
        match super::check::Checks::new(&self.gateway).push(message, ticket.counting) {
            Ok(push) => Some(Input::Command(ticket, crate::command::Command::Push(push))),
            Err(rejection) => {
                let unary = matches!(self.calls.get(&ticket.stream), Some(Call::Push));
                self.handled(ticket, Some(rejection));
                Some(if unary {
                    Input::Gone(ticket.stream)
                } else {
                    Input::Refused(ticket)
                })
            }
        }
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

    /// Ends a stream from our side.
    pub(super) fn finish(&mut self, stream: StreamId, status: Status) -> Option<Input> {
        self.server.finish(stream, status);
        self.forget(stream).then_some(Input::Gone(stream))
    }

    /// Whether the stream was known.
    pub(super) fn forget(&mut self, stream: StreamId) -> bool {
        let known = self.calls.remove(&stream).is_some();
        self.metrics.streams.sub(u64::from(known));
        known
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
        for stream in std::mem::take(&mut self.acks) {
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
