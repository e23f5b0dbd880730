//! A gateway of this process with real sockets, and blocking clients for it.
#![allow(dead_code, reason = "every test file takes what it needs")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use bytes::Bytes;
use gateway_core::{
    bootstrap::{Extras, Running, start},
    config::{Config, DriverChoice, Shards},
    driver::{DRIVER_VARIABLE, choose},
};
use gateway_proto::v1::{self, gateway_frame::Body, message_request::Target};
use h2_stream::{Client, ClientEvent, Metadata, StreamId};
use prost::Message as _;
use tungstenite::{Message, WebSocket};

/// Nothing here takes longer.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A gateway that stops with the test.
pub struct Gateway(Option<Running>);

/// A WebSocket client.
pub type Conn = WebSocket<TcpStream>;

/// A logic service with one link.
pub struct Logic {
    stream: TcpStream,
    client: Client,
    started: Instant,
    answers: HashMap<StreamId, VecDeque<Bytes>>,
    finished: HashSet<StreamId>,
}

/// The drivers under test: the one that the environment asks for, or all that this build and host can do.
pub fn drivers() -> Vec<DriverChoice> {
    if let Ok(name) = std::env::var(DRIVER_VARIABLE) {
        return vec![DriverChoice::named(&name).unwrap()];
    }
    let works = |driver: &DriverChoice| {
        let shards = Shards {
            driver: *driver,
            ..Default::default()
        };
        // What falls back to another driver is no driver of its own.
        choose(&shards).is_ok_and(|chosen| chosen.lacks.is_none())
    };
    let all = DriverChoice::ALL.into_iter();
    let named = all.filter(|driver| *driver != DriverChoice::Auto);
    named.filter(works).collect()
}

impl Gateway {
    /// A gateway on ports of the kernel's choice.
    pub fn start(driver: DriverChoice, shards: u32) -> Self {
        Self::start_with(driver, shards, |_| ())
    }

    pub fn start_with(driver: DriverChoice, shards: u32, adjust: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.shards.count = shards;
        config.shards.driver = driver;
        config.ws.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.grpc.listen = config.ws.listen;
        adjust(&mut config);
        Self(Some(start(config, Extras::default()).unwrap()))
    }

    pub fn connect(&self, user: &str) -> Conn {
        open(dial(self.ws), user)
    }

    pub fn sum(&self, of: impl Fn(&gateway_core::metrics::Metrics) -> u64) -> u64 {
        self.metrics.iter().map(|metrics| of(metrics)).sum()
    }

    /// Waits until the shards' sum of something is as wanted.
    pub fn wait_for(&self, wanted: u64, of: impl Fn(&gateway_core::metrics::Metrics) -> u64) {
        wait_until(
            || self.sum(&of) == wanted,
            || format!("{wanted}, is {}", self.sum(&of)),
        );
    }

    /// Drains it, and waits until it has.
    pub fn drain(mut self) {
        let running = self.0.take().unwrap();
        let spread = Duration::from_millis(running.gateway.config.drain.spread_ms);
        running.remote().drain(spread);
        running.join().unwrap();
    }
}

impl std::ops::Deref for Gateway {
    type Target = Running;

    fn deref(&self) -> &Running {
        self.0.as_ref().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(running) = self.0.take() {
            running.stop_now();
            let ended = running.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

/// A socket whose reads give up after [`LIMIT`].
pub fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Makes a WebSocket of a socket.
pub fn open(stream: TcpStream, user: &str) -> Conn {
    let url = format!("ws://{}/ws?user={user}", stream.peer_addr().unwrap());
    tungstenite::client::client(url, stream).unwrap().0
}

/// The text of the next message.
pub fn text(conn: &mut Conn) -> String {
    match conn.read().unwrap() {
        Message::Text(text) => text.as_str().to_owned(),
        other => panic!("not a text: {other:?}"),
    }
}

/// Polls for something that has no event to wait for.
pub fn wait_until(mut done: impl FnMut() -> bool, what: impl Fn() -> String) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < LIMIT, "waited for {}", what());
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// A text for a user.
pub fn push(user: &str, text: impl Into<Vec<u8>>) -> v1::MessageRequest {
    v1::MessageRequest {
        target: Some(Target::UserId(user.to_owned())),
        payload: text.into().into(),
        ..Default::default()
    }
}

impl Logic {
    pub fn connect(address: SocketAddr) -> Self {
        Self {
            stream: dial(address),
            client: Client::new(Default::default(), "gateway", Duration::ZERO),
            started: Instant::now(),
            answers: HashMap::new(),
            finished: HashSet::new(),
        }
    }

    /// Its end of the connection.
    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// `PushStream` of all messages.
    pub fn push_all(
        &mut self,
        messages: impl IntoIterator<Item = v1::MessageRequest>,
    ) -> v1::MessageResponse {
        let call = self.call("PushStream");
        for message in messages {
            while !self.client.can_send(call) {
                self.exchange();
            }
            assert!(self.client.send(call, &message));
        }
        self.client.half_close(call);
        self.answer(call)
    }

    pub fn describe(&mut self) -> v1::DescribeResponse {
        let call = self.call("Describe");
        assert!(self.client.send(call, &v1::DescribeRequest {}));
        self.client.half_close(call);
        self.answer(call)
    }

    /// Opens an `Exchange` stream that receives what clients send, and waits until it is welcome.
    pub fn receive(&mut self, service: &str) -> StreamId {
        let call = self.call("Exchange");
        let hello = v1::Hello {
            service: service.to_owned(),
            receive: vec![v1::Receive::Messages.into()],
            ..Default::default()
        };
        let body = Some(v1::logic_frame::Body::Hello(hello));
        assert!(
            self.client
                .send(call, &v1::LogicFrame { sequence: 0, body })
        );
        assert!(matches!(self.next_frame(call), Body::Welcome(_)));
        call
    }

    /// The next frame of an `Exchange` stream.
    pub fn next_frame(&mut self, call: StreamId) -> Body {
        loop {
            if let Some(frame) = self.answers.entry(call).or_default().pop_front() {
                return v1::GatewayFrame::decode(frame).unwrap().body.unwrap();
            }
            self.exchange();
        }
    }

    fn call(&mut self, method: &str) -> StreamId {
        let method = format!("/ringway.v1.GatewayService/{method}");
        let now = self.started.elapsed();
        self.client
            .open(&method, Metadata::new(), None, now)
            .unwrap()
    }

    /// The one message of an answer.
    fn answer<T: prost::Message + Default>(&mut self, call: StreamId) -> T {
        while !self.finished.contains(&call) {
            self.exchange();
        }
        let mut answer = self.answers.remove(&call).unwrap();
        T::decode(answer.pop_front().unwrap()).unwrap()
    }

    /// Writes what is to be written; when there was nothing, reads what comes.
    fn exchange(&mut self) {
        self.take_events();
        let mut out = Vec::new();
        self.client.write_output(&mut out, 1 << 20);
        if !out.is_empty() {
            self.stream.write_all(&out).unwrap();
            return;
        }
        let mut buffer = [0; 16 << 10];
        let n = self.stream.read(&mut buffer).unwrap();
        assert!(n > 0, "the gateway hung up");
        self.client.receive(self.started.elapsed(), &buffer[..n]);
        self.take_events();
    }

    fn take_events(&mut self) {
        while let Some(event) = self.client.poll_event(self.started.elapsed()) {
            match event {
                ClientEvent::Message {
                    id,
                    message,
                    credit,
                } => {
                    self.answers.entry(id).or_default().push_back(message);
                    self.client.release(id, credit);
                }
                ClientEvent::Finished { id, status, .. } => {
                    assert!(status.is_ok(), "{status:?}");
                    self.finished.insert(id);
                }
                ClientEvent::ConnectionLost { reason } => panic!("{reason}"),
                _ => (),
            }
        }
    }
}
