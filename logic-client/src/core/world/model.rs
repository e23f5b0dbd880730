//! A gateway as the protocol says it is: sessions, resume, takeover.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use gateway_proto::names;
use gateway_proto::v1::gateway_frame::Body as Up;
use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::{self, Ack, DescribeResponse, GatewayFrame, LogicFrame, Resume, Welcome};
use h2_stream::{Code, Config, Server, ServerEvent, Status, StreamId};
use prost::Message as _;

/// One process.
pub(crate) struct Gateway {
    id: String,
    epoch: u64,
    shards: u32,
    /// It is stopped: its kernel answers, it does not.
    pub(crate) frozen: bool,
    /// Nothing arrives any more, in either direction.
    pub(crate) cut: bool,
    /// It refuses new connections.
    pub(crate) down: bool,
    /// Shards whose own ports are out of reach.
    pub(crate) blocked: Vec<u32>,
    /// It answers commands.
    pub(crate) acks: bool,
    /// What it executed: when, shard, payload, and the target's user or topic.
    pub(crate) done: Vec<Done>,
    pub(crate) hellos: Vec<(Duration, v1::Hello)>,
    peers: Vec<Option<Peer>>,
    sessions: HashMap<(Bytes, u32, u32), Session>,
    token: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Done {
    pub(crate) at: Duration,
    pub(crate) shard: u32,
    pub(crate) text: String,
}

struct Session {
    taken: u64,
    token: u64,
    attached: Option<usize>,
}

struct Peer {
    shard: u32,
    server: Server,
    methods: HashMap<StreamId, String>,
    exchange: Option<StreamId>,
    key: Option<(Bytes, u32, u32)>,
    acked: u64,
    over: bool,
    misses: bool,
}

impl Gateway {
    pub(crate) fn new(id: &str, epoch: u64, shards: u32) -> Self {
        Self {
            id: id.to_owned(),
            epoch,
            shards,
            frozen: false,
            cut: false,
            down: false,
            blocked: Vec::new(),
            acks: true,
            done: Vec::new(),
            hellos: Vec::new(),
            peers: Vec::new(),
            sessions: HashMap::new(),
            token: 0,
        }
    }

    /// Payloads it got, in order.
    pub(crate) fn texts(&self) -> Vec<&str> {
        self.done.iter().map(|done| done.text.as_str()).collect()
    }

    pub(super) fn answers(&self) -> bool {
        !self.frozen && !self.cut
    }

    pub(super) fn described(&self, address: &str) -> DescribeResponse {
        let shards = 0..self.shards;
        DescribeResponse {
            gateway_id: self.id.clone(),
            epoch: self.epoch,
            shards: self.shards,
            shard_addresses: shards.map(|shard| format!("{address}:{shard}")).collect(),
            ..DescribeResponse::default()
        }
    }

    /// Whether the port of a shard, or the common one, can be reached.
    pub(super) fn is_reached_at(&self, shard: Option<u32>) -> bool {
        !self.down && shard.is_none_or(|shard| !self.blocked.contains(&shard))
    }

    /// At its common port the kernel chooses the shard.
    pub(super) fn accept(&mut self, now: Duration, shard: Option<u32>) -> usize {
        let shard = shard.unwrap_or(self.peers.len() as u32 % self.shards);
        let config = Config {
            keepalive_interval: None,
            ..Config::default()
        };
        self.peers.push(Some(Peer {
            shard,
            server: Server::new(config, now),
            methods: HashMap::new(),
            exchange: None,
            key: None,
            acked: 0,
            over: false,
            misses: false,
        }));
        self.peers.len() - 1
    }

    /// Whether the connection is there. One that missed bytes is reset when its network is back.
    pub(super) fn has(&mut self, peer: usize) -> bool {
        let lost = matches!(self.peers.get(peer), Some(Some(peer)) if peer.misses);
        if lost && !self.cut {
            self.detach(peer);
            self.peers[peer] = None;
        }
        matches!(self.peers.get(peer), Some(Some(_)))
    }

    /// Bytes on the way to a connection vanished.
    pub(super) fn miss(&mut self, peer: usize) {
        if let Some(Some(peer)) = self.peers.get_mut(peer) {
            peer.misses = true;
        }
    }

    pub(super) fn hang_up(&mut self, now: Duration, peer: usize) {
        if self.cut {
            return;
        }
        if let Some(Some(peer)) = self.peers.get_mut(peer) {
            peer.server.receive_eof(now);
        }
        self.detach(peer);
        self.peers[peer] = None;
    }

    pub(super) fn receive(&mut self, now: Duration, peer: usize, bytes: &[u8]) {
        let Some(Some(state)) = self.peers.get_mut(peer) else {
            return;
        };
        state.server.receive(now, bytes);
        self.poll(now, peer);
    }

    /// Bytes for the client; `None`: it hangs up.
    pub(super) fn write(&mut self, now: Duration, peer: usize, out: &mut Vec<u8>) -> Option<usize> {
        self.poll(now, peer);
        let state = self.peers.get_mut(peer)?.as_mut()?;
        let written = state.server.write_output(out, 64 << 10);
        if written == 0 && (state.over || state.server.is_closed()) {
            self.detach(peer);
            self.peers[peer] = None;
            return None;
        }
        Some(written)
    }

    fn detach(&mut self, peer: usize) {
        for session in self.sessions.values_mut() {
            session.attached.take_if(|attached| *attached == peer);
        }
    }

    fn poll(&mut self, now: Duration, peer: usize) {
        while let Some(event) = self.peers[peer]
            .as_mut()
            .and_then(|peer| peer.server.poll_event(now))
        {
            let Some(state) = self.peers[peer].as_mut() else {
                return;
            };
            match event {
                ServerEvent::Request { stream, method, .. } => {
                    state.methods.insert(stream, method);
                }
                ServerEvent::Message {
                    stream,
                    message,
                    credit,
                } => {
                    state.server.release(stream, credit);
                    assert_eq!(state.methods[&stream], names::EXCHANGE);
                    state.exchange = Some(stream);
                    self.frame(now, peer, LogicFrame::decode(message).unwrap());
                }
                ServerEvent::HalfClosed { stream } => state.server.finish(stream, Status::ok()),
                _ => {}
            }
        }
        self.ack(peer);
    }

    fn frame(&mut self, now: Duration, peer: usize, frame: LogicFrame) {
        let Some(state) = self.peers[peer].as_ref() else {
            return;
        };
        let shard = state.shard;
        match frame.body {
            Some(Body::Hello(hello)) => self.hello(now, peer, hello),
            Some(body) if frame.sequence > 0 => {
                let key = state.key.clone().expect("Hello comes first");
                let session = self.sessions.get_mut(&key).expect("it has a session");
                if session.attached != Some(peer) || frame.sequence <= session.taken {
                    return;
                }
                session.taken = frame.sequence;
                let Body::Push(push) = body else { return };
                let text = String::from_utf8(push.payload.to_vec()).unwrap();
                let at = now;
                self.done.push(Done { at, shard, text });
            }
            _ => {}
        }
    }

    fn hello(&mut self, now: Duration, peer: usize, hello: v1::Hello) {
        let shard = self.peers[peer].as_ref().expect("it is there").shard;
        assert!([0, shard + 1].contains(&hello.expected_shard_plus_one));
        let key = (hello.session_id.clone(), hello.stream_index, shard);
        let token = hello.resume_token;
        self.hellos.push((now, hello));
        self.token += 1;
        let given = self.token;
        let mut welcome = Welcome {
            gateway_id: self.id.clone(),
            epoch: self.epoch,
            shard,
            shards: self.shards,
            resume_token: given,
            ..Welcome::default()
        };
        welcome.set_resume(Resume::New);
        match self.sessions.get_mut(&key) {
            Some(session) if session.token != token => {
                let refused = Status::new(Code::AlreadyExists, "two clients use one session");
                self.finish(peer, refused);
                return;
            }
            Some(session) => {
                let replaced = session.attached.replace(peer);
                session.token = given;
                welcome.set_resume(Resume::Resumed);
                welcome.last_sequence = session.taken;
                if let Some(replaced) = replaced {
                    let aborted = Status::new(Code::Aborted, "replaced by a newer stream");
                    self.finish(replaced, aborted);
                }
            }
            None => {
                let session = Session {
                    taken: 0,
                    token: given,
                    attached: Some(peer),
                };
                self.sessions.insert(key.clone(), session);
            }
        }
        if let Some(state) = self.peers[peer].as_mut() {
            state.key = Some(key);
        }
        self.send(peer, Up::Welcome(welcome));
    }

    fn ack(&mut self, peer: usize) {
        let Some(state) = self.peers[peer].as_mut() else {
            return;
        };
        let session = state.key.as_ref().and_then(|key| self.sessions.get(key));
        let Some(session) = session.filter(|session| session.attached == Some(peer)) else {
            return;
        };
        if self.acks && state.acked < session.taken {
            state.acked = session.taken;
            let sequence = session.taken;
            self.send(peer, Up::Ack(Ack { sequence }));
        }
    }

    fn send(&mut self, peer: usize, body: Up) {
        if let Some(state) = self.peers[peer].as_mut()
            && let Some(stream) = state.exchange
        {
            state
                .server
                .send(stream, &GatewayFrame { body: Some(body) });
        }
    }

    fn finish(&mut self, peer: usize, status: Status) {
        if let Some(state) = self.peers[peer].as_mut()
            && let Some(stream) = state.exchange
        {
            state.server.finish(stream, status);
            state.over = true;
        }
    }
}
