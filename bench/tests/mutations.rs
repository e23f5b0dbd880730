//! The test of the test: whatever rule is switched off, the simulator notices.
//!
//! Release builds have no such switch.
#![cfg(debug_assertions)]

use std::process::Command;

use gateway_bench::simulate;
use gateway_core::mutation as gateway;
use logic_client::mutation as client;

const SEEDS: u64 = 2_000;

/// What is wrong with the world of a seed.
fn failure(seed: u64) -> Option<String> {
    simulate::live(seed, false).failure
}

/// With the rule off a world fails; with all rules on, the same world does not.
fn is_noticed(switch_off: impl Fn(), switch_on: impl Fn()) {
    for seed in 1..=SEEDS {
        switch_off();
        let found = failure(seed);
        switch_on();
        if let Some(what) = found
            && failure(seed).is_none()
        {
            println!("noticed by seed {seed}: {what}");
            return;
        }
    }
    panic!("nobody noticed in {SEEDS} worlds");
}

fn gateway_rule(rule: gateway::Rule) {
    is_noticed(
        || gateway::switch_off(Some(rule)),
        || gateway::switch_off(None),
    );
}

fn client_rule(rule: client::Rule) {
    is_noticed(
        || client::switch_off(Some(rule)),
        || client::switch_off(None),
    );
}

#[test]
fn commands_done_twice_are_noticed() {
    gateway_rule(gateway::Rule::Dedupe);
}

#[test]
fn credit_that_stays_away_is_noticed() {
    gateway_rule(gateway::Rule::CreditReturn);
}

#[test]
fn stale_ids_that_hit_strangers_are_noticed() {
    gateway_rule(gateway::Rule::GenerationCheck);
}

#[test]
fn outboxes_without_bounds_are_noticed() {
    gateway_rule(gateway::Rule::OutboxBound);
}

#[test]
fn drops_that_nobody_counts_are_noticed() {
    gateway_rule(gateway::Rule::DropCount);
}

#[test]
fn commands_that_are_not_sent_again_are_noticed() {
    client_rule(client::Rule::Resume);
}

#[test]
fn directories_that_keep_who_is_gone_are_noticed() {
    client_rule(client::Rule::DirectoryReconciliation);
}

#[test]
fn a_failure_is_told_with_its_seed_and_what_led_to_it() {
    let (status, told) = command_line(&["--without", "drop-count"]);
    assert_eq!(status, Some(1), "{told}");
    let seed = told.lines().find_map(|line| {
        let (seed, _) = line.strip_prefix("seed ")?.split_once(" failed: ")?;
        Some(seed.to_owned())
    });
    let seed = seed.expect("the seed is told");
    assert!(trace(&told).contains("act: "), "{told}");
    // The seed alone leads to the same end.
    let (status, again) = command_line(&["--without", "drop-count", "--seed", &seed]);
    assert_eq!(status, Some(1), "{again}");
    assert_eq!(trace(&told), trace(&again));
    let (status, told) = command_line(&["--seed", &seed]);
    assert_eq!(status, Some(0), "{told}");
    assert!(told.contains("\n1 worlds in "), "{told}");
}

/// What `ringway-bench simulate` prints, and its exit status.
fn command_line(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ringway-bench"))
        .arg("simulate")
        .args(arguments)
        .output()
        .expect("the program starts");
    let text = String::from_utf8(output.stdout).expect("text");
    (output.status.code(), text)
}

/// The lines about what happened in the world that failed.
fn trace(told: &str) -> &str {
    let (_, rest) = told.split_once(" s of their time\n").expect("a summary");
    rest.split_once("seed ").expect("a failure").0
}
