//! The frames of an `Exchange` stream, and the commands in them.

use bytes::Bytes;
use gateway_proto::{
    plain,
    v1::{self, gateway_frame::Body, logic_frame::Body as Down},
};
use h2_stream::{Code, Status, StreamId};

use super::{
    Exchange, Input, Link, Rejection, Resumption, Ticket,
    calls::{Call, Flat, Message, Messages},
    check::Checks,
};
use crate::command::PlainPush;

impl Link {
    pub(super) fn on_frame(
        &mut self,
        stream: StreamId,
        frame: v1::LogicFrame,
        credit: usize,
    ) -> Option<Input> {
        let input = match (self.exchange(stream)?.is_open(), frame.body) {
            (false, Some(Down::Hello(hello))) => self.on_hello(stream, hello),
            (false, _) => {
                let status = Status::new(Code::FailedPrecondition, "the first frame must be Hello");
                self.refuse_hello(stream, status)
            }
            (true, Some(Down::ClientAck(ack))) => self.on_client_ack(stream, ack.id),
            (true, body) => return self.on_command(stream, frame.sequence, body, credit),
        };
        self.server.release(stream, credit);
        input
    }

    /// A frame that was read where it lies.
    pub(super) fn on_plain_frame(
        &mut self,
        stream: StreamId,
        sequence: u64,
        (bytes, body): (Bytes, plain::Body),
        credit: usize,
    ) -> Option<Input> {
        let (ticket, done) = self.number(stream, sequence, credit)?;
        match body {
            plain::Body::Push(at) => {
                let push = PlainPush::new(bytes, at);
                Some(self.checked(ticket, Message::Plain(push)))
            }
            plain::Body::Batch(batch) => {
                let len = batch.len();
                self.on_batch(ticket, done, len, Messages::plain(bytes, batch))
            }
        }
    }

    /// Takes the number of a command: what it is to be handled with, and how many messages of a batch were dealt with on
    /// an earlier stream of the session. `None`: nothing is to be done.
    fn number(
        &mut self,
        stream: StreamId,
        sequence: u64,
        credit: usize,
    ) -> Option<(Ticket, usize)> {
        let exchange = self.exchange(stream)?;
        let whole_gateway = exchange.whole_gateway();
        let ticket = Ticket {
            stream,
            sequence,
            whole_gateway,
            counting: false,
            last: true,
            credit,
        };
        if !exchange.rises(sequence) {
            let detail = "the sequence must rise with every command, from 1";
            let rejection = Rejection::new(v1::RejectReason::BadSequence, detail);
            self.reject(stream, sequence, &rejection);
            self.server.release(stream, credit);
            return None;
        }
        if exchange.was_done(sequence) {
            self.metrics.duplicates.add(1);
            self.handled(ticket, None);
            return None;
        }
        Some((ticket, exchange.done_in_part(sequence)))
    }

    fn on_batch(
        &mut self,
        ticket: Ticket,
        done: usize,
        len: usize,
        messages: Messages,
    ) -> Option<Input> {
        if let Err(rejection) = Checks::new(&self.gateway).batch(len) {
            self.handled(ticket, Some(rejection));
            return None;
        }
        self.partial = (ticket.stream, ticket.sequence, done);
        let flat = Flat {
            stream: ticket.stream,
            sequence: ticket.sequence,
            messages,
            credit: ticket.credit,
        };
        self.batch = Some(flat.skip(done));
        None
    }

    fn on_command(
        &mut self,
        stream: StreamId,
        sequence: u64,
        body: Option<Down>,
        credit: usize,
    ) -> Option<Input> {
        let (ticket, done) = self.number(stream, sequence, credit)?;
        let checks = Checks::new(&self.gateway);
        let command = match body {
            Some(Down::Push(push)) => return Some(self.checked(ticket, Message::Parsed(push))),
            Some(Down::Batch(batch)) => {
                let len = batch.messages.len();
                return self.on_batch(ticket, done, len, Messages::parsed(batch));
            }
            Some(Down::Subscribe(subscribe)) => checks.subscribe(subscribe),
            Some(Down::Unsubscribe(unsubscribe)) => checks.unsubscribe(unsubscribe),
            Some(Down::Disconnect(disconnect)) => checks.disconnect(disconnect),
            Some(Down::Query(query)) => checks.query(query),
            Some(Down::Hello(_)) => Err(Rejection::new(
                v1::RejectReason::UnknownFrame,
                "Hello comes once, as the first frame",
            )),
            Some(Down::ClientAck(_)) | None => Err(Rejection::new(
                v1::RejectReason::UnknownFrame,
                "a frame without a body that this gateway knows",
            )),
        };
        match command {
            Ok(command) => Some(Input::Command(ticket, command)),
            Err(rejection) => {
                self.handled(ticket, Some(rejection));
                None
            }
        }
    }

    fn refuse_hello(&mut self, stream: StreamId, status: Status) -> Option<Input> {
        self.metrics.stream_errors.count("bad_hello");
        self.finish(stream, status)
    }

    fn on_hello(&mut self, stream: StreamId, hello: v1::Hello) -> Option<Input> {
        match Exchange::accept(&hello, self.shard) {
            Ok(exchange) => {
                self.calls.insert(stream, Call::Exchange(exchange));
                Some(Input::Hello(stream, Box::new(hello)))
            }
            Err(status) => self.refuse_hello(stream, *status),
        }
    }

    /// Answers `Hello`: from here on the stream's commands are handed out.
    pub fn welcome(&mut self, stream: StreamId, hello: &v1::Hello, resumption: &Resumption) {
        let (shard, shards) = (self.shard, self.gateway.shard_addresses.len());
        let asks_directory = hello.receive.contains(&(v1::Receive::Directory as i32));
        let Some(accepted) = self.exchange(stream) else {
            return;
        };
        accepted.begin(resumption);
        let whole_gateway = accepted.whole_gateway();
        let welcome = v1::Welcome {
            gateway_id: self.gateway.id.clone(),
            epoch: self.gateway.epoch,
            shard: u32::from(shard),
            shards: shards as u32,
            resume: resumption.resume.into(),
            last_sequence: resumption.progress.last_sequence,
            capabilities: self.gateway.capabilities(),
            limits: Some(self.gateway.limits()),
            resume_token: resumption.token,
        };
        self.send_frame(stream, Body::Welcome(welcome));
        if asks_directory && self.gateway.config.directory.enabled {
            self.later.push_back(Input::Directory {
                stream,
                whole_gateway,
            });
        } else if asks_directory {
            let detail = "this gateway keeps no directory (Welcome.capabilities)";
            let rejection = Rejection::new(v1::RejectReason::Unsupported, detail);
            self.reject(stream, 0, &rejection);
        }
        self.send_draining(stream);
    }

    /// Says how soon the gateway means to be gone, if it goes away.
    pub(super) fn send_draining(&mut self, stream: StreamId) {
        if let Some(ends) = self.drain_ends {
            let remaining = ends.saturating_sub(self.now).as_millis();
            let remaining_ms = u32::try_from(remaining).unwrap_or(u32::MAX);
            self.send_frame(stream, Body::Draining(v1::Draining { remaining_ms }));
        }
    }
}
