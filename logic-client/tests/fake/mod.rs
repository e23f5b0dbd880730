//! A gateway that speaks the real protocol over real sockets, and does as a test tells it.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "part of tests, and each test file uses its own part"
)]

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use gateway_proto::names;
use gateway_proto::v1::gateway_frame::Body as Up;
use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::message_request::Target;
use gateway_proto::v1::{self, Ack, DescribeResponse, GatewayFrame, LogicFrame, Welcome};
use h2_stream::{Config, Server, ServerEvent, Status, StreamId};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Fails a test that waits in vain.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Fake {
    pub address: String,
    pub state: Arc<State>,
    /// Ends all connections and listeners when dropped.
    tasks: JoinSet<()>,
}

pub struct State {
    pub id: String,
    pub epoch: u64,
    pub shards: u32,
    addresses: Mutex<Vec<String>>,
    pub behaviour: Mutex<Behaviour>,
    log: Mutex<Log>,
    changed: Notify,
    pub handled: AtomicU64,
}

pub type Outcomes = Vec<(v1::Outcome, u32)>;

/// What a test may change at any time, with [`Fake::set`].
pub struct Behaviour {
    /// Read what clients send; otherwise their credit runs out.
    pub read: bool,
    /// Acknowledge commands.
    pub ack: bool,
    /// Keep the commands for the test to look at.
    pub keep: bool,
    /// What `Welcome` says instead of the gateway's own name.
    pub welcome_as: Option<String>,
    /// What a receipt says of a push on a shard; `None`: no receipt.
    pub receipt: fn(u32, &v1::MessageRequest) -> Option<Outcomes>,
    /// Why a push is rejected.
    pub reject: fn(&v1::MessageRequest) -> Option<v1::RejectReason>,
}

#[derive(Default)]
pub struct Log {
    /// Hello of every stream.
    pub hellos: Vec<v1::Hello>,
    /// Commands in the order they came: shard and frame.
    pub frames: Vec<(u32, LogicFrame)>,
    /// What is to be sent on the stream of a shard.
    outgoing: HashMap<u32, VecDeque<Up>>,
    /// Connections made so far.
    pub connections: u32,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            read: true,
            ack: true,
            keep: true,
            welcome_as: None,
            receipt: |_, _| Some(vec![(v1::Outcome::Written, 1)]),
            reject: |_| None,
        }
    }
}

impl Fake {
    pub async fn start(shards: u32) -> Self {
        Self::start_at("127.0.0.1:0", "fake", 1, shards).await
    }

    /// `at` may be the address of one that was killed.
    pub async fn start_at(at: &str, id: &str, epoch: u64, shards: u32) -> Self {
        let common = TcpListener::bind(at).await.unwrap();
        let address = common.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            id: id.to_owned(),
            epoch,
            shards,
            addresses: Mutex::default(),
            behaviour: Mutex::default(),
            log: Mutex::default(),
            changed: Notify::new(),
            handled: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        for shard in 0..shards {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            state.addresses.lock().unwrap().push(format!(":{port}"));
            tasks.spawn(listen(listener, Some(shard), Arc::clone(&state)));
        }
        tasks.spawn(listen(common, None, Arc::clone(&state)));
        Self {
            address,
            state,
            tasks,
        }
    }

    /// The death of the process: every socket is gone. The address may be taken again.
    pub async fn kill(mut self) -> String {
        self.tasks.shutdown().await;
        self.address
    }

    pub fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state.behaviour.lock().unwrap());
        self.state.changed.notify_waiters();
    }

    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.state.log.lock().unwrap()
    }

    /// Sends a frame on the stream of a shard.
    pub fn send(&self, shard: u32, frame: Up) {
        self.log()
            .outgoing
            .entry(shard)
            .or_default()
            .push_back(frame);
        self.state.changed.notify_waiters();
    }

    /// Waits until what has come is as `enough` wants it.
    pub async fn wait(&self, what: &str, enough: impl Fn(&Log) -> bool) {
        let waiting = async {
            loop {
                let changed = self.state.changed.notified();
                if enough(&self.log()) {
                    return;
                }
                changed.await;
            }
        };
        let seen = timeout(PATIENCE, waiting).await;
        seen.unwrap_or_else(|_| panic!("in vain: {what}: {} frames", self.log().frames.len()));
    }

    /// Waits for `count` commands.
    pub async fn wait_for(&self, count: usize) {
        self.wait("commands", |log| log.frames.len() >= count).await;
    }

    /// Payloads that came on a shard, in order.
    pub fn texts(&self, shard: u32) -> Vec<String> {
        let log = self.log();
        let frames = log.frames.iter().filter(|(at, _)| *at == shard);
        let texts = frames.filter_map(|(_, frame)| match &frame.body {
            Some(Body::Push(push)) => Some(String::from_utf8(push.payload.to_vec()).unwrap()),
            _ => None,
        });
        texts.collect()
    }
}

/// The users a push names.
pub fn users(push: &v1::MessageRequest) -> Vec<String> {
    match &push.target {
        Some(Target::Users(users)) => users.user_ids.clone(),
        Some(Target::UserId(user)) => vec![user.clone()],
        _ => Vec::new(),
    }
}

/// A user whose shard is this one.
pub fn user_of(shard: u32, shards: u32) -> String {
    (0..)
        .map(|number| format!("user-{number}"))
        .find(|user| gateway_proto::shard_of(user.as_bytes(), shards) == shard)
        .unwrap()
}

/// A connection of a shard.
pub fn connection_of(epoch: u64, shard: u32) -> v1::Connection {
    let id = u64::from(shard) << 54 | 77;
    v1::Connection { epoch, id }
}

async fn listen(listener: TcpListener, shard: Option<u32>, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        state.log.lock().unwrap().connections += 1;
        state.changed.notify_waiters();
        let served = Served {
            shard,
            state: Arc::clone(&state),
            server: Server::new(Config::default(), Duration::ZERO),
            methods: HashMap::new(),
            exchange: None,
            acked: 0,
            sequence: 0,
        };
        connections.spawn(served.run(tcp));
    }
}

struct Served {
    shard: Option<u32>,
    state: Arc<State>,
    server: Server,
    methods: HashMap<StreamId, String>,
    exchange: Option<StreamId>,
    acked: u64,
    sequence: u64,
}

impl Served {
    async fn run(mut self, mut tcp: TcpStream) {
        let start = Instant::now();
        let mut input = Vec::with_capacity(64 << 10);
        let mut output = Vec::new();
        let state = Arc::clone(&self.state);
        loop {
            let changed = state.changed.notified();
            let now = start.elapsed();
            let read = state.behaviour.lock().unwrap().read;
            while read && let Some(event) = self.server.poll_event(now) {
                self.on_event(event);
            }
            self.send_up();
            while self.server.has_output() && self.server.write_output(&mut output, 1 << 20) > 0 {
                if tcp.write_all(&output).await.is_err() {
                    return;
                }
                output.clear();
            }
            if self.server.is_closed() {
                return;
            }
            input.clear();
            tokio::select! {
                got = tcp.read_buf(&mut input), if read && self.server.wants_bytes() => match got {
                    Ok(0) => self.server.receive_eof(now),
                    Ok(_) => self.server.receive(now, &input),
                    Err(_) => return,
                },
                () = changed => {}
            }
        }
    }

    fn on_event(&mut self, event: ServerEvent) {
        match event {
            ServerEvent::Request { stream, method, .. } => {
                self.methods.insert(stream, method);
            }
            ServerEvent::Message {
                stream,
                message,
                credit,
            } => {
                self.server.release(stream, credit);
                match self.methods[&stream].as_str() {
                    names::DESCRIBE => self.describe(stream),
                    names::EXCHANGE => self.command(stream, LogicFrame::decode(message).unwrap()),
                    other => panic!("{other}"),
                }
            }
            ServerEvent::HalfClosed { stream } => self.server.finish(stream, Status::ok()),
            ServerEvent::Closed { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn describe(&mut self, stream: StreamId) {
        let described = DescribeResponse {
            gateway_id: self.state.id.clone(),
            epoch: self.state.epoch,
            shards: self.state.shards,
            shard_addresses: self.state.addresses.lock().unwrap().clone(),
            ..DescribeResponse::default()
        };
        self.server.send(stream, &described);
    }

    fn command(&mut self, stream: StreamId, frame: LogicFrame) {
        let Some(shard) = self.shard else {
            panic!("an Exchange on the common port");
        };
        let behaviour = self.state.behaviour.lock().unwrap();
        let mut up = Vec::new();
        match &frame.body {
            Some(Body::Hello(hello)) => {
                assert_eq!(frame.sequence, 0);
                self.exchange = Some(stream);
                let id = behaviour.welcome_as.clone();
                up.push(Up::Welcome(Welcome {
                    gateway_id: id.unwrap_or_else(|| self.state.id.clone()),
                    epoch: self.state.epoch,
                    shard,
                    shards: self.state.shards,
                    ..Welcome::default()
                }));
                self.state.log.lock().unwrap().hellos.push(hello.clone());
            }
            Some(Body::ClientAck(_)) => assert_eq!(frame.sequence, 0),
            Some(body) => {
                assert!(frame.sequence > self.sequence, "sequences rise");
                self.sequence = frame.sequence;
                up.extend(answers(&behaviour, shard, frame.sequence, body));
            }
            None => panic!("an empty frame"),
        }
        self.state.handled.fetch_add(1, Ordering::Relaxed);
        if behaviour.keep && !matches!(frame.body, Some(Body::Hello(_))) {
            self.state.log.lock().unwrap().frames.push((shard, frame));
        }
        drop(behaviour);
        for body in up {
            self.server.send(stream, &GatewayFrame { body: Some(body) });
        }
        self.state.changed.notify_waiters();
    }

    /// One Ack for all that has come, and what the test wants to be sent.
    fn send_up(&mut self) {
        let (Some(stream), Some(shard)) = (self.exchange, self.shard) else {
            return;
        };
        if self.state.behaviour.lock().unwrap().ack && self.acked < self.sequence {
            self.acked = self.sequence;
            let body = Some(Up::Ack(Ack {
                sequence: self.acked,
            }));
            self.server.send(stream, &GatewayFrame { body });
        }
        let outgoing = self.state.log.lock().unwrap().outgoing.remove(&shard);
        for body in outgoing.into_iter().flatten() {
            self.server.send(stream, &GatewayFrame { body: Some(body) });
        }
    }
}

/// The receipt or rejection of a command.
fn answers(behaviour: &Behaviour, shard: u32, sequence: u64, body: &Body) -> Option<Up> {
    let Body::Push(push) = body else {
        return None;
    };
    if let Some(reason) = (behaviour.reject)(push) {
        let mut rejected = v1::Rejected {
            sequence,
            ..Default::default()
        };
        rejected.set_reason(reason);
        return Some(Up::Rejected(rejected));
    }
    let asked = push.delivery.as_ref().map(v1::Delivery::receipt);
    if asked != Some(v1::ReceiptMode::Counts) {
        return None;
    }
    let entries = (behaviour.receipt)(shard, push)?.into_iter();
    let outcomes = entries.map(|(outcome, count)| {
        let mut entry = v1::receipt::Entry {
            count,
            ..Default::default()
        };
        entry.set_outcome(outcome);
        entry
    });
    Some(Up::Receipt(v1::Receipt {
        sequence,
        outcomes: outcomes.collect(),
    }))
}
