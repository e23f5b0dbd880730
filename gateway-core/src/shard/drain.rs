//! Going away: clients are closed one by one over a set time, then links are ended.

use std::time::Duration;

use super::{Action, Shard, conn::Phase};
use crate::{
    identity::{ConnId, LinkId, SocketId},
    ws::{CloseCode, RefusalReason},
};

/// How far going away has come.
#[derive(Debug)]
pub struct Drain {
    since: Duration,
    /// Connections still to be closed, in random order, the last one first.
    left: Vec<ConnId>,
    total: usize,
    links_ended: bool,
    /// Everything is closed, or time is up.
    over: bool,
}

/// How often the shard looks whether the next connections are to be closed.
pub const STEP: Duration = Duration::from_millis(5);

impl Shard {
    /// Begins to go away: no new clients, those that are there are closed over `drain.spread_ms`, then links end.
    pub fn drain(&mut self, now: Duration) {
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
            total: left.len(),
            left,
            links_ended: false,
            over: false,
        });
        self.actions.push_back(Action::StopAccepting);
        let spread = Duration::from_millis(self.gateway.config.drain.spread_ms);
        for id in self.links.ids() {
            if let Some(state) = self.links.get_mut(id) {
                state.link.drain(spread);
            }
            self.mark_link_ready(id);
        }
    }

    /// Whether everything is closed and sent, or time is up.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.over)
    }

    /// Whether the shard is going away.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// Closes those that are due; ends links when nobody is left.
    pub(super) fn run_drain(&mut self, now: Duration) {
        let Some(drain) = &mut self.drain else {
            return;
        };
        let config = &self.gateway.config.drain;
        let spread = Duration::from_millis(config.spread_ms);
        let grace = Duration::from_millis(config.grace_ms);
        let elapsed = now.saturating_sub(drain.since);
        let due = drain.due(elapsed, spread);
        let late = elapsed >= spread + grace;
        let batch = drain.left.split_off(drain.left.len() - due);
        let links_ended = drain.links_ended;
        for id in batch {
            self.drain_conn(now, id, spread.saturating_sub(elapsed));
        }
        let waiting = self
            .drain
            .as_ref()
            .is_some_and(|drain| !drain.left.is_empty());
        let nobody_left = !waiting && self.conns.len() == 0;
        if !links_ended && (nobody_left || late) {
            self.end_links(now);
        } else if links_ended && (self.links.len() == 0 || late) {
            self.set_drained();
        }
    }

    fn drain_conn(&mut self, now: Duration, id: ConnId, remaining: Duration) {
        let spread_ms = self.gateway.config.drain.retry_after_ms;
        match self.conns.get(id).map(|conn| &conn.phase) {
            Some(Phase::Handshaking(_)) => {
                self.refuse_plain(now, id, &RefusalReason::Draining.into());
            }
            Some(Phase::Open { .. } | Phase::Lingering { .. }) => {
                let jitter = self.random() % spread_ms.max(1);
                let retry_after = remaining.as_millis() as u64 + jitter;
                let reason = format!("retry_after_ms={retry_after}");
                self.close_conn(now, id, CloseCode::Restart.into(), &reason);
            }
            Some(Phase::Closing { .. } | Phase::Finished { .. }) | None => {}
        }
    }

    fn end_links(&mut self, now: Duration) {
        self.finish_jobs();
        let links: Vec<LinkId> = self.links.ids();
        for id in links {
            if let Some(state) = self.links.get_mut(id) {
                state.link.shutdown(now);
            }
            self.mark_link_ready(id);
        }
        if let Some(drain) = &mut self.drain {
            drain.links_ended = true;
            drain.over = self.links.len() == 0;
        }
    }

    fn set_drained(&mut self) {
        for id in self.links.ids() {
            let socket = SocketId::Link(id);
            self.actions.push_back(Action::Close { socket });
            self.link_gone(id);
        }
        if let Some(drain) = &mut self.drain {
            drain.over = true;
        }
    }
}

impl Drain {
    /// How many of those that are left are to be closed by now.
    fn due(&self, elapsed: Duration, spread: Duration) -> usize {
        let closed = self.total - self.left.len();
        let part = if spread.is_zero() {
            1.0
        } else {
            (elapsed.as_secs_f64() / spread.as_secs_f64()).min(1.0)
        };
        // At least one at once, so that a handful is not kept waiting for the first step.
        let by_now = (self.total as f64 * part).ceil() as usize;
        by_now.saturating_sub(closed).min(self.left.len())
    }
}
