//! What a shard counts. Written by the shard's thread alone, read by the control thread.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::identity::ShardIndex;

mod time;

pub use time::{Audience, Board, Cause, FanoutLoad, LaneLoad, LinkLoad, Phase, SlowTick, Time};

/// A number with one writer: adding is a load and a store, no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes `n` away: for gauges.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// Replaces the value: for gauges.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counts by reason, where the reasons are few and known: an enum's labels.
#[derive(Debug)]
pub struct Family {
    labels: &'static [&'static str],
    counters: Box<[Counter]>,
}

impl Family {
    /// A counter for each label.
    #[must_use]
    pub fn new(labels: &'static [&'static str]) -> Self {
        Self {
            labels,
            counters: labels.iter().map(|_| Counter::default()).collect(),
        }
    }

    /// Counts one more of `label`; a label that is not in the list counts as the last one.
    pub fn count(&self, label: &str) {
        self.add(label, 1);
    }

    /// Counts `n` more of `label`; a label that is not in the list counts as the last one.
    pub fn add(&self, label: &str, n: u64) {
        let last = self.labels.len() - 1;
        let at = self.labels.iter().position(|known| *known == label);
        debug_assert!(at.is_some(), "no such label: {label}");
        self.counters[at.unwrap_or(last)].add(n);
    }

    /// Every label with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.counters.iter().map(Counter::get);
        self.labels.iter().copied().zip(counts)
    }

    /// The sum of all labels.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counters.iter().map(Counter::get).sum()
    }
}

/// Counts of values by powers of two: bucket `i` holds values below `2^i`, the last one the rest.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; Self::BUCKETS],
    sum: Counter,
}

impl Histogram {
    /// Values from 0 to 2^39 keep a bucket of their own.
    pub const BUCKETS: usize = 40;

    /// Records one value.
    #[inline]
    pub fn record(&self, value: u64) {
        self.record_many(value, 1);
    }

    /// Records one value `n` times.
    #[inline]
    pub fn record_many(&self, value: u64, n: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.buckets[bucket.min(Self::BUCKETS - 1)].add(n);
        self.sum.add(value.wrapping_mul(n));
    }

    /// Upper bound (exclusive) and count of each bucket; the last bound is `u64::MAX`.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(at, count)| {
            let bound = if at + 1 == Self::BUCKETS {
                u64::MAX
            } else {
                1 << at
            };
            (bound, count.get())
        })
    }

    /// The sum of all values.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum.get()
    }

    /// How many values were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Counter::default()),
            sum: Counter::default(),
        }
    }
}

/// Why a delivery was dropped or never came to be.
pub const DROPS: &[&str] = &[
    "conflated",
    "expired",
    "slow",
    "priority",
    "closed",
    "no_target",
    "upstream_full",
    "no_service",
    "service_forgotten",
];
/// Why a command was rejected: `RejectReason` in lower case.
pub const REJECTIONS: &[&str] = &[
    "unknown_target",
    "invalid_name",
    "invalid_text",
    "too_large",
    "wrong_shard",
    "bad_sequence",
    "bad_close",
    "unknown_frame",
    "unsupported",
    "overloaded",
];
/// What crossed to another shard.
pub const CROSSINGS: &[&str] = &["push", "socket", "event", "command", "reply", "directory"];
/// Why a handshake was refused.
pub const REFUSALS: &[&str] = &[
    "garbage",
    "tls",
    "header_too_large",
    "http_version",
    "bad_method",
    "bad_request",
    "body",
    "timeout",
    "path",
    "no_upgrade",
    "bad_version",
    "bad_key",
    "origin",
    "bad_user",
    "unauthorised",
    "overload",
    "draining",
    "closed",
    "other",
];
/// How clients broke the WebSocket protocol or our rules.
pub const CLIENT_ERRORS: &[&str] = &[
    "reserved_bits",
    "reserved_opcode",
    "fragmented_control",
    "oversize_control",
    "unmasked",
    "bad_length",
    "unexpected_continuation",
    "expected_continuation",
    "bad_close_payload",
    "bad_close_code",
    "invalid_utf8",
    "too_big",
    "too_many_fragments",
    "slow",
    "pong_timeout",
    "close_timeout",
    "reset",
    "other",
];
/// What ended gRPC streams and links.
pub const STREAM_ERRORS: &[&str] = &[
    "unknown_method",
    "bad_request",
    "bad_hello",
    "invalid_protobuf",
    "message_too_large",
    "bad_message",
    "truncated",
    "reset",
    "deadline",
    "link_lost",
    "link_protocol",
    "keepalive",
    "too_many_links",
    "too_many_services",
    "other",
];
/// Why an accept failed.
pub const ACCEPT_ERRORS: &[&str] = &["descriptors", "memory", "aborted", "other"];
/// The close codes a gateway sends, and what stands for the rest.
pub const CLOSE_CODES: &[&str] = &[
    "1000", "1001", "1002", "1005", "1006", "1007", "1008", "1009", "1011", "1012", "1013", "4400",
    "4401", "4403", "4408", "4409", "4503", "other",
];

/// All counts of one shard. Aligned so that no two shards share a cache line.
#[derive(Debug)]
#[repr(align(128))]
pub struct Metrics {
    /// The shard.
    pub shard: ShardIndex,
    /// Time of the newest tick: nanoseconds since the process' start. What tells a stalled shard.
    pub heartbeat_nanos: Counter,

    /// Open client connections.
    pub connections: Counter,
    /// Sockets that have not finished their handshake.
    pub handshaking: Counter,
    /// Open links.
    pub links: Counter,
    /// Open gRPC streams.
    pub streams: Counter,
    /// Users with a connection.
    pub users: Counter,
    /// Topics with a subscription.
    pub topics: Counter,
    /// Bytes waiting in outboxes.
    pub outbox_bytes: Counter,
    /// Streams that receive this shard's directory.
    pub directory_streams: Counter,
    /// Bytes of changes kept for streams that are behind.
    pub directory_queue_bytes: Counter,

    /// Changes of users put into the directory's queue.
    pub directory_changes: Counter,
    /// Snapshots of the directory that were begun, those that were restarted included.
    pub directory_snapshots: Counter,
    /// Streams that fell too far behind: their changes were thrown away, a new snapshot tells all.
    pub directory_restarts: Counter,
    /// Queries answered, in whole or for a shard's part.
    pub queries: Counter,

    /// Pushes taken from logic services.
    pub messages_in_logic: Counter,
    /// Messages taken from clients.
    pub messages_in_client: Counter,
    /// Deliveries to a client connection that were tried: each is written, dropped and counted, or waits in an outbox.
    pub deliveries: Counter,
    /// Messages written to clients: the kernel has taken them.
    pub messages_out_client: Counter,
    /// Events sent to logic services.
    pub messages_out_logic: Counter,
    /// Bytes read from logic services.
    pub received_bytes_logic: Counter,
    /// Bytes read from clients.
    pub received_bytes_client: Counter,
    /// Bytes written to clients.
    pub sent_bytes_client: Counter,
    /// Bytes written to logic services.
    pub sent_bytes_logic: Counter,
    /// Receives that found all buffers of their ring taken, and were made again.
    pub buffer_shortages: Counter,

    /// Sessions that are remembered, those with a stream included.
    pub sessions: Counter,
    /// Commands that came again after a resume, and had no effect.
    pub duplicates: Counter,
    /// Streams that were replaced by a newer one of their session.
    pub takeovers: Counter,
    /// Bytes of client events that services have not acknowledged.
    pub unacked_bytes: Counter,
    /// Client events that were sent again, because a stream ended before it had acknowledged them.
    pub events_resent: Counter,
    /// Streams that were refused because somebody else uses their session.
    pub session_clashes: Counter,
    /// Sessions that were forgotten before their time, or not taken in at all.
    pub sessions_evicted: Counter,
    /// Users that lost their subscriptions when their last connection ended.
    pub subscribers_forgotten: Counter,

    /// Messages that crossed to another shard, by kind ([`CROSSINGS`]).
    pub crossings: Family,
    /// Dropped deliveries and events, by reason ([`DROPS`]).
    pub drops: Family,
    /// Rejected commands, by reason ([`REJECTIONS`]).
    pub rejected: Family,
    /// Refused handshakes, by reason ([`REFUSALS`]).
    pub refused_handshakes: Family,
    /// Errors of clients, by reason ([`CLIENT_ERRORS`]).
    pub client_errors: Family,
    /// Errors of streams and links, by reason ([`STREAM_ERRORS`]).
    pub stream_errors: Family,
    /// Failed accepts, by reason ([`ACCEPT_ERRORS`]).
    pub accept_errors: Family,
    /// Ended connections, by close code ([`CLOSE_CODES`]).
    pub closed: Family,

    /// Ticks.
    pub ticks: Counter,
    /// Send calls for clients.
    pub sends: Counter,
    /// Duration of ticks, in nanoseconds.
    pub tick_nanos: Histogram,
    /// Bytes read from links per tick that read any.
    pub tick_bytes: Histogram,
    /// Messages joined in one send.
    pub messages_per_send: Histogram,
    /// From the arrival of a push's bytes to the kernel taking it, in nanoseconds, of each send's oldest message.
    pub push_to_send_nanos: Histogram,
    /// Where the time goes.
    pub time: Time,
}

impl Metrics {
    /// All zero.
    #[must_use]
    pub fn new(shard: ShardIndex) -> Self {
        Self {
            shard,
            heartbeat_nanos: Counter::default(),
            connections: Counter::default(),
            handshaking: Counter::default(),
            links: Counter::default(),
            streams: Counter::default(),
            users: Counter::default(),
            topics: Counter::default(),
            outbox_bytes: Counter::default(),
            directory_streams: Counter::default(),
            directory_queue_bytes: Counter::default(),
            directory_changes: Counter::default(),
            directory_snapshots: Counter::default(),
            directory_restarts: Counter::default(),
            queries: Counter::default(),
            messages_in_logic: Counter::default(),
            messages_in_client: Counter::default(),
            deliveries: Counter::default(),
            messages_out_client: Counter::default(),
            messages_out_logic: Counter::default(),
            received_bytes_logic: Counter::default(),
            received_bytes_client: Counter::default(),
            sent_bytes_client: Counter::default(),
            sent_bytes_logic: Counter::default(),
            sessions: Counter::default(),
            duplicates: Counter::default(),
            takeovers: Counter::default(),
            unacked_bytes: Counter::default(),
            buffer_shortages: Counter::default(),
            events_resent: Counter::default(),
            session_clashes: Counter::default(),
            sessions_evicted: Counter::default(),
            subscribers_forgotten: Counter::default(),
            crossings: Family::new(CROSSINGS),
            drops: Family::new(DROPS),
            rejected: Family::new(REJECTIONS),
            refused_handshakes: Family::new(REFUSALS),
            client_errors: Family::new(CLIENT_ERRORS),
            stream_errors: Family::new(STREAM_ERRORS),
            accept_errors: Family::new(ACCEPT_ERRORS),
            closed: Family::new(CLOSE_CODES),
            ticks: Counter::default(),
            sends: Counter::default(),
            tick_nanos: Histogram::default(),
            tick_bytes: Histogram::default(),
            messages_per_send: Histogram::default(),
            push_to_send_nanos: Histogram::default(),
            time: Time::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_puts_values_below_their_bound() {
        let histogram = Histogram::default();
        for value in [0, 1, 2, 3, 1 << 20, u64::MAX] {
            histogram.record(value);
        }
        let filled: Vec<_> = histogram.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(
            filled,
            [(1, 1), (2, 1), (4, 2), (1 << 21, 1), (u64::MAX, 1)]
        );
        assert_eq!(histogram.count(), 6);
    }

    #[test]
    fn family_counts_by_label() {
        let drops = Family::new(DROPS);
        drops.count("slow");
        drops.add("slow", 2);
        assert_eq!(
            drops.iter().find(|(label, _)| *label == "slow"),
            Some(("slow", 3))
        );
        assert_eq!(drops.total(), 3);
    }
}
