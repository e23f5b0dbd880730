//! What is measured: the gateway, and what it is compared with. Each runs as a process of its own, on CPUs of its own,
//! and is pushed to and listened to by the same load.
//!
//! A new peer is a file here: it implements [`Peer`] and [`Pusher`], and has a [`Kind`].

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use clap::ValueEnum;
use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};

use crate::{
    clients::{Clients, user},
    cpu::Places,
    gateway::Launch,
};

mod foreign;
pub mod generic;
pub mod greeter;
pub mod limit;
pub mod nats;
pub mod nchan;
mod posts;
pub mod pushpin;
pub mod ringway;
pub mod tonic;

/// Who can be measured.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The gateway
    Ringway,
    /// The gateway, pushed to by the plain client that pushes to `tonic`
    RingwayPlain,
    /// The gateway on the bare ring
    RingwayUring,
    /// The gateway on monoio, on its ring
    RingwayMonoio,
    /// The gateway on monoio, on epoll
    RingwayEpoll,
    /// The gateway on glommio
    RingwayGlommio,
    /// tonic and tokio-tungstenite, as one writes it who knows them well
    Tonic,
    /// Nothing but `send` of the same bytes, one message each
    Limit,
    /// Nothing but `send` of the same bytes, as many messages each as the gateway joins in the same round
    LimitJoined,
    /// Nothing but to accept, one read and one `send` for each handshake; it pushes nothing
    LimitHandshakes,
    /// nginx with nchan, from Debian's libnginx-mod-nchan
    Nchan,
    /// NATS and its WebSocket listener, from Debian's nats-server
    Nats,
    /// Pushpin, from Debian's pushpin
    Pushpin,
}

/// What a peer is started for.
#[derive(Clone, Debug)]
pub struct Stage {
    /// `ringway-bench`: peers of the tree are commands of it.
    pub program: PathBuf,
    /// The gateway, where it is measured, but for its CPUs and shards.
    pub launch: Launch,
    /// Who runs where.
    pub places: Places,
    /// Shards of the gateway.
    pub shards: u32,
    /// Its WebSocket clients, and whom of them messages are for.
    pub audience: Audience,
    /// Bytes of a message.
    pub payload: usize,
    /// Messages in one `send`, for [`Kind::LimitJoined`].
    pub joined: usize,
}

/// Whom messages are for. Targets are numbered from 0, and so are users.
#[derive(Clone, Debug)]
pub struct Audience {
    /// All users, with a WebSocket client each.
    pub names: Arc<[String]>,
    /// How many of them get each message: the first so many are target 0, the next ones target 1.
    pub members: usize,
}

/// Somebody who is measured, started. Its processes end when this is dropped.
pub trait Peer {
    /// What it is, which version, how it is set up.
    fn about(&self) -> String;

    /// The processes whose CPU time and memory are told.
    fn pids(&self) -> Vec<u32>;

    /// Where a user's client connects.
    fn door(&self, user: &str) -> Door;

    /// Where logic services connect that speak `ringway.v1`, if they can.
    fn services(&self) -> Option<SocketAddr> {
        None
    }

    /// Somebody to push through, set up inside a `LocalSet` of the load.
    fn pusher(&self) -> LocalBoxFuture<'_, anyhow::Result<Box<dyn Pusher>>>;

    /// What it has counted so far.
    ///
    /// # Errors
    /// It does not answer.
    fn counters(&self) -> anyhow::Result<Counters> {
        Ok(Counters::default())
    }

    /// Messages that go to one target before it is the next one's turn.
    fn in_a_row(&self) -> usize {
        1
    }

    /// Takes apart what its clients get: each message of a WebSocket message of client number so-and-so. A peer with an
    /// envelope of its own has one ([`Kind::has_envelope`]); binary messages must stay binary, unless it says so in `text`.
    fn opener(&self) -> Box<Opener> {
        plain()
    }
}

/// See [`Peer::opener`]: client, whether the WebSocket message is text, its payload, and who takes the messages in it.
pub type Opener = dyn FnMut(usize, bool, &[u8], &mut dyn FnMut(bool, &[u8]));

/// For a peer without an envelope: each WebSocket message is a message.
#[must_use]
pub fn plain() -> Box<Opener> {
    Box::new(|_, text, payload, take| take(text, payload))
}

/// Where a client connects, and how it introduces itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Door {
    /// Where the peer listens for WebSockets.
    pub address: SocketAddr,
    /// Path and query of the handshake.
    pub target: String,
    /// WebSocket messages (text) that the client sends once it is connected.
    pub greeting: Vec<String>,
}

impl Door {
    /// That of a user, as the gateway and all that are like it have it.
    #[must_use]
    pub fn of(user: &str, address: SocketAddr) -> Self {
        Self {
            address,
            target: Clients::target(user),
            greeting: Vec::new(),
        }
    }
}

/// What a peer has counted since it was started. `None`: it does not tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Messages handed to clients' sockets.
    pub messages: Option<f64>,
    /// The send calls that took.
    pub sends: Option<f64>,
    /// Messages that went from one shard to another.
    pub crossings: Option<f64>,
}

impl Counters {
    /// What it has counted since it had counted `before`.
    #[must_use]
    pub fn since(self, before: &Self) -> Self {
        let grown = |now: Option<f64>, before: Option<f64>| Some(now? - before?);
        Self {
            messages: grown(self.messages, before.messages),
            sends: grown(self.sends, before.sends),
            crossings: grown(self.crossings, before.crossings),
        }
    }

    /// How many messages there are in a send.
    #[must_use]
    pub fn messages_per_send(&self) -> Option<f64> {
        Some(self.messages? / self.sends?.max(1.0))
    }
}

/// Whoever pushes: the load's side of a peer.
pub trait Pusher {
    /// Takes a message for `target`. Says whether there is room for another one; if not, [`flush`](Pusher::flush) first.
    #[must_use]
    fn push(&mut self, target: usize, payload: Vec<u8>) -> bool;

    /// Gets what was taken on its way, and waits until there is room.
    fn flush(&mut self) -> LocalBoxFuture<'_, anyhow::Result<()>>;

    /// Ends it, when everything has arrived, and says what the peer has refused.
    fn finish(self: Box<Self>) -> LocalBoxFuture<'static, anyhow::Result<()>>;
}

impl Stage {
    /// The same, at other places.
    #[must_use]
    pub fn at(self, places: Places) -> Self {
        Self { places, ..self }
    }

    /// The same, for a gateway on this driver.
    fn on(&self, driver: &str) -> Self {
        let launch = self.launch.clone();
        Self {
            launch: launch.setting("RINGWAY_SHARDS_DRIVER", driver),
            ..self.clone()
        }
    }
}

impl Audience {
    /// So many users, see [`user`].
    #[must_use]
    pub fn of(users: usize, members: usize) -> Self {
        Self {
            names: (0..users).map(user).collect(),
            members,
        }
    }

    /// How many users there are.
    #[must_use]
    pub fn users(&self) -> usize {
        self.names.len()
    }

    /// How many targets there are.
    #[must_use]
    pub fn targets(&self) -> usize {
        self.users().div_ceil(self.members)
    }

    /// The names of those whom a message for `target` is for.
    #[must_use]
    pub fn names(&self, target: usize) -> &[String] {
        let first = target * self.members;
        &self.names[first..self.users().min(first + self.members)]
    }

    /// Each message is for all of them, and there are several.
    #[must_use]
    pub fn is_everyone(&self) -> bool {
        self.members > 1 && self.members >= self.users()
    }
}

/// Starts a peer.
///
/// # Errors
/// It cannot be started, or not for this.
pub fn start(kind: Kind, stage: &Stage) -> anyhow::Result<Box<dyn Peer>> {
    Ok(match kind {
        Kind::Ringway => Box::new(ringway::Ringway::start(stage)?),
        Kind::RingwayPlain => Box::new(ringway::Ringway::start(stage)?.plainly()),
        Kind::RingwayUring => Box::new(ringway::Ringway::start(&stage.on("uring"))?),
        Kind::RingwayMonoio => Box::new(ringway::Ringway::start(&stage.on("monoio"))?),
        Kind::RingwayEpoll => Box::new(ringway::Ringway::start(&stage.on("epoll"))?),
        Kind::RingwayGlommio => Box::new(ringway::Ringway::start(&stage.on("glommio"))?),
        Kind::Tonic => Box::new(tonic::Tonic::start(stage)?),
        Kind::Limit => Box::new(limit::Limit::start(stage, 1)?),
        Kind::LimitJoined => Box::new(limit::Limit::start(stage, stage.joined)?),
        Kind::LimitHandshakes => Box::new(greeter::Greeter::start(stage)?),
        Kind::Nchan => Box::new(nchan::Nchan::start(stage)?),
        Kind::Nats => Box::new(nats::Nats::start(stage)?),
        Kind::Pushpin => Box::new(pushpin::Pushpin::start(stage)?),
    })
}

impl Kind {
    /// Whether its clients get messages in an envelope of its own, see [`Peer::opener`].
    #[must_use]
    pub fn has_envelope(self) -> bool {
        matches!(self, Self::Nats | Self::Pushpin)
    }

    /// As on the command line.
    #[must_use]
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
