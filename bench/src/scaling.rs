//! What a second shard brings: messages per second of CPU time, so that neither the load's share nor its CPU counts.

use std::time::Duration;

use anyhow::{bail, ensure};

use crate::{
    cpu,
    figures::{Findings, Sample},
    gateway::Launch,
    load::{self, Flow, Plan, Until},
    peers::{self, Audience, Kind, Stage},
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

/// Where shards run.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// As many as `--shards`, each on a CPU of its own, one of which is the load's, too.
    Spread,
    /// One, on the server's CPUs.
    One,
    /// As many as `--shards` on the server's CPUs.
    Packed,
}

/// Runs the measurement. `speedup` is what the shards would do on as many CPUs, by what a message costs them: shards × cost with one ÷
/// cost with all of them.
///
/// # Errors
/// Options that cannot work, a gateway that does not start, a client that is closed, messages that do not arrive.
pub fn run(options: &Options, launch: &Launch) -> anyhow::Result<Findings> {
    let mut setup = options.setup.clone();
    setup.subject.shards = setup.subject.shards.max(2);
    setup.check()?;
    ensure!(setup.against.is_empty(), "scaling knows no --against");
    if cpu::all()?.len() < 2 {
        bail!("needed: two CPUs");
    }
    let stage = setup.stage(launch, 1)?;
    cpu::pin(&stage.places.load)?;
    let mut settings = setup.settings();
    settings.insert("window".into(), options.window.into());
    let ways = [Way::One, Way::Spread, Way::Packed];
    let mut samples: [Vec<Sample>; 3] = Default::default();
    for round in 0..setup.rounds {
        for turn in 0..ways.len() {
            let at = (round + turn) % ways.len();
            samples[at].push(ways[at].measure(options, &stage)?);
        }
    }
    let [ones, several @ ..] = &mut samples;
    for ways in several {
        for (one, all) in ones.iter().zip(ways) {
            let ratio = one.figures.by(&all.figures);
            let ratio = ratio.get("server_micros_per_message");
            let speedup = ratio.map(|ratio| ratio * f64::from(setup.subject.shards));
            all.figures.set_if("speedup", speedup);
        }
    }
    let names = ["one shard", "several, a CPU each", "several, one CPU"];
    let sides = names.map(str::to_owned).into_iter().zip(samples);
    Ok(Findings::of("scaling", settings, sides.collect()))
}

impl Way {
    fn measure(self, options: &Options, stage: &Stage) -> anyhow::Result<Sample> {
        let mut stage = stage.clone();
        match self {
            Self::One => stage.shards = 1,
            Self::Packed => {}
            Self::Spread => stage.places.server = cpu::all()?,
        }
        let peer = peers::start(Kind::Ringway, &stage)?;
        let plan = Plan {
            audience: Audience::of(options.setup.connections, 1),
            payload: options.setup.payload,
            flow: Flow::Window(options.window),
            until: Until::Time(Duration::from_secs_f64(options.seconds)),
            apart: None,
        };
        load::run(peer.as_ref(), &plan)
    }
}
