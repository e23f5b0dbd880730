//! What a push costs the logic service and the gateway: with what the mesh does for it, and without.

use std::{fmt, time::Duration};

use anyhow::{Context, bail};
use clap::ValueEnum;
use logic_client::{Builder, Locate, LogicClient, Push};
use serde::Serialize;

use crate::{
    clients::{Clients, check_descriptors},
    cpu::{self, Places, Rank},
    figures::median,
    gateway::{Gateway, Launch},
    machine::Machine,
    setup::Subject,
    unicast::user,
    verify::MIN_PAYLOAD,
    witness::{Sender, Witnesses},
};

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Which gateways
    #[command(flatten)]
    pub subject: Subject,
    /// What to measure, the first one being what the others are compared with
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Way::ALL)]
    pub ways: Vec<Way>,
    /// WebSocket clients, a user each
    #[arg(long, default_value_t = 1000)]
    pub connections: usize,
    /// Gateways, among which they are dealt out
    #[arg(long, default_value_t = 1)]
    pub gateways: usize,
    /// Bytes of a message, at least 24
    #[arg(long, default_value_t = 128)]
    pub payload: usize,
    /// Most messages in flight
    #[arg(long, default_value_t = 4096)]
    pub window: u64,
    /// Duration of each measurement
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// How often each way is measured, in turns
    #[arg(long, default_value_t = 10)]
    pub rounds: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How pushes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Fire and forget; what breaks is not resumed
    Plain,
    /// Fire and forget; kept until acknowledged, sent once (the default of the client)
    Resume,
    /// The same, and only to gateways where the user is
    Directory,
    /// The same as resume, and a receipt for each push
    Receipts,
}

/// What a run has shown.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// WebSocket clients.
    pub connections: usize,
    /// Gateways.
    pub gateways: usize,
    /// Bytes of a message.
    pub payload: usize,
    /// Most messages in flight.
    pub window: u64,
    /// How often each way was measured.
    pub rounds: usize,
    /// Where it ran.
    pub machine: Machine,
    /// What the gateways are.
    pub about: String,
    /// Shards of each.
    pub shards: u32,
    /// One for each way.
    pub ways: Vec<Costs>,
}

/// What one way costs.
#[derive(Clone, Debug, Serialize)]
pub struct Costs {
    /// Which one.
    pub way: Way,
    /// The median over all rounds.
    pub messages_per_second: f64,
    /// CPU time of the thread that pushes, per message: the median over all rounds.
    pub client_micros: f64,
    /// CPU time of all gateways per message: the median over all rounds.
    pub gateway_micros: f64,
    /// By the first way's in the same round: the median over all rounds.
    pub client_ratio: f64,
    /// By the first way's in the same round: the median over all rounds.
    pub gateway_ratio: f64,
}

/// One measurement.
#[derive(Clone, Copy)]
struct Sample {
    messages_per_second: f64,
    client: f64,
    gateway: f64,
}

/// Runs the measurement, on gateways that are started by `launch`.
///
/// # Errors
/// Options that cannot work, a gateway that does not start, messages that do not arrive.
pub fn run(options: &Options, launch: &Launch) -> anyhow::Result<Report> {
    if options.payload < MIN_PAYLOAD || options.connections == 0 || options.gateways == 0 {
        bail!(
            "needed: --payload of at least {MIN_PAYLOAD}, --connections and --gateways of at least 1"
        );
    }
    if options.window == 0 || options.rounds == 0 || options.ways.is_empty() {
        bail!("needed: --window and --rounds of at least 1, and one of --ways");
    }
    check_descriptors(options.connections)?;
    let places = Places::here()?;
    cpu::rank(Rank::Measured);
    let launch = options
        .subject
        .launch(launch)
        .shards(options.subject.shards);
    let launch = launch.on(&places.server);
    let gateways = (0..options.gateways).map(|_| launch.start());
    let gateways: Vec<_> = gateways.collect::<Result<_, _>>()?;
    cpu::pin(&places.load)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ways = runtime.block_on(measure(options, &gateways))?;
    Ok(Report {
        connections: options.connections,
        gateways: options.gateways,
        payload: options.payload,
        window: options.window,
        rounds: options.rounds,
        machine: Machine::here(),
        about: gateways[0].about(),
        shards: options.subject.shards,
        ways,
    })
}

async fn measure(options: &Options, gateways: &[Gateway]) -> anyhow::Result<Vec<Costs>> {
    let mut services = Vec::new();
    for way in &options.ways {
        services.push(way.connect(gateways).await?);
    }
    let targets: Vec<_> = (0..options.connections)
        .map(|at| Clients::target(&user(at)))
        .collect();
    let homes = gateways.iter().cycle().map(|gateway| gateway.ws);
    let at: Vec<_> = homes.zip(targets.iter().map(String::as_str)).collect();
    let clients = Clients::connect_each(at.into_iter())?;
    let first = services[0].clone();
    let (witnesses, mut sender) =
        Witnesses::start(clients, options.payload, first, |at| Push::user(user(at)))?;
    let mut samples = vec![Vec::new(); services.len()];
    for service in &services {
        sender.client = service.clone();
        sender.warm_up().await?;
    }
    for round in 0..options.rounds {
        for turn in 0..services.len() {
            // Nobody is always first.
            let at = (round + turn) % services.len();
            sender.client = services[at].clone();
            let sample = sample(options, options.ways[at], &mut sender, gateways).await?;
            samples[at].push(sample);
        }
    }
    let faults = witnesses.faults(&sender);
    if !faults.is_none() {
        bail!("messages were lost, late or wrong: {faults:?}");
    }
    let ways = options.ways.iter().zip(&samples);
    Ok(ways
        .map(|(way, own)| costs(*way, own, &samples[0]))
        .collect())
}

async fn sample(
    options: &Options,
    way: Way,
    sender: &mut Sender,
    gateways: &[Gateway],
) -> anyhow::Result<Sample> {
    let time = || -> anyhow::Result<_> {
        let gateways: Duration = gateways
            .iter()
            .map(|gateway| cpu::time(gateway.pid()))
            .sum::<anyhow::Result<_>>()?;
        Ok((cpu::own_time(), gateways))
    };
    let length = Duration::from_secs_f64(options.seconds);
    let (client, gateway) = time()?;
    let window = match way {
        Way::Receipts => sender.confirming(options.window, length).await?,
        _ => sender.saturating(options.window, length).await?,
    };
    let (client_after, gateway_after) = time()?;
    let messages = window.messages as f64;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / messages;
    Ok(Sample {
        messages_per_second: messages / window.pushing.as_secs_f64(),
        client: each(client_after - client),
        gateway: each(gateway_after - gateway),
    })
}

fn costs(way: Way, samples: &[Sample], first: &[Sample]) -> Costs {
    let of = |value: fn(&Sample) -> f64| median(samples.iter().map(value));
    let ratio = |value: fn(&Sample) -> f64| {
        let rounds = samples.iter().zip(first);
        median(rounds.map(|(sample, first)| value(sample) / value(first)))
    };
    Costs {
        way,
        messages_per_second: of(|sample| sample.messages_per_second),
        client_micros: of(|sample| sample.client),
        gateway_micros: of(|sample| sample.gateway),
        client_ratio: ratio(|sample| sample.client),
        gateway_ratio: ratio(|sample| sample.gateway),
    }
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Resume, Self::Directory, Self::Receipts];

    async fn connect(self, gateways: &[Gateway]) -> anyhow::Result<LogicClient> {
        let builder = match self {
            Self::Plain => LogicClient::builder().resume(false),
            Self::Directory => LogicClient::builder().locate(Locate::Directory),
            Self::Resume | Self::Receipts => LogicClient::builder(),
        };
        let addresses = gateways.iter().map(|gateway| gateway.grpc.to_string());
        let builder = addresses.fold(builder, Builder::gateway);
        builder.connect().await.context("no logic client")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "mesh: {} connections, {} gateways of {} shards, {} B, {} in flight; medians of {} rounds, load {:.1}; {}",
            self.connections,
            self.gateways,
            self.shards,
            self.payload,
            self.window,
            self.rounds,
            self.machine.load_average,
            self.about
        )?;
        write!(
            f,
            "  {:<10} {:>10} {:>10} {:>7} {:>11} {:>7}",
            "", "messages/s", "client µs", "times", "gateway µs", "times"
        )?;
        for costs in &self.ways {
            let name = format!("{:?}", costs.way).to_lowercase();
            write!(
                f,
                "\n  {name:<10} {:>10.0} {:>10.3} {:>7.3} {:>11.3} {:>7.3}",
                costs.messages_per_second,
                costs.client_micros,
                costs.client_ratio,
                costs.gateway_micros,
                costs.gateway_ratio
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine was half as fast in the second round: that concerns both ways.
        let sample = |cost| Sample {
            messages_per_second: 1.0,
            client: cost,
            gateway: cost,
        };
        let first = [1.0, 2.0, 1.0].map(sample);
        let second = [1.5, 3.0, 1.5].map(sample);
        let costs = costs(Way::Resume, &second, &first);
        assert_eq!((costs.client_micros, costs.client_ratio), (1.5, 1.5));
        assert_eq!(median([4.0, 1.0].into_iter()), 2.5);
    }
}
