//! What it costs that a push arrives at another shard than its user's: a client that knows nothing of shards, at the port of the
//! users' shard, at another shard's, and at the common port.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use gateway_proto::{names, shard_of, v1};

use crate::{
    clients::user,
    cpu,
    figures::{Findings, Sample},
    gateway::Launch,
    load::{self, BURST, Flow, Plan, Until},
    peers::{
        Audience, Peer, Pusher, Stage,
        generic::{Call, Generic},
        ringway::Ringway,
    },
    setup::Setup,
};

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What is measured
    #[command(flatten)]
    pub setup: Setup,
    /// Most messages in flight
    #[arg(long, default_value_t = 4096)]
    pub window: u64,
    /// Duration of each measurement
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
}

/// Where the pushes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// All users are of shard 0, whose port is dialled: nothing crosses.
    Own,
    /// All users are of shard 0, and shard 1 is dialled: everything crosses.
    Other,
    /// Users of both shards, and the common port: about half of it crosses.
    Common,
}

/// Runs the measurement on two shards, which share the server's CPUs: what counts is CPU time.
///
/// # Errors
/// Options that cannot work, a gateway that does not start, a client that is closed, messages that do not arrive.
pub fn run(options: &Options, launch: &Launch) -> anyhow::Result<Findings> {
    let setup = Setup {
        shards: 2,
        ..options.setup.clone()
    };
    setup.check()?;
    ensure!(setup.against.is_empty(), "crossing knows no --against");
    let stage = setup.stage(launch, 1)?;
    cpu::pin(&stage.places.load)?;
    let mut settings = setup.settings();
    settings.insert("window".into(), options.window.into());
    settings.insert("batch".into(), BURST.into());
    // What the others are compared with is the dearer one, if it is dearer.
    let ways = [Way::Other, Way::Own, Way::Common];
    let mut samples = vec![Vec::new(); ways.len()];
    for round in 0..setup.rounds {
        for turn in 0..ways.len() {
            let at = (round + turn) % ways.len();
            samples[at].push(ways[at].measure(options, &stage)?);
        }
    }
    let sides = ways.iter().map(|way| way.name().to_owned()).zip(samples);
    Ok(Findings::of("crossing", settings, sides.collect()))
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Own => "own-shard",
            Self::Other => "other-shard",
            Self::Common => "common-port",
        }
    }

    fn measure(self, options: &Options, stage: &Stage) -> anyhow::Result<Sample> {
        let audience = Audience {
            names: self.names(options.setup.connections),
            members: 1,
        };
        let stage = Stage {
            audience: audience.clone(),
            ..stage.clone()
        };
        let peer = Ringway::start(&stage)?;
        let plan = Plan {
            audience: audience.clone(),
            payload: options.setup.payload,
            flow: Flow::Window(options.window),
            until: Until::Time(Duration::from_secs_f64(options.seconds)),
        };
        let mut sample = load::through(&peer, &plan, async || {
            let address = self.address(&peer).await?;
            let pusher = Generic::exchange(address, audience, BURST as usize).await?;
            let pusher: Box<dyn Pusher> = Box::new(pusher);
            Ok(pusher)
        })?;
        let crossings = sample.figures.get("crossings").unwrap_or(0.0);
        let messages = sample.figures.get("messages").unwrap_or(1.0);
        sample.figures.set("crossed_share", crossings / messages);
        sample.about = format!("{}, {}", peer.about(), self.name());
        Ok(sample)
    }

    fn names(self, count: usize) -> Arc<[String]> {
        let names = (0..).map(user);
        let right = |name: &String| self == Self::Common || shard_of(name.as_bytes(), 2) == 0;
        names.filter(right).take(count).collect()
    }

    async fn address(self, peer: &Ringway) -> anyhow::Result<SocketAddr> {
        let shard = match self {
            Self::Common => return Ok(peer.grpc),
            Self::Own => 0,
            Self::Other => 1,
        };
        let call = Call::open(peer.grpc, names::DESCRIBE).await?;
        let _ = call.send(&v1::DescribeRequest {});
        let told: v1::DescribeResponse = call.close().await?;
        let address = told.shard_addresses.get(shard).context("no such shard")?;
        // A port alone means: at the host that was dialled.
        match address.parse() {
            Ok(address) => Ok(address),
            Err(_) => {
                let port = address.trim_start_matches(':').parse();
                let port = port.with_context(|| format!("{address:?} is no address"))?;
                Ok(SocketAddr::new(peer.grpc.ip(), port))
            }
        }
    }
}
