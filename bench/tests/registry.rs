//! Gateways that register in a real etcd, as a logic service finds them. Run by `.ci/etcd`.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../discovery/tests/etcd_server/mod.rs"]
mod etcd_server;

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use common::{PATIENCE, connect, ringway, wait_for};
use etcd_server::Etcd;
use gateway_bench::{
    clients::Clients,
    gateway::{Gateway, Launch},
    metrics::{self, Metrics},
    unicast::user,
};
use logic_client::{
    LogicClient, Notice, Push, StreamState, StreamStats, What,
    resolver::{self, Endpoint, Known, Resolver, Updated},
};
use rustix::process::Signal;
use tokio::runtime::{Builder, Runtime};

const PREFIX: &str = "/test/gateways/";

fn registering(etcd: &Etcd, id: &str, lease_ttl_s: u32) -> Launch {
    ringway()
        .setting("RINGWAY_SHARDS_COUNT", 2)
        .setting("RINGWAY_GATEWAY_ID", id)
        .setting("RINGWAY_REGISTRY_ETCD", &etcd.endpoint)
        .setting("RINGWAY_REGISTRY_PREFIX", PREFIX)
        .setting("RINGWAY_REGISTRY_LEASE_TTL_S", lease_ttl_s)
        .setting("RINGWAY_REGISTRY_ZONE", "a")
}

fn is_registered(admin: std::net::SocketAddr) -> bool {
    Metrics::read(admin).is_ok_and(|page| page.sum("ringway_registered", &[]) > 0.0)
}

/// A logic service that looks for gateways.
struct Service {
    runtime: Runtime,
    updated: Updated,
}

impl Service {
    fn start(etcd: &Etcd) -> Self {
        let runtime = Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let (updates, updated) = resolver::channel();
        let etcd = resolver::Etcd::new([&*etcd.endpoint], PREFIX).unwrap();
        runtime.spawn(Box::new(etcd).run(updates));
        Self { runtime, updated }
    }

    /// Waits until the set is as wanted.
    fn until(&mut self, wanted: impl Fn(&[Endpoint]) -> bool) -> Known {
        let (runtime, updated) = (&self.runtime, &mut self.updated);
        let seen = async {
            let mut known = updated.known();
            while !known.endpoints.as_deref().is_some_and(&wanted) {
                known = updated.next().await.unwrap();
            }
            known
        };
        let seen = runtime.block_on(async { tokio::time::timeout(PATIENCE, seen).await });
        seen.expect("the set in time")
    }
}

#[test]
#[ignore = "needs etcd: see .ci/etcd"]
fn a_gateway_is_found_as_advertised_marked_when_it_drains_and_gone_when_it_ends() {
    let etcd = Etcd::start("life");
    let mut service = Service::start(&etcd);
    // A lease of ten minutes: it goes because it withdraws.
    let gateway = registering(&etcd, "gw-1", 600)
        .setting("RINGWAY_REGISTRY_ADVERTISE", "gw-1.example:19000")
        .setting("RINGWAY_DRAIN_SPREAD_MS", 1000);
    let mut gateway = gateway.start().unwrap();
    let known = service.until(|gateways| gateways.len() == 1);
    let found = &known.endpoints.unwrap()[0];
    let epoch = Metrics::read(gateway.admin)
        .unwrap()
        .label("ringway_gateway_info", "epoch");
    let expected = Endpoint {
        id: Some("gw-1".into()),
        epoch: Some(epoch.unwrap().parse().unwrap()),
        zone: Some("a".into()),
        draining: false,
        ..Endpoint::new("gw-1.example:19000")
    };
    assert_eq!((found, known.trouble), (&expected, None));
    wait_for("the gateway to know", || {
        is_registered(gateway.admin).then_some(())
    });

    // Clients that are there make the drain last.
    let users: Vec<_> = (0..100).map(user).collect();
    let clients: Clients = connect(&gateway, &users);
    gateway.signal(Signal::TERM).unwrap();
    service
        .until(|gateways| gateways.iter().all(|gateway| gateway.draining) && !gateways.is_empty());
    drop(clients);
    service.until(<[Endpoint]>::is_empty);
    assert!(gateway.wait(PATIENCE).unwrap().success());
}

#[test]
#[ignore = "needs etcd: see .ci/etcd"]
fn a_gateway_that_is_killed_goes_with_its_lease_and_its_successor_is_found() {
    let etcd = Etcd::start("kill");
    let mut service = Service::start(&etcd);
    let gateway = registering(&etcd, "gw-1", 2).start().unwrap();
    let address = gateway.grpc.to_string();
    let known = service.until(|gateways| gateways.len() == 1);
    assert_eq!(known.endpoints.unwrap()[0].address, address);
    let killed = Instant::now();
    gateway.signal(Signal::KILL).unwrap();
    let _next = registering(&etcd, "gw-1", 2).start().unwrap();
    service.until(|gateways| gateways.len() == 1 && gateways[0].address != address);
    assert!(killed.elapsed() > Duration::from_millis(500));
}

#[test]
#[ignore = "needs etcd: see .ci/etcd"]
fn while_etcd_is_away_all_goes_on_and_gateways_come_back_by_themselves() {
    let mut etcd = Etcd::start("away");
    let mut service = Service::start(&etcd);
    let gateway = registering(&etcd, "gw-1", 2).start().unwrap();
    service.until(|gateways| gateways.len() == 1);
    let client = LogicClient::builder().gateway(gateway.grpc.to_string());
    let runtime = service.runtime.handle().clone();
    let client = runtime.block_on(client.connect()).unwrap();
    let mut clients = connect(&gateway, &[user(0)]);
    let mut push = || {
        let push = client.push_confirmed(Push::user(user(0)).text("hi"));
        let receipt = runtime.block_on(push).unwrap();
        assert_eq!(receipt.written, 1);
        let mut came = 0;
        wait_for("the push", || {
            let take = |_, _: gateway_bench::clients::Event<'_>| came += 1;
            clients.receive(Duration::from_millis(10), take).unwrap();
            (came > 0).then_some(())
        });
    };
    push();

    for wiped in [false, true] {
        etcd.kill();
        wait_for("the gateway to notice", || {
            (!is_registered(gateway.admin)).then_some(())
        });
        push();
        assert!(metrics::get(gateway.admin, "/readyz").is_ok());
        let known = service.updated.known();
        assert_eq!(known.endpoints.unwrap().len(), 1, "the last set stays");
        if wiped {
            etcd.wipe();
        }
        etcd.restart();
        wait_for("the gateway to come back", || {
            is_registered(gateway.admin).then_some(())
        });
        assert!(
            etcd.ctl(&["get", PREFIX, "--prefix", "--keys-only"])
                .contains("gw-1")
        );
        let known = service.until(|gateways| gateways.len() == 1);
        assert_eq!(
            known.endpoints.unwrap()[0].address,
            gateway.grpc.to_string()
        );
        push();
    }
}

#[test]
#[ignore = "needs etcd: see .ci/etcd"]
fn a_client_follows_gateways_that_come_drain_and_go_and_needs_no_etcd_meanwhile() {
    let mut etcd = Etcd::start("followed");
    let runtime = Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
    let (say, heard) = mpsc::channel();
    let note = move |notice: &Notice| {
        if let What::Resolver { trouble } = &notice.what {
            // The test may have heard enough.
            let _ = say.send(trouble.clone());
        }
    };
    let mut one = registering(&etcd, "gw-1", 2).start().unwrap();
    let found = resolver::Etcd::new([&*etcd.endpoint], PREFIX).unwrap();
    let client = LogicClient::builder().resolver(found).on_notice(note);
    let client = runtime.block_on(client.connect()).unwrap();
    let written = |user: &str| {
        let push = client.push_confirmed(Push::user(user).text("hi"));
        runtime.block_on(push).map_or(0, |receipt| receipt.written)
    };
    let open = |gateways: &[&Gateway]| {
        wait_for("streams to these gateways alone", || {
            let streams = client.stats().streams;
            let is_there = |stream: &StreamStats| {
                let known = gateways
                    .iter()
                    .any(|at| at.grpc.to_string() == stream.gateway);
                known && stream.state == StreamState::Open
            };
            let wanted: u32 = gateways.iter().map(|gateway| gateway.shards).sum();
            let all = streams.len() == wanted as usize && streams.iter().all(is_there);
            all.then_some(())
        });
    };
    open(&[&one]);
    let _at_one = connect(&one, &[user(1)]);
    assert_eq!(written(&user(1)), 1);

    // Another comes, with other shards.
    let two = registering(&etcd, "gw-2", 2).setting("RINGWAY_SHARDS_COUNT", 3);
    let two = two.start().unwrap();
    open(&[&one, &two]);
    let _at_two = connect(&two, &[user(2)]);
    assert_eq!((written(&user(1)), written(&user(2))), (1, 1));

    // Without etcd all goes on, and the client says what is wrong.
    etcd.kill();
    let trouble = heard.recv_timeout(PATIENCE).unwrap();
    assert!(trouble.starts_with("etcd http://"), "{trouble}");
    assert_eq!((written(&user(1)), written(&user(2))), (1, 1));

    // It comes back, and is followed again: one ends.
    etcd.restart();
    wait_for("both to come back", || {
        let both = is_registered(one.admin) && is_registered(two.admin);
        both.then_some(())
    });
    one.signal(Signal::TERM).unwrap();
    assert!(one.wait(PATIENCE).unwrap().success());
    open(&[&two]);
    assert_eq!((written(&user(1)), written(&user(2))), (0, 1));
}

#[test]
#[ignore = "needs etcd: see .ci/etcd"]
fn a_gateway_starts_without_etcd_and_registers_when_it_is_there() {
    let mut etcd = Etcd::start("late");
    etcd.kill();
    let gateway = registering(&etcd, "gw-1", 2).start().unwrap();
    assert!(metrics::get(gateway.admin, "/readyz").is_ok());
    etcd.restart();
    Service::start(&etcd).until(|gateways| gateways.len() == 1);
}
