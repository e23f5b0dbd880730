//! The test of the test: whatever rule is switched off, the simulator notices.

use gateway_bench::simulate::{self, Options, Report};
use gateway_core::mutation as gateway;
use logic_client::mutation as client;

const SEEDS: u64 = 2_000;

fn worlds(seed: u64, seeds: u64) -> Report {
    simulate::run(&Options {
        seeds,
        seed: Some(seed),
        trace: false,
        keep_going: false,
    })
}

/// With the rule off a world fails; with all rules on, the same world does not.
fn is_noticed(switch_off: impl Fn(), switch_on: impl Fn()) {
    for seed in 1..=SEEDS {
        switch_off();
        let report = worlds(seed, 1);
        switch_on();
        if let Some(failure) = report.failures.first()
            && worlds(seed, 1).failures.is_empty()
        {
            println!("noticed by seed {seed}: {}", failure.what);
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
fn commands_that_are_not_sent_again_are_noticed() {
    client_rule(client::Rule::Resume);
}

#[test]
fn directories_that_keep_who_is_gone_are_noticed() {
    client_rule(client::Rule::DirectoryReconciliation);
}
