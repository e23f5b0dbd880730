//! A logic service without a socket: plain gRPC.

use std::{collections::HashMap, time::Duration};

use gateway_core::identity::LinkId;
use gateway_proto::{
    names,
    v1::{self, gateway_frame::Body as Up, logic_frame::Body as Down},
};
use h2_stream::{ClientEvent, Config, Metadata, Status, StreamId};
use prost::Message;

pub struct Logic {
    pub shard: usize,
    pub link: LinkId,
    pub client: h2_stream::Client,
    /// Frames of the `Exchange` stream.
    pub frames: Vec<Up>,
    pub exchange: Option<StreamId>,
    /// Sizes of the DATA frames that have come.
    pub data_frames: Vec<usize>,
    cut_frame: Vec<u8>,
    /// Encoded answers of other calls.
    pub answers: HashMap<StreamId, Vec<bytes::Bytes>>,
    pub ended: HashMap<StreamId, Status>,
    /// Credit is given back as messages come.
    pub reads: bool,
    /// How many more bytes reach the gateway, and the service, before the connection only seems to be there.
    pub writes: usize,
    pub takes: usize,
    unread: Vec<(StreamId, usize)>,
    pub lost: bool,
    /// Nothing comes through, in either direction, and nobody says so.
    pub cut_off: bool,
    sequence: u64,
    now: Duration,
}

impl Logic {
    pub fn new(config: Config, now: Duration, shard: usize, link: LinkId) -> Self {
        Self {
            shard,
            link,
            client: h2_stream::Client::new(config, "test", now),
            frames: Vec::new(),
            exchange: None,
            data_frames: Vec::new(),
            cut_frame: Vec::new(),
            answers: HashMap::new(),
            ended: HashMap::new(),
            reads: true,
            writes: usize::MAX,
            takes: usize::MAX,
            unread: Vec::new(),
            lost: false,
            cut_off: false,
            sequence: 0,
            now,
        }
    }

    /// Gives back all credit it has kept, and reads on.
    pub fn release_all(&mut self) {
        self.reads = true;
        for (id, credit) in self.unread.drain(..) {
            self.client.release(id, credit);
        }
    }

    /// Opens the `Exchange` stream of a session, with the token of the stream before.
    pub fn resume(&mut self, hello: v1::Hello, token: u64) {
        self.frames.clear();
        self.hello(v1::Hello {
            resume_token: token,
            ..hello
        });
    }

    /// Opens the `Exchange` stream.
    pub fn hello(&mut self, hello: v1::Hello) {
        let id = self.open(names::EXCHANGE);
        self.exchange = Some(id);
        let body = Some(Down::Hello(hello));
        self.client.send(id, &v1::LogicFrame { sequence: 0, body });
    }

    /// Sends a command on the `Exchange` stream; its sequence.
    pub fn command(&mut self, body: Down) -> u64 {
        self.sequence += 1;
        self.frame(self.sequence, Some(body));
        self.sequence
    }

    pub fn frame(&mut self, sequence: u64, body: Option<Down>) {
        let id = self.exchange.expect("hello comes first");
        self.client.send(id, &v1::LogicFrame { sequence, body });
    }

    pub fn push(&mut self, push: v1::MessageRequest) -> u64 {
        self.command(Down::Push(push))
    }

    pub fn open(&mut self, method: &str) -> StreamId {
        self.client
            .open(method, Metadata::default(), None, self.now)
            .expect("a call can begin")
    }

    /// A unary call.
    pub fn call(&mut self, method: &str, message: &impl Message) -> StreamId {
        let id = self.open(method);
        self.client.send(id, message);
        self.client.half_close(id);
        id
    }

    /// The only answer to a call.
    pub fn answer<M: Message + Default>(&self, id: StreamId) -> M {
        let answers = self
            .answers
            .get(&id)
            .unwrap_or_else(|| panic!("no answer on {id:?}; ended with {:?}", self.ended.get(&id)));
        assert_eq!(answers.len(), 1);
        M::decode(answers[0].clone()).expect("an answer of the right type")
    }

    pub fn receive(&mut self, now: Duration, bytes: &[u8]) {
        let taken = bytes.len().min(self.takes);
        self.takes -= taken;
        self.note_frames(&bytes[..taken]);
        self.client.receive(now, &bytes[..taken]);
        self.poll(now);
    }

    /// RFC 9113, section 4.1: 24 bits of length, type, flags, stream.
    fn note_frames(&mut self, bytes: &[u8]) {
        const HEADER: usize = 9;
        const DATA: u8 = 0;
        self.cut_frame.extend(bytes);
        let mut rest = &self.cut_frame[..];
        while let [a, b, c, kind, ..] = *rest {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            let Some(next) = rest.get(HEADER + length..) else {
                break;
            };
            if kind == DATA && length > 0 {
                self.data_frames.push(length);
            }
            rest = next;
        }
        self.cut_frame = rest.to_vec();
    }

    pub fn poll(&mut self, now: Duration) {
        self.now = now;
        while let Some(event) = self.client.poll_event(now) {
            match event {
                ClientEvent::Message {
                    id,
                    message,
                    credit,
                } => {
                    if Some(id) == self.exchange {
                        let frame = v1::GatewayFrame::decode(message).expect("a frame");
                        self.frames.push(frame.body.expect("a frame with a body"));
                    } else {
                        self.answers.entry(id).or_default().push(message);
                    }
                    if self.reads {
                        self.client.release(id, credit);
                    } else {
                        self.unread.push((id, credit));
                    }
                }
                ClientEvent::Finished { id, status, .. } => {
                    self.ended.insert(id, status);
                }
                ClientEvent::ConnectionLost { .. } => self.lost = true,
                _ => {}
            }
        }
    }

    pub fn welcome(&self) -> &v1::Welcome {
        match self.frames.first() {
            Some(Up::Welcome(welcome)) => welcome,
            other => panic!("the first frame must be Welcome, not {other:?}"),
        }
    }

    /// The status the `Exchange` stream has ended with.
    pub fn end(&self) -> Option<&Status> {
        self.ended.get(&self.exchange?)
    }

    pub fn acked(&self) -> u64 {
        let acks = self.frames.iter().filter_map(|frame| match frame {
            Up::Ack(ack) => Some(ack.sequence),
            _ => None,
        });
        acks.max().unwrap_or(0)
    }

    pub fn rejections(&self) -> Vec<(u64, v1::RejectReason)> {
        let rejections = self.frames.iter().filter_map(|frame| match frame {
            Up::Rejected(rejected) => Some((rejected.sequence, rejected.reason())),
            _ => None,
        });
        rejections.collect()
    }

    /// Outcomes of the receipt for a sequence.
    pub fn receipt(&self, sequence: u64) -> Option<Vec<(v1::Outcome, u32)>> {
        self.frames.iter().find_map(|frame| match frame {
            Up::Receipt(receipt) if receipt.sequence == sequence => {
                let outcomes = receipt.outcomes.iter();
                Some(
                    outcomes
                        .map(|entry| (entry.outcome(), entry.count))
                        .collect(),
                )
            }
            _ => None,
        })
    }

    /// Acknowledges events of clients.
    pub fn ack(&mut self, id: u64) {
        self.frame(0, Some(Down::ClientAck(v1::ClientAck { id })));
    }

    /// Number and connection of every event that has come.
    pub fn events(&self) -> Vec<(u64, u64)> {
        let events = self.frames.iter().filter_map(|frame| match frame {
            Up::Opened(opened) => Some((opened.id, opened.connection)),
            Up::Message(message) => Some((message.id, message.connection)),
            Up::Closed(closed) => Some((closed.id, closed.connection)),
            _ => None,
        });
        events
            .map(|(id, connection)| (id, connection.expect("it has one").id))
            .collect()
    }

    pub fn opened(&self) -> Vec<&v1::ClientOpened> {
        let mut found = Vec::new();
        for frame in &self.frames {
            if let Up::Opened(opened) = frame {
                found.push(opened);
            }
        }
        found
    }

    pub fn messages(&self) -> Vec<&v1::ClientMessage> {
        let mut found = Vec::new();
        for frame in &self.frames {
            if let Up::Message(message) = frame {
                found.push(message);
            }
        }
        found
    }

    pub fn closed(&self) -> Vec<&v1::ClientClosed> {
        let mut found = Vec::new();
        for frame in &self.frames {
            if let Up::Closed(closed) = frame {
                found.push(closed);
            }
        }
        found
    }
}

pub fn to_user(user: &str, text: &str) -> v1::MessageRequest {
    to(v1::message_request::Target::UserId(user.into()), text)
}

pub fn to_topic(topic: &str, text: &str) -> v1::MessageRequest {
    to(v1::message_request::Target::Topic(topic.into()), text)
}

pub fn to_everyone(text: &str) -> v1::MessageRequest {
    to(v1::message_request::Target::Everyone(v1::Everyone {}), text)
}

pub fn to_users(users: &[&str], text: &str) -> v1::MessageRequest {
    let user_ids = users.iter().map(|user| (*user).into()).collect();
    to(
        v1::message_request::Target::Users(v1::Users { user_ids }),
        text,
    )
}

pub fn to(target: v1::message_request::Target, text: &str) -> v1::MessageRequest {
    v1::MessageRequest {
        target: Some(target),
        payload: text.as_bytes().to_vec().into(),
        ..Default::default()
    }
}

/// A stream that only pushes.
pub fn pushing(scope: v1::Scope) -> v1::Hello {
    v1::Hello {
        scope: scope.into(),
        ..Default::default()
    }
}

/// A stream that receives client events of a service.
pub fn receiving(service: &str, scope: v1::Scope, acks: bool) -> v1::Hello {
    v1::Hello {
        service: service.into(),
        receive: vec![v1::Receive::Messages.into()],
        scope: scope.into(),
        capabilities: acks
            .then_some(v1::Capability::ClientAck.into())
            .into_iter()
            .collect(),
        ..Default::default()
    }
}

/// The same stream in session `session` of the epoch that the world has.
pub fn in_session(session: u8, hello: v1::Hello) -> v1::Hello {
    let mut capabilities = hello.capabilities.clone();
    capabilities.push(v1::Capability::Resume.into());
    v1::Hello {
        session_id: vec![session; 16].into(),
        gateway_epoch: super::EPOCH,
        capabilities,
        ..hello
    }
}

/// A stream that is told who is online.
pub fn listening(scope: v1::Scope) -> v1::Hello {
    v1::Hello {
        receive: vec![v1::Receive::Directory.into()],
        scope: scope.into(),
        capabilities: vec![v1::Capability::Directory.into()],
        ..Default::default()
    }
}
