//! The comparison of ways to push, small: every message arrives whatever the way, and every way is told.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{alone, ringway};
use gateway_bench::{
    adr::{self, Flight, Options, Report, Way},
    setup::Subject,
};

fn run(ways: &[Way]) -> Report {
    let options = Options {
        subject: Subject::default(),
        ways: ways.to_vec(),
        users: 3,
        payload: 64,
        // Some scheduler ticks long, each way: until one the kernel may not know what a thread has used.
        messages: 2_000,
        in_flight: vec![Flight::Natural, Flight::Equal(6)],
        rounds: 2,
        json: false,
    };
    let program = Path::new(env!("CARGO_BIN_EXE_ringway-bench"));
    adr::run(&options, &ringway(), program).unwrap()
}

fn check(report: &Report, ways: usize) {
    let sides = &report.0.sides;
    assert_eq!(sides.len(), 2 * ways, "{report}");
    for side in sides {
        let of = |figure| side.median.get(figure).unwrap();
        assert!(of("messages_per_second") > 0.0, "{report}");
        assert!(of("p50_micros") <= of("p99_micros"), "{report}");
        assert!(of("server_micros_per_message") > 0.0, "{report}");
        assert!(of("load_micros_per_message") > 0.0, "{report}");
        // Nobody sends the next message before the last one has arrived.
        let waits = side.name.ends_with(" (6)");
        assert!(!waits || of("in_flight") <= 6.0, "{report}");
    }
}

#[test]
fn every_way_delivers_everything() {
    let _alone = alone();
    let ways = &Way::ALL[..5];
    assert!(!ways.contains(&Way::Queue));
    let report = run(ways);
    check(&report, ways.len());
    let rest = report.0.side("rest").unwrap();
    assert_eq!(rest.median.get("times_rest"), Some(1.0));
}

#[test]
#[ignore = "needs Debian's redis-server"]
fn the_queue_delivers_everything_and_what_it_costs_is_told() {
    let _alone = alone();
    let report = run(&[Way::Queue]);
    check(&report, 1);
    for side in &report.0.sides {
        let between = side.median.get("between_micros_per_message");
        assert!(between.is_some_and(|micros| micros > 0.0), "{report}");
    }
}
