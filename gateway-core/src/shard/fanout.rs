//! Wide fan-outs: pushes for so many connections that they run in slices, single pushes going between.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;

use super::{
    Shard,
    message::{Message, shared_frame},
    route::{FEW, Origin},
};
use crate::{
    command::{Outcome, Push, Target},
    identity::ConnId,
    timesheet::{Audience, Phase, Timesheet},
};

/// Fan-outs that have not come to their end, the oldest first. Pushes of one topic never overtake each other: while
/// there are any, every other push for a topic or for everyone goes behind them.
#[derive(Debug, Default)]
pub struct Fanouts {
    waiting: VecDeque<Fanout>,
    /// How many have begun: a connection that came later is not reached.
    begun: u64,
}

#[derive(Debug)]
struct Fanout {
    push: Push,
    /// Its frame, if those who get it share it.
    whole: Option<Bytes>,
    audience: Audience,
    /// When it began: its time to live runs from then.
    began: Duration,
    to: Reach,
    origin: Origin,
    reached: bool,
    /// Deliveries that the timesheet does not know yet.
    made: u64,
}

#[derive(Debug)]
enum Reach {
    /// Those that were members when it began.
    Members { ids: Vec<ConnId>, next: usize },
    /// Every connection that was there when it began.
    Everyone { slot: usize, born: u64 },
}

impl Reach {
    /// The present one is done.
    fn advance(&mut self) {
        match self {
            Self::Members { next, .. } => *next += 1,
            Self::Everyone { slot, .. } => *slot += 1,
        }
    }
}

impl Fanout {
    /// Tells the timesheet what was done since it was told last.
    fn note(&mut self, sheet: &Timesheet) {
        let members = match &self.to {
            Reach::Members { ids, .. } => ids.len() as u64,
            Reach::Everyone { .. } => 0,
        };
        sheet.fanout(&self.audience, members, std::mem::take(&mut self.made));
    }
}

/// Slots looked at per delivery of a slice, at most: free ones cost little.
const SLOTS_PER_DELIVERY: usize = 16;

impl Fanouts {
    /// How many have begun: what a new connection is born with.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn begin(
        &mut self,
        began: Duration,
        push: Push,
        whole: Option<Bytes>,
        to: Reach,
        origin: Origin,
    ) {
        self.begun += 1;
        let audience = match &push.target {
            Target::Topic(topic) => Audience::Topic(topic.to_string()),
            _ => Audience::Everyone,
        };
        self.waiting.push_back(Fanout {
            push,
            whole,
            audience,
            began,
            to,
            origin,
            reached: false,
            made: 0,
        });
    }

    /// If the newest one waits, then with a payload of its own: a slice would keep all of what its link was read into.
    fn own_newest(&mut self) {
        if let Some(fanout) = self.waiting.back_mut() {
            let payload = &fanout.push.payload;
            fanout.push.payload = match &fanout.whole {
                Some(whole) => whole.slice(whole.len() - payload.len()..),
                None => Bytes::copy_from_slice(payload),
            };
        }
    }
}

impl Shard {
    /// A push for these connections, the members of `topic`.
    pub(super) fn fan_out_to(
        &mut self,
        now: Duration,
        push: Push,
        ids: Vec<ConnId>,
        origin: Origin,
    ) {
        let urgent = origin.urgent && ids.len() <= FEW;
        let origin = Origin { urgent, ..origin };
        self.begin_fanout(now, push, Reach::Members { ids, next: 0 }, origin);
    }

    /// A push for every connection.
    pub(super) fn fan_out_to_everyone(&mut self, now: Duration, push: Push, origin: Origin) {
        let urgent = origin.urgent && self.conns.len() <= FEW;
        let origin = Origin { urgent, ..origin };
        let born = self.fanouts.begun;
        self.begin_fanout(now, push, Reach::Everyone { slot: 0, born }, origin);
    }

    /// Runs fan-outs for one slice.
    pub(super) fn run_fanouts(&mut self, now: Duration) {
        self.run_slice(now);
        if let Some(fanout) = self.fanouts.waiting.front_mut() {
            fanout.note(&self.sheet);
        }
    }

    fn run_slice(&mut self, now: Duration) {
        let mut left = self.gateway.config.tick.slice;
        while left > 0
            && let Some(mut fanout) = self.fanouts.waiting.pop_front()
        {
            if self.run_fanout(now, &mut fanout, &mut left) {
                fanout.note(&self.sheet);
                self.end_fanout(&fanout);
            } else {
                self.fanouts.waiting.push_front(fanout);
                return;
            }
        }
    }

    /// Runs one until its end, or until nothing is left of the slice. Whether it has ended.
    fn run_fanout(&mut self, now: Duration, fanout: &mut Fanout, left: &mut usize) -> bool {
        let message = Message::of_shared(fanout.began, &fanout.push, fanout.whole.as_ref());
        while *left > 0 {
            match self.next_of_fanout(&mut fanout.to, left) {
                // It goes on from here once the kernel was offered what is pending.
                Some(id) if self.conn_awaits_flush(id) => return false,
                Some(id) => {
                    fanout.reached |= self.deliver(now, id, &message, fanout.origin);
                    fanout.made += 1;
                    fanout.to.advance();
                    *left -= 1;
                }
                None => return *left > 0,
            }
        }
        false
    }

    fn begin_fanout(&mut self, now: Duration, push: Push, to: Reach, origin: Origin) {
        if let Some(job) = origin.job {
            self.ledger.jobs.open(job);
        }
        let alone = self.fanouts.is_empty();
        let many = match &to {
            Reach::Members { ids, .. } => ids.len(),
            Reach::Everyone { .. } => self.conns.len(),
        };
        let share_from = self.gateway.config.outbox.share_from_bytes;
        let whole = shared_frame(&push, many, share_from);
        self.fanouts.begin(now, push, whole, to, origin);
        if alone {
            // A narrow one is over before the next command is looked at.
            let was = self.sheet.enter(Phase::Fanout);
            self.run_fanouts(now);
            self.sheet.enter(was);
        }
        self.fanouts.own_newest();
    }

    /// The connection to be reached next. `None` with nothing left: the slice ended among free slots.
    fn next_of_fanout(&self, to: &mut Reach, left: &mut usize) -> Option<ConnId> {
        match to {
            Reach::Members { ids, next } => ids.get(*next).copied(),
            Reach::Everyone { slot, born } => {
                let mut patience = *left * SLOTS_PER_DELIVERY;
                while *slot < self.conns.slots() {
                    if patience == 0 {
                        *left = 0;
                        return None;
                    }
                    patience -= 1;
                    if let Some((id, conn)) = self.conns.at(*slot)
                        && conn.is_open()
                        && conn.born <= *born
                    {
                        return Some(id);
                    }
                    *slot += 1;
                }
                None
            }
        }
    }

    fn end_fanout(&mut self, fanout: &Fanout) {
        let job = fanout.origin.job;
        if !fanout.reached {
            self.ledger.refuse(job, Outcome::NoTarget, None);
        }
        if let Some(job) = job {
            self.ledger.jobs.close(job, 1);
        }
    }
}
