//! What is found from figures alone.

use super::{findings::findings, *};
use crate::metrics::{Audience, Cause};

/// A shard that is busy with what one link sends, another one sends a little.
fn busy() -> ShardReport {
    let phase = |phase: &str, share| PhaseReport {
        phase: phase.to_owned(),
        share,
        ns_per_message: None,
    };
    ShardReport {
        shard: 0,
        thread: 1,
        core: Some(0),
        age_ms: 0,
        window_ms: 1_000,
        connections: 1_000,
        links: 2,
        outbox_bytes: 0,
        ticks: 1_000.0,
        commands: 101_000.0,
        messages_in: 0.0,
        messages_out: 101_000.0,
        fanout_share: 0.0,
        scheduler: Some(Scheduled {
            running: 0.95,
            waiting: 0.01,
            preempted: 3.0,
        }),
        phases: vec![
            phase("parked", 0.05),
            phase("kernel", 0.7),
            phase("decode", 0.25),
        ],
        tick_us: Spread::default(),
        tick_bytes: Spread::default(),
        completions: Spread::default(),
        messages_per_send: Spread::default(),
        lane_depth: Spread::default(),
        lane_wait_us: Spread::default(),
        queue_age_us: Spread::default(),
        busiest: BusiestReport {
            window_ms: 1_000,
            links: vec![link(1, 100_000), link(2, 1_000)],
            fanouts: Vec::new(),
            lanes: Vec::new(),
        },
        slow_ticks: 0,
        slow: Vec::new(),
        findings: Vec::new(),
    }
}

fn link(port: u16, commands: u64) -> LinkLoad {
    LinkLoad {
        peer: ([127, 0, 0, 1], port).into(),
        service: "chat".to_owned(),
        commands,
        bytes: commands * 150,
    }
}

fn told(report: &ShardReport) -> Vec<(Cause, String)> {
    let found = findings(report, Some("thief (pid 7)".to_owned()));
    found.into_iter().map(|of| (of.cause, of.culprit)).collect()
}

fn one(cause: Cause, culprit: &str) -> Vec<(Cause, String)> {
    vec![(cause, culprit.to_owned())]
}

const HEAVY: &str = "link 127.0.0.1:1 of service \"chat\"";

#[test]
fn a_busy_shard_blames_the_link_that_brings_most() {
    assert_eq!(told(&busy()), one(Cause::Link, HEAVY));
}

#[test]
fn a_shard_with_time_left_blames_nobody() {
    let mut report = busy();
    report.scheduler = report.scheduler.map(|of| Scheduled { running: 0.4, ..of });
    assert_eq!(told(&report), []);
    // Without the scheduler's word, the timesheet's counts; without both, nothing is said.
    report.scheduler = None;
    assert_eq!(told(&report), one(Cause::Link, HEAVY));
    report.phases[0].share = 0.6;
    assert_eq!(told(&report), []);
    report.phases.clear();
    assert_eq!(told(&report), []);
}

#[test]
fn a_fan_out_is_blamed_before_the_link_it_came_on() {
    let mut report = busy();
    report.fanout_share = 0.9;
    let fanout = |topic: &str, deliveries| FanoutLoad {
        audience: Audience::Topic(topic.to_owned()),
        members: 500,
        deliveries,
    };
    report.busiest.fanouts = vec![fanout("prices", 90_000), fanout("news", 500)];
    assert_eq!(told(&report), one(Cause::Fanout, "topic \"prices\""));
    // Of many that are alike none is to blame; whoever sends most is.
    report.busiest.fanouts = ["a", "b", "c"].map(|topic| fanout(topic, 30_000)).into();
    assert_eq!(told(&report), one(Cause::Link, HEAVY));
}

#[test]
fn a_thread_that_is_kept_from_running_blames_whoever_runs_instead() {
    let mut report = busy();
    report.scheduler = Some(Scheduled {
        running: 0.1,
        waiting: 0.45,
        preempted: 300.0,
    });
    assert_eq!(told(&report), one(Cause::CpuTaken, "thief (pid 7)"));
    let unknown = findings(&report, None);
    assert_eq!(unknown[0].culprit, "something else on its CPU");
    // Both may be true.
    report.scheduler = report.scheduler.map(|of| Scheduled { running: 0.5, ..of });
    let causes: Vec<_> = told(&report).into_iter().map(|of| of.0).collect();
    assert_eq!(causes, [Cause::CpuTaken, Cause::Link]);
}

#[test]
fn another_shard_or_the_clients_are_blamed_where_they_bring_most() {
    let mut report = busy();
    report.busiest.links.clear();
    report.busiest.lanes = vec![LaneLoad {
        shard: 3,
        commands: 50_000,
    }];
    assert_eq!(told(&report), one(Cause::Lane, "shard 3"));
    report.messages_in = 60_000.0;
    assert_eq!(told(&report), one(Cause::Clients, "clients"));
    report.busiest.links = vec![link(1, 40_000)];
    report.busiest.lanes[0].commands = 40_000;
    let nobody = findings(&report, None);
    assert_eq!(nobody[0].cause, Cause::Unknown);
    assert_eq!(nobody[0].because, "most time goes to kernel: 70 %");
}
