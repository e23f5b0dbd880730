//! The state of one `Exchange` stream.

use std::sync::Arc;

use gateway_proto::v1::{self, Capability, Receive, Scope};
use h2_stream::{Code, Status};

use super::events::{Acknowledged, Events};
use super::session::{Ended, Progress, Resumption, SESSION_ID_BYTES, SessionKey};
use crate::identity::{ShardIndex, is_valid_name};

/// The state of one `Exchange` stream.
#[derive(Debug, Default)]
pub struct Exchange {
    /// `Hello` was taken.
    open: bool,
    /// It was answered.
    welcome: bool,
    whole_gateway: bool,
    /// The consumer group, when the stream receives client events.
    receives: Option<Arc<str>>,
    acks_events: bool,
    /// The newest sequence seen, the newest one that was dealt with, and whether that is to be acknowledged.
    sequence: u64,
    handled: u64,
    ack_due: bool,
    /// The session that goes on when the stream breaks.
    session: Option<SessionKey>,
    /// Commands up to here had their effect on an earlier stream of the session, and of the batch behind them a part.
    resumed: u64,
    partial: Option<(u64, usize)>,
    /// The service has said something.
    used: bool,
    /// What it was sent of clients' events.
    pub(super) events: Events,
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

    pub(super) fn is_welcome(&self) -> bool {
        self.welcome
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

    /// The session goes on, or begins.
    pub(super) fn begin(&mut self, resumption: &Resumption) {
        let progress = &resumption.progress;
        self.welcome = true;
        self.session = resumption.key;
        (self.resumed, self.handled) = (progress.last_sequence, progress.last_sequence);
        self.partial = progress.partial;
    }

    /// How far commands have come; `partial` of what came on this stream.
    pub(super) fn progress(&self, partial: Option<(u64, usize)>) -> Progress {
        let partial = partial.or(self.partial);
        Progress {
            last_sequence: self.handled,
            partial: partial.filter(|(sequence, done)| *sequence > self.handled && *done > 0),
            used: self.used,
        }
    }

    /// What is left when the stream has ended.
    pub(super) fn end(self, progress: Progress) -> Ended {
        Ended {
            key: self.session,
            progress,
            unacknowledged: self.events.into_unacknowledged(),
        }
    }

    /// Whether an earlier stream of the session brought this command, and it had its effect.
    pub(super) fn was_done(&self, sequence: u64) -> bool {
        sequence <= self.resumed
    }

    /// How many messages of this batch had their effect on an earlier stream of the session.
    pub(super) fn done_in_part(&mut self, sequence: u64) -> usize {
        let same = self.partial.take_if(|(of, _)| *of == sequence);
        same.map_or(0, |(_, done)| done)
    }

    /// Whether `sequence` is a new one on this stream.
    pub(super) fn rises(&mut self, sequence: u64) -> bool {
        self.used = true;
        let rises = sequence > self.sequence;
        self.sequence = self.sequence.max(sequence);
        rises
    }

    /// A command has been dealt with. Whether this is the first since the last ack.
    pub(super) fn take(&mut self, sequence: u64) -> bool {
        self.handled = self.handled.max(sequence);
        !std::mem::replace(&mut self.ack_due, true)
    }

    /// The sequence to be acknowledged, if there is a new one.
    pub(super) fn ack(&mut self) -> Option<u64> {
        std::mem::take(&mut self.ack_due).then_some(self.handled)
    }

    /// The service has handled everything up to `id`.
    pub(super) fn acknowledge(&mut self, id: u64) -> Acknowledged {
        self.used = true;
        self.events.acknowledge(id)
    }
}

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
