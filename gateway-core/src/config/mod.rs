//! Every setting and limit, its default and its check.
//!
//! Units stand in the names: `_ms` milliseconds, `_bytes` bytes; everything else is a count.
//!
//! The structs here are the one table of settings: a field's doc comment is the meaning that `ringway config` prints,
//! its `Default` the default, its `range` and type what is allowed ([`settings`] reads them off). Nothing here opens a
//! file or reads the environment: [`Loader`] is given their contents.

mod check;
mod directory;
mod load;
mod registry;
mod render;
mod sessions;
mod settings;
mod shards;
#[cfg(test)]
mod tests;
mod timesheet;
mod uring;

use std::net::{Ipv4Addr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use check::Broken;
pub use directory::Directory;
pub use load::{ConfigError, Loader, Origin, Origins};
pub use registry::Registry;
pub use render::{as_markdown, as_toml};
pub use sessions::Sessions;
pub use settings::{Kind, Section, Setting, find, settings};
pub use shards::{DriverChoice, Shards};
pub use timesheet::Timesheet;
pub use uring::Uring;

/// All settings of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The gateway as a whole.
    pub gateway: Gateway,
    /// Shards: threads and cores.
    pub shards: Shards,
    /// Clients: WebSocket.
    pub ws: Ws,
    /// Logic services: gRPC.
    pub grpc: Grpc,
    /// What a shard remembers of broken streams.
    pub sessions: Sessions,
    /// The queue of each connection.
    pub outbox: Outbox,
    /// Events towards logic services.
    pub upstream: Upstream,
    /// Telling logic services who is online.
    pub directory: Directory,
    /// What one tick of a shard may take.
    pub tick: Tick,
    /// Rings of the driver `uring`.
    pub uring: Uring,
    /// Queues between shards.
    pub lanes: Lanes,
    /// Bounds of a shard's tables.
    pub limits: Limits,
    /// Where a shard's time goes.
    pub timesheet: Timesheet,
    /// The admin port.
    pub admin: Admin,
    /// Going away.
    pub drain: Drain,
    /// Where the gateway registers itself, so that logic services find it.
    pub registry: Registry,
}

/// The gateway as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Gateway {
    /// The name of this gateway, unique within a deployment. Empty: the host's name.
    pub id: String,
    /// Allows gRPC and admin listeners beyond loopback, and trusts `?user=` of clients there, although nobody is
    /// authenticated yet.
    pub insecure: bool,
}

/// Clients: WebSocket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ws {
    /// Where clients connect.
    #[schemars(with = "String", extend("format" = "address"))]
    pub listen: SocketAddr,
    /// Connections waiting to be accepted, per shard.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub backlog: u32,
    /// Paths that take WebSockets.
    pub paths: Vec<String>,
    /// Subprotocols the gateway agrees to, most wanted first.
    pub subprotocols: Vec<String>,
    /// Allowed `Origin`s. Empty: any.
    pub origins: Vec<String>,
    /// How a handshake is refused for reasons of policy: `close` (accept, then close with the code) or `http` (4xx, 5xx).
    pub refuse: Refuse,
    /// Request headers passed on to logic services.
    pub event_headers: Vec<String>,
    /// Query parameters never passed on.
    pub secret_params: Vec<String>,
    /// Longest handshake request.
    #[schemars(range(min = 1 << 10, max = 1 << 20))]
    pub max_header_bytes: usize,
    /// Longest message of a client.
    #[schemars(range(min = 1, max = 1 << 30))]
    pub max_message_bytes: usize,
    /// A handshake must be done within this time.
    #[schemars(range(min = 1, max = 3_600_000))]
    pub handshake_timeout_ms: u64,
    /// A client that is silent for this time is sent a ping.
    #[schemars(range(min = 1, max = 86_400_000))]
    pub ping_after_ms: u64,
    /// A ping must be answered, by anything, within this time.
    #[schemars(range(min = 1, max = 86_400_000))]
    pub pong_timeout_ms: u64,
    /// After a Close is sent, the client must close within this time.
    #[schemars(range(min = 1, max = 3_600_000))]
    pub close_timeout_ms: u64,
    /// How long the answer to a client's Close waits for a service to acknowledge what the client sent before it.
    #[schemars(range(min = 0, max = 60_000))]
    pub close_linger_ms: u64,
}

/// How a handshake is refused for reasons of policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Refuse {
    /// Accept, then close with the code: browsers can read it.
    #[default]
    Close,
    /// Answer with an HTTP status.
    Http,
}

/// Logic services: gRPC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Grpc {
    /// The common port; shard k listens on the port k + 1 above it (with port 0: on ports of the kernel's choice).
    #[schemars(with = "String", extend("format" = "address"))]
    pub listen: SocketAddr,
    /// The host that `Describe` names in shard addresses. Empty: only the port, which means the host that was dialled.
    pub advertise_host: String,
    /// Most links of a shard.
    #[schemars(range(min = 1, max = 1 << 20))]
    pub max_links: usize,
    /// Most open streams of a link.
    #[schemars(range(min = 1, max = 1 << 20))]
    pub max_streams: u32,
    /// Longest gRPC message, after inflating.
    #[schemars(range(min = 1 << 10, max = 1 << 30))]
    pub max_message_bytes: usize,
    /// Flow-control window of a stream.
    #[schemars(range(min = 65_535, max = i32::MAX))]
    pub stream_window_bytes: u32,
    /// Flow-control credit of a shard, divided among its links.
    #[schemars(range(min = 65_535, max = u32::MAX))]
    pub shard_window_bytes: u32,
    /// Longest header list of a request.
    #[schemars(range(min = 1 << 10, max = 1 << 24))]
    pub max_header_bytes: u32,
    /// A link that is silent for this time is sent a ping. With the defaults a dead link is gone within 20 s.
    #[schemars(range(min = 1, max = 86_400_000))]
    pub keepalive_interval_ms: u64,
    /// A ping of a link must be answered, by anything, within this time.
    #[schemars(range(min = 1, max = 86_400_000))]
    pub keepalive_timeout_ms: u64,
    /// Most bytes that may wait to be sent on a stream before the sockets that feed it are no longer read.
    #[schemars(range(min = 1 << 10, max = 1 << 30))]
    pub send_buffer_bytes: usize,
}

/// The queue of each connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Outbox {
    /// Most bytes pending for a connection, at least `limits.max_payload_bytes`.
    #[schemars(range(min = 1, max = 1_u64 << 32))]
    pub max_bytes: usize,
    /// Most messages pending for a connection.
    #[schemars(range(min = 1, max = 1 << 24))]
    pub max_messages: usize,
    /// What happens when that is not enough: `close` (4408) or `drop_oldest`.
    pub when_full: WhenFull,
    /// A payload for many of at least so many bytes is framed once and shared by their outboxes, instead of being copied; it
    /// leaves with a send of its own.
    #[schemars(range(min = 1, max = 1_u64 << 32))]
    pub share_from_bytes: usize,
}

/// What happens to a connection whose outbox is full of messages that are not less important.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The connection is closed with 4408.
    #[default]
    Close,
    /// The oldest messages go.
    DropOldest,
}

/// Events towards logic services.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// Most services a shard remembers.
    #[schemars(range(min = 1, max = 1 << 16))]
    pub max_services: usize,
    /// Most bytes a shard keeps for a service without a receiving stream.
    #[schemars(range(min = 0, max = 1_u64 << 36))]
    pub buffer_bytes: usize,
    /// Most events a shard keeps for a service without a receiving stream.
    #[schemars(range(min = 0, max = 1 << 24))]
    pub buffer_events: usize,
    /// A stream that has this many bytes waiting gets no more: the connection whose message would be next is closed (1013).
    #[schemars(range(min = 1 << 10, max = 1_u64 << 36))]
    pub hard_limit_bytes: usize,
    /// Most bytes that a stream may leave unacknowledged before the sockets that feed it are no longer read.
    #[schemars(range(min = 1 << 10, max = 1_u64 << 36))]
    pub unacked_bytes: usize,
    /// A client whose message waits this long for a stream of a service is closed (4503).
    #[schemars(range(min = 1, max = 86_400_000))]
    pub no_receiver_ms: u64,
    /// A service that has had no receiving stream for this long is forgotten, if another service has one: what was kept for
    /// it is dropped and counted, and no client is closed for its sake.
    #[schemars(range(min = 1, max = 86_400_000))]
    pub forget_service_ms: u64,
}

/// What one tick of a shard may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tick {
    /// Most bytes read from links.
    #[schemars(range(min = 1 << 12, max = 1 << 30))]
    pub link_bytes: usize,
    /// Most bytes read from one client.
    #[schemars(range(min = 1 << 10, max = 1 << 30))]
    pub conn_bytes: usize,
    /// Most deliveries of a wide fan-out, and most sends (fewer once they have taken 500 µs), before single pushes go between.
    #[schemars(range(min = 1, max = 1 << 16))]
    pub slice: usize,
    /// Most batches taken from lanes.
    #[schemars(range(min = 1, max = 1 << 16))]
    pub lane_batches: usize,
    /// How long the messages of a flood or of a wide fan-out wait for others to the same clients, in microseconds, unless such
    /// are being sent anyhow: with few clients, what leaves together costs less. Single pushes never wait, and on a quiet shard
    /// nothing does.
    #[schemars(range(min = 0, max = 100_000))]
    pub gather_us: u64,
    /// How long a shard without work looks on before it sleeps, in microseconds: to be woken takes longer, and a core is
    /// busy meanwhile.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub spin_us: u64,
}

/// Queues between shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Lanes {
    /// Most batches waiting in a lane.
    #[schemars(range(min = 1, max = 1 << 16))]
    pub batches: usize,
    /// Most messages of a batch.
    #[schemars(range(min = 1, max = 1 << 16))]
    pub batch_messages: usize,
    /// Most bytes of a batch.
    #[schemars(range(min = 1 << 10, max = 1 << 28))]
    pub batch_bytes: usize,
    /// Most sockets waiting to move into a shard.
    #[schemars(range(min = 1, max = 1 << 16))]
    pub sockets: usize,
}

/// Bounds of a shard's tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most connections of a shard, at most 4,194,304.
    #[schemars(range(min = 1, max = 1 << 22))]
    pub max_connections: usize,
    /// Most connections of one user.
    #[schemars(range(min = 1, max = 1 << 22))]
    pub max_connections_per_user: usize,
    /// Most memory of a shard for outboxes, partial messages and buffered events; at the cap new connections are refused.
    #[schemars(range(min = 1 << 20, max = 1_u64 << 44))]
    pub max_memory_bytes: usize,
    /// Most topics of a shard.
    #[schemars(range(min = 0, max = 1 << 30))]
    pub max_topics: usize,
    /// Most topics of one user or connection.
    #[schemars(range(min = 0, max = 1 << 20))]
    pub max_topics_per_user: usize,
    /// Most users with subscriptions but without connections; whoever leaves beyond that loses its subscriptions.
    #[schemars(range(min = 0, max = 1 << 30))]
    pub max_offline_users: usize,
    /// Most users of one push.
    #[schemars(range(min = 1, max = 1 << 20))]
    pub max_users_per_push: usize,
    /// Most messages of one `PushBatch`.
    #[schemars(range(min = 1, max = 1 << 20))]
    pub max_batch: usize,
    /// Longest payload of a push, at most `outbox.max_bytes`.
    #[schemars(range(min = 1, max = 1 << 30))]
    pub max_payload_bytes: usize,
    /// Most receipts and counts a shard waits for.
    #[schemars(range(min = 1, max = 1 << 24))]
    pub max_jobs: usize,
    /// Most wide fan-outs waiting in a shard.
    #[schemars(range(min = 1, max = 1 << 16))]
    pub max_fanouts: usize,
}

/// The admin port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Health, metrics, drains, single pushes.
    #[schemars(with = "String", extend("format" = "address"))]
    pub listen: SocketAddr,
    /// A shard that has not ticked for this time is unhealthy. Idle shards tick once a second.
    #[schemars(range(min = 2_000, max = 3_600_000))]
    pub stalled_after_ms: u64,
}

/// Going away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// Closing all clients is spread over this time, however many there are, unless `connections_per_second` is set.
    #[schemars(range(min = 0, max = 3_600_000))]
    pub spread_ms: u64,
    /// If set, it decides instead of `spread_ms`: the gateway closes this many clients a second, so that a full one takes
    /// longer than an empty one. 0: not set.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub connections_per_second: u32,
    /// No drain is spread over more than this, whoever sets its pace.
    #[schemars(range(min = 0, max = 3_600_000))]
    pub max_spread_ms: u64,
    /// Clients are asked to reconnect after what is left of the spread and a random part of this time (`retry_after_ms`).
    #[schemars(range(min = 0, max = 3_600_000))]
    pub retry_after_ms: u64,
    /// A client that reads slowly gets what is pending for it before its Close within this time; what is left after this
    /// time beyond the spread is cut off.
    #[schemars(range(min = 0, max = 3_600_000))]
    pub grace_ms: u64,
}

impl Default for Ws {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            backlog: 4096,
            paths: vec!["/ws".into()],
            subprotocols: Vec::new(),
            origins: Vec::new(),
            refuse: Refuse::Close,
            event_headers: Vec::new(),
            secret_params: vec!["token".into(), "access_token".into()],
            max_header_bytes: 8 << 10,
            max_message_bytes: 1 << 20,
            handshake_timeout_ms: 10_000,
            ping_after_ms: 25_000,
            pong_timeout_ms: 20_000,
            close_timeout_ms: 5_000,
            close_linger_ms: 500,
        }
    }
}

impl Default for Grpc {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9000)),
            advertise_host: String::new(),
            max_links: 4096,
            max_streams: 1024,
            max_message_bytes: 4 << 20,
            stream_window_bytes: 1 << 20,
            shard_window_bytes: 256 << 20,
            max_header_bytes: 16 << 10,
            keepalive_interval_ms: 10_000,
            keepalive_timeout_ms: 10_000,
            send_buffer_bytes: 1 << 20,
        }
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 20,
            max_messages: 4096,
            share_from_bytes: 16 << 10,
            when_full: WhenFull::Close,
        }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            max_services: 64,
            buffer_bytes: 4 << 20,
            buffer_events: 16_384,
            hard_limit_bytes: 16 << 20,
            unacked_bytes: 4 << 20,
            no_receiver_ms: 10_000,
            forget_service_ms: 10_000,
        }
    }
}

impl Default for Tick {
    fn default() -> Self {
        Self {
            link_bytes: 1 << 20,
            conn_bytes: 64 << 10,
            slice: 256,
            lane_batches: 64,
            gather_us: 0,
            spin_us: 0,
        }
    }
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            batches: 256,
            batch_messages: 256,
            batch_bytes: 256 << 10,
            sockets: 4096,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1 << 20,
            max_connections_per_user: 64,
            max_memory_bytes: 2 << 30,
            max_topics: 1 << 20,
            max_topics_per_user: 256,
            max_offline_users: 1 << 20,
            max_users_per_push: 10_000,
            max_batch: 10_000,
            max_payload_bytes: 1 << 20,
            max_jobs: 1 << 18,
            max_fanouts: 64,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9900)),
            stalled_after_ms: 5_000,
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            spread_ms: 10_000,
            connections_per_second: 0,
            max_spread_ms: 600_000,
            retry_after_ms: 10_000,
            grace_ms: 5_000,
        }
    }
}
