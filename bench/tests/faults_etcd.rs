//! etcd stops and starts again: what is connected goes on, and gateways that come later are found. Needs etcd:
//! `.ci/faults` runs it.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../discovery/tests/etcd_server/mod.rs"]
mod etcd_server;

use std::{
    thread,
    time::{Duration, Instant},
};

use common::{
    alone,
    load::{Load, Way, assert_rising, numbers},
    ringway,
    users::Users,
    wait_for,
};
use etcd_server::Etcd;
use gateway_bench::gateway::Gateway;
use logic_client::{LogicClient, PushError, ReturnReason, What, resolver};
use rustix::process::Signal;

const PREFIX: &str = "/ringway/gateways/";
/// Of a gateway's record. etcd stays away for longer.
const LEASE_S: u64 = 2;

#[test]
#[ignore = "needs etcd: .ci/faults runs it"]
fn stopped_etcd_costs_nobody_anything_and_later_gateways_are_found() {
    let _alone = alone();
    let mut etcd = Etcd::start("faults");
    let gateways = ["one", "two"].map(|id| registered(&etcd, id));
    wait_for("both gateways to be registered", || {
        let keys = etcd.ctl(&["get", "--prefix", PREFIX, "--keys-only"]);
        (keys.matches(PREFIX).count() == 2).then_some(())
    });
    let users = Users::start(&gateways.each_ref().map(|gateway| gateway.ws), 10);
    let resolver = resolver::Etcd::new([etcd.endpoint.clone()], PREFIX).unwrap();
    let resolver = resolver.settle(Duration::from_secs(2 * LEASE_S));
    let service = LogicClient::builder().resolver(resolver);
    let load = Load::start(service, &users.names, 500, Way::Confirmed);
    wait_for("streams to both gateways", || {
        (load.stats().streams.len() == 2).then_some(())
    });
    // What was pushed before both were known may have missed some.
    let known = load.pushed();
    load.wait_for_pushed(200);

    let stopped = Instant::now();
    etcd.kill();
    wait_for("the client to say that etcd is gone", || {
        load.first_notice(stopped, |what| matches!(what, What::Resolver { .. }))
    });
    // A gateway that comes now registers as soon as it can.
    let third = registered(&etcd, "three");
    thread::park_timeout(Duration::from_secs(2 * LEASE_S).saturating_sub(stopped.elapsed()));
    load.wait_for_pushed(500);

    // It may be found before etcd's own check says that etcd is back.
    let started = Instant::now();
    etcd.restart();
    wait_for("the third gateway to be found", || {
        load.first_notice(started, |what| matches!(what, What::GatewayAdded))
    });
    load.wait_for_pushed(200);
    let gone = load.first_notice(stopped, |what| matches!(what, What::GatewayRemoved));
    assert_eq!(
        gone, None,
        "a gateway was removed while etcd was away, or after"
    );

    // One that is told to go withdraws, and is followed at once.
    let told = Instant::now();
    third.signal(Signal::TERM).unwrap();
    wait_for("the third gateway to be gone", || {
        load.first_notice(told, |what| matches!(what, What::GatewayRemoved))
    });
    load.stop();
    let mut outcomes = load.outcomes();
    outcomes.retain(|(user, number), _| number * users.names.len() as u64 + *user as u64 > known);
    let seen = users.seen_after(outcomes.keys().copied());
    for ((user, number), outcome) in outcomes {
        let name = &users.names[user];
        let got = numbers(name, &seen[user].messages);
        assert!(got.contains(&number), "{name} {number}: {outcome:?}");
        match outcome {
            Ok(receipt) => assert_eq!(receipt.written, 1, "{name} {number}"),
            // It went to all gateways, and the third one took its part no more.
            Err(PushError::NotSent(ReturnReason::GatewayRemoved)) => {}
            Err(error) => panic!("{name} {number}: {error}"),
        }
    }
    for (name, user) in users.names.iter().zip(seen) {
        assert_rising(name, &numbers(name, &user.messages));
        assert_eq!(user.connections, 1, "{name} was cut off: {:?}", user.ends);
    }
}

fn registered(etcd: &Etcd, id: &str) -> Gateway {
    ringway()
        .shards(1)
        .setting("RINGWAY_GATEWAY_ID", id)
        .setting("RINGWAY_REGISTRY_ETCD", &etcd.endpoint)
        .setting("RINGWAY_REGISTRY_LEASE_TTL_S", LEASE_S)
        .setting("RINGWAY_DRAIN_SPREAD_MS", 0)
        .start()
        .unwrap()
}
