//! Clients' events on their way through a link.

use gateway_proto::v1::{self, gateway_frame::Body};
use h2_stream::StreamId;

use super::{Events, Input, Link, calls::Call};
use crate::identity::ConnId;

/// What a stream that receives clients' events has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The consumer group.
    pub service: std::sync::Arc<str>,
    /// Those of the whole gateway.
    pub whole_gateway: bool,
    /// It acknowledges what it has handled.
    pub acks: bool,
}

/// How much waits on a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes that wait to be sent.
    pub queued: usize,
    /// Bytes of events that the service has not acknowledged.
    pub unacked: usize,
    /// Messages are among those: an acknowledgement can be counted on.
    pub messages: bool,
}

impl Link {
    /// What a stream has asked for, if it receives clients' events.
    #[must_use]
    pub fn wanted(&self, stream: StreamId) -> Option<Wanted> {
        let Some(Call::Exchange(exchange)) = self.calls.get(&stream) else {
            return None;
        };
        Some(Wanted {
            service: exchange.receives()?,
            whole_gateway: exchange.whole_gateway(),
            acks: exchange.acks_events(),
        })
    }

    /// Sends an event of `conn` to a stream that receives them. Gives it back if there is no such stream.
    pub fn send_event(&mut self, stream: StreamId, conn: ConnId, mut event: Body) -> Option<Body> {
        let Some(Call::Exchange(exchange)) = self.calls.get_mut(&stream) else {
            return Some(event);
        };
        exchange.events.number(&mut event);
        let mut frame = v1::GatewayFrame { body: Some(event) };
        self.server.send(stream, &frame);
        self.metrics.messages_out_logic.add(1);
        if let Some(event) = frame.body.take()
            && exchange.acks_events()
        {
            let before = exchange.events.bytes();
            exchange.events.keep(conn, event);
            let added = exchange.events.bytes() - before;
            self.metrics.unacked_bytes.add(added as u64);
        }
        None
    }

    /// Marks the place of `conn` behind all events sent so far. `true`: all of them are acknowledged already, or
    /// nobody will ever acknowledge them.
    pub fn settle(&mut self, stream: StreamId, conn: ConnId) -> bool {
        match self.calls.get_mut(&stream) {
            Some(Call::Exchange(exchange)) => exchange.events.settle(conn),
            _ => true,
        }
    }

    /// Takes the events away from a stream whose place another one takes.
    pub fn take_events(&mut self, stream: StreamId) -> Events {
        let exchange = self.exchange(stream);
        let events = exchange.map(|exchange| std::mem::take(&mut exchange.events));
        let events = events.unwrap_or_default();
        self.metrics.unacked_bytes.sub(events.bytes() as u64);
        events
    }

    /// Goes on with the events of another stream, behind the newest one that the service has of them.
    pub fn carry_on(&mut self, stream: StreamId, events: Events, last: u64) {
        let Some(Call::Exchange(exchange)) = self.calls.get_mut(&stream) else {
            return;
        };
        for event in events.behind(last) {
            let body = Some(event.clone());
            self.server.send(stream, &v1::GatewayFrame { body });
            self.metrics.events_resent.add(1);
        }
        self.metrics.unacked_bytes.add(events.bytes() as u64);
        exchange.events = events;
    }

    /// Bytes of events that are not acknowledged, on all streams.
    #[must_use]
    pub fn unacked_bytes(&self) -> usize {
        let calls = self.calls.values();
        let unacked = calls.map(|call| match call {
            Call::Exchange(exchange) => exchange.events.bytes(),
            _ => 0,
        });
        unacked.sum()
    }

    /// Credit of HTTP/2 that the peer has not got back.
    #[must_use]
    pub fn unreleased(&self) -> usize {
        self.server.unreleased()
    }

    /// How many bytes wait to be sent on a stream.
    #[must_use]
    pub fn queued(&self, stream: StreamId) -> usize {
        self.server.queued(stream)
    }

    /// How much waits on a stream.
    #[must_use]
    pub fn load(&self, stream: StreamId) -> Load {
        let queued = self.server.queued(stream);
        match self.calls.get(&stream) {
            Some(Call::Exchange(exchange)) => Load {
                queued,
                unacked: exchange.events.bytes(),
                messages: exchange.events.has_messages(),
            },
            _ => Load {
                queued,
                ..Load::default()
            },
        }
    }

    /// The service has handled everything up to `id`.
    pub(super) fn on_client_ack(&mut self, stream: StreamId, id: u64) -> Option<Input> {
        let exchange = self.exchange(stream)?;
        let before = exchange.events.bytes();
        let acknowledged = exchange.acknowledge(id);
        let freed = before - exchange.events.bytes();
        self.metrics.unacked_bytes.sub(freed as u64);
        if !acknowledged.left.is_empty() {
            self.later.push_back(Input::Left(acknowledged.left));
        }
        let settled = acknowledged.settled;
        (!settled.is_empty()).then_some(Input::Settled(settled))
    }
}
