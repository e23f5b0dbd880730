//! Every scenario, small: it ends well, and finds what it is asked for.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::{fs, process::Command};

use common::alone;
use gateway_bench::{
    benchmarks::{Results, sections::SECTIONS},
    figures::Findings,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringway-bench");

#[test]
fn a_quick_report_runs_every_section_and_writes_a_page_with_charts() {
    // Each section is a command line of the program: this runs all scenarios and all peers of the tree.
    let _alone = alone();
    let folder = std::env::temp_dir().join(format!("ringway-report-{}", std::process::id()));
    let report = Command::new(PROGRAM)
        .args(["report", "--quick", "--into"])
        .arg(&folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&report.stderr);
    assert!(report.status.success(), "{said}");
    let data = fs::read_to_string(folder.join("results.json")).unwrap();
    let results: Results = serde_json::from_str(&data).unwrap();
    for section in SECTIONS {
        let findings = &results[section.name].findings;
        assert!(findings.is_faultless(), "{}: {findings}", section.name);
        for (side, figures) in findings.sides.iter().map(|side| (&side.name, &side.median)) {
            let expected = expected(&findings.scenario);
            for figure in expected {
                let value = figures.get(figure);
                assert!(
                    value.is_some_and(f64::is_finite),
                    "{}, {side}: {figure} is {value:?}",
                    section.name
                );
            }
        }
    }
    let page = fs::read_to_string(folder.join("README.md")).unwrap();
    for chart in [
        "cost.svg",
        "memory.svg",
        "throughput.svg",
        "latency-20000.svg",
    ] {
        assert!(page.contains(chart), "{chart} is not on the page");
        let svg = fs::read_to_string(folder.join(chart)).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("ringway"), "{svg}");
    }
    assert!(!page.contains("not measured"), "{page}");
    fs::remove_dir_all(&folder).unwrap();
}

/// What is always found.
fn expected(scenario: &str) -> &'static [&'static str] {
    match scenario {
        "idle" => &["bytes_per_connection", "rss_mib"],
        "connect" => &[
            "handshakes_per_second",
            "server_micros_per_handshake",
            "load_cores",
        ],
        "reconnect-storm" => &["all_back_after_seconds", "refused_for_good"],
        "crossing" => &["server_micros_per_message", "crossed_share"],
        "latency" => &[
            "server_micros_per_message",
            "load_cores",
            "p50_micros",
            "p999_micros",
        ],
        _ => &[
            "messages_per_second",
            "server_micros_per_message",
            "load_cores",
            "p99_micros",
        ],
    }
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_started() {
    for arguments in [
        "unicast --payload 8",
        "unicast --connections 0",
        "multicast --connections 10 --members 11",
        "latency --rate 0",
        "upstream --against tonic",
        "unicast --load-processes 2 --against tonic,nats",
        "report --only nonsense",
    ] {
        let output = Command::new(PROGRAM).args(arguments.split(' ')).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
        assert!(said.starts_with("ringway-bench: "), "{arguments}: {said}");
    }
}

#[test]
fn every_scenario_starts_gateways_on_the_driver_that_is_asked_for() {
    let _alone = alone();
    let scenarios = "unicast multicast broadcast latency upstream idle connect reconnect-storm crossing scaling adr hol fleet mesh";
    for scenario in scenarios.split(' ') {
        let output = Command::new(PROGRAM)
            .args([scenario, "--driver", "nonsense"])
            .output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{scenario}: {said}");
        let refused = said.contains("shards.driver = \"nonsense\" is refused");
        assert!(refused, "{scenario}: {said}");
    }
}

#[test]
fn json_is_what_the_library_reads() {
    let _alone = alone();
    let arguments =
        "unicast --connections 50 --messages 5000 --rounds 2 --against limit-joined --json";
    let output = Command::new(PROGRAM).args(arguments.split(' ')).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let findings: Findings = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(findings.scenario, "unicast");
    assert_eq!(findings.settings["connections"], 50);
    let names: Vec<_> = findings
        .sides
        .iter()
        .map(|side| side.name.as_str())
        .collect();
    assert_eq!(names, ["ringway", "limit-joined"]);
    assert!(findings.sides.iter().all(|side| side.rounds.len() == 2));
    assert_eq!(findings.sides[0].median.get("messages"), Some(5000.0));
    let ratio = &findings.sides[1].first_by_this;
    assert!(ratio.get("server_micros_per_message").is_some());
}
