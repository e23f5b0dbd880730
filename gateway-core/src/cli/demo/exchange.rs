//! The chat service's stream to one shard: events of its clients come up, commands go down.

use std::{net::SocketAddr, task::Context};

use anyhow::{Context as _, bail};
use gateway_proto::{
    names,
    v1::{self, gateway_frame, logic_frame, message_request, subscribe, unsubscribe},
};
use h2_stream::{ClientEvent, Metadata, StreamId};
use prost::Message;

use super::chat::{Command, Event};
use crate::{control::loopback::Link, identity::ConnId};

/// The consumer group of the demo.
const SERVICE: &str = "demo";

/// Where a stream stands.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Greeting,
    Open,
    /// The gateway has said that it goes away.
    Draining,
    Over,
}

/// An `Exchange` of SHARD scope that receives MESSAGES.
pub(super) struct Exchange {
    link: Link,
    stream: StreamId,
    shard: u32,
    epoch: u64,
    stage: Stage,
    /// Of the newest command.
    sequence: u64,
    /// Of the newest event that was handled, and of the newest that was acknowledged.
    handled: u64,
    acknowledged: u64,
}

impl Exchange {
    /// Connects to the port of `shard` and says `Hello`.
    pub(super) async fn open(
        address: SocketAddr,
        shard: u32,
        gateway: &v1::DescribeResponse,
        session: [u8; 16],
        max_message: usize,
    ) -> anyhow::Result<Self> {
        let mut link = Link::connect(address, max_message)
            .await
            .with_context(|| format!("the chat service cannot reach shard {shard} at {address}"))?;
        let now = link.now();
        let stream = link
            .client
            .open(names::EXCHANGE, Metadata::new(), None, now)?;
        let hello = v1::Hello {
            service: SERVICE.to_owned(),
            session_id: session.to_vec().into(),
            stream_index: shard,
            gateway_epoch: gateway.epoch,
            receive: vec![v1::Receive::Messages.into()],
            scope: v1::Scope::Shard.into(),
            capabilities: vec![v1::Capability::ClientAck.into()],
            expected_shard_plus_one: shard + 1,
            ..Default::default()
        };
        let mut exchange = Self {
            link,
            stream,
            shard,
            epoch: gateway.epoch,
            stage: Stage::Greeting,
            sequence: 0,
            handled: 0,
            acknowledged: 0,
        };
        exchange.send(0, logic_frame::Body::Hello(hello));
        Ok(exchange)
    }

    /// The gateway has answered `Hello`.
    pub(super) fn is_welcome(&self) -> bool {
        self.stage != Stage::Greeting
    }

    /// The stream has ended, as it should.
    pub(super) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Whether commands find room. While one stream has none, none should be given events.
    pub(super) fn has_room(&self) -> bool {
        self.is_over() || self.link.client.can_send(self.stream)
    }

    /// Events come, or are held back: then the gateway slows down the clients that cause them.
    pub(super) fn let_events_come(&mut self, come: bool) {
        if come {
            self.link.client.resume(self.stream);
        } else {
            self.link.client.pause(self.stream);
        }
    }

    /// As [`Link::poll_ready`].
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> bool {
        !self.is_over() && self.link.poll_ready(cx)
    }

    /// Reads what has arrived.
    pub(super) fn receive(&mut self) -> anyhow::Result<()> {
        if self.is_over() {
            return Ok(());
        }
        let shard = self.shard;
        self.link
            .receive()
            .with_context(|| format!("the chat service lost shard {shard}"))
    }

    /// Acknowledges what was handled, behind the commands that came of it, and writes.
    pub(super) fn transmit(&mut self) -> anyhow::Result<()> {
        if self.is_over() {
            return Ok(());
        }
        if self.handled > self.acknowledged {
            self.acknowledged = self.handled;
            let ack = v1::ClientAck { id: self.handled };
            self.send(0, logic_frame::Body::ClientAck(ack));
        }
        let shard = self.shard;
        self.link
            .transmit()
            .with_context(|| format!("the chat service lost shard {shard}"))
    }

    /// The next event of a client, if one has come. It counts as handled.
    pub(super) fn next_event(&mut self) -> anyhow::Result<Option<Event>> {
        while let Some(event) = self.link.poll_event() {
            match event {
                ClientEvent::Message {
                    id,
                    message,
                    credit,
                } => {
                    let frame = v1::GatewayFrame::decode(message)
                        .with_context(|| format!("shard {} sent no GatewayFrame", self.shard))?;
                    self.link.client.release(id, credit);
                    if let Some(event) = self.taken(frame) {
                        return Ok(Some(event));
                    }
                }
                ClientEvent::Finished { status, .. } => {
                    if self.stage != Stage::Draining {
                        bail!(
                            "shard {} ended the chat service's stream: {status:?}",
                            self.shard
                        );
                    }
                    self.stage = Stage::Over;
                }
                ClientEvent::Headers { .. }
                | ClientEvent::GoAway { .. }
                | ClientEvent::ConnectionLost { .. } => {}
                _ => {}
            }
        }
        Ok(None)
    }

    fn taken(&mut self, frame: v1::GatewayFrame) -> Option<Event> {
        match frame.body? {
            gateway_frame::Body::Welcome(_) => self.stage = Stage::Open,
            gateway_frame::Body::Draining(_) => self.stage = Stage::Draining,
            gateway_frame::Body::Rejected(rejected) => {
                let (reason, detail) = (rejected.reason(), rejected.detail);
                tracing::warn!(
                    shard = self.shard,
                    ?reason,
                    detail,
                    "a command of the chat service was rejected"
                );
            }
            gateway_frame::Body::Opened(opened) => {
                self.handled = opened.id;
                return Some(Event::Opened {
                    conn: conn(opened.connection)?,
                    user: opened.user_id,
                    path: opened.path,
                });
            }
            gateway_frame::Body::Message(message) => {
                self.handled = message.id;
                return Some(Event::Message {
                    conn: conn(message.connection)?,
                    kind: message.kind(),
                    payload: message.payload,
                });
            }
            gateway_frame::Body::Closed(closed) => {
                self.handled = closed.id;
                return Some(Event::Closed {
                    conn: conn(closed.connection)?,
                });
            }
            _ => {}
        }
        None
    }

    /// Gives a command to the shard. Commands for a stream that is over are dropped, as its clients are gone.
    pub(super) fn command(&mut self, command: &Command) {
        if self.is_over() {
            return;
        }
        let body = match command {
            Command::Send {
                conn,
                kind,
                payload,
            } => {
                let target = message_request::Target::Connection(self.connection(*conn));
                logic_frame::Body::Push(v1::MessageRequest {
                    target: Some(target),
                    payload: payload.clone(),
                    kind: (*kind).into(),
                    delivery: None,
                })
            }
            Command::Publish {
                topic,
                payload,
                latest,
            } => logic_frame::Body::Push(v1::MessageRequest {
                target: Some(message_request::Target::Topic(topic.clone())),
                payload: payload.clone(),
                kind: v1::PayloadKind::Text.into(),
                delivery: latest.map(|key| v1::Delivery {
                    conflation_key: key.to_owned(),
                    ..v1::Delivery::default()
                }),
            }),
            Command::Subscribe { conn, topic } => {
                let target = subscribe::Target::Connection(self.connection(*conn));
                let topic = topic.clone();
                logic_frame::Body::Subscribe(v1::Subscribe {
                    target: Some(target),
                    topic,
                })
            }
            Command::Unsubscribe { conn, topic } => {
                let target = unsubscribe::Target::Connection(self.connection(*conn));
                let topic = topic.clone();
                logic_frame::Body::Unsubscribe(v1::Unsubscribe {
                    target: Some(target),
                    topic,
                })
            }
        };
        self.sequence += 1;
        self.send(self.sequence, body);
    }

    fn send(&mut self, sequence: u64, body: logic_frame::Body) {
        let frame = v1::LogicFrame {
            sequence,
            body: Some(body),
        };
        self.link.client.send(self.stream, &frame);
    }

    fn connection(&self, conn: ConnId) -> v1::Connection {
        v1::Connection {
            epoch: self.epoch,
            id: conn.to_wire(),
        }
    }
}

fn conn(connection: Option<v1::Connection>) -> Option<ConnId> {
    connection.map(|connection| ConnId::from_wire(connection.id))
}
