//! Figures of a client.

use std::ops::{Add, AddAssign};

use crate::core::returned::ReturnReason;
use crate::error::{GatewayError, RejectReason};

/// Figures of a client at one moment; see [`LogicClient::stats`](crate::LogicClient::stats).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// The streams there are.
    pub streams: Vec<StreamStats>,
    /// Gateways that were named to the builder or by the resolver, and never reached; they are tried again and again,
    /// and until then nothing is sent to them.
    pub missing: Vec<String>,
    /// What streams counted that are no more: a gateway came back with another number of shards.
    pub past: Counters,
    /// Commands without a target: for connections of no known gateway, for users who are on no
    /// gateway; of lists of users, each who is nowhere.
    pub no_target: u64,
    /// What is known of where users are; `None` with [`Locate::Everywhere`](crate::Locate).
    pub directory: Option<DirectoryStats>,
}

/// Figures of a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirectoryStats {
    /// Users on any gateway.
    pub users: usize,
    /// The same, where a user on two gateways is two; at most
    /// [`Builder::directory_entries`](crate::Builder::directory_entries).
    pub entries: usize,
    /// Times one found no room.
    pub refused: u64,
    /// Shards of which one found no room since they told everything last. Pushes for users of these go there,
    /// whatever else is known.
    pub cut: usize,
    /// Shards that have told everything, and tell every change at present.
    pub complete: usize,
    /// All shards of all gateways that were reached.
    pub shards: usize,
    /// Snapshots received whole.
    pub snapshots: u64,
    /// Changes received.
    pub changes: u64,
}

/// Figures of one stream.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StreamStats {
    /// The gateway's address, as it was given to the builder.
    pub gateway: String,
    /// The shard the stream leads to.
    pub shard: u32,
    /// The ports of the gateway's shards are out of reach: the stream leads through the common port to
    /// any shard, which passes on what is for others; `shard` is 0. What was not acknowledged when it
    /// breaks is handed back as unknown.
    pub common_port: bool,
    /// What the stream is doing.
    pub state: StreamState,
    /// Commands that wait to be sent.
    pub buffered: usize,
    /// Their size in bytes.
    pub buffered_bytes: usize,
    /// Commands that are sent and not acknowledged. They take room in the buffer, too.
    pub unacked: usize,
    /// Their size in bytes.
    pub unacked_bytes: usize,
    /// What has happened so far.
    pub counters: Counters,
    /// What went wrong last.
    pub last_error: Option<GatewayError>,
}

/// What a stream is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamState {
    /// It is being opened, for the first time or again.
    #[default]
    Connecting,
    /// It waits before the next attempt.
    Waiting,
    /// It is open.
    Open,
    /// It is open, and the gateway is going away.
    Draining,
    /// It has ended for good.
    Ended,
}

/// What has happened on a stream so far. "Commands" are pushes and the rest: subscribe,
/// unsubscribe, disconnect. A push to several shards counts on each of their streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Commands sent.
    pub sent: u64,
    /// Commands acknowledged, rejected ones included.
    pub acked: u64,
    /// Commands that were sent and not acknowledged when the stream broke: they may have been
    /// done or not.
    pub unknown: u64,
    /// Commands that were sent, but not taken by the gateway, which ended the stream in good order;
    /// they were sent once more later.
    pub not_taken: u64,
    /// Commands sent again after the stream broke, under the numbers they had.
    pub resent: u64,
    /// Times a broken or replaced stream went on where it was.
    pub resumed: u64,
    /// Times another client was found to use the stream's session.
    pub shared_sessions: u64,
    /// Events that came a second time and were passed over.
    pub duplicate_events: u64,
    /// Commands not sent, because too many receipts were awaited.
    pub over_receipts: u64,
    /// Events received from clients.
    pub events: u64,
    /// Times the stream was opened again.
    pub reconnects: u64,
    /// Attempts to open the stream that failed.
    pub failed_attempts: u64,
    /// Commands the gateway refused, by reason; see [`Counters::rejected`].
    by_reason: [u64; RejectReason::ALL.len()],
    /// Commands handed back, by reason; see [`Counters::returned`].
    by_return: [u64; ReturnReason::COUNT],
}

impl Stats {
    /// The sum over all streams, past ones included.
    #[must_use]
    pub fn total(&self) -> Counters {
        let streams = self.streams.iter().map(|stream| stream.counters);
        streams.fold(self.past, |sum, counters| sum + counters)
    }
}

impl Counters {
    /// Commands the gateway refused for `reason`.
    #[must_use]
    pub fn rejected_for(&self, reason: RejectReason) -> u64 {
        self.by_reason[reason as usize]
    }

    /// Commands the gateway refused.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.by_reason.iter().sum()
    }

    /// Commands that were handed back for `reason`, parts of one push each on its own.
    #[must_use]
    pub fn returned_for(&self, reason: &ReturnReason) -> u64 {
        self.by_return[reason.index()]
    }

    /// Commands that were handed back.
    #[must_use]
    pub fn returned(&self) -> u64 {
        self.by_return.iter().sum()
    }

    pub(crate) fn count_returned(&mut self, reason: &ReturnReason) {
        self.by_return[reason.index()] += 1;
    }

    pub(crate) fn count_rejected(&mut self, reason: RejectReason) {
        self.by_reason[reason as usize] += 1;
    }
}

impl Add for Counters {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.acked += other.acked;
        self.unknown += other.unknown;
        self.not_taken += other.not_taken;
        self.resent += other.resent;
        self.resumed += other.resumed;
        self.shared_sessions += other.shared_sessions;
        self.duplicate_events += other.duplicate_events;
        self.over_receipts += other.over_receipts;
        self.events += other.events;
        self.reconnects += other.reconnects;
        self.failed_attempts += other.failed_attempts;
        for (mine, theirs) in self.by_reason.iter_mut().zip(other.by_reason) {
            *mine += theirs;
        }
        for (mine, theirs) in self.by_return.iter_mut().zip(other.by_return) {
            *mine += theirs;
        }
    }
}
