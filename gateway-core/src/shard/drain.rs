//! Going away: clients are closed one by one over a set time, then what was taken is answered, then links are ended.
//!
//! Shards go from stage to stage together where one needs the other: a stream may speak to the whole gateway, so no link
//! ends before the last client of the last shard is gone, and no shard ends before the last link of the last shard is.

use std::time::Duration;

use super::{Action, Shard, conn::Phase};
use crate::{
    identity::{ConnId, SocketId},
    lanes::{Milestone, Notice},
    ws::{CloseCode, Refusal, RefusalReason},
};

/// How far going away has come.
#[derive(Debug)]
pub struct Drain {
    since: Duration,
    spread: Duration,
    /// Connections still to be closed, in random order, the last one first.
    left: Vec<ConnId>,
    total: usize,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Connections are being closed.
    Clients,
    /// None is left here; other shards may have some.
    Deserted,
    /// No more commands are taken; those that were are being answered.
    Answers { until: Duration },
    /// Streams and links are being ended.
    Links { until: Duration },
    /// None is left here; other shards may need an answer.
    Ended { until: Duration },
    /// Nothing is left to do, or time is up.
    Over,
}

/// How many other shards have come how far.
#[derive(Debug, Default)]
pub struct Others {
    deserted: usize,
    ended: usize,
}

/// How often the shard looks whether the next connections are to be closed.
pub const STEP: Duration = Duration::from_millis(5);
/// The longest wait for answers to what was taken, when all clients are gone.
const ANSWERS: Duration = Duration::from_millis(500);
/// The least time that links get to take what is left for them.
const LINKS: Duration = Duration::from_secs(1);
/// What a drain may take beyond `drain.grace_ms`.
pub const DRAIN_TAIL: Duration = Duration::from_millis(1_500);

impl Shard {
    /// Begins to go away: no new clients, those that are there are closed over `spread`, then links end.
    pub fn drain(&mut self, now: Duration, spread: Duration) {
        if self.drain.is_some() {
            return;
        }
        let mut left: Vec<ConnId> = self.conns.ids().collect();
        for at in (1..left.len()).rev() {
            let other = self.random() as usize % (at + 1);
            left.swap(at, other);
        }
        self.drain = Some(Drain {
            since: now,
            spread,
            total: left.len(),
            left,
            stage: Stage::Clients,
        });
        self.actions.push_back(Action::StopAccepting);
        for id in self.links.ids() {
            if let Some(state) = self.links.get_mut(id) {
                state.link.drain(now, spread);
            }
            self.mark_link_ready(id);
        }
    }

    /// Whether everything is closed and sent, or time is up.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let drain = self.drain.as_ref();
        drain.is_some_and(|drain| drain.stage == Stage::Over)
    }

    /// Whether the shard is going away.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// What is left of the time over which connections are closed. `None`: the shard does not go away.
    pub(super) fn drain_remaining(&self, now: Duration) -> Option<Duration> {
        let drain = self.drain.as_ref()?;
        Some((drain.since + drain.spread).saturating_sub(now))
    }

    /// When the next step is due.
    pub(super) fn drain_deadline(&self) -> Option<Duration> {
        let drain = self.drain.as_ref()?;
        let behind = drain.due(self.now) > 0;
        Some(if behind { self.now } else { self.now + STEP })
    }

    /// Another shard has come so far.
    pub(super) fn milestone(&mut self, milestone: Milestone) {
        match milestone {
            Milestone::Deserted => self.others.deserted += 1,
            Milestone::Ended => self.others.ended += 1,
        }
    }

    /// Closes those that are due, then goes from stage to stage as far as it can.
    pub(super) fn run_drain(&mut self, now: Duration) {
        let Some(drain) = &mut self.drain else {
            return;
        };
        let due = drain.due(now).min(self.gateway.config.tick.slice);
        for id in drain.left.split_off(drain.left.len() - due) {
            self.drain_conn(now, id);
        }
        while let Some(stage) = self.next_stage(now) {
            if let Some(drain) = &mut self.drain {
                drain.stage = stage;
            }
        }
    }

    fn drain_conn(&mut self, now: Duration, id: ConnId) {
        match self.conns.get(id).map(|conn| &conn.phase) {
            Some(Phase::Handshaking(_)) => {
                let refusal = self.refuse_while_draining(now);
                self.refuse_plain(now, id, &refusal);
            }
            Some(Phase::Open { .. } | Phase::Lingering(_)) => {
                let retry_after = self.retry_after_drain(now).as_millis();
                let reason = format!("retry_after_ms={retry_after}");
                self.close_conn(now, id, CloseCode::Restart.into(), &reason);
                self.give_time_to_flush(now, id);
            }
            Some(Phase::Closing { .. } | Phase::Finished { .. }) | None => {}
        }
    }

    /// How a client is refused that comes while the shard goes away.
    pub(super) fn refuse_while_draining(&mut self, now: Duration) -> Refusal {
        Refusal::retry_after(RefusalReason::Draining, self.retry_after_drain(now))
    }

    /// When a client may come back: after the drain, at a random time, so that not all come at once.
    fn retry_after_drain(&mut self, now: Duration) -> Duration {
        let spread_ms = self.gateway.config.drain.retry_after_ms;
        let jitter = Duration::from_millis(self.random() % spread_ms.max(1));
        self.drain_remaining(now).unwrap_or_default() + jitter
    }

    /// A client that reads slowly gets what is pending for it before its Close, within `drain.grace_ms`.
    fn give_time_to_flush(&mut self, now: Duration, id: ConnId) {
        let flushed_by = now.as_millis() as u64 + self.gateway.config.drain.grace_ms;
        if let Some(conn) = self.conns.get_mut(id)
            && let Phase::Closing { until_ms, .. } = &mut conn.phase
        {
            *until_ms = flushed_by;
            self.arm(id, flushed_by);
        }
    }

    /// The stage that comes next, if this one is over; does what it begins with.
    fn next_stage(&mut self, now: Duration) -> Option<Stage> {
        let drain = self.drain.as_ref()?;
        let others = self.gateway.shard_addresses.len() - 1;
        let grace = Duration::from_millis(self.gateway.config.drain.grace_ms);
        let grace_ends = drain.since + drain.spread + grace;
        match drain.stage {
            Stage::Clients if now >= grace_ends => {
                self.cut_conns(now);
                self.pass(Milestone::Deserted);
                Some(Stage::Deserted)
            }
            Stage::Clients => (drain.left.is_empty() && self.conns.len() == 0).then(|| {
                self.pass(Milestone::Deserted);
                Stage::Deserted
            }),
            Stage::Deserted => (self.others.deserted >= others || now >= grace_ends).then(|| {
                self.take_no_more_commands();
                let until = now + ANSWERS;
                Stage::Answers { until }
            }),
            Stage::Answers { until } => (self.all_is_answered() || now >= until).then(|| {
                let until = grace_ends.max(now + LINKS);
                Stage::Links { until }
            }),
            Stage::Links { until } => {
                self.end_links(now, now >= until);
                (self.links.len() == 0).then(|| {
                    self.pass(Milestone::Ended);
                    Stage::Ended { until }
                })
            }
            Stage::Ended { until } => {
                (self.others.ended >= others || now >= until).then_some(Stage::Over)
            }
            Stage::Over => None,
        }
    }

    fn pass(&mut self, milestone: Milestone) {
        for shard in self.lanes.others() {
            self.notify(shard, Notice::Drain(milestone));
        }
    }

    /// Time is up for clients: those that are left have not read, or not answered.
    fn cut_conns(&mut self, now: Duration) {
        if let Some(drain) = &mut self.drain {
            drain.left.clear();
        }
        let ids: Vec<ConnId> = self.conns.ids().collect();
        for id in ids {
            self.metrics.client_errors.count("close_timeout");
            self.remove_conn(now, id, "");
            let socket = SocketId::Conn(id);
            self.actions.push_back(Action::Close { socket });
        }
    }

    /// What comes from now on is not done, so the service can send it elsewhere. Nor is what waits for room, unless a part
    /// of it was.
    fn take_no_more_commands(&mut self) {
        for id in self.links.ids() {
            let Some(state) = self.links.get_mut(id) else {
                continue;
            };
            state.link.take_no_more();
            let link = &state.link;
            let dropped = state.held.take_if(|(ticket, ..)| !link.has_begun(ticket));
            if let Some((_, _, Some(job))) = dropped {
                self.ledger.jobs.cancel(job);
            }
        }
    }

    /// Whether nobody waits for an answer any more.
    fn all_is_answered(&mut self) -> bool {
        self.finish_jobs();
        let links = self.links.ids();
        let mut links = links.iter().filter_map(|id| self.links.get(*id));
        !self.ledger.jobs.await_outcomes()
            && self.fanouts.is_empty()
            && self.queries.is_empty()
            && links.all(|state| !state.is_mid_command())
    }

    /// Ends links; `now_or_never` also those that do not take what is left for them.
    fn end_links(&mut self, now: Duration, now_or_never: bool) {
        for id in self.links.ids() {
            let Some(state) = self.links.get_mut(id) else {
                continue;
            };
            if now_or_never || state.has_lingered(now) {
                let socket = SocketId::Link(id);
                self.actions.push_back(Action::Close { socket });
                self.link_gone(now, id);
                continue;
            }
            if !state.is_mid_command() {
                state.link.shutdown(now);
            }
            self.mark_link_ready(id);
        }
    }
}

impl Drain {
    /// How many of those that are left are to be closed by now.
    fn due(&self, now: Duration) -> usize {
        let elapsed = now.saturating_sub(self.since);
        let closed = self.total - self.left.len();
        let part = if self.spread.is_zero() {
            1.0
        } else {
            (elapsed.as_secs_f64() / self.spread.as_secs_f64()).min(1.0)
        };
        // At least one at once, so that a handful is not kept waiting for the first step.
        let by_now = (self.total as f64 * part).ceil() as usize;
        by_now.saturating_sub(closed).min(self.left.len())
    }
}
