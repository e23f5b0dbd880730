//! Messages for single users, as many as the gateway takes: a closed loop with a window of messages in flight.

use std::{net::SocketAddr, time::Duration};

use crate::{
    cpu,
    figures::Findings,
    gateway::Launch,
    load::{self, Crew, Flow, Plan, Until},
    peers::{Audience, ringway::Ringway},
    setup::Setup,
};

pub use crate::clients::user;

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What is measured
    #[command(flatten)]
    pub setup: Setup,
    /// Who makes the load
    #[command(flatten)]
    pub crew: Crew,
    /// Most messages in flight
    #[arg(long, default_value_t = 4096)]
    pub window: u64,
    /// Duration of each measurement
    #[arg(long, default_value_t = 5.0, conflicts_with = "messages")]
    pub seconds: f64,
    /// Measure this many messages instead
    #[arg(long)]
    pub messages: Option<u64>,
    /// Measure the gateway that runs already: its common gRPC address
    #[arg(long, value_name = "ADDR", requires = "ws", conflicts_with_all = ["ringway", "driver", "against"])]
    pub gateway: Option<SocketAddr>,
    /// Its WebSocket address
    #[arg(long, value_name = "ADDR", requires = "gateway")]
    pub ws: Option<SocketAddr>,
    /// Its admin address, for the messages per send
    #[arg(long, value_name = "ADDR", requires = "gateway")]
    pub admin: Option<SocketAddr>,
    /// Its process, for the CPU time
    #[arg(long, requires = "gateway")]
    pub pid: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            setup: Setup::default(),
            crew: Crew::default(),
            window: 4096,
            seconds: 5.0,
            messages: None,
            gateway: None,
            ws: None,
            admin: None,
            pid: None,
        }
    }
}

/// Runs the measurement, on a gateway that is started by `launch` unless the options name one.
///
/// # Errors
/// Options that cannot work, a gateway that does not start, a client that is closed, messages that do not arrive.
pub fn run(options: &Options, launch: &Launch) -> anyhow::Result<Findings> {
    let setup = &options.setup;
    setup.check()?;
    let (stage, apart) = options.crew.stage(setup, launch, 1)?;
    let plan = Plan {
        audience: Audience::of(setup.connections, 1),
        payload: setup.payload,
        flow: Flow::Window(options.window),
        until: match options.messages {
            Some(messages) => Until::Messages(messages),
            None => Until::Time(Duration::from_secs_f64(options.seconds)),
        },
        apart,
    };
    let mut settings = options.crew.settings(setup);
    settings.insert("window".into(), options.window.into());
    if let (Some(grpc), Some(ws)) = (options.gateway, options.ws) {
        let audience = plan.audience.clone();
        let peer = Ringway::running([ws, grpc], options.admin, options.pid, audience);
        cpu::pin(&stage.places.load)?;
        let samples = (0..setup.rounds).map(|_| load::run(&peer, &plan));
        let samples = samples.collect::<Result<_, _>>()?;
        let sides = vec![("ringway".into(), samples)];
        return Ok(Findings::of("unicast", settings, sides));
    }
    setup.contest("unicast", stage, settings, |peer| load::run(peer, &plan))
}
