//! Commands on their way to other shards.

use super::{Shard, jobs::JobId};
use crate::{
    command::Command,
    identity::ShardIndex,
    lanes::{Forward, Work},
};

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
            Ok(()) => outgoing.command_bytes = 0,
            Err(Work::Commands(_, batch)) => outgoing.commands = batch,
            Err(Work::Events(_) | Work::Returned(..) | Work::Directory { .. }) => {}
        }
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
        outgoing.command_bytes += bytes;
        outgoing.commands.push(Forward {
            job: job.map(JobId::to_wire),
            command,
        });
    }
}
