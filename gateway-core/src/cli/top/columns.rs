//! The columns of the table: one line each.

use clap::ValueEnum;

use crate::{control::ShardReport, metrics::Phase};

/// What a shard can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Column {
    /// The shard's number
    Shard,
    /// Share of the time on a CPU
    Cpu,
    /// Share of the time ready to run, but not running
    Wait,
    /// Asleep
    Parked,
    /// System calls
    Kernel,
    /// Bytes into HTTP/2 and WebSocket
    Ingress,
    /// Deadlines
    Timers,
    /// From and to other shards
    Lanes,
    /// Wide fan-outs
    Fanout,
    /// Messages of links taken apart
    Decode,
    /// From commands to connections
    Route,
    /// WebSocket frames into outboxes
    Frame,
    /// Acks, receipts, events, flushing
    Egress,
    /// The rest
    Other,
    /// Messages a second, to and from clients
    Messages,
    /// 99 of 100 ticks are shorter, in microseconds
    Tick,
}

impl Column {
    pub(super) const ALL: [Self; 16] = [
        Self::Shard,
        Self::Cpu,
        Self::Wait,
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
        Self::Messages,
        Self::Tick,
    ];

    /// Its head, and how wide it is; all together fit 80 places.
    pub(super) fn head(self) -> (&'static str, u16) {
        match self {
            Self::Shard => ("shd", 3),
            Self::Cpu => ("cpu", 4),
            Self::Wait => ("wait", 4),
            Self::Parked => ("park", 4),
            Self::Kernel => ("kern", 4),
            Self::Ingress => ("ingr", 4),
            Self::Timers => ("time", 4),
            Self::Lanes => ("lane", 4),
            Self::Fanout => ("fan", 4),
            Self::Decode => ("dec", 4),
            Self::Route => ("rout", 4),
            Self::Frame => ("fram", 4),
            Self::Egress => ("egr", 4),
            Self::Other => ("oth", 4),
            Self::Messages => ("msg/s", 5),
            Self::Tick => ("p99us", 5),
        }
    }

    /// The phase it shows.
    fn phase(self) -> Option<Phase> {
        Some(match self {
            Self::Parked => Phase::Parked,
            Self::Kernel => Phase::Kernel,
            Self::Ingress => Phase::Ingress,
            Self::Timers => Phase::Timers,
            Self::Lanes => Phase::Lanes,
            Self::Fanout => Phase::Fanout,
            Self::Decode => Phase::Decode,
            Self::Route => Phase::Route,
            Self::Frame => Phase::Frame,
            Self::Egress => Phase::Egress,
            Self::Other => Phase::Other,
            Self::Shard | Self::Cpu | Self::Wait | Self::Messages | Self::Tick => return None,
        })
    }

    /// What to sort by. `None`: it is not known.
    pub(super) fn value(self, report: &ShardReport, ns: bool) -> Option<f64> {
        if let Some(phase) = self.phase() {
            let found = report.phases.iter().find(|of| of.phase == phase.label())?;
            return if ns {
                found.ns_per_message
            } else {
                Some(found.share)
            };
        }
        match self {
            Self::Shard => Some(f64::from(report.shard)),
            Self::Cpu => Some(report.scheduler?.running),
            Self::Wait => Some(report.scheduler?.waiting),
            Self::Messages => Some(report.messages_in + report.messages_out),
            _ => Some(report.tick_us.p99),
        }
    }

    /// What stands in the table.
    pub(super) fn cell(self, report: &ShardReport, ns: bool) -> String {
        let Some(value) = self.value(report, ns) else {
            return "-".to_owned();
        };
        match self {
            Self::Shard | Self::Messages | Self::Tick => short(value),
            _ if ns && self.phase().is_some() => short(value),
            _ => share(value),
        }
    }

    /// The next one to the right, or to the left.
    pub(super) fn beside(self, right: bool) -> Self {
        let count = Self::ALL.len();
        let at = Self::ALL
            .iter()
            .position(|column| *column == self)
            .unwrap_or(0);
        let step = if right { 1 } else { count - 1 };
        Self::ALL[(at + step) % count]
    }
}

/// Hundredths, in at most four places.
fn share(value: f64) -> String {
    match value * 100.0 {
        percent if percent >= 99.95 => "100".to_owned(),
        percent => format!("{percent:.1}"),
    }
}

/// A number in at most four places.
pub(super) fn short(value: f64) -> String {
    match value {
        v if v < 9_999.5 => format!("{v:.0}"),
        v if v < 999_500.0 => format!("{:.0}k", v / 1e3),
        v if v < 9.95e6 => format!("{:.1}M", v / 1e6),
        v if v < 999.5e6 => format!("{:.0}M", v / 1e6),
        v => format!("{:.0}G", v / 1e9),
    }
}
