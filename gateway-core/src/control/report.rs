//! Every metric of the gateway: one line each, read from what shards count.

use std::ops::Range;

use super::{
    Life, State, Subject, shards,
    text::{Kind, Page},
};
use crate::metrics::{Counter, Family, Histogram, Metrics, Phase};

/// Name, meaning, and where the value is.
type Single = (&'static str, &'static str, fn(&Metrics) -> &Counter);
/// Name, meaning, label, and the counter of each of the label's values.
type Pair = (
    &'static str,
    &'static str,
    &'static str,
    [(&'static str, fn(&Metrics) -> &Counter); 2],
);
/// Name, meaning, label, and where the counters are.
type Reasons = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Metrics) -> &Family,
);

const GAUGES: &[Single] = &[
    ("ringway_connections", "Open client connections.", |m| {
        &m.connections
    }),
    (
        "ringway_handshaking",
        "Sockets that have not finished their handshake.",
        |m| &m.handshaking,
    ),
    (
        "ringway_links",
        "Open HTTP/2 connections of logic services.",
        |m| &m.links,
    ),
    ("ringway_streams", "Open gRPC streams.", |m| &m.streams),
    (
        "ringway_sessions",
        "Sessions of logic services that are remembered, those with a stream included.",
        |m| &m.sessions,
    ),
    (
        "ringway_unacked_bytes",
        "Bytes of client events that services have not acknowledged.",
        |m| &m.unacked_bytes,
    ),
    ("ringway_users", "Users with a connection.", |m| &m.users),
    ("ringway_topics", "Topics with a subscription.", |m| {
        &m.topics
    }),
    ("ringway_outbox_bytes", "Bytes waiting in outboxes.", |m| {
        &m.outbox_bytes
    }),
    (
        "ringway_directory_streams",
        "Streams that receive a shard's directory, those of other shards included.",
        |m| &m.directory_streams,
    ),
    (
        "ringway_directory_queue_bytes",
        "Bytes of changes kept for streams that are behind.",
        |m| &m.directory_queue_bytes,
    ),
];

const COUNTERS: &[Single] = &[
    ("ringway_ticks_total", "Ticks.", |m| &m.ticks),
    (
        "ringway_commands_total",
        "Commands of logic services that links handed out.",
        |m| &m.time.commands,
    ),
    (
        "ringway_fanout_deliveries_total",
        "Deliveries of pushes for topics, everyone, and lists of users.",
        |m| &m.time.fanout_deliveries,
    ),
    (
        "ringway_deliveries_total",
        "Deliveries to a client connection that were tried: each is written, dropped by reason, or waits in an outbox.",
        |m| &m.deliveries,
    ),
    (
        "ringway_duplicates_total",
        "Commands that came again after a resume, and had no effect.",
        |m| &m.duplicates,
    ),
    (
        "ringway_takeovers_total",
        "Streams replaced by a newer one of their session.",
        |m| &m.takeovers,
    ),
    (
        "ringway_buffer_shortages_total",
        "Receives that found all buffers of their ring taken, and were made again.",
        |m| &m.buffer_shortages,
    ),
    (
        "ringway_events_resent_total",
        "Client events sent again, because a stream ended before it had acknowledged them.",
        |m| &m.events_resent,
    ),
    (
        "ringway_session_clashes_total",
        "Streams refused because somebody else uses their session.",
        |m| &m.session_clashes,
    ),
    (
        "ringway_sessions_evicted_total",
        "Sessions forgotten before their time (sessions.max).",
        |m| &m.sessions_evicted,
    ),
    (
        "ringway_subscribers_forgotten_total",
        "Users that lost their subscriptions when their last connection ended (limits.max_offline_users).",
        |m| &m.subscribers_forgotten,
    ),
    ("ringway_sends_total", "Send calls for clients.", |m| {
        &m.sends
    }),
    (
        "ringway_directory_changes_total",
        "Changes of users told to streams that receive the directory.",
        |m| &m.directory_changes,
    ),
    (
        "ringway_directory_snapshots_total",
        "Snapshots of the directory that were begun.",
        |m| &m.directory_snapshots,
    ),
    (
        "ringway_directory_restarts_total",
        "Streams that fell too far behind and get a new snapshot.",
        |m| &m.directory_restarts,
    ),
    (
        "ringway_queries_total",
        "Queries answered, in whole or for a shard's part.",
        |m| &m.queries,
    ),
];

const PAIRS: &[Pair] = &[
    (
        "ringway_messages_in_total",
        "Messages taken: pushes of logic services, messages of clients.",
        "from",
        [
            ("logic", |m| &m.messages_in_logic),
            ("client", |m| &m.messages_in_client),
        ],
    ),
    (
        "ringway_messages_out_total",
        "Messages written to clients (the kernel has taken them), events sent to logic services.",
        "to",
        [
            ("client", |m| &m.messages_out_client),
            ("logic", |m| &m.messages_out_logic),
        ],
    ),
    (
        "ringway_received_bytes_total",
        "Bytes read from sockets.",
        "from",
        [
            ("logic", |m| &m.received_bytes_logic),
            ("client", |m| &m.received_bytes_client),
        ],
    ),
    (
        "ringway_sent_bytes_total",
        "Bytes written to sockets.",
        "to",
        [
            ("client", |m| &m.sent_bytes_client),
            ("logic", |m| &m.sent_bytes_logic),
        ],
    ),
];

const REASONS: &[Reasons] = &[
    (
        "ringway_crossings_total",
        "What crossed to another shard.",
        "kind",
        |m| &m.crossings,
    ),
    (
        "ringway_drops_total",
        "Dropped deliveries and events.",
        "reason",
        |m| &m.drops,
    ),
    (
        "ringway_rejected_total",
        "Rejected commands of logic services.",
        "reason",
        |m| &m.rejected,
    ),
    (
        "ringway_refused_handshakes_total",
        "Refused WebSocket handshakes.",
        "reason",
        |m| &m.refused_handshakes,
    ),
    (
        "ringway_client_errors_total",
        "How clients broke the protocol or our rules.",
        "reason",
        |m| &m.client_errors,
    ),
    (
        "ringway_stream_errors_total",
        "What ended gRPC streams and links.",
        "reason",
        |m| &m.stream_errors,
    ),
    (
        "ringway_accept_errors_total",
        "Failed accepts.",
        "reason",
        |m| &m.accept_errors,
    ),
    (
        "ringway_closed_total",
        "Ended client connections, by close code.",
        "code",
        |m| &m.closed,
    ),
    (
        "ringway_slow_ticks_total",
        "Ticks of at least timesheet.slow_tick_ms, by what made them slow.",
        "cause",
        |m| &m.time.slow_ticks,
    ),
];

/// What a histogram counts, and the powers of two that are shown as bounds; buckets outside are added to their neighbours.
enum Unit {
    /// Counted in nanoseconds, shown in seconds.
    Seconds(Range<u32>),
    /// Whole numbers: values below 2^i are values up to 2^i - 1.
    Whole(Range<u32>),
}

type Spread = (&'static str, &'static str, Unit, fn(&Metrics) -> &Histogram);

const HISTOGRAMS: &[Spread] = &[
    (
        "ringway_tick_seconds",
        "Duration of ticks.",
        Unit::Seconds(10..32),
        |m| &m.tick_nanos,
    ),
    (
        "ringway_tick_bytes",
        "Bytes read from logic services per tick that read any.",
        Unit::Whole(6..25),
        |m| &m.tick_bytes,
    ),
    (
        "ringway_tick_completions",
        "Completions, or ready sockets, per tick that found any.",
        Unit::Whole(1..13),
        |m| &m.time.completions,
    ),
    (
        "ringway_lane_depth",
        "Batches waiting in the lane from other shards, per tick that found any.",
        Unit::Whole(1..11),
        |m| &m.time.lane_depth,
    ),
    (
        "ringway_lane_wait_seconds",
        "How long batches waited in the lane from other shards.",
        Unit::Seconds(10..32),
        |m| &m.time.lane_wait_nanos,
    ),
    (
        "ringway_messages_per_send",
        "Messages joined in one send.",
        Unit::Whole(1..13),
        |m| &m.messages_per_send,
    ),
    (
        "ringway_push_to_send_seconds",
        "From the arrival of a push to the kernel taking it, of each send's oldest message.",
        Unit::Seconds(10..35),
        |m| &m.push_to_send_nanos,
    ),
];

/// The page of all metrics. While the gateway starts there is little to tell.
pub(super) fn metrics(state: &State) -> String {
    let mut page = Page::default();
    let ready = u8::from(state.life() == Life::Ready);
    page.metric(
        "ringway_ready",
        Kind::Gauge,
        "Whether new clients should be sent here.",
    );
    page.sample("ringway_ready", &[], ready);
    if let Some(registration) = state.registration.get() {
        registration.report(&mut page);
    }
    if let Some(subject) = state.subject.get() {
        information(&mut page, subject);
        if let Some(desk) = state.desk.get() {
            desk.report(&mut page);
        }
        let shards: Vec<_> = subject
            .metrics
            .iter()
            .map(|metrics| (metrics.shard.to_string(), &**metrics))
            .collect();
        heartbeats(&mut page, subject, &shards);
        phases(&mut page, &shards);
        shards::threads(&mut page, subject);
        counters(&mut page, &shards);
        histograms(&mut page, &shards);
    }
    page.finish()
}

fn information(page: &mut Page, subject: &Subject) {
    let name = "ringway_build_info";
    page.metric(name, Kind::Gauge, "What runs here; always 1.");
    page.sample(
        name,
        &[("version", &subject.version), ("driver", &subject.driver)],
        1,
    );
    let name = "ringway_gateway_info";
    page.metric(
        name,
        Kind::Gauge,
        "Which gateway this is, and which run of it; always 1.",
    );
    let epoch = subject.epoch.to_string();
    page.sample(name, &[("gateway", &subject.id), ("epoch", &epoch)], 1);
}

type Shards<'a> = [(String, &'a Metrics)];

fn heartbeats(page: &mut Page, subject: &Subject, shards: &Shards<'_>) {
    let name = "ringway_heartbeat_age_seconds";
    page.metric(name, Kind::Gauge, "Time since the last tick.");
    for (shard, metrics) in shards {
        page.sample(
            name,
            &[("shard", shard)],
            subject.age(metrics).as_secs_f64(),
        );
    }
}

fn phases(page: &mut Page, shards: &Shards<'_>) {
    let name = "ringway_time_seconds_total";
    let help = "Where the time of a shard's thread goes; the phases add up to all of it.";
    page.metric(name, Kind::Counter, help);
    for (shard, metrics) in shards {
        for phase in Phase::ALL {
            let nanos = metrics.time.phases[phase as usize].get();
            let labels = [("shard", &**shard), ("phase", phase.label())];
            page.sample(name, &labels, nanos as f64 / 1e9);
        }
    }
}

fn counters(page: &mut Page, shards: &Shards<'_>) {
    let singles = |kind| move |single| (kind, single);
    let gauges = GAUGES.iter().map(singles(Kind::Gauge));
    let counters = COUNTERS.iter().map(singles(Kind::Counter));
    for (kind, (name, help, value)) in gauges.chain(counters) {
        page.metric(name, kind, help);
        for (shard, metrics) in shards {
            page.sample(name, &[("shard", shard)], value(metrics).get());
        }
    }
    for (name, help, label, values) in PAIRS {
        page.metric(name, Kind::Counter, help);
        for (shard, metrics) in shards {
            for (text, value) in values {
                page.sample(
                    name,
                    &[("shard", shard), (label, text)],
                    value(metrics).get(),
                );
            }
        }
    }
    for (name, help, label, family) in REASONS {
        page.metric(name, Kind::Counter, help);
        for (shard, metrics) in shards {
            for (text, count) in family(metrics).iter() {
                page.sample(name, &[("shard", shard), (label, text)], count);
            }
        }
    }
}

fn histograms(page: &mut Page, shards: &Shards<'_>) {
    for (name, help, unit, histogram) in HISTOGRAMS {
        page.metric(name, Kind::Histogram, help);
        for (shard, metrics) in shards {
            let histogram = histogram(metrics);
            page.histogram(
                name,
                ("shard", shard),
                &unit.buckets(histogram),
                unit.shown(histogram.sum()),
            );
        }
    }
}

impl Unit {
    fn buckets(&self, histogram: &Histogram) -> Vec<(f64, u64)> {
        let (Self::Seconds(powers) | Self::Whole(powers)) = self;
        let mut buckets: Vec<(f64, u64)> = Vec::new();
        let mut below = 0;
        for (bound, count) in histogram.iter() {
            below += count;
            let power = bound.checked_ilog2().filter(|_| bound.is_power_of_two());
            if power.is_some_and(|power| powers.contains(&power)) {
                buckets.push((self.bound(bound), below));
                below = 0;
            }
        }
        buckets.push((f64::INFINITY, below));
        buckets
    }

    fn bound(&self, bound: u64) -> f64 {
        match self {
            Self::Seconds(_) => self.shown(bound),
            Self::Whole(_) => self.shown(bound - 1),
        }
    }

    fn shown(&self, value: u64) -> f64 {
        match self {
            Self::Seconds(_) => value as f64 / 1e9,
            Self::Whole(_) => value as f64,
        }
    }
}
