//! The end of a gateway, as its clients, its logic services and its operator see it.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::{PATIENCE, connect, ringway, wait_for};
use gateway_bench::{clients::Event, metrics, unicast::user};
use logic_client::{LogicClient, Notice, What};
use rustix::process::Signal;

const CLIENTS: usize = 100;
const SPREAD: Duration = Duration::from_millis(400);
const RETRY_AFTER_MS: u64 = 3_000;

#[test]
fn sigterm_sends_clients_elsewhere_tells_services_and_exits_with_success() {
    // Every client must learn that it may come back, and when; all at once, or none at all, would be a stampede or a
    // loss. The service must be told before its stream ends.
    let gateway = ringway()
        .shards(2)
        .setting("RINGWAY_DRAIN_SPREAD_MS", SPREAD.as_millis())
        .setting("RINGWAY_DRAIN_RETRY_AFTER_MS", RETRY_AFTER_MS);
    let mut gateway = gateway.start().unwrap();
    let users: Vec<_> = (0..CLIENTS).map(user).collect();
    let mut clients = connect(&gateway, &users);
    let service = Service::start(gateway.grpc.to_string());

    gateway.signal(Signal::TERM).unwrap();
    let mut closed = Vec::new();
    let started = Instant::now();
    wait_for("all clients to be closed", || {
        let take = |_, event: Event<'_>| match event {
            Event::Closed { code, reason } => {
                closed.push((started.elapsed(), code, reason.to_owned()));
            }
            message => panic!("{message:?}"),
        };
        clients.receive(Duration::from_millis(10), take).unwrap();
        (clients.open() == 0).then_some(())
    });
    assert_eq!(closed.len(), CLIENTS);
    for (_, code, reason) in &closed {
        assert_eq!(*code, Some(1012));
        let retry = reason
            .strip_prefix("retry_after_ms=")
            .and_then(|retry| retry.parse::<u64>().ok());
        // Not before the gateway is gone, then at a random time.
        let latest = RETRY_AFTER_MS + SPREAD.as_millis() as u64;
        assert!(retry.is_some_and(|retry| retry <= latest), "{reason:?}");
    }
    let (first, last) = (closed[0].0, closed[CLIENTS - 1].0);
    assert!(
        last - first > SPREAD / 4,
        "closed within {:?}",
        last - first
    );
    assert!(gateway.wait(PATIENCE).unwrap().success());
    let told = service.notices();
    assert!(
        (0..2).all(|shard| told.contains(&shard)),
        "shards that announced it: {told:?}"
    );
}

#[test]
fn second_signal_exits_at_once() {
    // The drain would take a minute: a client is there, and closing it is spread over that time.
    let mut gateway = ringway()
        .shards(2)
        .setting("RINGWAY_DRAIN_SPREAD_MS", 60_000)
        .start()
        .unwrap();
    let clients: Vec<_> = (0..CLIENTS).map(user).collect();
    let clients = connect(&gateway, &clients);
    gateway.signal(Signal::INT).unwrap();
    wait_for("the drain to begin", || {
        metrics::get(gateway.admin, "/readyz").err()
    });
    gateway.signal(Signal::TERM).unwrap();
    let status = gateway.wait(Duration::from_secs(20)).unwrap();
    assert!(!status.success(), "{status}");
    drop(clients);
}

/// A logic service that notes which shards say that they go away.
struct Service {
    draining: Arc<Mutex<Vec<u32>>>,
    _client: LogicClient,
    runtime: tokio::runtime::Runtime,
}

impl Service {
    fn start(gateway: String) -> Self {
        let draining = Arc::new(Mutex::new(Vec::new()));
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let notes = Arc::clone(&draining);
        let note = move |notice: &Notice| {
            if let What::Draining { .. } = notice.what {
                notes.lock().unwrap().push(notice.shard);
            }
        };
        let connect = LogicClient::builder()
            .gateway(gateway)
            .on_notice(note)
            .connect();
        let client = runtime.block_on(connect).unwrap();
        Self {
            draining,
            _client: client,
            runtime,
        }
    }

    fn notices(self) -> Vec<u32> {
        self.runtime.shutdown_background();
        self.draining.lock().unwrap().clone()
    }
}
