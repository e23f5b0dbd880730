//! Events that wait for a service that has no stream.

use std::collections::VecDeque;

use gateway_proto::v1::{self, gateway_frame::Body as Event};
use prost::Message;

use crate::identity::ConnId;

/// Events in their order, as the bytes they will be sent as: a third of what they take otherwise, and where no service is,
/// every idle connection has one.
#[derive(Debug, Default)]
pub struct Kept {
    events: VecDeque<(ConnId, Box<[u8]>)>,
    bytes: usize,
    /// Of those, what a stream had before: it was within the bounds of that.
    again: (usize, usize),
}

impl Kept {
    /// Adds one. `again`: a stream had it before.
    pub fn push(&mut self, conn: ConnId, event: &Event, again: bool) {
        let mut bytes = Vec::with_capacity(event.encoded_len());
        event.encode(&mut bytes);
        self.bytes += bytes.len();
        if again {
            self.again.0 += 1;
            self.again.1 += bytes.len();
        }
        self.events.push_back((conn, bytes.into_boxed_slice()));
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many, and how many bytes, no stream had before.
    pub fn new_ones(&self) -> (usize, usize) {
        (self.len() - self.again.0, self.bytes - self.again.1)
    }

    /// All of them, in order.
    pub fn into_events(self) -> impl Iterator<Item = (ConnId, Event)> {
        self.events.into_iter().filter_map(|(conn, bytes)| {
            let frame = v1::GatewayFrame::decode(&bytes[..]);
            debug_assert!(frame.is_ok(), "it was encoded here");
            Some((conn, frame.ok()?.body?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_out_went_in() {
        let opened = Event::Opened(v1::ClientOpened {
            user_id: Some("alice".into()),
            path: "/ws".into(),
            ..Default::default()
        });
        let closed = Event::Closed(v1::ClientClosed {
            code: 1001,
            ..Default::default()
        });
        let mut kept = Kept::default();
        let conn = ConnId::new(0, 1, 2);
        kept.push(conn, &opened, false);
        kept.push(conn, &closed, true);
        assert_eq!(kept.new_ones(), (1, opened.encoded_len()));
        let events: Vec<_> = kept.into_events().collect();
        assert_eq!(events, [(conn, opened), (conn, closed)]);
    }
}
