//! What goes on inside each shard, once a second: where its time went, who took it, and what to think of that.

mod findings;
mod observer;
mod scheduler;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::{
    Life, Subject,
    text::{Kind, Page},
};
use crate::{
    identity::ShardIndex,
    metrics::{FanoutLoad, LaneLoad, LinkLoad, SlowTick},
};

pub use findings::Finding;
pub(super) use observer::{Observer, observe};
use scheduler::Times;

/// Name, meaning, and what it is of a thread's times.
type ThreadCounter = (&'static str, &'static str, fn(&Times) -> f64);

const THREAD_COUNTERS: [ThreadCounter; 3] = [
    (
        "ringway_cpu_seconds_total",
        "How long the shard's thread was on a CPU.",
        |times| times.running as f64 / 1e9,
    ),
    (
        "ringway_run_delay_seconds_total",
        "How long the shard's thread was ready to run and did not: others had its CPU.",
        |times| times.waiting as f64 / 1e9,
    ),
    (
        "ringway_preemptions_total",
        "Times the shard's thread was taken off its CPU although it wanted to go on.",
        |times| times.preempted as f64,
    ),
];

/// What the scheduler says of the shards' threads, if it says anything here.
pub(super) fn threads(page: &mut Page, subject: &Subject) {
    let times: Vec<_> = (subject.metrics.iter().zip(&subject.threads))
        .filter_map(|(metrics, (thread, _))| Some((metrics.shard, scheduler::times(*thread)?)))
        .collect();
    for (name, help, value) in THREAD_COUNTERS {
        page.metric(name, Kind::Counter, help);
        for (shard, times) in &times {
            page.sample(name, &[("shard", &shard.to_string())], value(times));
        }
    }
}

/// What `GET /debug/shards` tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shards {
    /// The gateway's name.
    pub gateway: String,
    /// Which run of it, in decimal.
    pub epoch: String,
    /// Its version.
    pub version: String,
    /// What moves the bytes.
    pub driver: String,
    /// Where it is in its life.
    pub life: Life,
    /// How long it has been up.
    pub up_ms: u64,
    /// Each shard, in order.
    pub shards: Vec<ShardReport>,
}

/// One shard in the newest window of about a second. Shares are of the window's time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShardReport {
    /// Which one.
    pub shard: ShardIndex,
    /// Its thread, as in `/proc/PID/task`.
    pub thread: i32,
    /// The CPU it is pinned to.
    pub core: Option<usize>,
    /// Milliseconds since its last tick.
    pub age_ms: u64,
    /// The window.
    pub window_ms: u64,
    /// Open client connections.
    pub connections: u64,
    /// Links of logic services.
    pub links: u64,
    /// Bytes waiting in outboxes.
    pub outbox_bytes: u64,
    /// Ticks a second.
    pub ticks: f64,
    /// Commands of links a second.
    pub commands: f64,
    /// Messages of clients a second.
    pub messages_in: f64,
    /// Messages that the kernel took for clients, a second.
    pub messages_out: f64,
    /// Of these, those of wide fan-outs.
    pub fanout_share: f64,
    /// What the scheduler says of the thread. `None`: the host does not tell.
    pub scheduler: Option<Scheduled>,
    /// What the timesheet says; empty while it is off (`timesheet.enabled`).
    pub phases: Vec<PhaseReport>,
    /// How long ticks took, in microseconds.
    pub tick_us: Spread,
    /// Bytes read from links, per tick that read any.
    pub tick_bytes: Spread,
    /// Completions (or ready sockets), per tick that found any.
    pub completions: Spread,
    /// Messages joined in one send.
    pub messages_per_send: Spread,
    /// Batches waiting in the lane from other shards, per tick that found any.
    pub lane_depth: Spread,
    /// How long they waited, in microseconds.
    pub lane_wait_us: Spread,
    /// From a push's arrival to the kernel taking it, in microseconds: how old the oldest message of each send was.
    pub queue_age_us: Spread,
    /// Who brings most, links first.
    pub busiest: BusiestReport,
    /// Slow ticks since the start.
    pub slow_ticks: u64,
    /// The newest of them.
    pub slow: Vec<SlowTick>,
    /// What to think of all that, the worst first. Empty: it has time left.
    pub findings: Vec<Finding>,
}

/// What the scheduler says of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scheduled {
    /// Share of the time on a CPU.
    pub running: f64,
    /// Share of the time ready to run, but not running.
    pub waiting: f64,
    /// Times a second that it was taken off its CPU although it wanted to go on.
    pub preempted: f64,
}

/// The time of one phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseReport {
    /// Its name, as in `ringway_time_seconds_total`.
    pub phase: String,
    /// Share of the time.
    pub share: f64,
    /// Nanoseconds per message, to clients or from them. `None`: there were none.
    pub ns_per_message: Option<f64>,
}

/// How values lie, by upper bounds that are powers of two. All 0: there were none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The mean, exactly.
    pub mean: f64,
    /// Half of them are below this.
    pub p50: f64,
    /// 99 of 100 are below this.
    pub p99: f64,
    /// All are below this.
    pub max: f64,
}

/// Who brings a shard most to do, in a window of about a second.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BusiestReport {
    /// The window.
    pub window_ms: u64,
    /// Links.
    pub links: Vec<LinkLoad>,
    /// Fan-outs.
    pub fanouts: Vec<FanoutLoad>,
    /// Other shards.
    pub lanes: Vec<LaneLoad>,
}
