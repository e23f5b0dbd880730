//! How long messages for single users take at a rate that does not depend on how the gateway is doing.

use std::time::Duration;

use anyhow::bail;

use crate::{
    figures::Findings,
    gateway::Launch,
    load::{self, Crew, Flow, Plan, Until},
    peers::Audience,
    setup::Setup,
};

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What is measured
    #[command(flatten)]
    pub setup: Setup,
    /// Who makes the load
    #[command(flatten)]
    pub crew: Crew,
    /// Messages a second
    #[arg(long, default_value_t = 20_000.0)]
    pub rate: f64,
    /// Duration of each measurement
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
}

/// Runs the measurement. Latency counts from when a message was due, so that whoever is late is late for all that waits
/// behind it. The load never sleeps; what counts as its use of its core is when it has something to do.
///
/// # Errors
/// Options that cannot work, a gateway that does not start, a client that is closed, messages that do not arrive.
pub fn run(options: &Options, launch: &Launch) -> anyhow::Result<Findings> {
    let setup = &options.setup;
    setup.check()?;
    if !(options.rate > 0.0 && options.rate.is_finite()) {
        bail!("needed: --rate above 0");
    }
    let (stage, apart) = options.crew.stage(setup, launch, 1)?;
    if apart.as_ref().is_some_and(|place| !place.own) {
        bail!(
            "--load-processes 2 is refused; allowed: 1, or three CPUs: what pushes never sleeps, and would be in the way of what receives"
        );
    }
    let plan = Plan {
        audience: Audience::of(setup.connections, 1),
        payload: setup.payload,
        flow: Flow::Rate(options.rate),
        until: Until::Time(Duration::from_secs_f64(options.seconds)),
        apart,
    };
    let mut settings = options.crew.settings(setup);
    settings.insert("rate".into(), options.rate.into());
    setup.contest("latency", stage, settings, |peer| load::run(peer, &plan))
}
