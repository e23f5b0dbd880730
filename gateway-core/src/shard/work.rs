//! The rest of a tick: lanes in and out, jobs that are over, what was sent.

use std::{collections::VecDeque, time::Duration};

use super::{
    Shard,
    forward::Size,
    jobs::{Job, JobId, Owner},
    route::{Done, Origin, VERY_FEW},
};
use crate::{
    command::{Command, Receipt},
    config,
    identity::{ConnId, LinkId, ShardIndex},
    lanes::{Forward, Notice, RemoteEvent, Reply, StreamRef, Work},
};

/// What waits for the lanes to one shard.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Commands.
    pub commands: Vec<Forward>,
    /// How many messages these are, and bytes of their payloads.
    pub command_messages: usize,
    pub command_bytes: usize,
    /// How much the last batch was.
    pub size: Size,
    /// Client events.
    pub events: Vec<RemoteEvent>,
    /// What streams that have ended had of the shard's clients.
    pub returned: VecDeque<Work>,
    /// Answers and notices: few, and bounded by what they answer.
    pub notices: VecDeque<Notice>,
}

impl Outgoing {
    /// Whether the next command must wait.
    pub fn commands_full(&self, limits: &config::Lanes) -> bool {
        self.command_messages >= limits.batch_messages || self.command_bytes >= limits.batch_bytes
    }

    fn is_empty(&self) -> bool {
        self.commands.is_empty()
            && self.events.is_empty()
            && self.returned.is_empty()
            && self.notices.is_empty()
    }
}

impl Shard {
    pub(super) fn conn_sent(&mut self, now: Duration, id: ConnId, n: usize) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        self.dirty.landed(now);
        let ledger = &mut self.ledger;
        let mut written = |job, outcome| ledger.decide(job, outcome, id);
        let sent = conn.outbox.sent(&mut self.pool, n, &mut written);
        if sent.messages > 0 {
            self.metrics.messages_out_client.add(sent.messages);
            self.metrics.messages_per_send.record(sent.messages);
        }
        if !sent.landed {
            if sent.goes_on {
                self.dirty.goes_on(id, conn);
            }
            return;
        }
        if let Some(oldest) = sent.oldest {
            let waited = now.saturating_sub(oldest).as_nanos() as u64;
            self.metrics.push_to_send_nanos.record(waited);
        }
        if conn.outbox.is_empty() {
            self.finish_if_flushed(now, id);
        } else {
            self.dirty.add(id, conn, false);
        }
    }

    pub(super) fn arm(&mut self, id: ConnId, at_ms: u64) {
        if let Some(conn) = self.conns.get_mut(id) {
            self.deadlines.arm(id, &mut conn.armed_ms, at_ms);
        }
    }

    /// Bytes of outboxes, of messages that have come in part, and of events that wait for a service.
    pub(super) fn memory(&self) -> usize {
        let unacked = self.metrics.unacked_bytes.get() as usize;
        self.pool.bytes() + self.held_bytes + self.upstream.kept_bytes() + unacked
    }

    /// xorshift64*: for spreading, not for secrets.
    pub(super) fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn notify(&mut self, shard: ShardIndex, notice: Notice) {
        self.outgoing[usize::from(shard)].notices.push_back(notice);
    }

    pub(super) fn take_notices(&mut self, now: Duration) {
        while let Some(notice) = self.lanes.next_notice() {
            match notice {
                Notice::Reply(reply) => {
                    if let Some(job) = JobId::from_wire(reply.job) {
                        self.take_reply(job, &reply);
                    }
                }
                Notice::ReceiverUp {
                    service,
                    receiver,
                    acks,
                } => {
                    if !self.receiver_up(now, &service, receiver, acks) {
                        self.metrics.stream_errors.count("too_many_services");
                    }
                }
                Notice::ReceiverDown(receiver) => self.receiver_ended(receiver),
                Notice::Left(conns) => self.left(conns),
                Notice::ReceiverFull { receiver, full } => self.upstream.set_full(receiver, full),
                Notice::DirectoryUp(receiver) => self.listen(receiver),
                Notice::DirectoryDown(receiver) => self.unlisten(receiver),
                Notice::DirectoryRoom(receiver) => self.directory.has_room(receiver),
                Notice::Answer(answer) => self.take_answer(*answer),
                Notice::Drain(milestone) => self.milestone(milestone),
            }
        }
    }

    /// Takes batches from the work lane, as many as a tick may.
    pub(super) fn take_work(&mut self, now: Duration) {
        if let Some((from, forwards)) = self.held_work.take() {
            self.do_forwards(now, from, forwards);
        }
        let depth = self.lanes.depth();
        if depth > 0 {
            self.metrics.time.lane_depth.record(depth as u64);
        }
        for _ in 0..self.gateway.config.tick.lane_batches {
            if self.held_work.is_some() {
                return;
            }
            let Some((waited, work)) = self.lanes.next_work() else {
                return;
            };
            let waited = waited.as_nanos() as u64;
            self.metrics.time.lane_wait_nanos.record(waited);
            match work {
                Work::Commands(from, forwards) => {
                    self.do_forwards(now, from, forwards.into());
                }
                Work::Events(events) => self.take_events(now, events),
                Work::Returned(receiver, items) => {
                    self.take_returned(now, receiver, items);
                }
                Work::Directory { from, to, frames } => {
                    self.take_directory(from, to, frames);
                }
            }
        }
    }

    /// Does commands of another shard; neighbours of one job are answered together.
    fn do_forwards(&mut self, now: Duration, from: ShardIndex, mut forwards: VecDeque<Forward>) {
        let mut together: Option<(u64, JobId)> = None;
        let urgent = forwards.iter().map(Forward::messages).sum::<usize>() <= VERY_FEW;
        let mut taken = 0;
        while let Some(forward) = forwards.pop_front() {
            let messages = forward.messages();
            let Forward { job, command } = forward;
            let (receipt, alone) = match &command {
                Command::Push(push) => {
                    let receipt = push.delivery.receipt;
                    let alone = receipt != Receipt::None || push.is_collective();
                    (receipt, alone)
                }
                _ => (Receipt::None, false),
            };
            let local = job.map(|job| match together {
                Some((same, local)) if same == job && !alone => local,
                _ => {
                    self.end_together(&mut together);
                    let owner = Owner::Shard(from, job);
                    let local = self.ledger.jobs.start(owner, receipt, false);
                    together = Some((job, local));
                    local
                }
            });
            let origin = Origin {
                whole_gateway: false,
                urgent,
                job: local,
            };
            let mut left = None;
            match self.execute(now, origin, command) {
                Done::Taken => {}
                Done::Refused(rejection) => self.metrics.rejected.count(rejection.label()),
                Done::Blocked(command) => left = Some(Forward { job, command }),
            }
            let done = messages - left.as_ref().map_or(0, Forward::messages);
            if let Some(job) = local.and_then(|local| self.ledger.jobs.get(local)) {
                job.accepted += done as u64;
            }
            taken += done as u64;
            if let Some(left) = left {
                forwards.push_front(left);
                self.held_work = Some((from, forwards));
                break;
            }
            if alone {
                self.end_together(&mut together);
            }
        }
        self.sheet.lane(from, taken);
        self.end_together(&mut together);
    }

    fn end_together(&mut self, together: &mut Option<(u64, JobId)>) {
        if let Some((_, local)) = together.take() {
            self.ledger.jobs.end(local);
        }
    }

    fn take_reply(&mut self, id: JobId, reply: &Reply) {
        if let Some(job) = self.ledger.jobs.get(id) {
            job.merge(reply);
            self.ledger.jobs.close(id, u64::from(reply.answered));
        }
    }

    /// Answers whoever wanted to know what became of a push.
    pub(super) fn finish_jobs(&mut self) {
        while let Some(mut job) = self.ledger.jobs.next_finished() {
            match job.owner {
                Owner::Receipt { asker, sequence } => {
                    let receipt = job.receipt(sequence, self.gateway.epoch);
                    if let Some(StreamRef { link, stream }) = self.askers.stream_of(asker)
                        && let Some(state) = self.links.get_mut(link)
                    {
                        let stream = h2_stream::StreamId(stream);
                        state.link.send_receipt(stream, receipt);
                        self.mark_link_ready(link);
                    }
                }
                Owner::Call { link, stream } => self.respond(link, stream, &job),
                Owner::Job(parent) => {
                    let reply = job.reply(parent.to_wire(), 1);
                    self.take_reply(parent, &reply);
                }
                Owner::Shard(shard, theirs) => {
                    let answered = job.accepted as u32;
                    let reply = Box::new(job.reply(theirs, answered));
                    self.metrics.crossings.count("reply");
                    self.notify(shard, Notice::Reply(reply));
                }
            }
        }
    }

    fn respond(&mut self, link: LinkId, stream: h2_stream::StreamId, job: &Job) {
        self.forget_call(link, stream);
        if let Some(state) = self.links.get_mut(link) {
            state.link.respond(stream, &job.response());
            self.mark_link_ready(link);
        }
    }

    /// Sends what waits for other shards, as far as their lanes have room.
    pub(super) fn flush_lanes(&mut self) {
        for shard in self.lanes.others() {
            let outgoing = &mut self.outgoing[usize::from(shard)];
            while let Some(notice) = outgoing.notices.pop_front() {
                if let Err(notice) = self.lanes.send_notice(shard, notice) {
                    outgoing.notices.push_front(notice);
                    break;
                }
            }
            while let Some(work) = outgoing.returned.pop_front() {
                if let Err(work) = self.lanes.send_work(shard, work) {
                    outgoing.returned.push_front(work);
                    break;
                }
            }
            self.flush_commands(shard);
            self.flush_events(shard);
        }
    }

    /// Whether something waits for room that another shard will make.
    pub(super) fn waits_for_room(&self) -> bool {
        self.held_work.is_some()
            || self.directory.waits_for_lane()
            || !self.blocked.is_empty()
            || self.outgoing.iter().any(|outgoing| !outgoing.is_empty())
    }
}
