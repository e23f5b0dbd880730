//! When commands are acknowledged. An ack is cumulative, so it can wait for more of them: with every command at once it would be
//! half of what a quiet shard sends. It rides along with whatever else a link has to send, and leaves by itself when enough commands
//! or bytes have come, or the first of them has waited long enough.

use std::time::Duration;

use h2_stream::StreamId;

/// Commands that are worth an ack.
const COMMANDS: usize = 64;
/// Bytes that are worth an ack: what a sender may keep is bounded.
const BYTES: usize = 64 << 10;
/// Longest wait.
const PATIENCE: Duration = Duration::from_millis(2);

/// The acks that a link owes.
#[derive(Debug, Default)]
pub(super) struct Acks {
    /// `Exchange` streams with something new to acknowledge.
    streams: Vec<StreamId>,
    commands: usize,
    bytes: usize,
    due: Duration,
}

impl Acks {
    /// A command of so many bytes was dealt with; `stream`, if it is the first one of its stream since its last ack.
    pub(super) fn owe(&mut self, now: Duration, bytes: usize, stream: Option<StreamId>) {
        if self.streams.is_empty() {
            (self.commands, self.bytes, self.due) = (0, 0, now + PATIENCE);
        }
        self.commands += 1;
        self.bytes += bytes;
        self.streams.extend(stream);
    }

    /// When they leave by themselves. `None`: there are none.
    pub(super) fn due(&self) -> Option<Duration> {
        let enough = self.commands >= COMMANDS || self.bytes >= BYTES;
        let due = if enough { Duration::ZERO } else { self.due };
        (!self.streams.is_empty()).then_some(due)
    }

    /// The streams whose acks leave now.
    pub(super) fn take(&mut self) -> Vec<StreamId> {
        std::mem::take(&mut self.streams)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: StreamId = StreamId(1);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_single_command_waits_for_others() {
        let mut acks = Acks::default();
        assert_eq!(acks.due(), None);
        acks.owe(10 * MS, 100, Some(STREAM));
        acks.owe(11 * MS, 100, None);
        assert_eq!(acks.due(), Some(10 * MS + PATIENCE));
        assert_eq!(acks.take(), [STREAM]);
        assert_eq!(acks.due(), None);
    }

    #[test]
    fn many_commands_or_bytes_do_not_wait() {
        let mut many = Acks::default();
        many.owe(MS, 1, Some(STREAM));
        for _ in 1..COMMANDS {
            many.owe(MS, 1, None);
        }
        assert_eq!(many.due(), Some(Duration::ZERO));
        many.take();
        many.owe(5 * MS, 1, Some(STREAM));
        assert_eq!(many.due(), Some(5 * MS + PATIENCE), "counted anew");

        let mut large = Acks::default();
        large.owe(MS, BYTES, Some(STREAM));
        assert_eq!(large.due(), Some(Duration::ZERO));
    }
}
