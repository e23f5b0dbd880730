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
use h2_stream::{Code, Config, Server, ServerEvent, Status, StreamId};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use sessions::{Attached, Sessions};

pub mod sessions;

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
    pub sessions: Mutex<Sessions>,
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
    /// How the stream of a shard is to end; `None`: its connection breaks.
    ends: HashMap<u32, Option<Status>>,
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
            sessions: Mutex::default(),
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

    /// Breaks the connection of a shard's stream.
    pub fn cut(&self, shard: u32) {
        self.log().ends.insert(shard, None);
        self.state.changed.notify_waiters();
    }

    /// Ends a shard's stream as a gateway does that means it.
    pub fn end(&self, shard: u32, code: Code) {
        let status = Status::new(code, "as told");
        self.log().ends.insert(shard, Some(status));
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
        Some(Target::Users(users)) => users.user_ids.iter().map(ToString::to_string).collect(),
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
            attached: None,
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
    attached: Option<Attached>,
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
            if self.is_cut() {
                return;
            }
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
        let begins = matches!(frame.body, Some(Body::Hello(_)));
        // What comes on a stream that was ended is not taken.
        if self.is_replaced() || self.exchange.is_none() && !begins {
            return;
        }
        let behaviour = self.state.behaviour.lock().unwrap();
        let mut up = Vec::new();
        match &frame.body {
            Some(Body::Hello(hello)) => {
                assert_eq!(frame.sequence, 0);
                self.exchange = Some(stream);
                let id = behaviour.welcome_as.clone();
                let mut welcome = Welcome {
                    gateway_id: id.unwrap_or_else(|| self.state.id.clone()),
                    epoch: self.state.epoch,
                    shard,
                    shards: self.state.shards,
                    ..Welcome::default()
                };
                self.state.log.lock().unwrap().hellos.push(hello.clone());
                let mut sessions = self.state.sessions.lock().unwrap();
                self.attached = sessions.attach(hello, self.state.epoch, &mut welcome);
                if self.attached.is_none() && !hello.session_id.is_empty() {
                    let clash = Status::new(Code::AlreadyExists, "two clients use one session");
                    self.server.finish(stream, clash);
                    return;
                }
                self.sequence = welcome.last_sequence;
                self.acked = welcome.last_sequence;
                up.push(Up::Welcome(welcome));
            }
            Some(Body::ClientAck(_)) => assert_eq!(frame.sequence, 0),
            Some(body) => {
                assert!(frame.sequence > self.sequence, "sequences rise");
                self.sequence = frame.sequence;
                if let Some(attached) = &self.attached {
                    attached.take(frame.sequence);
                }
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
        if self.is_replaced() {
            let replaced = Status::new(Code::Aborted, "replaced by a newer stream of its session");
            self.server.finish(stream, replaced);
            self.exchange = None;
            return;
        }
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

impl Served {
    /// Whether another stream has taken the place of this one.
    fn is_replaced(&self) -> bool {
        self.attached.as_ref().is_some_and(Attached::is_replaced)
    }

    /// Ends the stream if the test wants it; says whether the connection is to break.
    fn is_cut(&mut self) -> bool {
        let (Some(stream), Some(shard)) = (self.exchange, self.shard) else {
            return false;
        };
        let end = self.state.log.lock().unwrap().ends.remove(&shard);
        match end {
            None => false,
            Some(None) => true,
            Some(Some(status)) => {
                self.server.finish(stream, status);
                self.exchange = None;
                false
            }
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
    let with_targets = asked == Some(v1::ReceiptMode::Targets);
    if !with_targets && asked != Some(v1::ReceiptMode::Counts) {
        return None;
    }
    let entries = (behaviour.receipt)(shard, push)?.into_iter();
    let outcomes = entries.map(|(outcome, count)| {
        let mut entry = v1::receipt::Entry {
            count,
            ..Default::default()
        };
        entry.set_outcome(outcome);
        if with_targets && outcome != v1::Outcome::NoTarget {
            entry.connections = vec![connection_of(1, shard); count as usize];
        }
        entry
    });
    Some(Up::Receipt(v1::Receipt {
        sequence,
        outcomes: outcomes.collect(),
    }))
}
