//! The table of the decision for streams, measured on this gateway from the caller to the WebSocket: pushes by REST, by unary
//! gRPC, by a gRPC stream, and through a message queue.

use std::{
    cell::{Cell, RefCell},
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::task::{JoinSet, LocalSet};

use crate::{
    clients::{Clients, check_descriptors},
    cpu::{self, Places, Rank},
    gateway::{Gateway, Launch},
    report::Latency,
    setup::Subject,
    unicast::user,
    verify::{Issuer, Ledger, MIN_PAYLOAD},
};

mod arrivals;
mod grpc;
pub mod queue;
mod report;
mod rest;
mod way;

use arrivals::Arrivals;
pub use report::{Flight, Report};
pub use way::Way;
use way::{Pusher, Ways};

/// A client that reads slowly must not be closed: what counts is how fast messages come.
const OUTBOX: (&str, usize) = ("RINGWAY_OUTBOX_MAX_BYTES", 64 << 20);
const OUTBOX_MESSAGES: (&str, usize) = ("RINGWAY_OUTBOX_MAX_MESSAGES", 1 << 20);

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Which gateway
    #[command(flatten)]
    pub subject: Subject,
    /// What to measure; `queue` needs Debian's package redis-server
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Way::ALL)]
    pub ways: Vec<Way>,
    /// Virtual users: callers, each with a connection of its own and a WebSocket client to push to
    #[arg(long, default_value_t = 10)]
    pub users: usize,
    /// Bytes of a message, at least 24
    #[arg(long, default_value_t = 1200)]
    pub payload: usize,
    /// Messages per measurement
    #[arg(long, default_value_t = 10_000)]
    pub messages: u64,
    /// How many messages are in flight: as many as come naturally, or so many for every way, a multiple of the users (the
    /// admin port has room for some 60 callers)
    #[arg(long, value_delimiter = ',', default_values_t = [Flight::Natural, Flight::Equal(10), Flight::Equal(60)])]
    pub in_flight: Vec<Flight>,
    /// How often each is measured, in turns
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Sample {
    messages_per_second: f64,
    latency: Latency,
    /// Mean latency, in seconds.
    mean: f64,
    /// CPU time per message, in microseconds: of the gateway, of what stands between it and the callers, of the rest.
    gateway: f64,
    between: f64,
    load: f64,
}

/// Runs the measurement, on a gateway that is started by `launch`; `program` is `ringway-bench`.
///
/// # Errors
/// Options that cannot work, a process that does not start, messages that are lost, late or wrong.
pub fn run(options: &Options, launch: &Launch, program: &Path) -> anyhow::Result<Report> {
    options.check()?;
    let most = options.lanes();
    check_descriptors(2 * most)?;
    let places = Places::here()?;
    cpu::rank(Rank::Measured);
    let launch = [OUTBOX, OUTBOX_MESSAGES]
        .into_iter()
        .fold(options.subject.launch(launch), |launch, (name, value)| {
            launch.setting(name, value)
        });
    let launch = launch.shards(options.subject.shards);
    let gateway = launch.on(&places.server).start()?;
    cpu::pin(&places.load)?;
    let targets: Vec<_> = (0..most).map(|at| Clients::target(&user(at))).collect();
    let clients = Clients::connect(gateway.ws, &targets)?;
    let (issuer, checker) = Ledger::new(most, options.payload).split();
    let arrivals = Arrivals::start(clients, checker)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let issuer = Rc::new(RefCell::new(issuer));
    let all = measure(options, &gateway, program, &arrivals, &issuer);
    let samples = runtime.block_on(LocalSet::new().run_until(all))?;
    let faults = arrivals.faults(&issuer.borrow());
    if !faults.is_none() {
        bail!("messages were lost, late or wrong: {faults:?}");
    }
    Ok(Report::new(options, &gateway.about(), &samples))
}

impl Options {
    fn check(&self) -> anyhow::Result<()> {
        if self.payload < MIN_PAYLOAD || self.users == 0 || self.messages == 0 || self.rounds == 0 {
            bail!(
                "needed: --payload of at least {MIN_PAYLOAD}; --users, --messages and --rounds of at least 1"
            );
        }
        for flight in &self.in_flight {
            let lanes = flight.lanes(self.users);
            if lanes == 0 || !lanes.is_multiple_of(self.users) {
                bail!(
                    "--in-flight = {flight} is refused; allowed: natural, or a multiple of --users = {}",
                    self.users
                );
            }
        }
        match self.ways.is_empty() || self.in_flight.is_empty() {
            true => bail!("needed: one of --ways, and one of --in-flight"),
            false => Ok(()),
        }
    }

    /// The most callers at a time.
    fn lanes(&self) -> usize {
        let lanes = self.in_flight.iter().map(|flight| flight.lanes(self.users));
        lanes.max().unwrap_or(self.users)
    }
}

/// By way and flight: a sample for each round.
type Samples = Vec<(Way, Flight, Vec<Sample>)>;

async fn measure(
    options: &Options,
    gateway: &Gateway,
    program: &Path,
    arrivals: &Arrivals,
    issuer: &Rc<RefCell<Issuer>>,
) -> anyhow::Result<Samples> {
    let ways = Ways::start(&options.ways, options.users, gateway, program).await?;
    let mut samples: Samples = Vec::new();
    for flight in &options.in_flight {
        let begun = options.ways.iter().map(|way| (*way, *flight, Vec::new()));
        samples.extend(begun);
    }
    // Every way once, briefly: what is made on first use has been made.
    for way in &options.ways {
        let warm = Run::new(options.users as u64 * 20, issuer);
        let pushers = ways.pushers(*way, options.users).await?;
        warm.push(pushers, true, arrivals).await?;
    }
    for _ in 0..options.rounds {
        for (way, flight, own) in &mut samples {
            let pushers = ways.pushers(*way, flight.lanes(options.users)).await?;
            let wait = matches!(flight, Flight::Equal(_));
            let before = Times::now(gateway, &ways)?;
            arrivals.begin();
            let run = Run::new(options.messages, issuer);
            let took = run.push(pushers, wait, arrivals).await?;
            let spent = Times::now(gateway, &ways)?.since(&before);
            let sample = Sample::of(options.messages, took, arrivals, spent);
            own.push(sample.with_context(|| format!("{way}, {flight}"))?);
        }
    }
    Ok(samples)
}

/// Messages dealt out to callers.
struct Run {
    left: Rc<Cell<u64>>,
    issuer: Rc<RefCell<Issuer>>,
}

impl Run {
    fn new(messages: u64, issuer: &Rc<RefCell<Issuer>>) -> Self {
        Self {
            left: Rc::new(Cell::new(messages)),
            issuer: Rc::clone(issuer),
        }
    }

    /// All callers push until there is nothing left, each to a user of its own; with `wait` the next message only when the
    /// last one has arrived. Says how long it took, to the last arrival.
    async fn push(
        &self,
        pushers: Vec<Pusher>,
        wait: bool,
        arrivals: &Arrivals,
    ) -> anyhow::Result<Duration> {
        let goal = arrivals.delivered() + self.left.get();
        let began = Instant::now();
        let mut callers = JoinSet::new();
        for (at, mut pusher) in pushers.into_iter().enumerate() {
            let (left, issuer) = (Rc::clone(&self.left), Rc::clone(&self.issuer));
            let arrivals = arrivals.clone();
            callers.spawn_local(async move {
                let name = user(at);
                while let Some(rest) = left.get().checked_sub(1) {
                    left.set(rest);
                    let mine = arrivals.of(at);
                    let payload = issuer.borrow_mut().issue(at, arrivals.now());
                    pusher.push(&name, payload).await?;
                    if wait {
                        arrivals.wait_for(at, mine + 1).await?;
                    }
                }
                pusher.close().await
            });
        }
        while let Some(ended) = callers.join_next().await {
            ended??;
        }
        arrivals.all(goal).await?;
        Ok(began.elapsed())
    }
}

/// CPU time used up so far.
struct Times {
    gateway: Duration,
    between: Duration,
    load: Duration,
}

impl Times {
    fn now(gateway: &Gateway, ways: &Ways) -> anyhow::Result<Self> {
        let between = ways.between().into_iter().map(cpu::time);
        Ok(Self {
            gateway: cpu::time(gateway.pid())?,
            between: between.sum::<anyhow::Result<_>>()?,
            load: cpu::time(std::process::id())?,
        })
    }

    fn since(self, before: &Self) -> Self {
        Self {
            gateway: self.gateway - before.gateway,
            between: self.between - before.between,
            load: self.load - before.load,
        }
    }
}

impl Sample {
    fn of(
        messages: u64,
        took: Duration,
        arrivals: &Arrivals,
        spent: Times,
    ) -> anyhow::Result<Self> {
        let latency = arrivals.latency();
        if latency.len() != messages {
            bail!("{} of {messages} messages were timed", latency.len());
        }
        let each = |time: Duration| time.as_secs_f64() * 1e6 / messages as f64;
        Ok(Self {
            messages_per_second: messages as f64 / took.as_secs_f64(),
            latency: Latency::of(&latency),
            mean: latency.mean() / 1e9,
            gateway: each(spent.gateway),
            between: each(spent.between),
            load: each(spent.load),
        })
    }
}
