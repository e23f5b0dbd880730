//! Who is where, as a service knows it, next to who really is where: clients come and go, a gateway is killed and started
//! again.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{connect, ringway_somewhere, wait_for};
use gateway_bench::{
    clients::Clients,
    gateway::{Gateway, Launch},
    metrics::Metrics,
};
use logic_client::{Locate, LogicClient, Push, Streams};
use rustix::process::Signal;
use tokio::runtime::Runtime;

const SHARDS: u32 = 2;
const GATEWAYS: usize = 2;

/// Two gateways, a service, and who is connected where.
struct World {
    runtime: Runtime,
    launches: Vec<Launch>,
    gateways: Vec<Gateway>,
    service: LogicClient,
    /// Groups of clients: their gateway and users.
    groups: Vec<(usize, Vec<String>, Clients)>,
}

impl World {
    fn start(streams: Streams) -> Self {
        let launch = |at| ringway_somewhere(SHARDS).setting("RINGWAY_GATEWAY_ID", name(at));
        let launches: Vec<_> = (0..GATEWAYS).map(launch).collect();
        let gateways: Vec<_> = launches.iter().map(|of| of.start().unwrap()).collect();
        let runtime = Runtime::new().unwrap();
        let builder = LogicClient::builder()
            .locate(Locate::Directory)
            .streams(streams)
            .service("directory")
            .backoff(Duration::from_millis(10), Duration::from_millis(100));
        let builder = gateways.iter().fold(builder, |builder, gateway| {
            builder.gateway(gateway.grpc.to_string())
        });
        let service = runtime.block_on(builder.connect()).unwrap();
        Self {
            runtime,
            launches,
            gateways,
            service,
            groups: Vec::new(),
        }
    }

    fn join(&mut self, gateway: usize, users: impl Iterator<Item = usize>) {
        let users: Vec<_> = users.map(|user| format!("user-{user}")).collect();
        let clients = connect(&self.gateways[gateway], &users);
        self.groups.push((gateway, users, clients));
    }

    /// How many connections each user has, by gateway.
    fn truth(&self) -> BTreeMap<String, BTreeMap<String, u32>> {
        let mut truth: BTreeMap<String, BTreeMap<String, u32>> = BTreeMap::new();
        for (gateway, users, _) in &self.groups {
            for user in users {
                let places = truth.entry(user.clone()).or_default();
                *places.entry(name(*gateway)).or_default() += 1;
            }
        }
        truth
    }

    /// Waits until the service knows the truth of all users there ever were.
    fn settle(&self, users: usize) {
        let truth = self.truth();
        wait_for("the truth", || {
            let figures = self.service.stats().directory.unwrap();
            let whole = figures.complete == figures.shards && figures.users == truth.len();
            let exact = (0..users).all(|user| {
                let user = format!("user-{user}");
                let places = self.service.whereis(&user);
                let known = places
                    .iter()
                    .map(|place| (place.gateway.clone(), place.connections));
                let known: BTreeMap<_, _> = known.collect();
                known == truth.get(&user).cloned().unwrap_or_default()
            });
            (whole && exact).then_some(())
        });
        let figures = self.service.stats().directory.unwrap();
        assert_eq!(figures.shards, GATEWAYS * SHARDS as usize);
    }

    fn restart(&mut self, at: usize) {
        self.gateways[at].signal(Signal::KILL).unwrap();
        self.gateways[at].wait(common::PATIENCE).unwrap();
        self.groups.retain(|(gateway, ..)| *gateway != at);
        // The kernel takes down the rings of a killed process, and with them its listeners, a little later.
        let again = || self.launches[at].start().ok();
        self.gateways[at] = wait_for("the gateway", again);
    }

    /// Pushes a gateway has taken from services.
    fn taken(&self, at: usize) -> u64 {
        let metrics = Metrics::read(self.gateways[at].admin).unwrap();
        metrics.sum("ringway_messages_in_total", &["from=\"logic\""]) as u64
    }
}

fn name(gateway: usize) -> String {
    format!("gateway-{gateway}")
}

#[test]
fn the_directory_is_exact_whoever_comes_and_goes() {
    for streams in [Streams::PerShard, Streams::One] {
        let mut world = World::start(streams);
        world.join(0, 0..60);
        world.join(1, 40..100);
        world.join(1, 40..50);
        world.settle(100);
        // Some go, some of them come back elsewhere.
        world.groups.remove(0);
        world.join(1, 0..20);
        world.join(0, 30..70);
        world.settle(100);
        world.restart(0);
        world.settle(100);
        world.join(0, 50..120);
        world.settle(120);
    }
}

#[test]
fn pushes_reach_those_who_are_somewhere_and_nobody_else_costs_a_gateway_anything() {
    let mut world = World::start(Streams::PerShard);
    world.join(0, 0..50);
    world.join(1, 40..80);
    world.settle(100);
    let World {
        runtime, service, ..
    } = &world;
    for user in 0..100 {
        let push = Push::user(format!("user-{user}")).text("hi");
        let receipt = runtime.block_on(service.push_confirmed(push)).unwrap();
        let (written, nobody) = match user {
            40..50 => (2, 0),
            0..80 => (1, 0),
            _ => (0, 1),
        };
        assert_eq!(
            (receipt.written, receipt.no_target),
            (written, nobody),
            "{user}"
        );
    }
    assert_eq!(service.stats().no_target, 20);
    assert_eq!((world.taken(0), world.taken(1)), (50, 40));
}

#[test]
fn queries_are_answered_by_every_gateway_there_is() {
    let mut world = World::start(Streams::PerShard);
    world.join(0, 0..50);
    world.join(1, 40..80);
    world.join(1, 40..41);
    world.settle(80);
    let World {
        runtime, service, ..
    } = &world;
    let totals = runtime.block_on(service.query_totals()).unwrap();
    assert!(totals.is_complete());
    assert_eq!((totals.users(), totals.connections()), (90, 91));
    let user = runtime.block_on(service.query_user("user-40")).unwrap();
    assert_eq!((user.users(), user.connections()), (2, 3));
    let nobody = runtime.block_on(service.query_user("nobody")).unwrap();
    assert_eq!((nobody.users(), nobody.gateways.len()), (0, 2));
    // What an answer names can be pushed to.
    let connection = user.gateways[0].connections[0];
    let push = Push::connection(connection).text("you");
    let receipt = runtime.block_on(service.push_confirmed(push)).unwrap();
    assert_eq!(receipt.written, 1);
    for user in 0..10 {
        let user = format!("user-{user}");
        runtime.block_on(service.subscribe(user, "news")).unwrap();
    }
    let topic = runtime.block_on(service.query_topic("news")).unwrap();
    assert_eq!((topic.users(), topic.connections()), (10, 10));
    world.gateways[1].signal(Signal::KILL).unwrap();
    let World {
        runtime, service, ..
    } = &world;
    let totals = runtime.block_on(service.query_totals()).unwrap();
    assert_eq!(totals.missing, [world.gateways[1].grpc.to_string()]);
    assert_eq!(totals.users(), 50);
}
