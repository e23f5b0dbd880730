//! When a ring that is slept on wakes its shard, if nothing else does.
//!
//! A sleep with a time limit starts a timer and stops it again: twice the clock is set, which on a virtual machine the host has
//! to do. What a shard waits for moves on with every tick, mostly to later. So the alarm stays set, and is set anew only to
//! ring earlier; when it rings too early, the shard goes back to sleep.

use std::time::Duration;

use uring::{opcode, squeue, types::Timespec};

use super::token::Token;

/// A pending request of the kind `IORING_OP_TIMEOUT`.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    due: Option<Duration>,
    /// How long that was, when it was set last. The kernel reads it when the request is handed over.
    after: Box<Timespec>,
}

impl Alarm {
    /// The request that makes it ring at `at`; none if it rings by then anyhow. Whoever hands the request over keeps the alarm
    /// until then.
    pub(super) fn set(&mut self, now: Duration, at: Duration) -> Option<squeue::Entry> {
        let is_set = match self.due {
            Some(due) if due <= at => return None,
            due => due.is_some(),
        };
        self.due = Some(at);
        *self.after = Timespec::from(at.saturating_sub(now));
        let after = &raw const *self.after;
        Some(if is_set {
            // It fails if the alarm rings at this moment: that is early enough.
            let update = opcode::TimeoutUpdate::new(Token::Alarm.pack(), after).build();
            update.flags(squeue::Flags::SKIP_SUCCESS)
        } else {
            let timeout = opcode::Timeout::new(after).build();
            timeout.user_data(Token::Alarm.pack())
        })
    }

    /// It has rung.
    pub(super) fn rang(&mut self) {
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_set_anew_to_ring_earlier_or_when_it_has_rung() {
        let ms = Duration::from_millis;
        let mut alarm = Alarm::default();
        let mut sets = |now, at| alarm.set(ms(now), ms(at)).is_some();
        assert!(sets(0, 1000));
        assert!(!sets(10, 1010), "it rings before that");
        assert!(sets(20, 30));
        assert!(!sets(25, 30));
        alarm.rang();
        assert!(alarm.set(ms(30), ms(1030)).is_some());
    }
}
