//! A shard that is slow, and why: found by name from what `GET /debug/shards` tells, nothing else.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use common::{alone, connect, ringway, wait_for};
use gateway_bench::{
    cpu::{self, Places, Rank},
    gateway::Gateway,
    metrics::{Metrics, get},
};
use gateway_core::{
    control::{ShardReport, Shards},
    metrics::Cause,
};
use logic_client::{LogicClient, Push};

const USERS: usize = 500;

/// A gateway of one shard, its users, and what goes on beside it until this is dropped.
struct Scene {
    gateway: Gateway,
    users: Arc<Vec<String>>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Scene {
    fn start() -> Self {
        let for_gateway = Places::here().unwrap().server;
        let gateway = ringway()
            .shards(1)
            .setting("RINGWAY_SHARDS_CORES", for_gateway[0])
            // So that what is asked for is done in one tick, and a tick of a millisecond is slow.
            .setting("RINGWAY_TICK_SLICE", 4096)
            .setting("RINGWAY_TIMESHEET_SLOW_TICK_MS", 1)
            .setting("RINGWAY_OUTBOX_WHEN_FULL", "drop_oldest")
            .start()
            .unwrap();
        let users: Vec<_> = (0..USERS).map(|at| format!("user-{at}")).collect();
        let mut clients = connect(&gateway, &users);
        let mut scene = Self {
            gateway,
            users: Arc::new(users),
            over: Arc::default(),
            threads: Vec::new(),
        };
        scene.beside("clients", move |over| {
            while !over.load(Relaxed) {
                clients
                    .receive(Duration::from_millis(10), |_, _| ())
                    .unwrap();
            }
        });
        scene
    }

    /// Has something go on, on a thread of that name.
    fn beside(&mut self, name: &str, what: impl FnOnce(&AtomicBool) + Send + 'static) {
        let over = Arc::clone(&self.over);
        let thread = thread::Builder::new().name(name.to_owned());
        self.threads
            .push(thread.spawn(move || what(&over)).unwrap());
    }

    /// A logic service of that name does something again and again, `pause` between two.
    fn service<F>(
        &mut self,
        name: &'static str,
        pause: Duration,
        what: impl Fn(LogicClient, Arc<Vec<String>>, usize) -> F + Send + 'static,
    ) where
        F: Future<Output = ()>,
    {
        let (address, users) = (self.gateway.grpc.to_string(), Arc::clone(&self.users));
        self.beside(name, move |over| {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(async {
                let client = LogicClient::builder().gateway(address).service(name);
                let client = client.connect().await.unwrap();
                for turn in 0.. {
                    what(client.clone(), Arc::clone(&users), turn).await;
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                    if over.load(Relaxed) {
                        break;
                    }
                }
            });
        });
    }

    /// A service that sends a little now and then.
    fn calm(&mut self, name: &'static str) {
        self.service(
            name,
            Duration::from_millis(5),
            |client, users, turn| async move {
                let user = users[turn % USERS].as_str();
                client.push(Push::user(user).text("hello")).await.unwrap();
            },
        );
    }

    /// What is told of the shard, once it is.
    fn report(&self) -> ShardReport {
        wait_for("figures", || {
            let told = get(self.gateway.admin, "/debug/shards").unwrap();
            let told: Shards = serde_json::from_str(&told).unwrap();
            told.shards.into_iter().next()
        })
    }

    /// Waits until the figures blame `culprit` for `cause`, and gives them.
    fn wait_for_finding(&self, cause: Cause, culprit: &str) -> ShardReport {
        wait_for(&format!("{cause:?} {culprit}"), || {
            let report = self.report();
            let mut findings = report.findings.iter();
            let found = findings.any(|of| of.cause == cause && of.culprit.contains(culprit));
            found.then_some(report)
        })
    }

    /// Waits until a slow tick is put down to `culprit`, and counted under `cause`.
    fn wait_for_slow_tick(&self, cause: Cause, culprit: &str) {
        wait_for(&format!("a slow tick of {culprit}"), || {
            let report = self.report();
            let mut slow = report.slow.iter();
            slow.any(|of| of.cause == cause && of.culprit.contains(culprit))
                .then_some(())
        });
        let label = format!("cause=\"{}\"", cause.label());
        let metrics = Metrics::read(self.gateway.admin).unwrap();
        assert!(metrics.sum("ringway_slow_ticks_total", &[&label]) > 0.0);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // What it panicked about has been printed.
            let _ = thread.join();
        }
    }
}

fn blames(report: &ShardReport, cause: Cause) -> bool {
    report.findings.iter().any(|of| of.cause == cause)
}

// Everyone is in one topic that a service pushes to all the time. It sends few commands: the link must not be blamed.
#[test]
fn a_fan_out_hog_is_found_by_its_topic() {
    let _alone = alone();
    let mut scene = Scene::start();
    scene.calm("calm");
    scene.service("loud", Duration::ZERO, |client, users, turn| async move {
        if turn == 0 {
            for user in users.iter() {
                client.subscribe(user.as_str(), "hog").await.unwrap();
            }
        }
        client
            .push(Push::topic("hog").text("x".repeat(100)))
            .await
            .unwrap();
    });
    let report = scene.wait_for_finding(Cause::Fanout, "topic \"hog\"");
    assert!(!blames(&report, Cause::Link), "{:?}", report.findings);
    assert_eq!(report.busiest.fanouts[0].members, USERS as u64);
    scene.wait_for_slow_tick(Cause::Fanout, "topic \"hog\" (500 members)");
}

// One service pushes to single users as fast as it can, another one now and then.
#[test]
fn a_link_that_floods_is_found_by_its_address_and_service() {
    let _alone = alone();
    let mut scene = Scene::start();
    scene.calm("calm");
    scene.service("flood", Duration::ZERO, |client, users, turn| async move {
        let user = users[turn % USERS].as_str();
        client
            .push(Push::user(user).text("x".repeat(100)))
            .await
            .unwrap();
    });
    let report = scene.wait_for_finding(Cause::Link, "of service \"flood\"");
    assert!(!blames(&report, Cause::Fanout), "{:?}", report.findings);
    let link = &report.busiest.links[0];
    assert_eq!(link.service, "flood");
    let named = report
        .findings
        .iter()
        .any(|of| of.culprit.contains(&link.peer.to_string()));
    assert!(named, "{:?}", report.findings);
    scene.wait_for_slow_tick(Cause::Link, "of service \"flood\"");
}

// Three services send alike, and something that has nothing to do with the gateway spins on the shard's CPU.
#[test]
fn a_thief_on_the_shards_cpu_is_found_by_the_name_of_its_thread() {
    let _alone = alone();
    let mut scene = Scene::start();
    for name in ["first", "second", "third"] {
        scene.service(
            name,
            Duration::from_millis(1),
            |client, users, turn| async move {
                for at in 0..10 {
                    let user = users[(turn * 10 + at) % USERS].as_str();
                    client.push(Push::user(user).text("hello")).await.unwrap();
                }
            },
        );
    }
    let core = scene.report().core.expect("it is pinned");
    scene.beside("cpu-thief", move |over| {
        cpu::pin(&[core]).unwrap();
        cpu::rank(Rank::Measured);
        while !over.load(Relaxed) {
            std::hint::spin_loop();
        }
    });
    let pid = format!("cpu-thief (pid {})", std::process::id());
    let report = scene.wait_for_finding(Cause::CpuTaken, &pid);
    for innocent in [Cause::Fanout, Cause::Link] {
        assert!(!blames(&report, innocent), "{:?}", report.findings);
    }
    scene.wait_for_slow_tick(Cause::CpuTaken, "another thread or process");
}
