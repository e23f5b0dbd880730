//! The simulator: a seed always leads to the same world, promises are kept there, and nobody holds up strangers.

use gateway_bench::simulate::{
    self, Options,
    hol::{self, Delays, SLICE},
};

#[test]
fn a_seed_always_leads_to_the_same_world() {
    for seed in 1..=12 {
        let first = simulate::live(seed, false);
        let again = simulate::live(seed, true);
        assert_eq!(first.trace.hash(), again.trace.hash(), "seed {seed}");
        assert_eq!(first.trace.events(), again.trace.events(), "seed {seed}");
        assert_ne!(first.trace.events(), 0);
    }
}

#[test]
fn promises_are_kept_whatever_goes_wrong() {
    let report = simulate::run(&Options {
        seeds: Some(100),
        keep_going: true,
        ..Options::default()
    });
    let failures = report.failures.iter();
    let failures: Vec<_> = failures
        .map(|failure| (failure.seed, &failure.what))
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
    // A promise that is never put to the test is not kept by passing.
    let hard = [
        ("acts", "Drain"),
        ("acts", "Freeze"),
        ("acts", "FreezeService"),
        ("acts", "Jump"),
        ("acts", "JumpService"),
        ("acts", "Kill"),
        ("acts", "ResetLink"),
        ("acts", "Resolve"),
        ("acts", "RestartService"),
        ("acts", "SilenceClient"),
        ("acts", "SilenceLink"),
        ("acts", "Stall"),
        ("network", "reads and writes cut short"),
        ("gateway", "takeovers"),
        ("gateway", "directory snapshots"),
        ("gateway drops", "slow"),
        ("gateway drops", "service_forgotten"),
        ("gateway stream errors", "link_lost"),
        ("gateways", "drained"),
        ("mesh", "Lost"),
        ("mesh", "Unknown"),
        ("mesh", "GatewayRemoved"),
        ("returned by meshes", "Displaced"),
        ("returned by meshes", "Full"),
        ("returned by meshes", "Unknown"),
        ("returned by meshes", "Expired"),
        ("oracle", "deliveries to topics that had to come"),
    ];
    for (group, what) in hard {
        assert_ne!(report.coverage.count(group, what), 0, "{group}: {what}");
    }
}

fn added(of: fn(bool) -> Result<Delays, String>) -> std::time::Duration {
    let calm = of(false).expect("promises are kept");
    let trouble = of(true).expect("promises are kept");
    assert_eq!(calm.messages, trouble.messages, "all of them came");
    println!("{calm:?}, with trouble {trouble:?}");
    trouble.worst.saturating_sub(calm.worst)
}

#[test]
fn a_client_that_does_not_read_delays_the_others_by_two_slices_at_most() {
    assert!(added(hol::slow_client) <= 2 * SLICE);
}

#[test]
fn a_frozen_gateway_delays_the_others_not_at_all() {
    assert_eq!(added(hol::frozen_gateway), std::time::Duration::ZERO);
}

#[test]
fn a_flood_delays_other_services_by_one_slice_at_most() {
    assert!(added(hol::flood) <= SLICE);
}

#[test]
fn a_wide_topic_delays_single_users_by_two_slices_at_most() {
    assert!(added(hol::wide_topic) <= 2 * SLICE);
}
