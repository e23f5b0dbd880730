//! What it costs that a push arrives at another shard than its user's: a client that knows nothing of shards, at the port of the
//! users' shard, at another shard's, and at the common port, where half of its pushes cross. Two shards that share a CPU take turns, each
//! with half of the work, and join less, whether anything crosses or not; so what the common port costs is compared with a client that
//! dials both and pushes to each what is its.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use futures_util::future::LocalBoxFuture;
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

/// Shards of the gateway.
const SHARDS: u32 = 2;

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
    /// Users of both shards, both of which are dialled: nothing crosses.
    Both,
    /// Users of both shards, and the common port: about half of it crosses.
    Common,
}

/// Runs the measurement on two shards, which share the server's CPUs: what counts is CPU time.
///
/// # Errors
/// Options that cannot work, a gateway that does not start, a client that is closed, messages that do not arrive.
pub fn run(options: &Options, launch: &Launch) -> anyhow::Result<Findings> {
    let mut setup = options.setup.clone();
    setup.subject.shards = SHARDS;
    setup.check()?;
    ensure!(setup.against.is_empty(), "crossing knows no --against");
    ensure!(
        options.setup.subject.shards <= SHARDS,
        "--shards {} is refused; allowed: {SHARDS}, which is what crossing takes",
        options.setup.subject.shards
    );
    let stage = setup.stage(launch, 1)?;
    cpu::pin(&stage.places.load)?;
    let mut settings = setup.settings();
    settings.insert("window".into(), options.window.into());
    settings.insert("batch".into(), BURST.into());
    // What the others are compared with is the dearer one, if it is dearer.
    let ways = [Way::Other, Way::Own, Way::Common, Way::Both];
    let mut samples: [Vec<Sample>; 4] = Default::default();
    for round in 0..setup.rounds {
        for turn in 0..ways.len() {
            let at = (round + turn) % ways.len();
            samples[at].push(ways[at].measure(options, &stage)?);
        }
    }
    let [_, _, common, both] = &mut samples;
    for (common, both) in common.iter_mut().zip(both) {
        let ratio = common.figures.by(&both.figures);
        let ratio = ratio.get("server_micros_per_message");
        common.figures.set_if("times_own_shards", ratio);
    }
    let sides = ways.iter().map(|way| way.name().to_owned()).zip(samples);
    Ok(Findings::of("crossing", settings, sides.collect()))
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Own => "own-shard",
            Self::Other => "other-shard",
            Self::Both => "own-shards",
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
            apart: None,
        };
        let mut sample = load::through(&peer, &plan, async || {
            let mut pushers = Vec::new();
            for address in self.addresses(&peer).await? {
                let audience = audience.clone();
                pushers.push(Generic::exchange(address, audience, BURST as usize).await?);
            }
            let pusher: Box<dyn Pusher> = Box::new(ByShard {
                pushers,
                names: audience.names.clone(),
            });
            Ok(pusher)
        })?;
        let crossings = sample.figures.get("crossings").unwrap_or(0.0);
        let messages = sample.figures.get("messages").unwrap_or(1.0);
        sample.figures.set("crossed_share", crossings / messages);
        sample.about = format!("{}, {}", peer.about(), self.name());
        Ok(sample)
    }

    /// The first half of those of both shards is the first shard's: so its messages fill batches, too.
    fn names(self, count: usize) -> Arc<[String]> {
        let of = |shard| move |name: &String| shard_of(name.as_bytes(), SHARDS) == shard;
        match self {
            Self::Own | Self::Other => (0..).map(user).filter(of(0)).take(count).collect(),
            Self::Common => (0..).map(user).take(count).collect(),
            Self::Both => {
                let first = (0..).map(user).filter(of(0)).take(count.div_ceil(2));
                let second = (0..).map(user).filter(of(1)).take(count / 2);
                first.chain(second).collect()
            }
        }
    }

    async fn addresses(self, peer: &Ringway) -> anyhow::Result<Vec<SocketAddr>> {
        let shards = match self {
            Self::Common => return Ok(vec![peer.grpc]),
            Self::Own => 0..1,
            Self::Other => 1..2,
            Self::Both => 0..2,
        };
        let call = Call::open(peer.grpc, names::DESCRIBE).await?;
        let _ = call.send(&v1::DescribeRequest {});
        let told: v1::DescribeResponse = call.close().await?;
        let addresses = told.shard_addresses.get(shards).context("no such shard")?;
        let addresses = addresses.iter().map(|address| {
            // A port alone means: at the host that was dialled.
            if let Ok(address) = address.parse() {
                return Ok(address);
            }
            let port = address.trim_start_matches(':').parse();
            let port = port.with_context(|| format!("{address:?} is no address"))?;
            Ok(SocketAddr::new(peer.grpc.ip(), port))
        });
        addresses.collect()
    }
}

/// A pusher for each shard; one that is alone gets everything.
struct ByShard {
    pushers: Vec<Generic>,
    names: Arc<[String]>,
}

impl Pusher for ByShard {
    fn push(&mut self, target: usize, payload: Vec<u8>) -> bool {
        let name = self.names[target].as_bytes();
        let shard = shard_of(name, self.pushers.len() as u32);
        self.pushers[shard as usize].push(target, payload)
    }

    fn flush(&mut self) -> LocalBoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async {
            for pusher in &mut self.pushers {
                pusher.flush().await?;
            }
            Ok(())
        })
    }

    fn finish(self: Box<Self>) -> LocalBoxFuture<'static, anyhow::Result<()>> {
        Box::pin(async {
            for pusher in self.pushers {
                Box::new(pusher).finish().await?;
            }
            Ok(())
        })
    }
}
