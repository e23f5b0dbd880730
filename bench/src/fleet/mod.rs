//! One logic service and many gateways: what a message costs both sides, through the mesh and by REST.

use std::{fmt, path::Path, time::Duration};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use logic_client::{Connection, Event, LogicClient, Push};
use serde::Serialize;

use crate::{
    clients::Clients,
    cpu::{self, Places, Rank},
    gateway::{Gateway, Launch},
    machine::Machine,
    report::Latency,
    setup::Subject,
    verify::MIN_PAYLOAD,
    witness::{self, Witnesses},
};

pub mod rest;

/// Unmeasured time at a new rate.
const SETTLE: Duration = Duration::from_millis(500);
/// Commands that may wait for each gateway: what the machine cannot do shall wait with who pushes.
const BUFFER: usize = 256;

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Which gateways
    #[command(flatten)]
    pub subject: Subject,
    /// Gateways, and receivers of REST: a process each
    #[arg(long, default_value_t = 100)]
    pub gateways: usize,
    /// Messages a second to each of them; several rates are measured one after the other
    #[arg(long, value_delimiter = ',', default_values_t = [1000.0])]
    pub rate: Vec<f64>,
    /// WebSocket clients of each gateway
    #[arg(long, default_value_t = 10)]
    pub users: usize,
    /// Connections kept to each receiver of REST: as many requests can be on their way to it
    #[arg(long, default_value_t = 4)]
    pub rest_connections: usize,
    /// Bytes of a message, at least 24
    #[arg(long, default_value_t = 128)]
    pub payload: usize,
    /// Duration of each window
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Windows of the mesh and of REST, in turns: so many of each
    #[arg(long, default_value_t = 2)]
    pub rounds: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What a run has shown.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Processes of each kind.
    pub gateways: usize,
    /// Bytes of a message.
    pub payload: usize,
    /// Where it ran; receivers have all CPUs but the last one.
    pub machine: Machine,
    /// What the gateways are.
    pub about: String,
    /// Shards of each.
    pub shards: u32,
    /// For each rate the mesh, then REST.
    pub sides: Vec<Side>,
}

/// One way to push, at one rate.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// `mesh`: until the WebSocket client has it. `rest`: until the answer is there, and nothing is delivered.
    pub way: &'static str,
    /// Messages a second that were asked for, to all.
    pub asked: f64,
    /// Those that were pushed.
    pub messages_per_second: f64,
    /// Messages of all windows.
    pub messages: u64,
    /// From when a push was due.
    pub latency_micros: Latency,
    /// CPU time of the pushing thread per message.
    pub client_micros_per_message: f64,
    /// CPU time of the receiving processes per message.
    pub receiver_micros_per_message: f64,
    /// The same by time: 1 is one core.
    pub receiver_cores: f64,
    /// Of the machine, after the last window.
    pub load_average: f64,
}

/// What is summed up over windows.
struct Sum {
    way: &'static str,
    latency: Option<Histogram<u64>>,
    messages: u64,
    pushing: Duration,
    elapsed: Duration,
    client: Duration,
    receivers: Duration,
}

/// Runs the measurement; `launch` starts gateways, `program` is `ringway-bench`.
///
/// # Errors
/// Options that cannot work, processes that do not start, messages that do not arrive.
pub fn run(options: &Options, launch: &Launch, program: &Path) -> anyhow::Result<Report> {
    if options.payload < MIN_PAYLOAD || options.rounds == 0 || options.gateways == 0 {
        bail!("needed: --payload of at least {MIN_PAYLOAD}, --rounds and --gateways of at least 1");
    }
    if options.users == 0 || options.rest_connections == 0 {
        bail!("needed: --users and --rest-connections of at least 1");
    }
    let places = Places::here()?;
    cpu::pin(&places.server)?;
    cpu::rank(Rank::Measured);
    let launch = options
        .subject
        .launch(launch)
        .shards(options.subject.shards);
    let gateways = (0..options.gateways).map(|_| launch.start());
    let gateways: Vec<_> = gateways.collect::<Result<_, _>>()?;
    let receivers = (0..options.gateways).map(|_| rest::Receiver::start(program));
    let receivers: Vec<_> = receivers.collect::<Result<_, _>>()?;
    cpu::pin(&places.load)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let sides = runtime.block_on(measure(options, &gateways, &receivers))?;
    Ok(Report {
        gateways: options.gateways,
        payload: options.payload,
        machine: Machine::here(),
        about: gateways[0].about(),
        shards: options.subject.shards,
        sides,
    })
}

async fn measure(
    options: &Options,
    gateways: &[Gateway],
    receivers: &[rest::Receiver],
) -> anyhow::Result<Vec<Side>> {
    let (witnesses, mut mesh) = witnesses(options, gateways).await?;
    let users = (options.gateways * options.users) as u64;
    let connections = options.rest_connections;
    let rest = rest::Sender::connect(receivers, connections, users, options.payload);
    let mut rest = rest.await?;
    mesh.warm_up().await?;
    let mesh_pids: Vec<_> = gateways.iter().map(Gateway::pid).collect();
    let rest_pids: Vec<_> = receivers.iter().map(rest::Receiver::pid).collect();
    let length = Duration::from_secs_f64(options.seconds);
    let mut sides = Vec::new();
    for each in &options.rate {
        let rate = each * options.gateways as f64;
        let (mut by_mesh, mut by_rest) = (Sum::of("mesh"), Sum::of("rest"));
        for _ in 0..options.rounds {
            mesh.paced(rate, SETTLE, || None).await?;
            let window = async || mesh.paced(rate, length, || None).await;
            by_mesh.add(&mesh_pids, window).await?;
            rest.paced(rate, SETTLE).await?;
            let window = async || rest.paced(rate, length).await;
            by_rest.add(&rest_pids, window).await?;
        }
        sides.push(by_mesh.side(rate)?);
        sides.push(by_rest.side(rate)?);
    }
    let faults = witnesses.faults(&mesh);
    if !faults.is_none() {
        bail!("messages through the mesh were lost, late or wrong: {faults:?}");
    }
    Ok(sides)
}

/// The users of all gateways, by turns, and a logic client that pushes to their connections: to one gateway each.
async fn witnesses(
    options: &Options,
    gateways: &[Gateway],
) -> anyhow::Result<(Witnesses, witness::Sender)> {
    let builder = LogicClient::builder()
        .service("fleet")
        .receive_messages(true);
    let addresses = gateways.iter().map(|gateway| gateway.grpc.to_string());
    let builder = addresses.fold(builder, |builder, address| builder.gateway(address));
    let client = builder.buffer(BUFFER, 16 << 20).connect().await?;
    let mut events = client.events().context("events were taken")?;
    let count = options.gateways * options.users;
    let targets: Vec<_> = (0..count)
        .map(|at| Clients::target(&format!("witness-{at}")))
        .collect();
    let homes = gateways.iter().cycle().map(|gateway| gateway.ws);
    let at: Vec<_> = homes.zip(targets.iter().map(String::as_str)).collect();
    let clients = Clients::connect_each(at.into_iter())?;
    let mut connections = vec![None::<Connection>; count];
    let mut known = 0;
    while known < count {
        let Some(Event::Opened(opened)) = events.next().await else {
            continue;
        };
        let user = opened
            .user
            .as_deref()
            .and_then(|user| user.strip_prefix("witness-"));
        let at: usize = user.context("a stranger has come")?.parse()?;
        connections[at] = Some(opened.connection);
        known += 1;
    }
    let connections: Option<Vec<_>> = connections.into_iter().collect();
    let connections = connections.context("a witness has come twice")?;
    let address = move |at: usize| Push::connection(connections[at]);
    Witnesses::start(clients, options.payload, client, address)
}

impl Sum {
    fn of(way: &'static str) -> Self {
        Self {
            way,
            latency: None,
            messages: 0,
            pushing: Duration::ZERO,
            elapsed: Duration::ZERO,
            client: Duration::ZERO,
            receivers: Duration::ZERO,
        }
    }

    /// Measures a window, with what it costs this thread and processes `pids`.
    async fn add(
        &mut self,
        pids: &[u32],
        window: impl AsyncFnOnce() -> anyhow::Result<witness::Window>,
    ) -> anyhow::Result<()> {
        let (receivers, client) = (cpu::time_of(pids)?, cpu::own_time());
        let began = std::time::Instant::now();
        let window = window().await?;
        self.elapsed += began.elapsed();
        self.client += cpu::own_time() - client;
        self.receivers += cpu::time_of(pids)? - receivers;
        self.messages += window.messages;
        self.pushing += window.pushing;
        match &mut self.latency {
            Some(all) => all.add(window.latency)?,
            none => *none = Some(window.latency),
        }
        Ok(())
    }

    fn side(self, asked: f64) -> anyhow::Result<Side> {
        let latency = self.latency.context("no windows")?;
        let each = |time: Duration| time.as_secs_f64() * 1e6 / self.messages.max(1) as f64;
        Ok(Side {
            way: self.way,
            asked,
            messages_per_second: self.messages as f64 / self.pushing.as_secs_f64(),
            messages: self.messages,
            latency_micros: Latency::of(&latency),
            client_micros_per_message: each(self.client),
            receiver_micros_per_message: each(self.receivers),
            receiver_cores: self.receivers.as_secs_f64() / self.elapsed.as_secs_f64(),
            load_average: cpu::load_average(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "fleet: {} gateways of {} shards, {} B, a process each; {}",
            self.gateways, self.shards, self.payload, self.about
        )?;
        write!(
            f,
            "  {:<5} {:>8} {:>9} {:>10} {:>10} {:>10} {:>11} {:>11} {:>6} {:>5}",
            "",
            "asked/s",
            "msg/s",
            "p50 µs",
            "p99 µs",
            "p99.9 µs",
            "client µs",
            "receiver µs",
            "cores",
            "load"
        )?;
        for side in &self.sides {
            let Latency { p50, p99, p999, .. } = side.latency_micros;
            write!(
                f,
                "\n  {:<5} {:>8.0} {:>9.0} {p50:>10.0} {p99:>10.0} {p999:>10.0} {:>11.2} {:>11.2} {:>6.2} {:>5.1}",
                side.way,
                side.asked,
                side.messages_per_second,
                side.client_micros_per_message,
                side.receiver_micros_per_message,
                side.receiver_cores,
                side.load_average
            )?;
        }
        Ok(())
    }
}
