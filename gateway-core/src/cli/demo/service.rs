//! The chat service at work: one stream to each shard, over real gRPC on loopback, moved by one task.

use std::{
    future::poll_fn,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};
use gateway_proto::{names, v1};
use h2_stream::{ClientEvent, Metadata};
use prost::Message;
use tokio::time::MissedTickBehavior;

use super::{
    chat::{Chat, Command},
    counters::Counters,
    exchange::Exchange,
    link::Link,
};
use crate::metrics::Metrics;

/// The gateway is in this process: it answers at once, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves until the gateway has drained its streams. `gateway` is its common gRPC address; `ready` is called when every
/// shard has welcomed the service.
///
/// # Errors
/// When a shard cannot be reached, or ends its stream without having announced it.
pub(super) fn run(
    gateway: SocketAddr,
    max_message: usize,
    metrics: Vec<Arc<Metrics>>,
    ready: impl FnOnce(),
) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(loopback(gateway), max_message, metrics, ready))
}

async fn serve(
    gateway: SocketAddr,
    max_message: usize,
    metrics: Vec<Arc<Metrics>>,
    ready: impl FnOnce(),
) -> anyhow::Result<()> {
    let described = tokio::time::timeout(PATIENCE, describe(gateway))
        .await
        .context("the gateway does not answer Describe")??;
    let mut service = Service {
        streams: open_streams(gateway, &described, max_message).await?,
        chat: Chat::default(),
        commands: Vec::new(),
        counters: Counters::new(described.driver, metrics),
    };
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut ready, mut sampled) = (Some(ready), Instant::now());
    loop {
        service.turn()?;
        if service.streams.iter().all(Exchange::is_over) {
            return Ok(());
        }
        if service.streams.iter().all(Exchange::is_welcome)
            && let Some(ready) = ready.take()
        {
            ready();
        }
        tokio::select! {
            () = service.ready() => {}
            _ = second.tick() => {
                let stats = service.counters.publish(sampled.elapsed());
                sampled = Instant::now();
                service.commands.push(stats);
                service.perform();
            }
        }
    }
}

struct Service {
    streams: Vec<Exchange>,
    chat: Chat,
    commands: Vec<Command>,
    counters: Counters,
}

impl Service {
    /// Moves what can be moved: events up, commands down.
    fn turn(&mut self) -> anyhow::Result<()> {
        // A slow shard must not fill our memory with what the other shards' clients say.
        let come = self.streams.iter().all(Exchange::has_room);
        for at in 0..self.streams.len() {
            self.streams[at].let_events_come(come);
            self.streams[at].receive()?;
            while let Some(event) = self.streams[at].next_event()? {
                self.chat.handle(event, time_of_day(), &mut self.commands);
                self.perform();
            }
        }
        self.streams.iter_mut().try_for_each(Exchange::transmit)
    }

    fn perform(&mut self) {
        for command in self.commands.drain(..) {
            match &command {
                Command::Publish { .. } => {
                    for stream in &mut self.streams {
                        stream.command(&command);
                    }
                }
                Command::Send { conn, .. }
                | Command::Subscribe { conn, .. }
                | Command::Unsubscribe { conn, .. } => {
                    if let Some(stream) = self.streams.get_mut(usize::from(conn.shard())) {
                        stream.command(&command);
                    }
                }
            }
        }
    }

    /// Waits until a stream has something to read, or room for what it has to write.
    async fn ready(&self) {
        poll_fn(|cx| {
            // All are asked, so that each is registered.
            let ready = self
                .streams
                .iter()
                .fold(false, |ready, stream| stream.poll_ready(cx) | ready);
            if ready {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

async fn describe(gateway: SocketAddr) -> anyhow::Result<v1::DescribeResponse> {
    let mut link = Link::connect(gateway, 64 << 10)
        .await
        .with_context(|| format!("the chat service cannot reach the gateway at {gateway}"))?;
    let now = link.now();
    let call = link
        .client
        .open(names::DESCRIBE, Metadata::new(), Some(PATIENCE), now)?;
    link.client.send(call, &v1::DescribeRequest {});
    link.client.half_close(call);
    let mut described = None;
    loop {
        link.receive()?;
        while let Some(event) = link.poll_event() {
            match event {
                ClientEvent::Message { message, .. } => {
                    described = Some(v1::DescribeResponse::decode(message)?);
                }
                ClientEvent::Finished { status, .. } => match described {
                    Some(described) if status.is_ok() => return Ok(described),
                    _ => bail!("the gateway refuses to describe itself: {status:?}"),
                },
                _ => {}
            }
        }
        link.transmit()?;
        poll_fn(|cx| {
            if link.poll_ready(cx) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

async fn open_streams(
    gateway: SocketAddr,
    described: &v1::DescribeResponse,
    max_message: usize,
) -> anyhow::Result<Vec<Exchange>> {
    let mut session = [0; 16];
    getrandom::fill(&mut session).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    let mut streams = Vec::new();
    for (shard, address) in (0..).zip(&described.shard_addresses) {
        // Whatever host is advertised: this gateway is our own process.
        let port = address
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok());
        let port = port.with_context(|| format!("shard {shard} has no port: {address:?}"))?;
        let address = SocketAddr::new(gateway.ip(), port);
        streams.push(Exchange::open(address, shard, described, session, max_message).await?);
    }
    Ok(streams)
}

/// Where to dial what listens on `listen`.
fn loopback(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}

/// Milliseconds since 1970.
fn time_of_day() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
