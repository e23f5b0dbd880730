//! What a push costs without a kernel: HTTP/2 in → decode → route → frame → bytes out, one shard, one link.
//!
//! `ringway-bench push-path` prints nanoseconds. `.ci/instructions` runs one scenario at a time under callgrind, which counts
//! the instructions of `measured` only, and compares them with a baseline.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use gateway_core::{
    config::Config,
    gateway::Gateway,
    identity::{LinkId, SocketId, shard_of},
    lanes,
    metrics::Metrics,
    shard::Shard,
    ws::{QueryUser, UpgradeConfig},
};
use gateway_proto::{
    names,
    v1::{self, logic_frame::Body, message_request::Target, subscribe},
};
use h2_stream::{Client, Metadata, StreamId};

/// What to do.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Name the scenarios
    #[arg(long)]
    pub list: bool,
    /// Run one scenario for callgrind, and print how many deliveries it counts
    #[arg(long, value_name = "SCENARIO", conflicts_with = "list")]
    pub count: Option<String>,
    /// Open this many connections, let them do nothing, and print what a shard keeps of each, the allocator's part included
    #[arg(long, value_name = "CONNECTIONS", conflicts_with_all = ["list", "count"])]
    pub idle: Option<usize>,
    /// Time only the topic, with payloads of so many bytes, at most 64 KiB
    #[arg(long, conflicts_with_all = ["list", "count", "idle"])]
    pub payload: Option<usize>,
}

/// Clients of the shard, a user each.
const USERS: usize = 1000;
/// Bytes of a payload.
const PAYLOAD: usize = 128;
/// Deliveries of a push that is for many.
const WIDE: usize = 100;
/// Deliveries of a round, about.
const DELIVERIES: usize = 1024;
/// Bytes given to the shard at once, as a driver reads them.
const READ: usize = 64 << 10;
/// Rounds before the first that counts: every buffer has grown by then.
const WARM: usize = 8;
/// Rounds that callgrind counts.
const COUNTED: usize = 4;
/// Rounds that the clock counts.
const TIMED: usize = 300;

/// Whom the pushes are for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    /// One user after the other.
    User,
    /// [`WIDE`] users, by name.
    Users,
    /// A topic of [`WIDE`] members.
    Topic,
    /// One user after the other, all of the shard that the link is not on.
    Elsewhere,
}

struct Scenario {
    name: &'static str,
    to: To,
    /// Messages in a DATA frame.
    joined: usize,
    /// Bytes of a payload.
    payload: usize,
}

const SCENARIOS: [Scenario; 8] = [
    Scenario::new("unicast-1", To::User, 1),
    Scenario::new("unicast-64", To::User, 64),
    Scenario::new("multicast-1", To::Users, 1),
    Scenario::new("multicast-64", To::Users, 64),
    Scenario::new("topic-1", To::Topic, 1),
    Scenario::new("topic-64", To::Topic, 64),
    Scenario::new("crossing-1", To::Elsewhere, 1),
    Scenario::new("crossing-64", To::Elsewhere, 64),
];

impl Scenario {
    const fn new(name: &'static str, to: To, joined: usize) -> Self {
        Self {
            name,
            to,
            joined,
            payload: PAYLOAD,
        }
    }

    /// Pushes of a round, and what they deliver.
    fn pushes(&self) -> (usize, usize) {
        match self.to {
            To::User | To::Elsewhere => (DELIVERIES, DELIVERIES),
            To::Users | To::Topic => (DELIVERIES / WIDE, DELIVERIES / WIDE * WIDE),
        }
    }
}

/// Shards with their clients, and a service on the only link, which the first shard has.
struct World {
    now: Duration,
    shards: Vec<Shard>,
    metrics: Vec<Arc<Metrics>>,
    link: LinkId,
    client: Client,
    stream: StreamId,
    sequence: u64,
    /// Users of the last shard, and whose turn it is.
    users: Vec<String>,
    next_user: usize,
    /// What the first shard has for the service.
    answers: Vec<u8>,
}

/// Prints what a delivery costs, or runs what callgrind counts.
///
/// # Errors
/// There is no such scenario.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if options.list {
        SCENARIOS.iter().for_each(|of| println!("{}", of.name));
    } else if let Some(connections) = options.idle {
        println!("{:.0} B a connection", idle(connections)?);
    } else if let Some(name) = &options.count {
        println!("{}", count(name, |round| round())?);
    } else if let Some(payload) = options.payload {
        anyhow::ensure!(payload <= 64 << 10, "--payload: at most 65536");
        time(&Scenario {
            payload,
            ..Scenario::new("topic-1", To::Topic, 1)
        });
    } else {
        SCENARIOS.iter().for_each(time);
    }
    Ok(())
}

/// Runs some rounds of a scenario, `around` each of them and nothing else. Says how many deliveries these were.
///
/// # Errors
/// There is no such scenario.
pub fn count(name: &str, mut around: impl FnMut(&mut dyn FnMut())) -> anyhow::Result<usize> {
    let scenario = SCENARIOS.iter().find(|of| of.name == name);
    let scenario = scenario.with_context(|| format!("no such scenario: {name}"))?;
    let mut world = World::of(scenario);
    world.rounds(scenario, WARM, |bytes, world| unmeasured(world, bytes));
    world.rounds(scenario, COUNTED, |bytes, world| {
        around(&mut || measured(world, bytes));
    });
    Ok(COUNTED * scenario.pushes().1)
}

/// What resident memory grows by for each connection.
fn idle(connections: usize) -> anyhow::Result<f64> {
    let now = Duration::from_secs(1);
    let metrics = [Arc::new(Metrics::new(0))];
    let mut shards = shards(&metrics);
    // What the first ones leave behind, others find.
    (0..100).for_each(|at| open(&mut shards[0], now, &format!("early-{at}")));
    let before = resident()?;
    (0..connections).for_each(|at| open(&mut shards[0], now, &format!("user-{at}")));
    let grown = resident()?.saturating_sub(before);
    anyhow::ensure!(metrics[0].connections.get() == connections as u64 + 100);
    Ok(grown as f64 / connections as f64)
}

fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mut lines = status
        .lines()
        .filter_map(|line| line.strip_prefix("VmRSS:"));
    let kib = lines.next().context("status has VmRSS")?.trim();
    Ok(kib.trim_end_matches(" kB").parse::<u64>()? << 10)
}

fn time(scenario: &Scenario) {
    let mut world = World::of(scenario);
    world.rounds(scenario, WARM, |bytes, world| unmeasured(world, bytes));
    let mut took = Vec::with_capacity(TIMED);
    world.rounds(scenario, TIMED, |bytes, world| {
        let began = Instant::now();
        unmeasured(world, bytes);
        took.push(began.elapsed());
    });
    took.sort_unstable();
    let nanos = took[TIMED / 2].as_nanos() as f64 / scenario.pushes().1 as f64;
    println!("{:14} {nanos:7.1} ns a delivery", scenario.name);
}

/// A round whose instructions count. Never inlined: callgrind knows it by its name.
#[inline(never)]
fn measured(world: &mut World, bytes: &mut [u8]) {
    round(world, bytes);
}

fn unmeasured(world: &mut World, bytes: &mut [u8]) {
    round(world, bytes);
}

/// What a driver does with a shard, without sockets.
#[inline(never)]
fn round(world: &mut World, bytes: &mut [u8]) {
    let now = world.now;
    for part in bytes.chunks_mut(READ) {
        world.shards[0].bytes(now, SocketId::Link(world.link), part);
    }
    loop {
        let mut more = false;
        for shard in &mut world.shards {
            shard.tick(now);
            while let Some(socket) = shard.next_dirty() {
                let bytes = black_box(shard.to_send(now, socket));
                if matches!(socket, SocketId::Link(_)) {
                    world.answers.extend_from_slice(bytes);
                }
                let sent = bytes.len();
                shard.sent(now, socket, sent);
            }
            more |= shard.take_wakes().count() > 0 || shard.has_work();
        }
        if !more {
            return;
        }
    }
}

impl World {
    fn of(scenario: &Scenario) -> Self {
        let count = if scenario.to == To::Elsewhere { 2 } else { 1 };
        let now = Duration::from_secs(1);
        let metrics: Vec<_> = (0..count).map(|at| Arc::new(Metrics::new(at))).collect();
        let mut shards = shards(&metrics);
        let mut client = Client::new(h2_stream::Config::default(), "bench", now);
        let stream = client
            .open(names::EXCHANGE, Metadata::new(), None, now)
            .expect("a call can begin");
        let body = Some(Body::Hello(v1::Hello {
            scope: v1::Scope::Gateway.into(),
            ..Default::default()
        }));
        client.send(stream, &v1::LogicFrame { sequence: 0, body });
        let last = u32::from(count) - 1;
        let users = (0..).map(|user| format!("user-{user}"));
        let users = users.filter(|user| shard_of(user.as_bytes(), u32::from(count)) == last);
        let users: Vec<_> = users.take(USERS).collect();
        for user in &users {
            open(&mut shards[last as usize], now, user);
        }
        let link = shards[0].link_opened(now, PEER).expect("room");
        let mut world = Self {
            now,
            shards,
            metrics,
            link,
            client,
            stream,
            sequence: 0,
            users,
            next_user: 0,
            answers: Vec::new(),
        };
        world.settle();
        world
    }

    /// Fills the topic, and lets everything come to rest.
    fn settle(&mut self) {
        for member in 0..WIDE {
            self.command(Body::Subscribe(v1::Subscribe {
                target: Some(subscribe::Target::UserId(self.users[member].clone())),
                topic: "news".into(),
            }));
        }
        let mut bytes = Vec::new();
        for _ in 0..10 {
            self.client.write_output(&mut bytes, usize::MAX);
            unmeasured(self, &mut bytes);
            self.read_answers();
            bytes.clear();
        }
        let sum = |count: fn(&Metrics) -> u64| -> u64 {
            self.metrics.iter().map(|metrics| count(metrics)).sum()
        };
        assert_eq!(sum(|of| of.connections.get()), USERS as u64);
        assert_eq!(sum(|of| of.topics.get()), 1);
    }

    fn delivered(&self) -> u64 {
        let delivered = self.metrics.iter().map(|of| of.messages_out_client.get());
        delivered.sum()
    }

    /// Runs rounds: the bytes of each are made before `run` sees them, its answers are read afterwards.
    fn rounds(
        &mut self,
        scenario: &Scenario,
        rounds: usize,
        mut run: impl FnMut(&mut [u8], &mut Self),
    ) {
        for _ in 0..rounds {
            let mut bytes = self.bytes_of(scenario);
            let before = self.delivered();
            run(&mut bytes, self);
            let delivered = self.delivered() - before;
            assert_eq!(delivered, scenario.pushes().1 as u64, "{}", scenario.name);
            self.read_answers();
        }
    }

    fn bytes_of(&mut self, scenario: &Scenario) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.client.write_output(&mut bytes, usize::MAX);
        let before = bytes.len();
        for push in 0..scenario.pushes().0 {
            let target = self.target(scenario.to);
            self.command(Body::Push(v1::MessageRequest {
                target: Some(target),
                payload: vec![b'x'; scenario.payload].into(),
                kind: v1::PayloadKind::Binary.into(),
                delivery: None,
            }));
            if (push + 1) % scenario.joined == 0 {
                self.client.write_output(&mut bytes, usize::MAX);
            }
        }
        self.client.write_output(&mut bytes, usize::MAX);
        assert!(
            bytes.len() - before > scenario.payload * scenario.pushes().0,
            "no credit"
        );
        bytes
    }

    fn target(&mut self, to: To) -> Target {
        match to {
            To::User | To::Elsewhere => {
                // Four messages leave together, as under load.
                self.next_user = (self.next_user + 1) % (DELIVERIES / 4);
                Target::UserId(self.users[self.next_user].clone())
            }
            To::Users => Target::Users(v1::Users {
                user_ids: self.users[..WIDE].iter().map(Into::into).collect(),
            }),
            To::Topic => Target::Topic("news".into()),
        }
    }

    fn command(&mut self, body: Body) {
        self.sequence += 1;
        let (sequence, body) = (self.sequence, Some(body));
        self.client
            .send(self.stream, &v1::LogicFrame { sequence, body });
    }

    /// Gives the service what the shard has said: acks and credit.
    fn read_answers(&mut self) {
        self.client.receive(self.now, &self.answers);
        self.answers.clear();
        while let Some(event) = self.client.poll_event(self.now) {
            if let h2_stream::ClientEvent::Message { id, credit, .. } = event {
                self.client.release(id, credit);
            }
        }
    }
}

const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1000);

fn shards(metrics: &[Arc<Metrics>]) -> Vec<Shard> {
    let gateway = Arc::new(Gateway {
        id: "bench".into(),
        epoch: 77,
        version: "0",
        driver: "none".into(),
        shard_addresses: metrics.iter().map(|of| format!(":{}", of.shard)).collect(),
        upgrade: UpgradeConfig::default(),
        identify: Box::new(QueryUser { trusted: true }),
        config: Config::default(),
    });
    let lanes = lanes::lanes(metrics.len() as u16, &gateway.config.lanes).into_iter();
    let with_metrics = lanes.zip(metrics);
    with_metrics
        .map(|(lanes, metrics)| Shard::new(gateway.clone(), metrics.clone(), lanes, 42))
        .collect()
}

/// A client that is connected, and nothing else.
fn open(shard: &mut Shard, now: Duration, user: &str) {
    let mut request = format!(
        "GET /ws?user={user} HTTP/1.1\r\nhost: bench\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes();
    let conn = shard.conn_opened(now, PEER).expect("room");
    shard.bytes(now, SocketId::Conn(conn), &mut request);
    shard.tick(now);
    while let Some(socket) = shard.next_dirty() {
        let sent = shard.to_send(now, socket).len();
        shard.sent(now, socket, sent);
    }
}
