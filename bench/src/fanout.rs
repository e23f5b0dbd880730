//! Messages for many users at once: `multicast` names them, `broadcast` is for everyone.

use std::time::Duration;

use anyhow::bail;

use crate::{
    figures::Findings,
    gateway::Launch,
    load::{self, Flow, Plan, Until},
    peers::Audience,
    setup::Setup,
};

/// What `multicast` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Multicast {
    /// What is measured
    #[command(flatten)]
    pub setup: Setup,
    /// Users that each message names
    #[arg(long, default_value_t = 100)]
    pub members: usize,
    /// Most deliveries in flight
    #[arg(long, default_value_t = 4096)]
    pub window: u64,
    /// Duration of each measurement
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
}

/// What `broadcast` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Broadcast {
    /// What is measured
    #[command(flatten)]
    pub setup: Setup,
    /// Most messages in flight: each is delivered to every connection
    #[arg(long, default_value_t = 2)]
    pub window: u64,
    /// Duration of each measurement
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
}

/// Runs `multicast`.
///
/// # Errors
/// Options that cannot work, a gateway that does not start, a client that is closed, messages that do not arrive.
pub fn multicast(options: &Multicast, launch: &Launch) -> anyhow::Result<Findings> {
    if options.members == 0 || options.members > options.setup.connections {
        bail!("needed: --members from 1 to the number of --connections");
    }
    run(
        "multicast",
        &options.setup,
        launch,
        options.members,
        options.window,
        options.seconds,
    )
}

/// Runs `broadcast`.
///
/// # Errors
/// As [`multicast`].
pub fn broadcast(options: &Broadcast, launch: &Launch) -> anyhow::Result<Findings> {
    let setup = &options.setup;
    let window = options.window * setup.connections as u64;
    run(
        "broadcast",
        setup,
        launch,
        setup.connections,
        window,
        options.seconds,
    )
}

fn run(
    scenario: &str,
    setup: &Setup,
    launch: &Launch,
    members: usize,
    window: u64,
    seconds: f64,
) -> anyhow::Result<Findings> {
    setup.check()?;
    let plan = Plan {
        audience: Audience::of(setup.connections, members),
        payload: setup.payload,
        flow: Flow::Window(window),
        until: Until::Time(Duration::from_secs_f64(seconds)),
    };
    let mut settings = setup.settings();
    settings.insert("members".into(), members.into());
    settings.insert("window".into(), window.into());
    let stage = setup.stage(launch, members)?;
    setup.contest(scenario, stage, settings, |peer| load::run(peer, &plan))
}
