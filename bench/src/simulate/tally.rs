//! Messages to the clients of one shard, counted as the kernel takes them: what the shard's own account is held against.

use gateway_core::{metrics::Metrics, shard::Shard};

/// What the kernel has taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// It took the last byte of so many messages.
    taken: u64,
    /// So many of those were part of a send that broke off: the shard takes them for lost.
    torn: u64,
}

impl Tally {
    /// It took so many; those of a send that it has not taken whole are `aloft`.
    pub fn took(&mut self, messages: u64, aloft: &mut u64, whole: bool) {
        self.taken += messages;
        *aloft = if whole { 0 } else { *aloft + messages };
    }

    /// A connection has ended with so many aloft.
    pub fn broke_off(&mut self, aloft: u64) {
        self.torn += aloft;
    }

    /// What is wrong with the shard's account of deliveries: each that was tried was taken by the kernel, is counted as
    /// dropped, or waits. `aloft`: of all connections there are.
    pub fn unaccounted(&self, shard: &Shard, metrics: &Metrics, aloft: u64) -> Option<String> {
        let written = self.taken - self.torn - aloft;
        let counted = metrics.messages_out_client.get();
        if counted != written {
            return Some(format!(
                "{counted} messages are counted as written, {written} were"
            ));
        }
        let account = shard.account();
        let known = written + account.dropped + account.waiting;
        (account.tried != known).then(|| {
            format!(
                "{written} deliveries were written, of {account:?}: some are gone that nobody counted"
            )
        })
    }
}
