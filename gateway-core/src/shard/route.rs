//! From a command to outboxes: here, or through a lane to the shard that has them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use gateway_proto::{UserId, v1::RejectReason};

use super::{
    Shard,
    jobs::{JobId, Owner},
    message::{Message, shared_frame},
    outbox::{Full, Kind, Meta},
    registry::UserIndex,
};
use crate::{
    command::{Command, Delivery, Outcome, PlainPush, Push, Receipt, Target, Who},
    config::WhenFull,
    identity::{ConnId, ShardIndex, shard_of},
    link::Rejection,
    timesheet::{Audience, Phase},
};

/// Where a command comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// It may go to other shards.
    pub whole_gateway: bool,
    /// It is one of a few: its sends go before those of floods and wide fan-outs.
    pub urgent: bool,
    /// Who wants to know what becomes of it.
    pub job: Option<JobId>,
}

/// Deliveries of one push, or commands of one link in a tick, that are a few.
pub const FEW: usize = 64;

/// So few that no flood is behind them: a flood hands over more in a tick, and fills its batches to other shards.
pub const VERY_FEW: usize = FEW / 4;

/// What became of a command.
#[derive(Debug)]
pub enum Done {
    /// It is in outboxes, in lanes, or found nobody.
    Taken,
    /// There is no room for it now. Nothing of it was done.
    Blocked(Command),
    /// It can't be done; the peer must act.
    Refused(Rejection),
}

impl Shard {
    /// Does one command, or as much as is this shard's.
    pub(super) fn execute(&mut self, now: Duration, origin: Origin, command: Command) -> Done {
        let settled;
        let who = match &command {
            Command::Settle(conn) => {
                settled = Who::Conn(*conn);
                &settled
            }
            Command::Push(Push { target, .. }) => match target {
                Target::One(who) => who,
                Target::Users(_) => return self.push_to_users(now, origin, command),
                Target::Topic(_) | Target::Everyone => {
                    return self.push_widely(now, origin, command);
                }
            },
            Command::Subscribe { who, .. }
            | Command::Unsubscribe { who, .. }
            | Command::Disconnect { who, .. } => who,
            Command::Query { .. } => return self.answer_elsewhere(command),
            Command::Convoy(_) => return self.push_convoy(now, origin, command),
        };
        match self.owner_of(who) {
            Some(shard) if shard == self.index => self.execute_here(now, origin, command),
            Some(shard) if !origin.whole_gateway => Done::Refused(self.wrong_shard(shard)),
            Some(shard) if self.has_room(shard) => {
                self.forward(shard, origin.job, own(command));
                Done::Taken
            }
            Some(_) => Done::Blocked(command),
            None => {
                self.nobody(origin.job);
                Done::Taken
            }
        }
    }

    /// Does a command whose target is of this shard.
    fn execute_here(&mut self, now: Duration, origin: Origin, command: Command) -> Done {
        match command {
            Command::Push(push) => {
                if let Target::One(who) = &push.target
                    && self.awaits_flush(who)
                {
                    return Done::Blocked(Command::Push(push));
                }
                self.push_here(now, origin, &push);
                Done::Taken
            }
            Command::Settle(conn) => {
                self.settled(now, conn);
                Done::Taken
            }
            Command::Query { .. } => self.answer_elsewhere(command),
            Command::Convoy(_) => self.push_convoy(now, origin, command),
            Command::Subscribe { who, topic } => self.subscribe(&who, &topic),
            Command::Unsubscribe { who, topic } => {
                self.unsubscribe(&who, &topic);
                Done::Taken
            }
            Command::Disconnect { who, code, reason } => {
                for conn in self.conns_of(&who) {
                    self.close_conn(now, conn, code, &reason);
                }
                Done::Taken
            }
        }
    }

    /// The shard that has the target; `None`: no shard has.
    pub(super) fn owner_of(&self, who: &Who) -> Option<ShardIndex> {
        match who {
            Who::User(user) => {
                Some(shard_of(user.as_bytes(), u32::from(self.lanes.shards())) as ShardIndex)
            }
            Who::Conn(conn) => (conn.shard() < self.lanes.shards()).then(|| conn.shard()),
            Who::Gone => None,
        }
    }

    pub(super) fn wrong_shard(&self, owner: ShardIndex) -> Rejection {
        let index = self.index;
        let detail = format!("this is shard {index}; the target belongs to shard {owner}");
        Rejection::new(RejectReason::WrongShard, detail)
    }

    /// A plain push, if its user can take it now, or the lane of its user's shard can. `false`: it goes the way of all
    /// others.
    pub(super) fn push_plain(&mut self, now: Duration, origin: Origin, push: &PlainPush) -> bool {
        let shards = self.lanes.shards();
        if shards > 1 {
            let owner = shard_of(push.user(), u32::from(shards)) as ShardIndex;
            if owner != self.index {
                return origin.whole_gateway && self.forward_plain(owner, origin.job, push);
            }
        }
        match self.users.find_bytes(push.user()) {
            Some(user) if self.user_awaits_flush(user) => return false,
            Some(user) => {
                let was = self.sheet.enter(Phase::Frame);
                self.deliver_to_all_of(now, user, &Message::of_plain(push), origin);
                self.sheet.enter(was);
            }
            None => self.nobody(origin.job),
        }
        true
    }

    /// Pushes that another shard has sent together.
    fn push_convoy(&mut self, now: Duration, origin: Origin, command: Command) -> Done {
        let Command::Convoy(mut convoy) = command else {
            return Done::Taken;
        };
        convoy.advance(|push| self.push_plain(now, origin, push));
        if convoy.is_empty() {
            Done::Taken
        } else {
            Done::Blocked(Command::Convoy(convoy))
        }
    }

    /// A push for one user or connection of this shard.
    fn push_here(&mut self, now: Duration, origin: Origin, push: &Push) {
        let Target::One(who) = &push.target else {
            debug_assert!(false, "wide pushes go another way");
            return;
        };
        let message = Message::of(now, push);
        match who {
            Who::User(user) => {
                let was = self.sheet.enter(Phase::Frame);
                self.deliver_to_user(now, user, &message, origin);
                self.sheet.enter(was);
            }
            Who::Conn(id) if self.conns.get(*id).is_some_and(|conn| conn.is_open()) => {
                let was = self.sheet.enter(Phase::Frame);
                self.deliver(now, *id, &message, origin);
                self.sheet.enter(was);
            }
            Who::Conn(_) | Who::Gone => self.nobody(origin.job),
        }
    }

    fn push_to_users(&mut self, now: Duration, origin: Origin, command: Command) -> Done {
        let Command::Push(Push {
            target: Target::Users(users),
            ..
        }) = &command
        else {
            return Done::Taken;
        };
        let groups = self.by_owner(users);
        // Each user is looked up once. None of them is another's: closing one for being slow leaves the others in place.
        let group = &groups[usize::from(self.index)];
        let here: Vec<_> = group
            .iter()
            .map(|at| self.users.find(&users[*at]))
            .collect();
        let mut known = here.iter().flatten();
        if known.any(|user| self.user_awaits_flush(*user)) {
            return Done::Blocked(command);
        }
        for (shard, group) in (0..).zip(&groups) {
            if shard == self.index || group.is_empty() {
                continue;
            }
            if !origin.whole_gateway {
                return Done::Refused(self.wrong_shard(shard));
            }
            if !self.has_room(shard) {
                return Done::Blocked(command);
            }
        }
        let Command::Push(push) = command else {
            return Done::Taken;
        };
        let Target::Users(users) = &push.target else {
            return Done::Taken;
        };
        for (shard, group) in (0..).zip(&groups) {
            if shard != self.index && !group.is_empty() {
                let users = group.iter().map(|at| users[*at].clone()).collect();
                let part = copy_for_lane(&push, Target::Users(users));
                self.forward(shard, origin.job, Command::Push(part));
            }
        }
        let was = self.sheet.enter(Phase::Fanout);
        let listed = here.len();
        let whole = shared_frame(&push, listed, self.gateway.config.outbox.share_from_bytes);
        let message = Message::of_shared(now, &push, whole.as_ref());
        let urgent = origin.urgent && listed <= FEW;
        let origin = Origin { urgent, ..origin };
        for user in here {
            match user {
                Some(user) => self.deliver_to_all_of(now, user, &message, origin),
                None => self.nobody(origin.job),
            }
        }
        self.sheet.enter(was);
        self.sheet
            .fanout(&Audience::Users, listed as u64, listed as u64);
        Done::Taken
    }

    /// The places of these users in the list, by the shard that has them.
    fn by_owner(&self, users: &[UserId]) -> Vec<Vec<usize>> {
        let shards = u32::from(self.lanes.shards());
        if shards == 1 {
            return vec![(0..users.len()).collect()];
        }
        let mut groups = vec![Vec::new(); shards as usize];
        for (at, user) in users.iter().enumerate() {
            groups[shard_of(user.as_bytes(), shards) as usize].push(at);
        }
        groups
    }

    /// Whether a connection of the target is to be flushed before it gets more.
    fn awaits_flush(&self, who: &Who) -> bool {
        match who {
            Who::User(user) => self.named_awaits_flush(user),
            Who::Conn(conn) => self.conn_awaits_flush(*conn),
            Who::Gone => false,
        }
    }

    fn named_awaits_flush(&self, user: &str) -> bool {
        let user = self.users.find(user);
        user.is_some_and(|user| self.user_awaits_flush(user))
    }

    fn user_awaits_flush(&self, user: UserIndex) -> bool {
        let mut conns = self.users.get(user).conns.iter();
        conns.any(|conn| self.conn_awaits_flush(*conn))
    }

    pub(super) fn conn_awaits_flush(&self, id: ConnId) -> bool {
        let limits = &self.gateway.config.outbox;
        let conn = self.conns.get(id);
        conn.is_some_and(|conn| conn.outbox.awaits_flush(limits))
    }

    fn deliver_to_user(
        &mut self,
        now: Duration,
        user: &str,
        message: &Message<'_>,
        origin: Origin,
    ) {
        match self.users.find(user) {
            Some(user) => self.deliver_to_all_of(now, user, message, origin),
            None => self.nobody(origin.job),
        }
    }

    /// From the last connection to the first: a delivery may close the connection, which takes it off the list.
    fn deliver_to_all_of(
        &mut self,
        now: Duration,
        user: UserIndex,
        message: &Message<'_>,
        origin: Origin,
    ) {
        for at in (0..self.users.get(user).conns.len()).rev() {
            let id = self.users.get(user).conns[at];
            self.deliver(now, id, message, origin);
        }
    }

    /// A push for a topic or for everyone: the part of this shard, and of all others if it is for the whole gateway.
    fn push_widely(&mut self, now: Duration, origin: Origin, command: Command) -> Done {
        let others = if origin.whole_gateway {
            self.lanes.shards() - 1
        } else {
            0
        };
        let full = self.fanouts.len() >= self.gateway.config.limits.max_fanouts;
        if full || (others > 0 && !self.lanes.others().all(|shard| self.has_room(shard))) {
            return Done::Blocked(command);
        }
        let Command::Push(push) = command else {
            return Done::Taken;
        };
        // Of several shards, each knows only whether it found somebody: a job of its own sums up.
        let sum = origin.job.filter(|_| others > 0).map(|parent| {
            let receipt = self
                .ledger
                .jobs
                .get(parent)
                .map_or(Receipt::None, |job| job.receipt);
            self.ledger.jobs.open(parent);
            self.ledger.jobs.start(Owner::Job(parent), receipt, true)
        });
        let job = sum.or(origin.job);
        if others > 0 {
            for shard in self.lanes.others() {
                let part = copy_for_lane(&push, push.target.clone());
                self.forward(shard, job, Command::Push(part));
            }
        }
        let origin = Origin { job, ..origin };
        match &push.target {
            Target::Topic(topic) => {
                let members = self.topics.members(topic);
                if members.is_empty() && self.fanouts.is_empty() {
                    self.nobody(job);
                } else {
                    let members = members.to_vec();
                    self.fan_out_to(now, push, members, origin);
                }
            }
            _ => self.fan_out_to_everyone(now, push, origin),
        }
        if let Some(sum) = sum {
            self.ledger.jobs.end(sum);
        }
        Done::Taken
    }

    /// Appends a message to one outbox. Whether it got there.
    #[inline]
    pub(super) fn deliver(
        &mut self,
        now: Duration,
        id: ConnId,
        message: &Message<'_>,
        origin: Origin,
    ) -> bool {
        let job = origin.job;
        self.metrics.deliveries.add(1);
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.is_open()) else {
            self.ledger.refuse(job, Outcome::Closed, Some(id));
            return false;
        };
        let meta = Meta {
            kind: Kind::Message,
            priority: message.priority,
            expires_ms: message.expires_ms,
            conflation: message.conflation,
            job,
        };
        let ledger = &mut self.ledger;
        let limits = &self.gateway.config.outbox;
        let pushed = conn.outbox.push(
            &mut self.pool,
            limits,
            now,
            message.frame,
            meta,
            &mut |job, outcome| ledger.decide(job, outcome, id),
        );
        match pushed {
            Ok(()) => {
                self.dirty.add(id, conn, origin.urgent);
                if let Some(job) = job {
                    self.ledger.jobs.deliver(job);
                }
                true
            }
            Err(Full) => {
                self.ledger.refuse(job, Outcome::DroppedSlow, Some(id));
                if limits.when_full == WhenFull::Close {
                    self.close_slow(now, id);
                }
                false
            }
        }
    }

    fn nobody(&mut self, job: Option<JobId>) {
        self.ledger.refuse(job, Outcome::NoTarget, None);
    }

    fn conns_of(&self, who: &Who) -> Vec<ConnId> {
        match who {
            Who::User(user) => {
                let user = self.users.find(user);
                user.map_or(Vec::new(), |user| self.users.get(user).conns.to_vec())
            }
            Who::Conn(conn) => vec![*conn],
            Who::Gone => Vec::new(),
        }
    }
}

/// The payload copied: a slice of a link's receive buffer must neither keep all of it alive on another shard, nor have
/// its count touched by two threads for each message.
fn copy_for_lane(push: &Push, target: Target) -> Push {
    Push {
        target,
        payload: Bytes::copy_from_slice(&push.payload),
        text: push.text,
        delivery: own_delivery(&push.delivery),
    }
}

/// The same for the key.
fn own_delivery(delivery: &Delivery) -> Delivery {
    Delivery {
        conflation: delivery.conflation.as_deref().map(Arc::from),
        ..delivery.clone()
    }
}

fn own(command: Command) -> Command {
    match command {
        Command::Push(mut push) => {
            push.payload = Bytes::copy_from_slice(&push.payload);
            push.delivery = own_delivery(&push.delivery);
            Command::Push(push)
        }
        other => other,
    }
}
