//! What clients do, on its way to logic services.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use gateway_proto::v1::{self, PayloadKind, gateway_frame::Body};

use super::{Shard, route::Origin};
use crate::{
    command::Command,
    identity::{ConnId, ShardIndex, SocketId},
    lanes::{Notice, ReceiverRef, RemoteEvent, Work},
    ws::{CloseCode, UpgradeRequest},
};

/// Why an event was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// No stream takes it, and no room is left to keep it.
    NoService,
    /// The stream that takes it is too far behind.
    Behind,
}

impl Shard {
    pub(super) fn emit_opened(
        &mut self,
        now: Duration,
        id: ConnId,
        peer: SocketAddr,
        request: &UpgradeRequest,
    ) {
        let header = |(name, value): &(String, String)| v1::Header {
            name: name.clone(),
            value: value.clone(),
        };
        let opened = v1::ClientOpened {
            id: 0,
            connection: self.wire_conn(id),
            user_id: self.user_name(id),
            remote_address: peer.to_string(),
            path: request.path.clone(),
            query: request.query.clone(),
            subprotocol: request.subprotocol.clone().unwrap_or_default(),
            headers: request.headers.iter().map(header).collect(),
        };
        let emitted = self.emit(now, id, Body::Opened(opened));
        self.note_lost(emitted);
    }

    pub(super) fn emit_closed(&mut self, now: Duration, id: ConnId, code: u16, reason: &str) {
        let closed = v1::ClientClosed {
            id: 0,
            connection: self.wire_conn(id),
            user_id: self.user_name(id),
            code: u32::from(code),
            reason: reason.to_owned(),
        };
        let emitted = self.emit(now, id, Body::Closed(closed));
        self.note_lost(emitted);
    }

    /// A message that no service takes ends its connection: the client would wait for an answer in vain.
    pub(super) fn emit_message(&mut self, now: Duration, id: ConnId, payload: &[u8], text: bool) {
        self.metrics.messages_in_client.add(1);
        if let Some(conn) = self.conns.get_mut(id) {
            conn.chatty = true;
        }
        let kind = if text {
            PayloadKind::Text
        } else {
            PayloadKind::Binary
        };
        let message = v1::ClientMessage {
            id: 0,
            connection: self.wire_conn(id),
            user_id: self.user_name(id),
            payload: Bytes::copy_from_slice(payload),
            kind: kind.into(),
        };
        let emitted = self.emit(now, id, Body::Message(message));
        self.note_lost(emitted);
        let code = match emitted {
            Ok(()) => return,
            Err(Refused::NoService) => CloseCode::NoService,
            Err(Refused::Behind) => CloseCode::Overload,
        };
        self.close_conn(now, id, code.into(), code.reason());
    }

    /// A stream wants the events of a service, here or on another shard. `false`: there are too many services.
    pub(super) fn receiver_up(
        &mut self,
        now: Duration,
        service: &Arc<str>,
        receiver: ReceiverRef,
        acks: bool,
    ) -> bool {
        let Some((service, waiting)) = self.upstream.receiver_up(service, receiver, acks) else {
            return false;
        };
        for (conn, event) in waiting {
            let emitted = self.emit_to(now, service, conn, event);
            self.note_lost(emitted);
        }
        true
    }

    /// Gives an event to one stream of each service.
    fn emit(&mut self, now: Duration, id: ConnId, event: Body) -> Result<(), Refused> {
        let services = self.upstream.services();
        let Some(last) = services.checked_sub(1) else {
            let kept = self.upstream.keep(None, id, event);
            return kept.map_err(|_| Refused::NoService);
        };
        let mut result = Ok(());
        for service in 0..last {
            result = result.and(self.emit_to(now, service, id, event.clone()));
        }
        self.emit_to(now, last, id, event).and(result)
    }

    fn emit_to(
        &mut self,
        _now: Duration,
        service: usize,
        id: ConnId,
        event: Body,
    ) -> Result<(), Refused> {
        let user = self.conns.get(id).and_then(|conn| conn.user);
        let receiver = match (user, self.conns.get_mut(id)) {
            (Some(user), _) => {
                let assignments = &mut self.users.get_mut(user).assignments;
                self.upstream.pick(service, assignments)
            }
            (None, Some(conn)) => self.upstream.pick(service, &mut conn.assignments),
            // It waited, and its connection is gone: its user may be there still.
            (None, None) => {
                let user = user_of(&event).and_then(|user| self.users.find(user));
                match user {
                    Some(user) => {
                        let assignments = &mut self.users.get_mut(user).assignments;
                        self.upstream.pick(service, assignments)
                    }
                    None => self.upstream.pick(service, &mut Vec::new()),
                }
            }
        };
        match receiver {
            None => {
                let kept = self.upstream.keep(Some(service), id, event);
                kept.map_err(|_| Refused::NoService)
            }
            Some(receiver) if receiver.shard == self.index => self.emit_here(receiver, id, event),
            Some(receiver) => self.emit_there(receiver, id, event),
        }
    }

    fn emit_here(&mut self, receiver: ReceiverRef, id: ConnId, event: Body) -> Result<(), Refused> {
        let limits = &self.gateway.config;
        let (soft, hard) = (
            limits.grpc.send_buffer_bytes,
            limits.upstream.hard_limit_bytes,
        );
        if self.queued_at(receiver.stream) > hard {
            return Err(Refused::Behind);
        }
        if let Some(queued) = self.send_event(receiver.stream, event)
            && queued > soft
        {
            self.stream_full(receiver);
            self.pause(receiver, id);
        }
        Ok(())
    }

    fn emit_there(
        &mut self,
        receiver: ReceiverRef,
        id: ConnId,
        event: Body,
    ) -> Result<(), Refused> {
        let soft = self.gateway.config.lanes.batch_messages;
        let waiting = self.outgoing[usize::from(receiver.shard)].events.len();
        if waiting > soft * HARD_OVER_SOFT {
            return Err(Refused::Behind);
        }
        self.metrics.crossings.count("event");
        self.outgoing[usize::from(receiver.shard)]
            .events
            .push(RemoteEvent {
                to: receiver.stream,
                conn: id,
                event: Some(event),
            });
        if waiting >= soft || self.upstream.is_full(receiver) {
            self.flush_events(receiver.shard);
            self.pause(receiver, id);
        }
        Ok(())
    }

    /// Events from another shard for streams of this one.
    pub(super) fn take_events(&mut self, now: Duration, events: Vec<RemoteEvent>) {
        let soft = self.gateway.config.grpc.send_buffer_bytes;
        for RemoteEvent { to, conn, event } in events {
            let Some(event) = event else {
                if self.settle_at(to, conn) {
                    self.settle_elsewhere(now, conn);
                }
                continue;
            };
            match self.send_event(to, event) {
                Some(queued) if queued > soft => {
                    let shard = self.index;
                    self.stream_full(ReceiverRef { shard, stream: to });
                }
                Some(_) => {}
                // The stream has ended meanwhile; the notice of that is on its way.
                None => self.metrics.drops.count("no_service"),
            }
        }
    }

    /// Sends the events that are for a shard, as far as its lane has room.
    pub(super) fn flush_events(&mut self, shard: ShardIndex) {
        let events = &mut self.outgoing[usize::from(shard)].events;
        if events.is_empty() {
            return;
        }
        let batch = std::mem::take(events);
        if let Err(Work::Events(batch)) = self.lanes.send_work(shard, Work::Events(batch)) {
            self.outgoing[usize::from(shard)].events = batch;
        }
    }

    /// A lingering connection waits until the streams that have its messages acknowledge them.
    pub(super) fn await_acknowledgement(&mut self, now: Duration, id: ConnId) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        let assignments = match conn.user {
            Some(user) => &self.users.get(user).assignments,
            None => &conn.assignments,
        };
        let mut waits = false;
        for receiver in self.upstream.acknowledging(assignments) {
            if receiver.shard == self.index {
                waits |= !self.settle_at(receiver.stream, id);
            } else {
                waits = true;
                let marker = RemoteEvent {
                    to: receiver.stream,
                    conn: id,
                    event: None,
                };
                self.outgoing[usize::from(receiver.shard)]
                    .events
                    .push(marker);
            }
        }
        if !waits {
            self.settled(now, id);
        }
    }

    /// What `conn`, of whatever shard, sent is acknowledged. Without room in its lane, its linger ends by time.
    pub(super) fn settle_elsewhere(&mut self, now: Duration, conn: ConnId) {
        let origin = Origin {
            whole_gateway: true,
            job: None,
        };
        self.execute(now, origin, Command::Settle(conn));
    }

    /// Reads on from connections whose stream has room again, or is gone.
    pub(super) fn resume_paused(&mut self) {
        self.relieve_streams();
        if self.paused.is_empty() {
            return;
        }
        let soft = self.gateway.config.lanes.batch_messages;
        for (receiver, id) in std::mem::take(&mut self.paused) {
            let elsewhere = receiver.shard != self.index;
            let waiting = self.outgoing[usize::from(receiver.shard)].events.len();
            if self.upstream.is_full(receiver) || (elsewhere && waiting >= soft) {
                self.paused.push((receiver, id));
            } else if let Some(conn) = self.conns.get_mut(id) {
                conn.paused = false;
                let socket = SocketId::Conn(id);
                self.actions.push_back(super::Action::Resume { socket });
            }
        }
    }

    fn pause(&mut self, receiver: ReceiverRef, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && !std::mem::replace(&mut conn.paused, true)
        {
            self.paused.push((receiver, id));
        }
    }

    /// A stream of this shard has more waiting than it should.
    fn stream_full(&mut self, receiver: ReceiverRef) {
        if !self.full_streams.contains(&receiver) {
            self.full_streams.push(receiver);
            self.tell_full(receiver, true);
        }
    }

    fn relieve_streams(&mut self) {
        if self.full_streams.is_empty() {
            return;
        }
        let low = self.gateway.config.grpc.send_buffer_bytes / 2;
        for receiver in std::mem::take(&mut self.full_streams) {
            if self.queued_at(receiver.stream) > low {
                self.full_streams.push(receiver);
            } else {
                self.tell_full(receiver, false);
            }
        }
    }

    fn tell_full(&mut self, receiver: ReceiverRef, full: bool) {
        self.upstream.set_full(receiver, full);
        if self.announced.iter().any(|(other, _)| *other == receiver) {
            for shard in self.lanes.others() {
                self.notify(shard, Notice::ReceiverFull { receiver, full });
            }
        }
    }

    fn note_lost(&self, emitted: Result<(), Refused>) {
        match emitted {
            Ok(()) => {}
            Err(Refused::NoService) => self.metrics.drops.count("no_service"),
            Err(Refused::Behind) => self.metrics.drops.count("upstream_full"),
        }
    }

    fn wire_conn(&self, id: ConnId) -> Option<v1::Connection> {
        Some(v1::Connection {
            epoch: self.gateway.epoch,
            id: id.to_wire(),
        })
    }

    fn user_name(&self, id: ConnId) -> Option<String> {
        let user = self.conns.get(id)?.user?;
        Some(self.users.get(user).id.to_string())
    }
}

/// Paused sockets bring no more, but what they had brought already may be this many times the bound.
const HARD_OVER_SOFT: usize = 64;

fn user_of(event: &Body) -> Option<&str> {
    match event {
        Body::Opened(opened) => opened.user_id.as_deref(),
        Body::Message(message) => message.user_id.as_deref(),
        Body::Closed(closed) => closed.user_id.as_deref(),
        _ => None,
    }
}
