//! Pushes through a message queue: callers add to a Redis Stream, and a consumer, a process of its own, forwards to the gateway.

use std::{
    convert::Infallible, io::Write, net::SocketAddr, path::Path, process::Command, time::Duration,
};

use anyhow::Context;
use logic_client::{LogicClient, Push};
use redis::{
    AsyncCommands, Client, RedisError,
    aio::MultiplexedConnection,
    streams::{StreamReadOptions, StreamReadReply},
};

use crate::{debian, process::Process};

/// The stream, its consumer group, and the consumer.
const STREAM: &str = "pushes";
const GROUP: &str = "gateway";
const CONSUMER: &str = "consumer-0";
/// The fields of an entry.
const USER: &str = "user";
const PAYLOAD: &str = "payload";

/// Entries read at once, and how long the consumer waits for the first.
const BATCH: usize = 256;
const BLOCK_MS: usize = 1000;
/// The stream is cut to about so many entries.
const KEPT: usize = 100_000;

/// What the consumer prints when it reads.
const READY: &str = "consumer ready";
/// How long a server takes to start, at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the consumer is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Consumer {
    /// Where Redis is
    #[arg(long)]
    redis: SocketAddr,
    /// The gateway's common gRPC port
    #[arg(long)]
    gateway: SocketAddr,
}

/// A Redis server and a consumer, both processes of their own; they end when this is dropped.
pub(super) struct Queue {
    address: SocketAddr,
    /// The consumer, then Redis: in this order they are ended.
    processes: [Process; 2],
}

/// A caller's connection.
#[derive(Clone)]
pub(super) struct Producer(MultiplexedConnection);

impl Queue {
    /// Starts both; `program` is `ringway-bench`.
    pub(super) async fn start(program: &Path, gateway: SocketAddr) -> anyhow::Result<Self> {
        let address = debian::free_address()?;
        let redis = debian::program("redis-server", "redis-server")?;
        let mut redis = Process::start(
            Command::new(redis)
                .args(["--bind", &address.ip().to_string()])
                .args(["--port", &address.port().to_string()])
                // Nothing is written to disk: the fastest that Redis is.
                .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
                .args(["--loglevel", "warning"]),
            &[],
        )?;
        redis.listens(address, PATIENCE)?;
        let mut connection = connection(address).await?;
        let made: Result<(), _> = connection.xgroup_create_mkstream(STREAM, GROUP, "$").await;
        made.context("Redis makes no consumer group")?;
        let mut consumer = Process::start(
            Command::new(program)
                .arg("adr-consumer")
                .args(["--redis", &address.to_string()])
                .args(["--gateway", &gateway.to_string()]),
            &[],
        )?;
        consumer.says(READY)?;
        Ok(Self {
            address,
            processes: [consumer, redis],
        })
    }

    /// Their ids.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().map(Process::pid)
    }

    pub(super) async fn producer(&self) -> anyhow::Result<Producer> {
        Ok(Producer(connection(self.address).await?))
    }
}

impl Producer {
    /// Adds an entry, and waits for Redis to say that it has it.
    pub(super) async fn push(&mut self, user: &str, payload: &[u8]) -> anyhow::Result<()> {
        let mut add = redis::cmd("XADD");
        add.arg(STREAM).arg("MAXLEN").arg("~").arg(KEPT).arg("*");
        add.arg(USER).arg(user).arg(PAYLOAD).arg(payload);
        let _id: String = add.query_async(&mut self.0).await?;
        Ok(())
    }
}

/// Forwards until the process is killed.
///
/// # Errors
/// Redis or the gateway is gone.
pub fn consume(options: &Consumer) -> anyhow::Result<Infallible> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let gateway = LogicClient::builder().gateway(options.gateway.to_string());
        let gateway = gateway.connect().await?;
        let mut redis = connection(options.redis).await?;
        let read = StreamReadOptions::default()
            .group(GROUP, CONSUMER)
            .count(BATCH)
            .block(BLOCK_MS);
        println!("{READY}");
        std::io::stdout().flush()?;
        loop {
            let reply: Option<StreamReadReply> =
                redis.xread_options(&[STREAM], &[">"], &read).await?;
            let Some(reply) = reply else {
                continue;
            };
            for entry in reply.keys.into_iter().flat_map(|key| key.ids) {
                let user: String = entry.get(USER).context("an entry without a user")?;
                let payload: Vec<u8> = entry.get(PAYLOAD).context("an entry without a payload")?;
                gateway.push(Push::user(user).binary(payload)).await?;
                // What the client has is resumed if its stream breaks: the queue need not keep it.
                let _: u64 = redis.xack(STREAM, GROUP, &[&entry.id]).await?;
            }
        }
    })
}

async fn connection(address: SocketAddr) -> Result<MultiplexedConnection, RedisError> {
    let client = Client::open(format!("redis://{address}/"))?;
    // A consumer that waits for entries is not stuck.
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}
