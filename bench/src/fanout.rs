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
    let task = Task {
        scenario: "multicast",
        members: options.members,
        window: options.window,
        seconds: options.seconds,
    };
    task.run(&options.setup, options.crew, launch)
}

/// Runs `broadcast`.
///
/// # Errors
/// As [`multicast`].
pub fn broadcast(options: &Broadcast, launch: &Launch) -> anyhow::Result<Findings> {
    let connections = options.setup.connections;
    let task = Task {
        scenario: "broadcast",
        members: connections,
        window: options.window * connections as u64,
        seconds: options.seconds,
    };
    task.run(&options.setup, options.crew, launch)
}

/// What both are.
struct Task {
    scenario: &'static str,
    members: usize,
    /// Deliveries.
    window: u64,
    seconds: f64,
}

impl Task {
    fn run(&self, setup: &Setup, crew: Crew, launch: &Launch) -> anyhow::Result<Findings> {
        setup.check()?;
        let (stage, apart) = crew.stage(setup, launch, self.members)?;
        let plan = Plan {
            audience: Audience::of(setup.connections, self.members),
            payload: setup.payload,
            flow: Flow::Window(self.window),
            until: Until::Time(Duration::from_secs_f64(self.seconds)),
            apart,
        };
        let mut settings = crew.settings(setup);
        settings.insert("members".into(), self.members.into());
        settings.insert("window".into(), self.window.into());
        setup.contest(self.scenario, stage, settings, |peer| {
            load::run(peer, &plan)
        })
    }
}
