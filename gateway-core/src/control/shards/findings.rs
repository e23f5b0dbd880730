//! What to think of a shard's figures: is it busy, and whose doing is that.

use serde::{Deserialize, Serialize};

use super::ShardReport;
use crate::metrics::{Cause, LinkLoad};

/// Something that keeps a shard from doing more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is.
    pub cause: Cause,
    /// Who, by name. Empty: nobody in particular.
    pub culprit: String,
    /// The figures that say so.
    pub because: String,
}

/// From this share of the time on, a thread that is ready and does not run has its CPU taken by others.
const TAKEN: f64 = 0.10;
/// From this share of the time that it can have on, a shard is busy.
const BUSY: f64 = 0.50;
/// Who brings at least this share of the work is to blame for it.
const MOST: f64 = 0.50;
/// Bytes of a link that are as much work as one command.
const BYTES_PER_COMMAND: u64 = 2048;

/// What to think of a shard, the worst first; nothing, if it has time left. `neighbour` names whoever ran most on its CPU
/// beside it.
pub(super) fn findings(report: &ShardReport, neighbour: Option<String>) -> Vec<Finding> {
    let mut findings: Vec<_> = taken(report, neighbour).into_iter().collect();
    if report.busy() >= BUSY && report.window_ms > 0 {
        findings.extend(fanout(report).or_else(|| most_work(report)));
        if findings.is_empty() {
            findings.push(nobody(report));
        }
    }
    findings
}

impl ShardReport {
    /// How much of the time that its thread could have it uses.
    #[must_use]
    pub fn busy(&self) -> f64 {
        match (
            self.scheduler,
            self.phases.iter().find(|of| of.phase == "parked"),
        ) {
            (Some(of), _) => of.running / (1.0 - of.waiting).max(0.01),
            (None, Some(parked)) => 1.0 - parked.share,
            (None, None) => 0.0,
        }
    }
}

/// Whether others have its CPU.
fn taken(report: &ShardReport, neighbour: Option<String>) -> Option<Finding> {
    let scheduled = report.scheduler.filter(|of| of.waiting >= TAKEN)?;
    Some(Finding {
        cause: Cause::CpuTaken,
        culprit: neighbour.unwrap_or_else(|| "something else on its CPU".to_owned()),
        because: format!(
            "ready to run but not running for {} of the time, taken off its CPU {:.0} times a second",
            percent(scheduled.waiting),
            scheduled.preempted,
        ),
    })
}

/// Whether one fan-out makes most of the deliveries. That comes before the work by commands: one command makes many.
fn fanout(report: &ShardReport) -> Option<Finding> {
    let fanouts = &report.busiest.fanouts;
    let first = fanouts.first()?;
    let all: u64 = fanouts.iter().map(|of| of.deliveries).sum();
    let most = report.fanout_share >= MOST && first.deliveries as f64 >= MOST * all as f64;
    most.then(|| Finding {
        cause: Cause::Fanout,
        culprit: first.audience.to_string(),
        because: format!(
            "{} of what clients get is fan-outs, and {} deliveries in {} ms are this one's",
            percent(report.fanout_share),
            first.deliveries,
            report.busiest.window_ms,
        ),
    })
}

/// Whether one link, another shard, or the clients bring most of what there is to do.
fn most_work(report: &ShardReport) -> Option<Finding> {
    let busiest = &report.busiest;
    let links: u64 = busiest.links.iter().map(work).sum();
    let lanes: u64 = busiest.lanes.iter().map(|lane| lane.commands).sum();
    let clients = (report.messages_in * busiest.window_ms as f64 / 1e3) as u64;
    let all = (links + lanes + clients).max(1) as f64;
    let link = busiest.links.iter().max_by_key(|link| work(link));
    let link = link.map(|link| (work(link), Cause::Link, link_in_words(link)));
    let lane = busiest.lanes.first();
    let lane = lane.map(|of| (of.commands, Cause::Lane, format!("shard {}", of.shard)));
    let clients = Some((clients, Cause::Clients, "clients".to_owned()));
    let most = [link, lane, clients]
        .into_iter()
        .flatten()
        .max_by_key(|of| of.0);
    let (work, cause, culprit) = most.filter(|of| of.0 as f64 >= MOST * all)?;
    Some(Finding {
        cause,
        culprit,
        because: format!(
            "{} of the work, {work} commands or as much, in {} ms",
            percent(work as f64 / all),
            busiest.window_ms,
        ),
    })
}

/// It is busy, and no one brings most.
fn nobody(report: &ShardReport) -> Finding {
    let phases = report.phases.iter().filter(|of| of.phase != "parked");
    let most = phases.max_by(|a, b| a.share.total_cmp(&b.share));
    let because =
        most.map(|most| format!("most time goes to {}: {}", most.phase, percent(most.share)));
    Finding {
        cause: Cause::Unknown,
        culprit: String::new(),
        because: because.unwrap_or_default(),
    }
}

fn work(link: &LinkLoad) -> u64 {
    link.commands + link.bytes / BYTES_PER_COMMAND
}

fn link_in_words(link: &LinkLoad) -> String {
    match &*link.service {
        "" => format!("link {}", link.peer),
        service => format!("link {} of service {service:?}", link.peer),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}
