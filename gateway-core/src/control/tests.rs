//! The admin port as probes and Prometheus see it, over a fake gateway of two shards whose clock the test sets.

use std::{
    collections::{HashMap, HashSet},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{Control, Life, Plan, Progress, Subject};
use crate::{config, metrics::Metrics};

struct Fake {
    control: Control,
    metrics: Vec<Arc<Metrics>>,
    /// Milliseconds on the gateway's clock.
    clock: Arc<AtomicU64>,
    /// The drains that were ordered.
    drained: Arc<Mutex<Vec<Duration>>>,
    /// Where its shards take pushes.
    shards: Vec<SocketAddr>,
}

impl Fake {
    fn start() -> Self {
        let config = config::Admin {
            listen: "127.0.0.1:0".parse().unwrap(),
            stalled_after_ms: 1000,
        };
        Self {
            control: Control::start(&config).unwrap(),
            metrics: (0..2).map(|shard| Arc::new(Metrics::new(shard))).collect(),
            clock: Arc::default(),
            drained: Arc::default(),
            shards: vec!["127.0.0.1:9".parse().unwrap(); 2],
        }
    }

    fn serve(&self) {
        let clock = Arc::clone(&self.clock);
        self.control.ready(Subject {
            metrics: self.metrics.clone(),
            threads: vec![(rustix::thread::gettid().as_raw_nonzero().get(), None); 2],
            clock: Box::new(move || Duration::from_millis(clock.load(Relaxed))),
            id: "a \"quoted\"\\name".into(),
            epoch: u64::MAX,
            version: "0.1.0".into(),
            driver: "monoio (epoll)".into(),
            drain_settings: config::Drain {
                connections_per_second: 100,
                ..Default::default()
            },
            drain: {
                let drained = Arc::clone(&self.drained);
                Box::new(move |spread| drained.lock().unwrap().push(spread))
            },
            shard_grpc: self.shards.clone(),
            max_push_bytes: 4096,
        });
    }

    /// Status, head and body.
    fn get(&self, path: &str) -> (u16, String, String) {
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        ))
    }

    /// Status and body.
    fn post(&self, path: &str, head: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let (status, _, body) = self.ask(&format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\n{head}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        ));
        (status, body)
    }

    fn ask(&self, request: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.control.address()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head[9..12].parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }
}

#[test]
fn ready_only_between_start_and_drain() {
    let fake = Fake::start();
    assert_eq!(fake.get("/readyz").0, 503);
    assert_eq!(fake.get("/healthz").0, 200, "starting is no illness");
    fake.serve();
    assert_eq!(fake.get("/readyz").0, 200);
    assert!(fake.control.drain());
    let (status, _, body) = fake.get("/readyz");
    assert_eq!((status, body.as_str()), (503, "draining\n"));
    assert_eq!(fake.get("/other").0, 404);
}

// What registers the gateway elsewhere must hear of every change, and be given the time to withdraw.
#[test]
fn followers_hear_of_every_change_and_the_end_waits_for_their_good_bye() {
    let mut fake = Fake::start();
    let (said, heard) = std::sync::mpsc::channel();
    let mut life = fake.control.life();
    fake.control.spawn(async move {
        loop {
            let now = *life.borrow_and_update();
            said.send(now).unwrap();
            if now == Life::Ended {
                break;
            }
            life.changed().await.unwrap();
        }
        tokio::task::yield_now().await;
        said.send(Life::Ended).unwrap();
    });
    let next = || heard.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(next(), Life::Starting);
    fake.serve();
    assert_eq!(next(), Life::Ready);
    assert!(fake.control.drain());
    assert_eq!(next(), Life::Draining);
    drop(fake);
    let good_bye: Vec<_> = heard.try_iter().collect();
    assert_eq!(good_bye, [Life::Ended, Life::Ended]);
}

// A registry that is away must not take a healthy gateway out of service.
#[test]
fn a_registry_out_of_reach_leaves_the_gateway_ready_and_is_counted() {
    let mut fake = Fake::start();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    fake.control
        .register(super::registration::tests::registrant(&endpoint));
    fake.serve();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let (_, _, page) = fake.get("/metrics");
        assert!(page.contains("\nringway_registered 0\n"), "{page}");
        if !page.contains("\nringway_registry_failures_total 0\n") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{page}");
    }
    assert_eq!(fake.get("/readyz").0, 200);
    // And it does not hold up the end.
    let began = std::time::Instant::now();
    drop(fake);
    assert!(began.elapsed() < super::FAREWELL, "{:?}", began.elapsed());
}

#[test]
fn a_drain_begins_once_and_tells_how_it_goes() {
    let fake = Fake::start();
    assert_eq!(fake.post("/drain", "", "").0, 503, "it is not up yet");
    fake.serve();
    fake.metrics[0].connections.set(150);
    fake.metrics[1].connections.set(50);
    fake.metrics[1].streams.set(3);
    let (status, plan) = fake.post("/drain?dry_run=true", "", "");
    assert_eq!(status, 200, "{plan}");
    let plan: Plan = serde_json::from_str(&plan).unwrap();
    assert_eq!((plan.load.connections, plan.load.streams), (200, 3));
    let by_rate = "drain.connections_per_second".to_owned();
    assert_eq!((plan.spread_ms, plan.pace), (2_000, by_rate));
    assert!(fake.drained.lock().unwrap().is_empty(), "it was only asked");
    assert_eq!(fake.get("/readyz").0, 200);

    fake.clock.store(1_000, Relaxed);
    assert_eq!(fake.post("/drain", "", "{\"spread_ms\": 700}").0, 202);
    assert_eq!(fake.post("/drain", "", "").0, 409);
    assert!(!fake.control.drain());
    assert_eq!(*fake.drained.lock().unwrap(), [Duration::from_millis(700)]);
    assert_eq!(fake.get("/readyz").0, 503);
    fake.clock.store(1_500, Relaxed);
    fake.metrics[0].connections.set(0);
    let progress: Progress = serde_json::from_str(&fake.get("/drain").2).unwrap();
    assert_eq!(progress.life, Life::Draining);
    assert_eq!(progress.load.connections, 50);
    let begun = progress.drain.unwrap();
    assert_eq!((begun.plan.spread_ms, begun.elapsed_ms), (700, 500));
}

#[test]
fn a_drain_that_is_not_understood_is_refused_and_changes_nothing() {
    let fake = Fake::start();
    fake.serve();
    let cases = [
        ("/drain?spread_ms=soon", "", "", 400, "spread_ms = soon"),
        ("/drain?spread=1", "", "", 400, "spread"),
        (
            "/drain?spread_ms=600001",
            "",
            "",
            400,
            "drain.max_spread_ms",
        ),
        ("/drain", "", "{\"dry-run\": true}", 400, "dry-run"),
        ("/drain", "", "now", 400, "JSON"),
        // A page in the operator's browser must not drain what only listens on loopback.
        (
            "/drain",
            "origin: https://example.org\r\n",
            "",
            403,
            "web page",
        ),
    ];
    for (path, head, body, expected, word) in cases {
        let (status, text) = fake.post(path, head, body);
        assert_eq!(status, expected, "{path} {body}: {text}");
        assert!(text.contains(word), "{text}");
    }
    assert_eq!(fake.post("/drain", "", &" ".repeat(5_000)).0, 413);
    assert!(fake.drained.lock().unwrap().is_empty());
    assert_eq!(fake.get("/readyz").0, 200);
}

// Shard 1 stops ticking while shard 0 goes on: the answer must name shard 1 alone.
#[test]
fn health_fails_and_names_the_shard_that_stops_ticking() {
    let fake = Fake::start();
    fake.serve();
    fake.clock.store(1_000, Relaxed);
    assert_eq!(fake.get("/healthz").0, 200, "just within the limit");
    fake.clock.store(1_500, Relaxed);
    fake.metrics[0].heartbeat_nanos.set(1_400_000_000);
    let (status, _, body) = fake.get("/healthz");
    assert_eq!(status, 503);
    let message = "shard 1 has not ticked for 1500 ms (admin.stalled_after_ms = 1000)\n";
    assert_eq!(body, message);
    fake.metrics[1].heartbeat_nanos.set(1_450_000_000);
    assert_eq!(fake.get("/healthz").0, 200, "it has come back");
    // Shards end one after another in a drain: a restart would only lose what is being flushed.
    fake.clock.store(60_000, Relaxed);
    assert!(fake.control.drain());
    assert_eq!(fake.get("/healthz").0, 200);
}

#[test]
fn metrics_tell_what_shards_counted() {
    let fake = Fake::start();
    fake.serve();
    let shard = &fake.metrics[1];
    shard.connections.set(7);
    shard.messages_out_client.add(5);
    shard.crossings.add("push", 3);
    shard.tick_nanos.record(1 << 20);
    shard.tick_nanos.record(u64::MAX >> 20);
    shard.messages_per_send.record_many(1, 4);
    shard.messages_per_send.record(4);
    let (status, head, body) = fake.get("/metrics");
    assert_eq!(status, 200);
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    let samples = parse(&body);
    let expected = [
        ("ringway_ready", "1"),
        (
            "ringway_build_info{version=\"0.1.0\",driver=\"monoio (epoll)\"}",
            "1",
        ),
        (
            "ringway_gateway_info{gateway=\"a \\\"quoted\\\"\\\\name\",epoch=\"18446744073709551615\"}",
            "1",
        ),
        ("ringway_connections{shard=\"0\"}", "0"),
        ("ringway_connections{shard=\"1\"}", "7"),
        ("ringway_messages_out_total{shard=\"1\",to=\"client\"}", "5"),
        ("ringway_crossings_total{shard=\"1\",kind=\"push\"}", "3"),
        ("ringway_closed_total{shard=\"0\",code=\"4408\"}", "0"),
        // 2^20 ns are below 2^21 ns, and not below 2^20.
        (
            "ringway_tick_seconds_bucket{shard=\"1\",le=\"0.001048576\"}",
            "0",
        ),
        (
            "ringway_tick_seconds_bucket{shard=\"1\",le=\"0.002097152\"}",
            "1",
        ),
        ("ringway_tick_seconds_bucket{shard=\"1\",le=\"+Inf\"}", "2"),
        ("ringway_tick_seconds_count{shard=\"1\"}", "2"),
        // Whole numbers have bounds that include them.
        (
            "ringway_messages_per_send_bucket{shard=\"1\",le=\"1\"}",
            "4",
        ),
        (
            "ringway_messages_per_send_bucket{shard=\"1\",le=\"3\"}",
            "4",
        ),
        (
            "ringway_messages_per_send_bucket{shard=\"1\",le=\"7\"}",
            "5",
        ),
        ("ringway_messages_per_send_sum{shard=\"1\"}", "8"),
    ];
    for (sample, value) in expected {
        assert_eq!(
            samples.get(sample).map(String::as_str),
            Some(value),
            "{sample}"
        );
    }
}

#[test]
fn every_metric_stands_in_the_operators_page() {
    let fake = Fake::start();
    fake.serve();
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operation.md"))
            .unwrap();
    let body = fake.get("/metrics").2;
    let names = body
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split(' ').next().unwrap());
    let missing: Vec<_> = names
        .filter(|name| !page.contains(&format!("`{name}")))
        .collect();
    assert!(missing.is_empty(), "not in docs/operation.md: {missing:?}");
}

/// Samples by name and labels. Fails on anything the text format does not allow: samples before their TYPE or apart from
/// it, a sample twice, a value that is no number, histogram buckets that fall.
fn parse(page: &str) -> HashMap<String, String> {
    let mut samples = HashMap::new();
    let mut metrics = HashSet::new();
    let (mut metric, mut kind, mut helped) = ("", "", "");
    let mut bucket = (String::new(), 0);
    assert!(page.ends_with('\n'));
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split_once(' ').expect("a help text").0;
            continue;
        }
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            (metric, kind) = declared.split_once(' ').expect("a type");
            assert_eq!(metric, helped, "HELP and TYPE stand together");
            assert!(metrics.insert(metric), "{metric} twice");
            assert_eq!(kind == "counter", metric.ends_with("_total"), "{metric}");
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').expect("a value");
        let name = sample.split('{').next().unwrap();
        let suffix = name.strip_prefix(metric).expect("below its TYPE");
        match kind {
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
            _ => assert_eq!(suffix, "", "{line}"),
        }
        let number: f64 = value.parse().expect("a number");
        if suffix == "_bucket" {
            let (series, _) = sample.split_once(",le=").expect("a bound");
            let falls = bucket.0 == series && number < f64::from(bucket.1);
            assert!(!falls, "{line}");
            bucket = (series.to_owned(), number as u32);
        }
        let before = samples.insert(sample.to_owned(), value.to_owned());
        assert!(before.is_none(), "{sample} twice");
    }
    samples
}

/// The status of a good push to `fake`, and its answer.
fn pushed(fake: &Fake) -> (u16, String) {
    fake.post("/v1/push", "", "{\"user\": \"alice\", \"text\": \"hi\"}")
}

// Before anything listens there is nobody to push to, and nothing is kept for later.
#[test]
fn a_push_to_a_gateway_that_starts_is_refused() {
    let fake = Fake::start();
    let (status, text) = pushed(&fake);
    assert_eq!(status, 503);
    assert!(text.contains("starting"), "{text}");
}

// A shard that is gone, and one that dies with the push in its hands: the script must know which of the two it was.
#[test]
fn a_script_is_told_whether_its_push_may_have_arrived() {
    let dies = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut fake = Fake::start();
    fake.shards = vec![dies.local_addr().unwrap()];
    fake.metrics.truncate(1);
    fake.serve();
    let shard = std::thread::spawn(move || {
        let (mut link, _) = dies.accept().unwrap();
        // The preface has come; the push is on its way.
        link.read_exact(&mut [0; 24]).unwrap();
    });
    let (status, text) = pushed(&fake);
    assert_eq!(status, 504, "{text}");
    assert!(text.contains("not known"), "{text}");
    shard.join().unwrap();
    let (status, text) = pushed(&fake);
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("nothing was sent"), "{text}");
    let (_, _, page) = fake.get("/metrics");
    assert!(
        page.contains("\nringway_http_pushes_total{result=\"failed\"} 2\n"),
        "{page}"
    );
}
