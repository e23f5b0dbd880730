//! Messages for many users at once: `multicast` names them, `broadcast` is for everyone.

use std::time::Duration;

use anyhow::bail;

use crate::{
    figures::Findings,
    gateway::Launch,
    load::{self, Crew, Flow, Plan, Until},
    peers::Audience,
    setup::Setup,
};

/// What `multicast` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Multicast {
    /// What is measured
    #[command(flatten)]
    pub setup: Setup,
    /// Who makes the load
    #[command(flatten)]
    pub crew: Crew,
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
    /// Who makes the load
    #[command(flatten)]
    pub crew: Crew,
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
    let connections = options.setup.connections;
    if options.members == 0 || options.members > connections {
        bail!("needed: --members from 1 to the number of --connections");
    }
    let audience = Audience::of(connections, options.members);
    let flow = Flow::Window(options.window);
    let plan = plan(audience, &options.setup, flow, options.seconds);
    run("multicast", &options.setup, options.crew, plan, launch)
}

/// Runs `broadcast`.
///
/// # Errors
/// As [`multicast`].
pub fn broadcast(options: &Broadcast, launch: &Launch) -> anyhow::Result<Findings> {
    let connections = options.setup.connections;
    let audience = Audience::of(connections, connections);
    let flow = Flow::Window(options.window * connections as u64);
    let plan = plan(audience, &options.setup, flow, options.seconds);
    run("broadcast", &options.setup, options.crew, plan, launch)
}

fn plan(audience: Audience, setup: &Setup, flow: Flow, seconds: f64) -> Plan {
    Plan {
        audience,
        payload: setup.payload,
        flow,
        until: Until::Time(Duration::from_secs_f64(seconds)),
        apart: None,
    }
}

fn run(
    scenario: &str,
    setup: &Setup,
    crew: Crew,
    plan: Plan,
    launch: &Launch,
) -> anyhow::Result<Findings> {
    setup.check()?;
    let (places, apart) = crew.places(&launch.program)?;
    let plan = Plan { apart, ..plan };
    let members = plan.audience.members;
    let mut settings = setup.settings();
    settings.insert("members".into(), members.into());
    if let Flow::Window(window) = plan.flow {
        settings.insert("window".into(), window.into());
    }
    settings.insert("load_processes".into(), crew.load_processes.into());
    let stage = setup.stage(launch, members)?.at(places);
    setup.contest(scenario, stage, settings, |peer| load::run(peer, &plan))
}
