//! Messages for single users, as many as the gateway takes: a closed loop with a window of messages in flight.

use std::{
    cell::RefCell,
    net::SocketAddr,
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use logic_client::{LogicClient, Push};
use tokio::{
    io::unix::AsyncFd,
    sync::Notify,
    time::{timeout, timeout_at},
};

use crate::{
    clients::{Clients, Event, check_descriptors},
    cpu,
    gateway::{Gateway, Launch},
    metrics::Metrics,
    report::{Latency, Report},
    verify::{Ledger, MIN_PAYLOAD},
};

/// Whoever waits longer than this for the gateway has lost a message.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pushes between two looks at whether others can go on.
const BURST: u32 = 64;

/// What to do.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// WebSocket clients, a user each
    #[arg(long, default_value_t = 1000)]
    pub connections: usize,
    /// Bytes of a message, at least 24
    #[arg(long, default_value_t = 128)]
    pub payload: usize,
    /// Most messages in flight
    #[arg(long, default_value_t = 4096)]
    pub window: u64,
    /// Shards of the gateway that is started
    #[arg(long, default_value_t = 1)]
    pub shards: u32,
    /// Duration of the measurement
    #[arg(long, default_value_t = 5.0, conflicts_with = "messages")]
    pub seconds: f64,
    /// Measure this many messages instead
    #[arg(long)]
    pub messages: Option<u64>,
    /// What moves the bytes of the gateway that is started: auto, uring, monoio, epoll or glommio
    #[arg(long, value_name = "DRIVER")]
    pub driver: Option<String>,
    /// Start this `ringway` instead of the gateway built in here
    #[arg(long, value_name = "PATH")]
    pub ringway: Option<PathBuf>,
    /// Measure the gateway that runs already: its common gRPC address
    #[arg(long, value_name = "ADDR", requires = "ws", conflicts_with_all = ["ringway", "driver"])]
    pub gateway: Option<SocketAddr>,
    /// Its WebSocket address
    #[arg(long, value_name = "ADDR", requires = "gateway")]
    pub ws: Option<SocketAddr>,
    /// Its admin address, for the messages per send
    #[arg(long, value_name = "ADDR", requires = "gateway")]
    pub admin: Option<SocketAddr>,
    /// Its process, for the CPU time
    #[arg(long, requires = "gateway")]
    pub pid: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The gateway under test.
struct Target {
    ws: SocketAddr,
    grpc: SocketAddr,
    admin: Option<SocketAddr>,
    pid: Option<u32>,
    /// If it is ours.
    _own: Option<Gateway>,
}

/// Runs the measurement, on a gateway that is started by `launch` unless the options name one.
///
/// # Errors
/// Options that cannot work, a gateway that does not start, a client that is closed, messages that do not arrive.
pub fn run(options: &Options, launch: Launch) -> anyhow::Result<Report> {
    if options.payload < MIN_PAYLOAD || options.connections == 0 || options.window == 0 {
        bail!(
            "needed: --payload of at least {MIN_PAYLOAD}, --connections and --window of at least 1"
        );
    }
    check_descriptors(options.connections)?;
    let target = Target::of(options, launch)?;
    let targets = (0..options.connections).map(|index| Clients::target(&user(index)));
    let targets: Vec<_> = targets.collect();
    let clients = Clients::connect(target.ws, &targets)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(measure(options, &target, clients))
}

/// The name of a user.
#[must_use]
pub fn user(index: usize) -> String {
    format!("user-{index}")
}

impl Target {
    fn of(options: &Options, mut launch: Launch) -> anyhow::Result<Self> {
        if let (Some(grpc), Some(ws)) = (options.gateway, options.ws) {
            let (admin, pid) = (options.admin, options.pid);
            return Ok(Self {
                ws,
                grpc,
                admin,
                pid,
                _own: None,
            });
        }
        if let Some(program) = &options.ringway {
            launch = Launch::ringway(program.clone());
        }
        if let Some(driver) = &options.driver {
            launch = launch.setting("RINGWAY_SHARDS_DRIVER", driver);
        }
        let cpus = cpu::allowed()?;
        let (gateway, load) = cpu::share(&cpus);
        let own = launch.shards(options.shards).on(gateway).start()?;
        cpu::pin(load)?;
        Ok(Self {
            ws: own.ws,
            grpc: own.grpc,
            admin: Some(own.admin),
            pid: Some(own.pid()),
            _own: Some(own),
        })
    }

    fn sample(&self) -> anyhow::Result<Sample> {
        Ok(Sample {
            at: Instant::now(),
            gateway: self.pid.map(cpu::time).transpose()?,
            load: cpu::time(std::process::id())?,
            metrics: self.admin.map(Metrics::read).transpose()?,
        })
    }
}

/// What moves the gateway's bytes, if it can be asked.
fn driver(sample: &Sample) -> Option<String> {
    let metrics = sample.metrics.as_ref()?;
    metrics.label("ringway_build_info", "driver")
}

/// What has been used up so far.
struct Sample {
    at: Instant,
    gateway: Option<Duration>,
    load: Duration,
    metrics: Option<Metrics>,
}

/// What the pushing and the receiving side share; both run on one thread.
struct Run {
    ledger: RefCell<Ledger>,
    latency: RefCell<Histogram<u64>>,
    started: Instant,
    /// Somebody has received something.
    received: Notify,
    window: u64,
}

async fn measure(options: &Options, target: &Target, clients: Clients) -> anyhow::Result<Report> {
    let grpc = target.grpc.to_string();
    let client = LogicClient::builder().gateway(grpc).connect().await?;
    let run = Rc::new(Run {
        ledger: RefCell::new(Ledger::new(options.connections, options.payload)),
        latency: RefCell::new(Histogram::new_with_bounds(1, 60_000_000_000, 3)?),
        started: Instant::now(),
        received: Notify::new(),
        window: options.window,
    });
    let names: Vec<_> = (0..options.connections).map(user).collect();
    let local = tokio::task::LocalSet::new();
    let receiving = local.spawn_local(receive(Rc::clone(&run), clients));
    let measured = local.run_until(async {
        // Every user once: all paths are warm, and everybody is reached.
        let warm = options.connections as u64;
        let sent = run.push(&client, &names, 0, |sent| sent < warm).await?;
        run.all_arrived(sent).await?;
        run.latency.borrow_mut().clear();
        let before = target.sample()?;
        let end = before.at + Duration::from_secs_f64(options.seconds);
        let sent = match options.messages {
            Some(messages) => {
                run.push(&client, &names, sent, |sent| sent < warm + messages)
                    .await?
            }
            None => {
                run.push(&client, &names, sent, |_| Instant::now() < end)
                    .await?
            }
        };
        run.all_arrived(sent).await?;
        Ok::<_, anyhow::Error>((before, target.sample()?))
    });
    let (before, after) = tokio::select! {
        measured = measured => measured?,
        failed = receiving => return Err(failed?),
    };
    let rejected = client.stats().total().rejected();
    if rejected > 0 {
        bail!("the gateway rejected {rejected} pushes");
    }
    Ok(report(options, &run, &before, &after))
}

impl Run {
    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Pushes to one user after the other, while `more` of the count so far. Says how many there are now.
    async fn push(
        &self,
        client: &LogicClient,
        names: &[String],
        mut sent: u64,
        more: impl Fn(u64) -> bool,
    ) -> anyhow::Result<u64> {
        let mut burst = 0;
        while more(sent) {
            self.room(sent).await?;
            let user = (sent % names.len() as u64) as usize;
            let payload = self.ledger.borrow_mut().issue(user, self.now());
            let push = Push::user(names[user].as_str()).binary(payload);
            client.push(push).await?;
            sent += 1;
            burst += 1;
            if burst == BURST {
                burst = 0;
                tokio::task::yield_now().await;
            }
        }
        Ok(sent)
    }

    /// Waits until fewer messages than the window are in flight.
    async fn room(&self, sent: u64) -> anyhow::Result<()> {
        while sent - self.delivered() >= self.window {
            let received = timeout(PATIENCE, self.received.notified()).await;
            received.with_context(|| self.stuck(sent))?;
        }
        Ok(())
    }

    async fn all_arrived(&self, sent: u64) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.delivered() < sent {
            let received = timeout_at(deadline, self.received.notified()).await;
            received.with_context(|| self.stuck(sent))?;
        }
        Ok(())
    }

    fn delivered(&self) -> u64 {
        self.ledger.borrow().delivered()
    }

    fn stuck(&self, sent: u64) -> String {
        let (delivered, faults) = (self.delivered(), self.ledger.borrow().faults());
        format!("{delivered} of {sent} messages have arrived, and no more do: {faults:?}")
    }
}

/// Takes what arrives, until something fails.
async fn receive(run: Rc<Run>, mut clients: Clients) -> anyhow::Error {
    match receive_all(&run, &mut clients).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn receive_all(run: &Run, clients: &mut Clients) -> anyhow::Result<std::convert::Infallible> {
    // What took its place is unsafe, and asks that the descriptor stay open: an `OwnedFd` does.
    #[allow(deprecated)]
    let readiness = AsyncFd::new(clients.readiness().try_clone_to_owned()?)?;
    let mut closed = None;
    loop {
        let mut ready = readiness.readable().await?;
        loop {
            let came = clients.receive(Duration::ZERO, |client, event| match event {
                Event::Message { text, payload } => {
                    let sent = run.ledger.borrow_mut().check(client, text, payload);
                    if let Some(sent) = sent {
                        run.latency
                            .borrow_mut()
                            .saturating_record(run.now().saturating_sub(sent));
                    }
                }
                Event::Closed { code, reason } => closed = Some((client, code, reason.to_owned())),
            })?;
            if let Some((client, code, reason)) = closed.take() {
                bail!("{} was closed with {code:?} {reason:?}", user(client));
            }
            if !came {
                break;
            }
            run.received.notify_one();
            tokio::task::yield_now().await;
        }
        ready.clear_ready();
    }
}

fn report(options: &Options, run: &Run, before: &Sample, after: &Sample) -> Report {
    let seconds = (after.at - before.at).as_secs_f64();
    let messages = run.delivered() - options.connections as u64;
    let gateway = before
        .gateway
        .zip(after.gateway)
        .map(|(before, after)| after - before);
    let metrics = before.metrics.as_ref().zip(after.metrics.as_ref());
    let grown = |name: &str, labels: &[&str]| {
        metrics.map(|(before, after)| after.sum(name, labels) - before.sum(name, labels))
    };
    let sent = grown("ringway_messages_out_total", &["to=\"client\""]);
    let sends = grown("ringway_sends_total", &[]);
    let crossings =
        ["kind=\"push\"", "kind=\"command\""].map(|kind| grown("ringway_crossings_total", &[kind]));
    Report {
        driver: driver(after),
        shards: options.shards,
        connections: options.connections,
        payload: options.payload,
        window: options.window,
        seconds,
        messages,
        messages_per_second: messages as f64 / seconds,
        gateway_micros_per_message: gateway.map(|time| time.as_secs_f64() * 1e6 / messages as f64),
        gateway_cores: gateway.map(|time| time.as_secs_f64() / seconds),
        load_cores: (after.load - before.load).as_secs_f64() / seconds,
        messages_per_send: sent.zip(sends).map(|(sent, sends)| sent / sends.max(1.0)),
        crossings: crossings
            .into_iter()
            .sum::<Option<f64>>()
            .map(|crossings| crossings as u64),
        latency_micros: Latency::of(&run.latency.borrow()),
        faults: run.ledger.borrow().faults(),
    }
}
