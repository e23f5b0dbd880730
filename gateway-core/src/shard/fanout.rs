//! Wide fan-outs: pushes for so many connections that they run in slices, single pushes going between.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{Shard, jobs::JobId, route::Message};
use crate::{
    command::Outcome,
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
    message: Arc<Message>,
    audience: Audience,
    to: Reach,
    job: Option<JobId>,
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

    fn begin(&mut self, message: Message, audience: Audience, to: Reach, job: Option<JobId>) {
        self.begun += 1;
        self.waiting.push_back(Fanout {
            message: Arc::new(message),
            audience,
            to,
            job,
            reached: false,
            made: 0,
        });
    }
}

impl Shard {
    /// A push for these connections, the members of `topic`.
    pub(super) fn fan_out_to(
        &mut self,
        now: Duration,
        message: Message,
        topic: &str,
        ids: Vec<ConnId>,
        job: Option<JobId>,
    ) {
        let audience = Audience::Topic(topic.to_owned());
        let to = Reach::Members { ids, next: 0 };
        self.begin_fanout(now, message, audience, to, job);
    }

    /// A push for every connection.
    pub(super) fn fan_out_to_everyone(
        &mut self,
        now: Duration,
        message: Message,
        job: Option<JobId>,
    ) {
        let born = self.fanouts.begun;
        let to = Reach::Everyone { slot: 0, born };
        self.begin_fanout(now, message, Audience::Everyone, to, job);
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
            && let Some(fanout) = self.fanouts.waiting.front()
        {
            let (message, job) = (fanout.message.clone(), fanout.job);
            match self.next_of_fanout(&mut left) {
                // It goes on from here once the kernel was offered what is pending.
                Some(id) if self.conn_awaits_flush(id) => return,
                Some(id) => {
                    let reached = self.deliver(now, id, &message, job);
                    if let Some(fanout) = self.fanouts.waiting.front_mut() {
                        fanout.reached |= reached;
                        fanout.made += 1;
                        fanout.to.advance();
                    }
                    left -= 1;
                }
                None if left > 0 => self.end_fanout(),
                None => {}
            }
        }
    }

    fn begin_fanout(
        &mut self,
        now: Duration,
        message: Message,
        audience: Audience,
        to: Reach,
        job: Option<JobId>,
    ) {
        if let Some(job) = job {
            self.ledger.jobs.open(job);
        }
        let alone = self.fanouts.is_empty();
        self.fanouts.begin(message, audience, to, job);
        if alone {
            // A narrow one is over before the next command is looked at.
            let was = self.sheet.enter(Phase::Fanout);
            self.run_fanouts(now);
            self.sheet.enter(was);
        }
    }

    /// The connection to be reached next. `None` with nothing left: the slice ended among free slots.
    fn next_of_fanout(&mut self, left: &mut usize) -> Option<ConnId> {
        match &mut self.fanouts.waiting.front_mut()?.to {
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

    fn end_fanout(&mut self) {
        if let Some(mut fanout) = self.fanouts.waiting.pop_front() {
            fanout.note(&self.sheet);
            if !fanout.reached {
                self.ledger.refuse(fanout.job, Outcome::NoTarget, None);
            }
            if let Some(job) = fanout.job {
                self.ledger.jobs.close(job, 1);
            }
        }
    }
}
