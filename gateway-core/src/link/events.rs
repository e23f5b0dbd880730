//! What a stream was sent of clients' events, and how much of it the service has acknowledged.

use std::collections::VecDeque;

use gateway_proto::v1::gateway_frame::Body;

use crate::{identity::ConnId, lanes::Upward};

/// The events of one stream, numbered from 1.
#[derive(Debug, Default)]
pub struct Events {
    /// The newest event sent, and the newest one the service has acknowledged.
    newest: u64,
    acked: u64,
    /// Those between: their connections, and how long they are.
    unacked: VecDeque<(ConnId, Body, usize)>,
    bytes: usize,
    /// Messages among them.
    messages: usize,
    /// Connections that wait until an event is acknowledged, in the order of events.
    unsettled: VecDeque<(u64, ConnId)>,
}

/// What an acknowledgement means for connections.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// What these sent before their Close is acknowledged.
    pub settled: Vec<ConnId>,
    /// The last event of these is acknowledged.
    pub left: Vec<ConnId>,
}

impl Events {
    /// Gives a client's event its number.
    pub fn number(&mut self, event: &mut Body) {
        self.newest += 1;
        match event {
            Body::Opened(opened) => opened.id = self.newest,
            Body::Message(message) => message.id = self.newest,
            Body::Closed(closed) => closed.id = self.newest,
            _ => debug_assert!(false, "not a client's event"),
        }
    }

    /// Keeps the newest event until it is acknowledged.
    pub fn keep(&mut self, conn: ConnId, event: Body) {
        let bytes = event.encoded_len();
        self.bytes += bytes;
        self.messages += usize::from(is_message(&event));
        self.unacked.push_back((conn, event, bytes));
    }

    /// Bytes of what is not acknowledged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether messages are among what is not acknowledged. A service that acknowledges messages alone gives no sign
    /// for what came after the newest one.
    pub fn has_messages(&self) -> bool {
        self.messages > 0
    }

    /// Marks the place of `conn`; `true` when nothing before it is unacknowledged.
    pub fn settle(&mut self, conn: ConnId) -> bool {
        let settled = self.unacked.is_empty();
        if !settled {
            self.unsettled.push_back((self.newest, conn));
        }
        settled
    }

    /// The service has handled everything up to `id`.
    pub fn acknowledge(&mut self, id: u64) -> Acknowledged {
        let mut acknowledged = Acknowledged::default();
        while self.acked < id.min(self.newest) {
            self.acked += 1;
            let Some((conn, event, bytes)) = self.unacked.pop_front() else {
                continue;
            };
            self.bytes -= bytes;
            self.messages -= usize::from(is_message(&event));
            if matches!(event, Body::Closed(_)) {
                acknowledged.left.push(conn);
            }
        }
        while let Some((_, conn)) = self.unsettled.pop_front_if(|(at, _)| *at <= self.acked) {
            acknowledged.settled.push(conn);
        }
        acknowledged
    }

    /// Events that are not acknowledged, from behind `last` on.
    pub fn behind(&self, last: u64) -> impl Iterator<Item = &Body> {
        let known = last.saturating_sub(self.acked) as usize;
        self.unacked.iter().skip(known).map(|(_, event, _)| event)
    }

    /// What is to be given to another stream, in order, places of connections included.
    pub fn into_unacknowledged(self) -> Vec<Upward> {
        let mut all = Vec::with_capacity(self.unacked.len() + self.unsettled.len());
        let mut unsettled = self.unsettled.into_iter().peekable();
        for (id, (conn, event, _)) in (self.acked + 1..).zip(self.unacked) {
            all.push(Upward::Event(conn, event));
            while let Some((_, conn)) = unsettled.next_if(|(at, _)| *at <= id) {
                all.push(Upward::Settle(conn));
            }
        }
        all
    }
}

fn is_message(event: &Body) -> bool {
    matches!(event, Body::Message(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_proto::v1::{ClientClosed, ClientMessage};

    const A: u32 = 1;
    const B: u32 = 2;

    fn conn(slot: u32) -> ConnId {
        ConnId::new(0, slot, 1)
    }

    fn send(events: &mut Events, slot: u32, mut event: Body) {
        events.number(&mut event);
        events.keep(conn(slot), event);
    }

    fn message() -> Body {
        Body::Message(ClientMessage {
            payload: vec![0; 100].into(),
            ..Default::default()
        })
    }

    #[test]
    fn a_conn_settles_when_all_before_it_is_acknowledged() {
        let mut events = Events::default();
        assert!(events.settle(conn(A)), "nothing was sent");
        send(&mut events, A, message());
        assert!(!events.settle(conn(A)));
        send(&mut events, B, message());
        assert!(!events.settle(conn(B)));
        assert_eq!(events.acknowledge(1).settled, [conn(A)]);
        assert_eq!(events.acknowledge(99).settled, [conn(B)]);
        assert!(
            events.settle(conn(A)),
            "an ack beyond what was sent counts as all of it"
        );
        assert_eq!(events.bytes(), 0);
    }

    #[test]
    fn who_left_is_named_when_its_last_event_is_acknowledged() {
        let mut events = Events::default();
        send(&mut events, A, message());
        send(&mut events, A, Body::Closed(ClientClosed::default()));
        send(&mut events, B, message());
        assert_eq!(events.acknowledge(1), Acknowledged::default());
        assert_eq!(events.acknowledge(3).left, [conn(A)]);
        assert!(!events.has_messages());
    }

    #[test]
    fn what_is_not_acknowledged_is_given_on_in_order_with_the_places_in_it() {
        let mut events = Events::default();
        for slot in [A, B, A] {
            send(&mut events, slot, message());
            if slot == B {
                events.settle(conn(B));
            }
        }
        events.acknowledge(1);
        assert_eq!(events.behind(0).count(), 2);
        assert_eq!(events.behind(2).count(), 1);
        assert_eq!(events.behind(3).count(), 0);
        let given = events.into_unacknowledged().into_iter();
        let given: Vec<_> = given
            .map(|item| match item {
                Upward::Event(conn, _) => (conn, "event"),
                Upward::Settle(conn) => (conn, "place"),
            })
            .collect();
        let expected = [(conn(B), "event"), (conn(B), "place"), (conn(A), "event")];
        assert_eq!(given, expected);
    }
}
