//! The state of one `Exchange` stream.

use std::{collections::VecDeque, sync::Arc};

use gateway_proto::v1::{self, Capability, Receive, Resume, Scope, gateway_frame::Body};
use h2_stream::{Code, Status};

use crate::{
    gateway::CAPABILITIES,
    identity::{ConnId, ShardIndex, is_valid_name},
};

/// The state of one `Exchange` stream.
#[derive(Debug, Default)]
pub struct Exchange {
    /// `Hello` was taken.
    open: bool,
    whole_gateway: bool,
    /// The consumer group, when the stream receives client events.
    receives: Option<Arc<str>>,
    acks_events: bool,
    /// The newest sequence seen, and the newest one that was acknowledged.
    sequence: u64,
    handled: u64,
    acked: u64,
    /// The newest event sent, and the newest one the service has acknowledged.
    event: u64,
    event_acked: u64,
    /// Connections that wait until an event is acknowledged, in the order of events.
    unsettled: VecDeque<(u64, ConnId)>,
}

impl Exchange {
    /// A stream that has not said `Hello`.
    pub(super) fn waiting() -> Self {
        Self::default()
    }

    /// Takes `Hello` on `shard`.
    pub(super) fn accept(hello: &v1::Hello, shard: ShardIndex) -> Result<Self, Box<Status>> {
        let expected = hello.expected_shard_plus_one;
        if expected != 0 && expected != u32::from(shard) + 1 {
            let wanted = expected - 1;
            let detail = format!("this is shard {shard}, shard {wanted} was expected");
            return Err(Status::new(Code::FailedPrecondition, detail).into());
        }
        if !hello.session_id.is_empty() && hello.session_id.len() != SESSION_ID_BYTES {
            let len = hello.session_id.len();
            let detail = format!("session_id of {len} bytes; allowed: 16 bytes, or none");
            return Err(Status::new(Code::InvalidArgument, detail).into());
        }
        let receives = hello.receive.contains(&(Receive::Messages as i32));
        if receives && !is_valid_name(&hello.service) {
            let detail = "to receive MESSAGES, Hello.service must be 1 to 256 bytes";
            return Err(Status::new(Code::InvalidArgument, detail).into());
        }
        let wants = |capability: Capability| hello.capabilities.contains(&capability.into());
        Ok(Self {
            open: true,
            whole_gateway: hello.scope() == Scope::Gateway,
            receives: receives.then(|| Arc::from(hello.service.as_str())),
            acks_events: wants(Capability::ClientAck),
            ..Self::default()
        })
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn whole_gateway(&self) -> bool {
        self.whole_gateway
    }

    pub(super) fn receives(&self) -> Option<Arc<str>> {
        self.receives.clone()
    }

    pub(super) fn acks_events(&self) -> bool {
        self.acks_events
    }

    /// What is granted of what was asked for: all that this version has.
    pub(super) fn capabilities(&self) -> Vec<i32> {
        CAPABILITIES.map(i32::from).to_vec()
    }

    /// Whether `sequence` is a new one.
    pub(super) fn rises(&mut self, sequence: u64) -> bool {
        let rises = sequence > self.sequence;
        self.sequence = self.sequence.max(sequence);
        rises
    }

    /// A command has been dealt with. Whether this is the first since the last ack.
    pub(super) fn take(&mut self, sequence: u64) -> bool {
        let first = self.handled == self.acked;
        self.handled = self.handled.max(sequence);
        first && self.handled > self.acked
    }

    /// The sequence to be acknowledged, if there is a new one.
    pub(super) fn ack(&mut self) -> Option<u64> {
        let due = self.handled > self.acked;
        self.acked = self.handled;
        due.then_some(self.acked)
    }

    /// Gives a client's event its number.
    pub(super) fn number(&mut self, event: &mut Body) {
        self.event += 1;
        match event {
            Body::Opened(opened) => opened.id = self.event,
            Body::Message(message) => message.id = self.event,
            Body::Closed(closed) => closed.id = self.event,
            _ => debug_assert!(false, "not a client's event"),
        }
    }

    /// Marks the place of `conn`; `true` when nothing before it is unacknowledged.
    pub(super) fn settle(&mut self, conn: ConnId) -> bool {
        let settled = !self.acks_events || self.event_acked >= self.event;
        if !settled {
            self.unsettled.push_back((self.event, conn));
        }
        settled
    }

    /// The service has handled everything up to `id`: the connections that waited for that.
    pub(super) fn acknowledge(&mut self, id: u64) -> Vec<ConnId> {
        self.event_acked = self.event_acked.max(id.min(self.event));
        let acked = self.event_acked;
        let settled = self.unsettled.iter().take_while(|(at, _)| *at <= acked);
        let settled = settled.count();
        self.unsettled
            .drain(..settled)
            .map(|(_, conn)| conn)
            .collect()
    }
}

/// What becomes of the session that `Hello` names: sessions are not kept beyond their stream.
pub(super) fn resume(hello: &v1::Hello, epoch: u64) -> Resume {
    if hello.session_id.is_empty() || hello.gateway_epoch != epoch {
        Resume::New
    } else {
        Resume::Unknown
    }
}

const SESSION_ID_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn receiving() -> Exchange {
        let hello = v1::Hello {
            service: "chat".into(),
            receive: vec![Receive::Messages.into()],
            capabilities: vec![Capability::ClientAck.into()],
            ..Default::default()
        };
        Exchange::accept(&hello, 0).unwrap()
    }

    #[test]
    fn one_ack_serves_many_commands() {
        let mut exchange = receiving();
        assert!(exchange.take(1));
        assert!(!exchange.take(2));
        assert_eq!(exchange.ack(), Some(2));
        assert_eq!(exchange.ack(), None);
        assert!(exchange.take(7));
        assert_eq!(exchange.ack(), Some(7));
    }

    #[test]
    fn sequences_must_rise_gaps_allowed() {
        let mut exchange = receiving();
        assert!(!exchange.rises(0));
        assert!(exchange.rises(1));
        assert!(!exchange.rises(1));
        assert!(exchange.rises(9));
        assert!(!exchange.rises(8));
    }

    #[test]
    fn a_conn_settles_when_all_before_it_is_acknowledged() {
        let mut exchange = receiving();
        let (a, b) = (ConnId::new(0, 1, 1), ConnId::new(0, 2, 1));
        assert!(exchange.settle(a), "nothing was sent");
        let mut event = Body::Message(v1::ClientMessage::default());
        exchange.number(&mut event);
        assert!(!exchange.settle(a));
        exchange.number(&mut event);
        assert!(!exchange.settle(b));
        assert_eq!(exchange.acknowledge(1), [a]);
        assert_eq!(exchange.acknowledge(99), [b]);
        assert!(
            exchange.settle(a),
            "an ack beyond what was sent counts as all of it"
        );
        exchange.number(&mut event);
        assert!(!exchange.settle(a));
    }

    #[test]
    fn another_shard_than_expected_ends_the_stream() {
        let hello = v1::Hello {
            expected_shard_plus_one: 2,
            ..Default::default()
        };
        assert!(Exchange::accept(&hello, 1).is_ok());
        let status = Exchange::accept(&hello, 0).unwrap_err();
        assert_eq!(status.code, Code::FailedPrecondition);
    }
}
