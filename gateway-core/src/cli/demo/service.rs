//! The chat service at work: one stream to each shard, over real gRPC on loopback, moved by one task.

use std::{
    future::poll_fn,
    net::SocketAddr,
    ops::RangeInclusive,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};
use gateway_proto::{names, v1};
use h2_stream::{ClientEvent, Metadata};
use prost::Message;
use tokio::{sync::oneshot, time::MissedTickBehavior};

use super::{
    chat::{Chat, Command},
    counters::Counters,
    exchange::Exchange,
};
use crate::{
    control::loopback::{Link, dialled},
    metrics::Metrics,
};

/// The gateway is in this process: it answers at once, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);

/// The wait before the first attempt to come back, and the longest between two.
const RETRY: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(5);

/// Serves until the gateway has drained its streams, or `over` is dropped at its other end; comes back when a stream
/// breaks. `gateway` is its common gRPC address; `ready` is called once, when every shard has welcomed the service.
///
/// # Errors
/// When the service does not get so far.
pub(super) fn run(
    gateway: SocketAddr,
    max_message: usize,
    metrics: Vec<Arc<Metrics>>,
    ready: impl FnOnce(),
    over: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            tokio::select! {
                end = serve(dialled(gateway), max_message, metrics, ready) => end,
                _ = over => Ok(()),
            }
        })
}

async fn serve(
    gateway: SocketAddr,
    max_message: usize,
    metrics: Vec<Arc<Metrics>>,
    ready: impl FnOnce(),
) -> anyhow::Result<()> {
    let (driver, streams) = connect(gateway, max_message).await?;
    let mut service = Service {
        streams,
        chat: Chat::default(),
        commands: Vec::new(),
        counters: Counters::new(driver, metrics),
    };
    let (mut ready, mut wait) = (Some(ready), *RETRY.start());
    loop {
        let Err(mut error) = service.work(&mut ready).await else {
            return Ok(());
        };
        if ready.is_some() {
            return Err(error);
        }
        if service.is_welcome() {
            wait = *RETRY.start();
        }
        // What was not acknowledged comes again on the new streams; what the service had just said is lost.
        service.streams.clear();
        while service.streams.is_empty() {
            tracing::warn!(
                error = format_args!("{error:#}"),
                ?wait,
                "the chat service comes back"
            );
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(*RETRY.end());
            match connect(gateway, max_message).await {
                Ok((_, streams)) => service.streams = streams,
                Err(failed) => error = failed,
            }
        }
    }
}

/// What moves the gateway's bytes, and a stream to each of its shards.
async fn connect(
    gateway: SocketAddr,
    max_message: usize,
) -> anyhow::Result<(String, Vec<Exchange>)> {
    let described = tokio::time::timeout(PATIENCE, describe(gateway))
        .await
        .context("the gateway does not answer Describe")??;
    let streams = open_streams(gateway, &described, max_message).await?;
    Ok((described.driver, streams))
}

struct Service {
    streams: Vec<Exchange>,
    chat: Chat,
    commands: Vec<Command>,
    counters: Counters,
}

impl Service {
    /// Serves until the gateway has drained all streams.
    ///
    /// # Errors
    /// A stream broke, or ended without having announced it.
    async fn work(&mut self, ready: &mut Option<impl FnOnce()>) -> anyhow::Result<()> {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sampled = Instant::now();
        loop {
            self.turn()?;
            if self.streams.iter().all(Exchange::is_over) {
                return Ok(());
            }
            if self.is_welcome()
                && let Some(ready) = ready.take()
            {
                ready();
            }
            tokio::select! {
                () = self.ready() => {}
                _ = second.tick() => {
                    let stats = self.counters.publish(sampled.elapsed());
                    sampled = Instant::now();
                    self.commands.push(stats);
                    self.perform();
                }
            }
        }
    }

    fn is_welcome(&self) -> bool {
        self.streams.iter().all(Exchange::is_welcome)
    }

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

/// Milliseconds since 1970.
fn time_of_day() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        sync::mpsc,
    };

    use tungstenite::Message;

    use super::*;
    use crate::{
        bootstrap::{self, Extras, Running},
        cli::demo::chat,
        config::Config,
    };

    // The gateway goes without a word, as a stream does that breaks, and comes back on its ports: whoever connects then
    // must be served as before.
    #[test]
    fn the_service_comes_back_when_its_streams_break() {
        let ports = [free_pair(), free_pair()];
        let first = gateway(ports);
        let (welcome, welcomed) = mpsc::channel();
        let (over, ended) = oneshot::channel();
        let (grpc, metrics) = (first.grpc, first.metrics.clone());
        let service = std::thread::spawn(move || {
            run(
                grpc,
                1 << 20,
                metrics,
                move || welcome.send(()).unwrap(),
                ended,
            )
        });
        welcomed.recv_timeout(PATIENCE).unwrap();
        echo(&first);
        first.stop_now();
        first.join().unwrap();

        let second = gateway(ports);
        echo(&second);
        drop(over);
        service.join().unwrap().unwrap();
        second.stop_now();
        second.join().unwrap();
    }

    /// What is said before the service is there waits for it.
    fn echo(gateway: &Running) {
        let stream = TcpStream::connect(gateway.ws).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let url = format!("ws://{}{}", gateway.ws, chat::ECHO_PATH);
        let (mut client, _) = tungstenite::client(url, stream).unwrap();
        client.send(Message::text("hi")).unwrap();
        assert_eq!(client.read().unwrap(), Message::text("hi"));
    }

    fn gateway([ws, grpc]: [SocketAddr; 2]) -> Running {
        let mut config = Config::default();
        config.shards.count = 1;
        config.ws.listen = ws;
        config.ws.paths.push(chat::ECHO_PATH.to_owned());
        config.grpc.listen = grpc;
        bootstrap::start(config, Extras::default()).unwrap()
    }

    /// A port that is free, and so is the next. Its address is nobody else's: the ports must still be free when the
    /// second gateway comes, though others bind and connect meanwhile, not least the service that looks for the first.
    fn free_pair() -> SocketAddr {
        const OWN: &str = "127.83.86.67";
        for _ in 0..100 {
            let first = TcpListener::bind((OWN, 0)).unwrap();
            let address = first.local_addr().unwrap();
            if TcpListener::bind((OWN, address.port() + 1)).is_ok() {
                return address;
            }
        }
        panic!("no two ports in a row are free");
    }
}
