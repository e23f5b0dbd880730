//! Commands on their way to other shards.

use super::{Shard, jobs::JobId};
use crate::{
    command::{Command, Convoy, PlainPush},
    identity::ShardIndex,
    lanes::{Forward, Work},
};

/// How much was sent to a shard at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Size {
    messages: usize,
    bytes: usize,
}

impl Size {
    /// One with room for as much as that: it does not grow push by push.
    fn convoy(self) -> Convoy {
        let names = self.messages * TYPICAL_NAME;
        Convoy::with_capacity(self.messages, self.bytes + names)
    }
}

/// Bytes of a user's name, as a guess.
const TYPICAL_NAME: usize = 24;

/// A longer payload gets memory of its own.
const LARGEST_JOINED: usize = 4 << 10;

impl Shard {
    /// Whether one more command for another shard finds room.
    pub(super) fn has_room(&mut self, shard: ShardIndex) -> bool {
        if self.outgoing[usize::from(shard)].commands_full(&self.gateway.config.lanes) {
            self.flush_commands(shard);
        }
        !self.outgoing[usize::from(shard)].commands_full(&self.gateway.config.lanes)
    }

    /// Sends what is for a shard, as far as its lane has room.
    pub(super) fn flush_commands(&mut self, shard: ShardIndex) {
        let outgoing = &mut self.outgoing[usize::from(shard)];
        if outgoing.commands.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut outgoing.commands);
        match self
            .lanes
            .send_work(shard, Work::Commands(self.index, batch))
        {
            Ok(()) => {
                outgoing.size = Size {
                    messages: outgoing.command_messages,
                    bytes: outgoing.command_bytes,
                };
                (outgoing.command_messages, outgoing.command_bytes) = (0, 0);
            }
            Err(Work::Commands(_, batch)) => outgoing.commands = batch,
            Err(Work::Events(_) | Work::Returned(..) | Work::Directory { .. }) => {}
        }
    }

    /// A plain push joins those before it. `false`: there is no room, or it is too large for that.
    pub(super) fn forward_plain(
        &mut self,
        shard: ShardIndex,
        job: Option<JobId>,
        push: &PlainPush,
    ) -> bool {
        if push.payload().len() > LARGEST_JOINED || !self.has_room(shard) {
            return false;
        }
        if let Some(job) = job {
            self.ledger.jobs.open(job);
        }
        self.metrics.crossings.count("push");
        let outgoing = &mut self.outgoing[usize::from(shard)];
        outgoing.command_messages += 1;
        outgoing.command_bytes += push.payload().len();
        let wanted = job.map(JobId::to_wire);
        match outgoing.commands.last_mut() {
            Some(Forward {
                job,
                command: Command::Convoy(convoy),
            }) if *job == wanted => convoy.add(push),
            _ => {
                let mut convoy = outgoing.size.convoy();
                convoy.add(push);
                outgoing.commands.push(Forward {
                    job: wanted,
                    command: Command::Convoy(convoy),
                });
            }
        }
        true
    }

    pub(super) fn forward(&mut self, shard: ShardIndex, job: Option<JobId>, command: Command) {
        if let Some(job) = job {
            self.ledger.jobs.open(job);
        }
        let (kind, bytes) = match &command {
            Command::Push(push) => ("push", push.payload.len()),
            _ => ("command", 0),
        };
        self.metrics.crossings.count(kind);
        let outgoing = &mut self.outgoing[usize::from(shard)];
        outgoing.command_messages += 1;
        outgoing.command_bytes += bytes;
        outgoing.commands.push(Forward {
            job: job.map(JobId::to_wire),
            command,
        });
    }
}
