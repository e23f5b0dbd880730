//! What clients do, on its way to logic services.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use gateway_proto::v1::{self, PayloadKind, gateway_frame::Body};

use super::{
    Shard,
    conn::Phase,
    route::Origin,
    upstream::{Assignments, Pick},
};
use crate::{
    command::Command,
    identity::{ConnId, ShardIndex},
    lanes::{Notice, ReceiverRef, RemoteEvent, Upward, Work},
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

/// What became of an event that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    /// Nobody will acknowledge it.
    Done,
    /// It is to be acknowledged, or waits for a stream.
    Awaited,
}

/// What became of an event, over all services.
#[derive(Debug, Default)]
struct Emitted {
    /// Services that have still to acknowledge it.
    awaited: u32,
    /// Why a service did not get it.
    refused: Option<Refused>,
}

impl Given {
    fn of(acks: bool) -> Self {
        if acks { Self::Awaited } else { Self::Done }
    }
}

impl Emitted {
    fn note(&mut self, given: Result<Given, Refused>) {
        self.awaited += u32::from(given == Ok(Given::Awaited));
        self.refused = self.refused.or(given.err());
    }
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
        self.note_lost(emitted.refused);
    }

    /// The last event of a connection.
    pub(super) fn emit_closed(&mut self, now: Duration, id: ConnId, code: u16, reason: &str) {
        let closed = v1::ClientClosed {
            id: 0,
            connection: self.wire_conn(id),
            user_id: self.user_name(id),
            code: u32::from(code),
            reason: reason.to_owned(),
        };
        let emitted = self.emit(now, id, Body::Closed(closed));
        self.note_lost(emitted.refused);
        self.remember_leaver(id, emitted.awaited);
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
        let refused = self.emit(now, id, Body::Message(message)).refused;
        self.note_lost(refused);
        let code = match refused {
            None => return,
            Some(Refused::NoService) => CloseCode::NoService,
            Some(Refused::Behind) => CloseCode::Overload,
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
        let Some((service, waited)) = self.upstream.receiver_up(service, receiver, acks) else {
            return false;
        };
        for (conn, event) in waited.into_events() {
            if matches!(event, Body::Message(_)) {
                self.waiting.remove(conn);
            }
            self.emit_again(now, service, Upward::Event(conn, event));
        }
        true
    }

    /// Forgets services that are gone for long while others receive: clients wait for them no more.
    pub(super) fn forget_services(&mut self, now: Duration) {
        while let Some(kept) = self.upstream.forget_gone(now) {
            for (conn, event) in kept.into_events() {
                self.metrics.drops.count("service_forgotten");
                match event {
                    Body::Message(_) => self.waiting.remove(conn),
                    Body::Closed(_) => self.leavers.acknowledged(conn),
                    _ => {}
                }
            }
        }
    }

    /// Closes connections whose messages have waited for a stream long enough.
    pub(super) fn close_unserved(&mut self, now: Duration) {
        while let Some(id) = self.waiting.next_due(now) {
            let conn = self.conns.get(id);
            if conn.is_some_and(|conn| matches!(conn.phase, Phase::Open { .. })) {
                let code = CloseCode::NoService;
                self.close_conn(now, id, code.into(), code.reason());
            }
        }
    }

    /// Gives an event to one stream of each service.
    fn emit(&mut self, now: Duration, id: ConnId, event: Body) -> Emitted {
        let mut emitted = Emitted::default();
        let Some(mut service) = self.upstream.service_from(0) else {
            let kept = self.keep(now, None, id, event, false);
            emitted.note(kept);
            return emitted;
        };
        while let Some(next) = self.upstream.service_from(service + 1) {
            emitted.note(self.emit_to(now, service, id, event.clone(), false));
            service = next;
        }
        emitted.note(self.emit_to(now, service, id, event, false));
        emitted
    }

    /// Gives something to a service that was on its way to it before: it is within bounds already.
    pub(super) fn emit_again(&mut self, now: Duration, service: usize, item: Upward) {
        match item {
            Upward::Event(conn, event) => {
                let last = matches!(event, Body::Closed(_));
                let given = self.emit_to(now, service, conn, event, true);
                self.note_lost(given.err());
                if last && given != Ok(Given::Awaited) {
                    self.leavers.acknowledged(conn);
                }
            }
            Upward::Settle(conn) => {
                // Without a stream, the linger of the connection ends by time.
                if let Pick::Stream { receiver, acks } = self.pick(service, conn, None)
                    && !self.settle_with(receiver, acks, conn)
                {
                    self.settle_elsewhere(now, conn);
                }
            }
        }
    }

    /// `again`: it is not refused, whatever the bounds.
    fn emit_to(
        &mut self,
        now: Duration,
        service: usize,
        id: ConnId,
        event: Body,
        again: bool,
    ) -> Result<Given, Refused> {
        let event = match self.pick(service, id, user_of(&event)) {
            Pick::Nobody => return self.keep(now, Some(service), id, event, again),
            Pick::Behind(receiver) => {
                self.upstream.hold(receiver, Upward::Event(id, event));
                self.pause(receiver, id);
                return Ok(Given::Awaited);
            }
            Pick::Stream { receiver, acks } if receiver.shard == self.index => {
                match self.emit_here(receiver, id, event, again)? {
                    None => return Ok(Given::of(acks)),
                    Some(event) => {
                        self.upstream.receiver_down(receiver);
                        event
                    }
                }
            }
            Pick::Stream { receiver, acks } => {
                self.emit_there(receiver, id, event, again)?;
                return Ok(Given::of(acks));
            }
        };
        // The stream has ended, and this is about to be told.
        self.emit_to(now, service, id, event, again)
    }

    /// The stream of a service that gets the events of a connection, or of its user if that has a name.
    fn pick(&mut self, service: usize, id: ConnId, user: Option<&str>) -> Pick {
        let conn = self.conns.get_mut(id);
        let known = conn.as_ref().and_then(|conn| conn.user);
        let known = known.or_else(|| self.users.find(user?));
        let online = known.filter(|user| !self.users.get(*user).conns.is_empty());
        // Who has left may still be known for its topics: the streams that it will take along go first.
        let assignments = match (online, self.leavers.assignments(id, user), known, conn) {
            (None, Some(left), ..) => left,
            (Some(user), ..) | (.., Some(user), _) => &mut self.users.get_mut(user).assignments,
            (.., Some(conn)) if user.is_none() => &mut conn.assignments,
            _ => &mut Assignments::new(),
        };
        self.upstream.pick(service, assignments)
    }

    fn keep(
        &mut self,
        now: Duration,
        service: Option<usize>,
        id: ConnId,
        event: Body,
        again: bool,
    ) -> Result<Given, Refused> {
        let is_message = matches!(event, Body::Message(_));
        let kept = self.upstream.keep(service, id, &event, again);
        kept.map_err(|_| Refused::NoService)?;
        if is_message {
            self.waiting.add(now, id);
        }
        Ok(Given::Awaited)
    }

    /// Gives the event back if the stream is not there any more.
    fn emit_here(
        &mut self,
        receiver: ReceiverRef,
        id: ConnId,
        event: Body,
        again: bool,
    ) -> Result<Option<Body>, Refused> {
        let at = self.outlets.stream_of(receiver.stream);
        let load = self.load_at(at);
        let hard = self.gateway.config.upstream.hard_limit_bytes;
        if load.queued.max(load.unacked) > hard && !again {
            return Err(Refused::Behind);
        }
        if let Some(event) = self.send_event(at, id, event) {
            return Ok(Some(event));
        }
        if self.is_over(at) {
            self.stream_full(receiver);
            self.pause(receiver, id);
        }
        Ok(None)
    }

    fn emit_there(
        &mut self,
        receiver: ReceiverRef,
        id: ConnId,
        event: Body,
        again: bool,
    ) -> Result<(), Refused> {
        let soft = self.gateway.config.lanes.batch_messages;
        let waiting = self.outgoing[usize::from(receiver.shard)].events.len();
        if waiting > soft * HARD_OVER_SOFT && !again {
            return Err(Refused::Behind);
        }
        self.metrics.crossings.count("event");
        self.outgoing[usize::from(receiver.shard)]
            .events
            .push(RemoteEvent {
                to: receiver.stream,
                item: Ok(Upward::Event(id, event)),
            });
        if waiting >= soft || self.upstream.is_full(receiver) {
            self.flush_events(receiver.shard);
            self.pause(receiver, id);
        }
        Ok(())
    }

    /// Somebody has left: if events of it are not acknowledged, its streams are remembered. Its `Closed` was emitted.
    pub(super) fn remember_leaver(&mut self, id: ConnId, awaited: u32) {
        let Some(conn) = self.conns.get(id).filter(|_| awaited > 0) else {
            return;
        };
        let user = conn.user.map(|user| self.users.get(user));
        if user.is_some_and(|user| user.conns[..] != [id]) {
            return;
        }
        let assignments = user.map_or(&conn.assignments, |user| &user.assignments);
        let name = user.map(|user| user.id.as_str().into());
        self.leavers.leave(id, name, assignments.clone(), awaited);
    }

    /// The last event of these, of whatever shard, is acknowledged.
    pub(super) fn left(&mut self, conns: Vec<ConnId>) {
        let mut elsewhere: HashMap<ShardIndex, Vec<ConnId>> = HashMap::new();
        for conn in conns {
            match conn.shard() {
                shard if shard == self.index => self.leavers.acknowledged(conn),
                shard => elsewhere.entry(shard).or_default().push(conn),
            }
        }
        for (shard, conns) in elsewhere {
            self.notify(shard, Notice::Left(conns));
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
            waits |= self.settle_with(receiver, true, id);
        }
        if !waits {
            self.settled(now, id);
        }
    }

    /// Marks the place of a connection behind what a stream was sent. Whether there is something to wait for.
    fn settle_with(&mut self, receiver: ReceiverRef, acks: bool, conn: ConnId) -> bool {
        if !acks {
            return false;
        }
        if receiver.shard == self.index {
            let at = self.outlets.stream_of(receiver.stream);
            return !self.settle_at(at, conn);
        }
        let outgoing = &mut self.outgoing[usize::from(receiver.shard)];
        outgoing.events.push(RemoteEvent {
            to: receiver.stream,
            item: Ok(Upward::Settle(conn)),
        });
        true
    }

    /// What `conn`, of whatever shard, sent is acknowledged. Without room in its lane, its linger ends by time.
    pub(super) fn settle_elsewhere(&mut self, now: Duration, conn: ConnId) {
        let origin = Origin {
            whole_gateway: true,
            urgent: true,
            job: None,
        };
        self.execute(now, origin, Command::Settle(conn));
    }

    fn note_lost(&self, refused: Option<Refused>) {
        match refused {
            None => {}
            Some(Refused::NoService) => self.metrics.drops.count("no_service"),
            Some(Refused::Behind) => self.metrics.drops.count("upstream_full"),
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
