//! The ways to push, and a caller of each.

use std::{fmt, net::SocketAddr, path::Path};

use anyhow::Context;
use clap::ValueEnum;
use logic_client::{LogicClient, Push};
use serde::Serialize;
use tonic::transport::Channel;

use super::{
    grpc::{self, Stream},
    queue::{Producer, Queue},
    rest::Rest,
};
use crate::gateway::Gateway;

/// How a push is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// `POST /v1/push`, a new connection each
    RestClose,
    /// `POST /v1/push` on connections that are kept
    Rest,
    /// A gRPC call for each push
    Unary,
    /// A gRPC stream for each caller (`PushStream`), by plain tonic
    Stream,
    /// The same by our client: acknowledged, resumed
    Client,
    /// A Redis Stream and a consumer that forwards
    Queue,
}

/// What all callers of all ways share.
pub(super) struct Ways {
    admin: SocketAddr,
    /// One for each virtual user.
    channels: Vec<Channel>,
    client: LogicClient,
    queue: Option<Queue>,
    /// One for each virtual user, if there is a queue.
    producers: Vec<Producer>,
}

/// A caller.
pub(super) enum Pusher {
    Rest(Rest),
    Unary(Channel),
    Stream(std::rc::Rc<Stream>),
    Client(LogicClient),
    Queue(Producer),
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::RestClose,
        Self::Rest,
        Self::Unary,
        Self::Stream,
        Self::Client,
        Self::Queue,
    ];

    /// What the decision says of it, in messages per second.
    #[must_use]
    pub fn published(self) -> Option<f64> {
        match self {
            Self::Rest => Some(1_319.0),
            Self::Unary => Some(3_278.0),
            Self::Stream => Some(18_943.0),
            Self::RestClose | Self::Client | Self::Queue => None,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.pad(value.as_ref().map_or("", |value| value.get_name()))
    }
}

impl Ways {
    /// Connects `users` virtual users; `program` is `ringway-bench`.
    pub(super) async fn start(
        ways: &[Way],
        users: usize,
        gateway: &Gateway,
        program: &Path,
    ) -> anyhow::Result<Self> {
        let mut channels = Vec::new();
        for _ in 0..users {
            channels.push(grpc::channel(gateway.grpc).await?);
        }
        let client = LogicClient::builder().gateway(gateway.grpc.to_string());
        let queue = match ways.contains(&Way::Queue) {
            true => Some(Queue::start(program, gateway.grpc).await?),
            false => None,
        };
        let mut producers = Vec::new();
        if let Some(queue) = &queue {
            for _ in 0..users {
                producers.push(queue.producer().await?);
            }
        }
        Ok(Self {
            admin: gateway.admin,
            channels,
            client: client.connect().await.context("no logic client")?,
            queue,
            producers,
        })
    }

    /// The processes between the callers and the gateway.
    pub(super) fn between(&self) -> Vec<u32> {
        self.queue.iter().flat_map(Queue::pids).collect()
    }

    /// `callers` of a way, dealt out to the virtual users.
    pub(super) async fn pushers(&self, way: Way, callers: usize) -> anyhow::Result<Vec<Pusher>> {
        let users = self.channels.len();
        let mut pushers = Vec::new();
        let streams: Vec<_> = match way {
            Way::Stream => {
                let channels = self.channels.iter().cloned();
                channels.map(Stream::open).map(std::rc::Rc::new).collect()
            }
            _ => Vec::new(),
        };
        for user in (0..callers).map(|caller| caller % users) {
            pushers.push(match way {
                Way::RestClose => Pusher::Rest(Rest::connect(self.admin, false).await?),
                Way::Rest => Pusher::Rest(Rest::connect(self.admin, true).await?),
                Way::Unary => Pusher::Unary(self.channels[user].clone()),
                Way::Stream => Pusher::Stream(std::rc::Rc::clone(&streams[user])),
                Way::Client => Pusher::Client(self.client.clone()),
                Way::Queue => Pusher::Queue(self.producers[user].clone()),
            });
        }
        Ok(pushers)
    }
}

impl Pusher {
    /// Pushes, and waits for the answer if the way has one.
    pub(super) async fn push(&mut self, user: &str, payload: Vec<u8>) -> anyhow::Result<()> {
        match self {
            Self::Rest(rest) => rest.push(user, &payload).await,
            Self::Unary(channel) => grpc::push(channel, user, payload).await,
            Self::Stream(stream) => stream.push(user, payload).await,
            Self::Client(client) => Ok(client.push(Push::user(user).binary(payload)).await?),
            Self::Queue(producer) => producer.push(user, &payload).await,
        }
    }

    /// Nothing more comes. A stream is answered when its last caller is done.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Stream(stream) => match std::rc::Rc::into_inner(stream) {
                Some(stream) => stream.close().await,
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
