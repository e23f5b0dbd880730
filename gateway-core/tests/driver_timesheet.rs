//! Where a shard's time goes, on every driver.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod driver;

use std::time::{Duration, Instant};

use driver::{Gateway, LIMIT, Logic, drivers, push, text, wait_until};
use gateway_core::metrics::{Board, Metrics, Phase};

fn phase(metrics: &Metrics, phase: Phase) -> Duration {
    Duration::from_nanos(metrics.time.phases[phase as usize].get())
}

/// Pushes keep the shard busy; then it sleeps. Every part of the work shows, and nothing is counted twice or not at all.
#[test]
fn the_phases_add_up_to_the_time_of_the_thread() {
    for driver in drivers() {
        let started = Instant::now();
        let gateway = Gateway::start_with(driver, 1, |config| config.timesheet.detail_every = 1);
        let mut conn = gateway.connect("alice");
        let mut logic = Logic::connect(gateway.grpc);
        for round in 0..20 {
            logic.push_all((0..100).map(|n| push("alice", format!("{round} {n}"))));
            for n in 0..100 {
                assert_eq!(text(&mut conn), format!("{round} {n}"));
            }
        }
        let metrics = &gateway.metrics[0];
        assert!(metrics.time.commands.get() >= 2_000);
        // The newest tick may not be told of yet.
        let ticks = metrics.ticks.get();
        gateway.wait_for(1, |m| u64::from(m.ticks.get() >= ticks + 2));
        for wanted in [
            Phase::Parked,
            Phase::Kernel,
            Phase::Ingress,
            Phase::Decode,
            Phase::Frame,
            Phase::Egress,
        ] {
            let spent = phase(metrics, wanted);
            assert!(!spent.is_zero(), "{driver:?}: nothing in {wanted:?}");
        }
        let sum: Duration = Phase::ALL.iter().map(|of| phase(metrics, *of)).sum();
        let life = started.elapsed();
        // What has not ended yet is not in it: the present sleep is a second at most.
        assert!(sum <= life, "{driver:?}: {sum:?} of {life:?}");
        let missing = life - sum;
        assert!(missing < LIMIT, "{driver:?}: {missing:?}");
    }
}

/// Who brings most is told by name, about a second later at most.
#[test]
fn the_link_that_brings_most_is_told_with_its_address() {
    for driver in drivers() {
        let gateway = Gateway::start(driver, 1);
        let mut logic = Logic::connect(gateway.grpc);
        let mut told = Board::default();
        let metrics = &gateway.metrics[0];
        wait_until(
            || {
                logic.push_all((0..10).map(|n| push("nobody", n.to_string())));
                told = metrics.time.board();
                told.links.iter().any(|link| link.commands > 0)
            },
            || "a link that is told of".to_owned(),
        );
        let board = told;
        assert_eq!(board.links.len(), 1, "{board:?}");
        assert_eq!(board.links[0].peer, logic.local_addr());
        assert!(board.links[0].bytes > board.links[0].commands);
    }
}

/// With the setting off nothing of it is counted, and everything else goes on.
#[test]
fn a_timesheet_can_be_switched_off() {
    for driver in drivers() {
        let gateway = Gateway::start_with(driver, 1, |config| config.timesheet.enabled = false);
        let mut conn = gateway.connect("alice");
        let mut logic = Logic::connect(gateway.grpc);
        logic.push_all([push("alice", "hello")]);
        assert_eq!(text(&mut conn), "hello");
        let time = &gateway.metrics[0].time;
        assert!(time.phases.iter().all(|phase| phase.get() == 0));
        assert_eq!(time.commands.get(), 0);
        assert!(gateway.metrics[0].ticks.get() > 0);
    }
}
