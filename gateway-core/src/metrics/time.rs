//! Where a shard's time goes, and who takes it, as the shard's timesheet publishes it.

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Counter, Family, Histogram};
use crate::identity::ShardIndex;

/// What a shard's thread does with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Asleep, until something comes or is due.
    Parked,
    /// System calls: receiving, sending, looking for completions.
    Kernel,
    /// What came from sockets, into the machines: HTTP/2 of links, WebSocket frames of clients.
    Ingress,
    /// Deadlines of connections, links, sessions and the drain.
    Timers,
    /// What came from other shards, and what goes there.
    Lanes,
    /// Slices of wide fan-outs, with the deliveries they make.
    Fanout,
    /// Messages of links: taken out of HTTP/2, decoded, checked.
    Decode,
    /// From a command to the connections it is for.
    Route,
    /// The WebSocket frame, and its way into outboxes.
    Frame,
    /// What goes out: acks, receipts and events of links, bytes of outboxes, what was sent of them.
    Egress,
    /// Everything else: accepting, closing, moving sockets.
    Other,
}

impl Phase {
    /// How many there are.
    pub const COUNT: usize = 11;

    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Parked,
        Self::Kernel,
        Self::Ingress,
        Self::Timers,
        Self::Lanes,
        Self::Fanout,
        Self::Decode,
        Self::Route,
        Self::Frame,
        Self::Egress,
        Self::Other,
    ];

    /// Its name in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Kernel => "kernel",
            Self::Ingress => "ingress",
            Self::Timers => "timers",
            Self::Lanes => "lanes",
            Self::Fanout => "fanout",
            Self::Decode => "decode",
            Self::Route => "route",
            Self::Frame => "frame",
            Self::Egress => "egress",
            Self::Other => "other",
        }
    }
}

/// What makes ticks slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Something else ran on the shard's core while the shard was ready to run.
    CpuTaken,
    /// Deliveries of wide fan-outs.
    Fanout,
    /// What a link sends.
    Link,
    /// What another shard forwards.
    Lane,
    /// What clients send; clients that come and leave.
    Clients,
    /// Deadlines that were due together.
    Timers,
    /// What earlier ticks had left to be sent.
    Sends,
    /// None of these: look at the phases.
    Unknown,
}

impl Cause {
    /// Its name in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::CpuTaken => "cpu_taken",
            Self::Fanout => "fanout",
            Self::Link => "link",
            Self::Lane => "lane",
            Self::Clients => "clients",
            Self::Timers => "timers",
            Self::Sends => "sends",
            Self::Unknown => "unknown",
        }
    }
}

/// The labels of [`Time::slow_ticks`].
const CAUSES: &[&str] = &[
    "cpu_taken",
    "fanout",
    "link",
    "lane",
    "clients",
    "timers",
    "sends",
    "unknown",
];

/// The time of one shard.
#[derive(Debug)]
pub struct Time {
    /// Nanoseconds of each [`Phase`], by `Phase as usize`. Their sum is the time since the shard came up.
    pub phases: [Counter; Phase::COUNT],
    /// Ticks that took longer than `timesheet.slow_tick_ms`, by [`Cause`].
    pub slow_ticks: Family,
    /// Commands of links.
    pub commands: Counter,
    /// Deliveries of wide fan-outs.
    pub fanout_deliveries: Counter,
    /// What was ready per tick that found something ready: completions, or sockets of a readiness-based driver.
    pub completions: Histogram,
    /// Batches that waited in the lane of work, per tick that found any.
    pub lane_depth: Histogram,
    /// How long each batch waited there, in nanoseconds.
    pub lane_wait_nanos: Histogram,
    board: Mutex<Board>,
}

/// Who takes a shard's time: names, renewed about once a second.
#[derive(Clone, Debug, Default)]
pub struct Board {
    /// The time that was looked at.
    pub window: Duration,
    /// The links that brought most, the busiest first; at most [`Board::MOST`].
    pub links: Vec<LinkLoad>,
    /// The fan-outs that made most deliveries, the widest first; at most [`Board::MOST`].
    pub fanouts: Vec<FanoutLoad>,
    /// Commands that each other shard forwarded; only those that did, the busiest first; at most [`Board::MOST`].
    pub lanes: Vec<LaneLoad>,
    /// The newest slow ticks, the oldest first; at most [`Board::SLOW`].
    pub slow: Vec<SlowTick>,
}

/// What a link brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkLoad {
    /// The logic service's address.
    pub peer: SocketAddr,
    /// What it calls itself. Empty: it has not said.
    pub service: String,
    /// Its commands.
    pub commands: u64,
    /// Bytes read from it.
    pub bytes: u64,
}

/// What a fan-out did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FanoutLoad {
    /// Whom it is for.
    pub audience: Audience,
    /// How many connections or users the widest of its pushes was for, if that is known.
    pub members: u64,
    /// How many deliveries it made.
    pub deliveries: u64,
}

/// Whom a fan-out is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// The members of a topic.
    Topic(String),
    /// Everyone.
    Everyone,
    /// Users that the push lists.
    Users,
}

/// What another shard forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneLoad {
    /// The other shard.
    pub shard: ShardIndex,
    /// Its commands.
    pub commands: u64,
}

/// A tick that took too long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SlowTick {
    /// Which one of the shard, from 1.
    pub number: u64,
    /// When it began, in milliseconds since the start of the process.
    pub at_ms: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// How much of that the thread was ready to run but did not, in microseconds.
    pub not_running_us: u64,
    /// How long it read, worked and sent, in microseconds.
    pub parts_us: [u64; 3],
    /// What it was about.
    pub cause: Cause,
    /// Who, in words: a link with its peer and service, a topic with its members, a shard.
    pub culprit: String,
}

impl Board {
    /// Most entries of a list.
    pub const MOST: usize = 8;
    /// Most slow ticks that are remembered.
    pub const SLOW: usize = 32;
}

impl Time {
    /// What the shard tells of who takes its time; only for the shard itself: gives up where somebody reads it just now.
    #[must_use]
    pub fn try_board(&self) -> Option<MutexGuard<'_, Board>> {
        self.board.try_lock().ok()
    }

    /// A copy of what the shard has told.
    #[must_use]
    pub fn board(&self) -> Board {
        let board = self.board.lock();
        board.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Default for Time {
    fn default() -> Self {
        Self {
            phases: std::array::from_fn(|_| Counter::default()),
            slow_ticks: Family::new(CAUSES),
            commands: Counter::default(),
            fanout_deliveries: Counter::default(),
            completions: Histogram::default(),
            lane_depth: Histogram::default(),
            lane_wait_nanos: Histogram::default(),
            board: Mutex::default(),
        }
    }
}

impl std::fmt::Display for Audience {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Topic(name) => write!(f, "topic {name:?}"),
            Self::Everyone => f.write_str("everyone"),
            Self::Users => f.write_str("lists of users"),
        }
    }
}
