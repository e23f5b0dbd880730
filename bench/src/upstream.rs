//! Messages from clients to a logic service, as many as the gateway takes: a closed loop with a window of messages in flight.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;
use logic_client::{Event, Events, Kind, LogicClient};
use tokio::{sync::Notify, time::timeout};

use crate::{
    clients::Clients,
    clock, cpu,
    figures::{Figures, Findings, Sample},
    gateway::Launch,
    load::BURST,
    peers::Peer,
    report::Latency,
    setup::Setup,
    verify::{Checker, Issuer, Ledger, Wrong},
};

const PATIENCE: Duration = Duration::from_secs(10);
const LONGEST: u64 = 120_000_000_000;

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
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
}

/// Runs the measurement.
///
/// # Errors
/// Options that cannot work, a gateway that does not start, messages that do not arrive.
pub fn run(options: &Options, launch: &Launch) -> anyhow::Result<Findings> {
    let setup = &options.setup;
    setup.check()?;
    ensure!(setup.against.is_empty(), "upstream knows no --against");
    let mut settings = setup.settings();
    settings.insert("window".into(), options.window.into());
    let stage = setup.stage(launch, 1)?;
    setup.contest("upstream", stage, settings, |peer| measure(options, peer))
}

fn measure(options: &Options, peer: &mut dyn Peer) -> anyhow::Result<Sample> {
    let Setup {
        connections,
        payload,
        ..
    } = options.setup;
    let doors = crate::peers::Audience::of(connections, 1);
    let clients = Clients::enter(doors.names.iter().map(|name| peer.door(name)))?;
    let (issuer, checker) = Ledger::new(connections, payload).split();
    let mut speakers = Speakers {
        clients,
        issuer,
        sent: 0,
    };
    let service = Service {
        checker: RefCell::new(checker),
        latency: RefCell::new(Histogram::new_with_bounds(1, LONGEST, 3)?),
        received: Notify::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let grpc = peer.services().context("it takes no logic services")?;
    let figures = runtime.block_on(async {
        let builder = LogicClient::builder().gateway(grpc.to_string());
        let builder = builder.service("upstream").receive_messages(true);
        let client = builder.connect().await?;
        let events = client.events().context("events were taken")?;
        tokio::select! {
            figures = speakers.speak(options, peer, &service) => figures,
            failed = service.listen(events) => Err(failed),
        }
    })?;
    Ok(Sample {
        about: peer.about(),
        figures,
        faults: service.checker.borrow().faults(&speakers.issuer),
    })
}

/// The clients, one after the other.
struct Speakers {
    clients: Clients,
    issuer: Issuer,
    sent: u64,
}

/// What takes their messages.
struct Service {
    checker: RefCell<Checker>,
    latency: RefCell<Histogram<u64>>,
    received: Notify,
}

impl Speakers {
    async fn speak(
        &mut self,
        options: &Options,
        peer: &dyn Peer,
        service: &Service,
    ) -> anyhow::Result<Figures> {
        let everybody = options.setup.connections as u64;
        self.until(options, service, |sent| sent >= everybody)
            .await?;
        service.latency.borrow_mut().clear();
        let usage = || -> anyhow::Result<_> {
            let load = cpu::time(std::process::id())?;
            Ok((Instant::now(), cpu::time_of(&peer.pids())?, load))
        };
        let (began, server, load) = usage()?;
        let end = began + Duration::from_secs_f64(options.seconds);
        self.until(options, service, |_| Instant::now() >= end)
            .await?;
        let (ended, server_after, load_after) = usage()?;
        let seconds = (ended - began).as_secs_f64();
        let server = (server_after - server).as_secs_f64();
        let messages = (self.sent - everybody) as f64;
        let mut figures = Figures::default();
        figures.set("messages", messages);
        figures.set("seconds", seconds);
        figures.set("messages_per_second", messages / seconds);
        figures.set("server_micros_per_message", server * 1e6 / messages);
        figures.set("server_cores", server / seconds);
        figures.set("load_cores", (load_after - load).as_secs_f64() / seconds);
        figures.set_latency(&Latency::of(&service.latency.borrow()));
        Ok(figures)
    }

    /// Messages until it is `over`, and all of them have arrived.
    async fn until(
        &mut self,
        options: &Options,
        service: &Service,
        over: impl Fn(u64) -> bool,
    ) -> anyhow::Result<()> {
        let users = options.setup.connections as u64;
        let mut payload = Vec::new();
        while !over(self.sent) {
            service.until(self.sent + BURST, options.window).await?;
            let now = clock::now();
            for _ in 0..BURST {
                let user = (self.sent % users) as usize;
                payload.clear();
                self.issuer.issue_into(user, now, &mut payload);
                self.clients.send(user, false, &payload)?;
                self.sent += 1;
            }
            tokio::task::yield_now().await;
        }
        service.until(self.sent, 0).await
    }
}

impl Service {
    /// Waits until at most `window` of `sent` messages are on their way.
    async fn until(&self, sent: u64, window: u64) -> anyhow::Result<()> {
        let window = window.max(if window == 0 { 0 } else { BURST });
        loop {
            let received = self.checker.borrow().delivered();
            if received + window >= sent {
                return Ok(());
            }
            let more = timeout(PATIENCE, self.received.notified()).await;
            let stuck = || format!("{received} of {sent} messages have arrived, and no more do");
            more.map_err(|_| Wrong(stuck()))?;
        }
    }

    /// Takes what comes, until something fails.
    async fn listen(&self, mut events: Events) -> anyhow::Error {
        match self.listen_to(&mut events).await {
            Ok(()) => anyhow::anyhow!("the client is closed"),
            Err(error) => error,
        }
    }

    async fn listen_to(&self, events: &mut Events) -> anyhow::Result<()> {
        while let Some(event) = events.next().await {
            match event {
                Event::Message(message) => {
                    let user = message.user.as_deref();
                    let digits = user.and_then(|user| user.strip_prefix("user-"));
                    let user = digits.and_then(|digits| digits.parse().ok());
                    let text = message.kind == Kind::Text;
                    let mut checker = self.checker.borrow_mut();
                    let sent = checker.check(user.context("a stranger")?, text, &message.payload);
                    if let Some(sent) = sent {
                        let nanos = clock::now().saturating_sub(sent);
                        self.latency.borrow_mut().saturating_record(nanos);
                    }
                    self.received.notify_one();
                }
                Event::Closed(closed) => bail!("a client was closed: {closed:?}"),
                _ => {}
            }
        }
        Ok(())
    }
}
