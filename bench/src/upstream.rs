//! Messages from clients to a logic service, as many as the gateway takes: a closed loop with a window of messages in flight.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::task::{LocalSet, spawn_local};

use crate::{
    clients::Clients,
    clock,
    figures::{Figures, Findings, Sample},
    gateway::Launch,
    load::{BURST, Crew, Usage},
    peers::{Audience, Peer},
    receive::{self, Intake, Place, Receiving, Task},
    report::Latency,
    setup::Setup,
    verify::{Faults, Issuer, Ledger},
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
    /// Most messages in flight
    #[arg(long, default_value_t = 4096)]
    pub window: u64,
    /// Duration of each measurement
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
}

/// Runs the measurement.
///
/// # Errors
/// Options that cannot work, a gateway that does not start, messages that do not arrive.
pub fn run(options: &Options, launch: &Launch) -> Result<Findings> {
    let setup = &options.setup;
    setup.check()?;
    ensure!(setup.against.is_empty(), "upstream knows no --against");
    let (stage, apart) = options.crew.stage(setup, launch, 1)?;
    let mut settings = options.crew.settings(setup);
    settings.insert("window".into(), options.window.into());
    setup.contest("upstream", stage, settings, |peer| {
        measure(options, apart.as_ref(), peer)
    })
}

fn measure(options: &Options, apart: Option<&Place>, peer: &dyn Peer) -> Result<Sample> {
    let setup = &options.setup;
    let users = Audience::of(setup.connections, 1);
    let clients = Clients::enter(users.names.iter().map(|name| peer.door(name)))?;
    let (issuer, checker) = Ledger::new(setup.connections, setup.payload).split();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (figures, faults) = LocalSet::new().block_on(&runtime, async {
        let grpc = peer.services().context("it takes no logic services")?;
        let (receiving, failed) = match apart {
            None => {
                let intake = Rc::new(Intake::new(checker)?);
                let service = receive::as_service(Rc::clone(&intake), grpc).await?;
                (Receiving::here(&intake), spawn_local(service))
            }
            Some(place) => {
                let task = Task::Service {
                    grpc,
                    users: setup.connections,
                    payload: setup.payload,
                };
                let (receiving, following) = Receiving::apart(place, &task).await?;
                (receiving, spawn_local(following))
            }
        };
        let mut speakers = Speakers {
            clients,
            issuer,
            receiving,
            users: setup.connections as u64,
            window: options.window.max(BURST),
            sent: 0,
        };
        receive::unless(failed, speakers.speak(options.seconds, apart, peer)).await
    })?;
    Ok(Sample {
        about: peer.about(),
        figures,
        faults,
    })
}

/// The clients, one after the other, and whoever takes their messages.
struct Speakers {
    clients: Clients,
    issuer: Issuer,
    receiving: Receiving,
    users: u64,
    window: u64,
    sent: u64,
}

impl Speakers {
    async fn speak(
        &mut self,
        seconds: f64,
        apart: Option<&Place>,
        peer: &dyn Peer,
    ) -> Result<(Figures, Faults)> {
        let everybody = self.users;
        self.say(|sent| sent >= everybody).await?;
        self.receiving.begin().await?;
        let before = Usage::now(peer, &self.receiving)?;
        let end = before.at() + Duration::from_secs_f64(seconds);
        self.say(|_| Instant::now() >= end).await?;
        let after = Usage::now(peer, &self.receiving)?;
        let taken = self.receiving.taken().await?;
        let mut figures = before.figures(&after, Duration::ZERO, apart);
        figures.set_latency(&Latency::of(&taken.nanos));
        Ok((figures, taken.faults(self.sent)))
    }

    /// Messages until it is `over`, and all of them have arrived.
    async fn say(&mut self, over: impl Fn(u64) -> bool) -> Result<()> {
        let mut payload = Vec::new();
        while !over(self.sent) {
            let needed = (self.sent + BURST).saturating_sub(self.window);
            self.receiving.until(needed, self.sent).await?;
            let now = clock::now();
            for _ in 0..BURST {
                let user = (self.sent % self.users) as usize;
                payload.clear();
                self.issuer.issue_into(user, now, &mut payload);
                self.clients.send(user, false, &payload)?;
                self.sent += 1;
            }
            tokio::task::yield_now().await;
        }
        self.receiving.until(self.sent, self.sent).await
    }
}
