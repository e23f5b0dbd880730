//! Who wants to know what became of a push: receipts, and the counts of a call.

use std::num::NonZeroU64;

use gateway_proto::v1;
use h2_stream::StreamId;
use slab::Slab;

use super::greeting::Asker;
use crate::{
    command::{Outcome, Receipt},
    identity::{ConnId, LinkId, ShardIndex},
    lanes::Reply,
};

/// A job of this shard: slot and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobId(NonZeroU64);

impl JobId {
    fn new(slot: usize, generation: u32) -> Self {
        let id = (slot as u64) << 32 | u64::from(generation);
        Self(NonZeroU64::new(id).unwrap_or(NonZeroU64::MIN))
    }

    /// As it crosses a lane.
    pub fn to_wire(self) -> u64 {
        self.0.get()
    }

    /// As it came back; a meaningless one finds no job.
    pub fn from_wire(id: u64) -> Option<Self> {
        NonZeroU64::new(id).map(Self)
    }

    fn slot(self) -> usize {
        (self.0.get() >> 32) as usize
    }
}

/// Whom the answer goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// An `Exchange` stream: a receipt for this sequence.
    Receipt {
        /// The stream.
        asker: Asker,
        /// The push.
        sequence: u64,
    },
    /// A counting call: the response.
    Call {
        /// The link.
        link: LinkId,
        /// The stream.
        stream: StreamId,
    },
    /// Another job of this shard, of which this is one message.
    Job(JobId),
    /// A job of another shard.
    Shard(ShardIndex, u64),
}

/// What is known so far.
#[derive(Debug)]
pub struct Job {
    generation: u32,
    /// Whom the answer goes to.
    pub owner: Owner,
    /// Whether deliveries are waited for until they are decided, and whether their targets are named.
    pub receipt: Receipt,
    /// One target for all of its members: "no target" means that no shard found any.
    pub collective: bool,
    /// What has not been decided: deliveries of a receipt, forwarded commands, waiting fan-outs.
    open: u64,
    /// Nothing more will be added.
    ended: bool,
    /// Messages taken.
    pub accepted: u64,
    /// Messages refused.
    pub rejected: u64,
    /// Outboxes reached.
    pub delivered: u64,
    /// Deliveries by outcome.
    pub outcomes: [u64; Outcome::COUNT],
    /// The connections by outcome, where asked for.
    pub targets: Vec<(u8, ConnId)>,
}

/// All jobs of a shard.
#[derive(Debug, Default)]
pub struct Jobs {
    jobs: Slab<Job>,
    generation: u32,
    finished: Vec<JobId>,
}

impl Jobs {
    /// A new job that is open until [`Jobs::end`].
    pub fn start(&mut self, owner: Owner, receipt: Receipt, collective: bool) -> JobId {
        // Never 0, so that an id is never 0.
        self.generation = self.generation.wrapping_add(1).max(1);
        let slot = self.jobs.insert(Job {
            generation: self.generation,
            owner,
            receipt,
            collective,
            open: 0,
            ended: false,
            accepted: 0,
            rejected: 0,
            delivered: 0,
            outcomes: [0; Outcome::COUNT],
            targets: Vec::new(),
        });
        JobId::new(slot, self.generation)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// How many of them are receipts.
    pub fn receipts(&self) -> usize {
        let owners = self.jobs.iter().map(|(_, job)| job.owner);
        let receipts = owners.filter(|owner| matches!(owner, Owner::Receipt { .. }));
        receipts.count()
    }

    /// Whether one waits for outcomes, although all of its command was done.
    pub fn await_outcomes(&self) -> bool {
        self.jobs.iter().any(|(_, job)| job.ended)
    }

    /// The job, unless it is over.
    pub fn get(&mut self, id: JobId) -> Option<&mut Job> {
        let job = self.jobs.get_mut(id.slot())?;
        (JobId::new(id.slot(), job.generation) == id).then_some(job)
    }

    /// One more thing to wait for.
    pub fn open(&mut self, id: JobId) {
        if let Some(job) = self.get(id) {
            job.open += 1;
        }
    }

    /// `n` things need no more waiting.
    pub fn close(&mut self, id: JobId, n: u64) {
        if let Some(job) = self.get(id) {
            job.open = job.open.saturating_sub(n);
            self.check(id);
        }
    }

    /// A delivery has reached an outbox.
    pub fn deliver(&mut self, id: JobId) {
        if let Some(job) = self.get(id) {
            job.delivered += 1;
            job.open += u64::from(job.receipt != Receipt::None);
        }
    }

    /// A delivery that had reached an outbox is decided.
    pub fn decide(&mut self, id: JobId, outcome: Outcome, conn: ConnId) {
        if let Some(job) = self.get(id) {
            job.note(outcome, Some(conn));
            if job.receipt != Receipt::None {
                self.close(id, 1);
            }
        }
    }

    /// A delivery did not come to be.
    pub fn refuse(&mut self, id: JobId, outcome: Outcome, conn: Option<ConnId>) {
        if let Some(job) = self.get(id) {
            job.note(outcome, conn);
        }
    }

    /// Nothing more will be added; the job is over once nothing is open.
    pub fn end(&mut self, id: JobId) {
        if let Some(job) = self.get(id) {
            job.ended = true;
            self.check(id);
        }
    }

    /// Forgets a job whose owner is gone.
    pub fn cancel(&mut self, id: JobId) {
        if self.get(id).is_some() {
            self.jobs.remove(id.slot());
        }
    }

    /// The next job that is over.
    pub fn next_finished(&mut self) -> Option<Job> {
        while let Some(id) = self.finished.pop() {
            if self.get(id).is_some_and(|job| job.is_over()) {
                let mut job = self.jobs.remove(id.slot());
                job.settle();
                return Some(job);
            }
        }
        None
    }

    fn check(&mut self, id: JobId) {
        if self.get(id).is_some_and(|job| job.is_over()) {
            self.finished.push(id);
        }
    }
}

/// Most targets named per receipt and outcome (`Receipt.Entry.connections`).
const MOST_TARGETS: usize = 1000;

impl Job {
    fn is_over(&self) -> bool {
        self.ended && self.open == 0
    }

    fn note(&mut self, outcome: Outcome, conn: Option<ConnId>) {
        self.outcomes[outcome as usize] += 1;
        if let (Receipt::Targets, Some(conn)) = (self.receipt, conn)
            && self.outcomes[outcome as usize] <= MOST_TARGETS as u64
        {
            self.targets.push((outcome as u8, conn));
        }
    }

    /// Of a collective target, "not found" is said once, and only if no shard found anybody.
    fn settle(&mut self) {
        if self.collective {
            let none = self.delivered == 0 && self.refused() == 0;
            self.outcomes[Outcome::NoTarget as usize] = u64::from(none);
        }
    }

    fn refused(&self) -> u64 {
        self.outcomes[Outcome::DroppedSlow as usize]
    }

    /// Takes in what another shard, or a job of one message, has to say.
    pub fn merge(&mut self, reply: &Reply) {
        self.delivered += reply.delivered;
        for (mine, theirs) in self.outcomes.iter_mut().zip(reply.outcomes) {
            *mine += theirs;
        }
        self.targets.extend_from_slice(&reply.targets);
    }

    /// For the shard that forwarded.
    pub fn reply(&mut self, job: u64, answered: u32) -> Reply {
        Reply {
            job,
            answered,
            delivered: self.delivered,
            outcomes: self.outcomes,
            targets: std::mem::take(&mut self.targets),
        }
    }

    /// For a counting call.
    pub fn response(&self) -> v1::MessageResponse {
        let dropped = [
            Outcome::Conflated,
            Outcome::Expired,
            Outcome::DroppedSlow,
            Outcome::DroppedPriority,
        ];
        v1::MessageResponse {
            accepted: self.accepted,
            delivered: self.delivered,
            no_target: self.outcomes[Outcome::NoTarget as usize],
            dropped: dropped
                .map(|outcome| self.outcomes[outcome as usize])
                .iter()
                .sum(),
            rejected: self.rejected,
        }
    }

    /// For an `Exchange` stream.
    pub fn receipt(&self, sequence: u64, epoch: u64) -> v1::Receipt {
        let entry = |outcome: usize| {
            let of_outcome = self
                .targets
                .iter()
                .filter(|(of, _)| usize::from(*of) == outcome);
            v1::receipt::Entry {
                outcome: outcome as i32,
                count: u32::try_from(self.outcomes[outcome]).unwrap_or(u32::MAX),
                connections: of_outcome
                    .take(MOST_TARGETS)
                    .map(|(_, conn)| v1::Connection {
                        epoch,
                        id: conn.to_wire(),
                    })
                    .collect(),
            }
        };
        let present = (1..Outcome::COUNT).filter(|outcome| self.outcomes[*outcome] > 0);
        v1::Receipt {
            sequence,
            outcomes: present.map(entry).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner::Shard(1, 7)
    }

    #[test]
    fn a_receipt_waits_until_every_delivery_is_decided() {
        let mut jobs = Jobs::default();
        let (id, conn) = (
            jobs.start(owner(), Receipt::Targets, false),
            ConnId::new(0, 1, 1),
        );
        jobs.deliver(id);
        jobs.deliver(id);
        jobs.end(id);
        jobs.decide(id, Outcome::Written, conn);
        assert!(jobs.next_finished().is_none());
        jobs.decide(id, Outcome::Conflated, conn);
        let job = jobs.next_finished().unwrap();
        assert_eq!(job.outcomes[1..=2], [1, 1]);
        assert_eq!(job.receipt(3, 9).outcomes.len(), 2);
        assert_eq!(jobs.len(), 0);
    }

    #[test]
    fn a_call_waits_for_forwards_but_not_for_the_kernel() {
        let mut jobs = Jobs::default();
        let id = jobs.start(owner(), Receipt::None, false);
        jobs.deliver(id);
        jobs.open(id);
        jobs.end(id);
        assert!(jobs.next_finished().is_none());
        jobs.close(id, 1);
        assert_eq!(jobs.next_finished().unwrap().delivered, 1);
    }

    #[test]
    fn a_stale_id_finds_no_job() {
        let mut jobs = Jobs::default();
        let old = jobs.start(owner(), Receipt::None, false);
        jobs.cancel(old);
        let new = jobs.start(owner(), Receipt::None, false);
        assert_eq!(old.slot(), new.slot());
        assert!(jobs.get(old).is_none());
        jobs.end(old);
        assert!(jobs.next_finished().is_none());
    }

    #[test]
    fn nobody_in_a_topic_is_said_once_however_many_shards_were_asked() {
        let mut jobs = Jobs::default();
        for (delivered, expected) in [(0, 1), (5, 0)] {
            let id = jobs.start(owner(), Receipt::None, true);
            let job = jobs.get(id).unwrap();
            job.outcomes[Outcome::NoTarget as usize] = 4;
            job.delivered = delivered;
            jobs.end(id);
            let job = jobs.next_finished().unwrap();
            assert_eq!(job.outcomes[Outcome::NoTarget as usize], expected);
        }
    }
}
