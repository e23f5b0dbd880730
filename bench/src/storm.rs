//! A gateway that is killed and started again, and all its clients come back. Before and after, each of them is pushed to and
//! answers.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use logic_client::{Event, Events, Kind, LogicClient, Push};
use tokio::time::timeout;

use crate::{
    clients::user,
    clock, cpu,
    figures::{Figures, Findings, Sample},
    gateway::{Gateway, Launch},
    memory::Memory,
    peers::Door,
    setup::Setup,
    throng::{Muster, SOMEBODY, Throng},
    verify::{Faults, Ledger, Wrong},
};

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What is measured
    #[command(flatten)]
    pub setup: Setup,
    /// Handshakes at a time, of all clients together
    #[arg(long, default_value_t = 512)]
    pub parallel: usize,
    /// Processes of clients; more are taken where descriptors do not suffice
    #[arg(long, default_value_t = 1)]
    pub load_processes: usize,
    /// Seconds in which everybody must be back
    #[arg(long, default_value_t = 60.0)]
    pub patience: f64,
}

/// Pushes, or answers, on their way.
const WINDOW: usize = 4096;
/// Whoever waits longer than this for an answer has lost it.
const PATIENCE: Duration = Duration::from_secs(20);
const GLANCE: Duration = Duration::from_millis(5);

/// Runs the measurement.
///
/// # Errors
/// Options that cannot work, a gateway that does not start, clients that cannot connect, are refused for good or do not come
/// back, messages or answers that are lost.
pub fn run(options: &Options, launch: &Launch) -> anyhow::Result<Findings> {
    let setup = &options.setup;
    setup.check()?;
    ensure!(
        setup.against.is_empty(),
        "reconnect-storm knows no --against"
    );
    let mut settings = setup.settings();
    settings.insert("parallel".into(), options.parallel.into());
    let mut samples = Vec::new();
    for round in 0..setup.rounds {
        // Ports of the last one may still be taken.
        let net = 1 + (round % 100) as u8;
        samples.push(measure(options, launch, net)?);
    }
    let sides = vec![("ringway".into(), samples)];
    Ok(Findings::of("reconnect-storm", settings, sides))
}

fn measure(options: &Options, launch: &Launch, net: u8) -> anyhow::Result<Sample> {
    let setup = &options.setup;
    let stage = setup.stage(launch, 1)?;
    cpu::pin(&stage.places.load)?;
    let launch = stage.launch.clone().shards(stage.shards);
    let launch = launch.on(&stage.places.server).somewhere(stage.shards)?;
    let gateway = launch.start()?;
    let patience = Duration::from_secs_f64(options.patience);
    let muster = Muster {
        door: Door::of(SOMEBODY, gateway.ws),
        clients: setup.connections,
        processes: options.load_processes,
        payload: setup.payload,
        parallel: options.parallel,
        answer: true,
        net,
    };
    let mut throng = Throng::start(&stage.program, &stage.places.load, &muster)?;
    let connected = throng.connect(patience)?;
    let mut talk = Talk::new(setup)?;
    let first = talk.everybody(gateway.grpc)?;
    let memory = Memory::of(&[gateway.pid()])?;

    let before = throng.state()?;
    let began = Instant::now();
    drop(gateway);
    let gateway = again(&launch)?;
    let ready = began.elapsed();
    let lost = before.lost + setup.connections as u64;
    let back = throng.until_open(began, patience, lost)?;
    let second = talk.everybody(gateway.grpc)?;

    let state = throng.state()?;
    if state.received != 2 * setup.connections as u64 {
        let wrong = format!("not everybody has got both messages: {state:?}");
        return Err(Wrong(wrong).into());
    }
    let mut figures = Figures::default();
    figures.set("connections", setup.connections as f64);
    figures.set("connected_in_seconds", connected.as_secs_f64());
    figures.set("rss_mib", memory.rss as f64 / f64::from(1 << 20));
    figures.set("ready_again_after_seconds", ready.as_secs_f64());
    figures.set("all_back_after_seconds", back.as_secs_f64());
    figures.set("refused_for_good", state.refused as f64);
    figures.set(
        "attempts_to_come_back",
        (state.attempts - before.attempts) as f64,
    );
    figures.set("lost", state.lost as f64);
    figures.set("all_answered_in_seconds", first.as_secs_f64());
    figures.set("all_answered_again_in_seconds", second.as_secs_f64());
    figures.set("load_processes", throng.processes() as f64);
    Ok(Sample {
        about: format!("ringway, {} shards", gateway.shards),
        figures,
        faults: [state.faults, talk.faults()].into_iter().sum(),
    })
}

/// At the addresses it had. Its sockets may take a moment to be free.
fn again(launch: &Launch) -> anyhow::Result<Gateway> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match launch.start() {
            Ok(gateway) => return Ok(gateway),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => thread::park_timeout(GLANCE),
        }
    }
}

/// Pushes to everybody, and checks what they send back.
struct Talk {
    names: Vec<String>,
    pushed: Ledger,
    /// The same payloads, as they come back.
    answered: Ledger,
    runtime: tokio::runtime::Runtime,
}

impl Talk {
    fn new(setup: &Setup) -> anyhow::Result<Self> {
        let ledger = || Ledger::new(setup.connections, setup.payload);
        Ok(Self {
            names: (0..setup.connections).map(user).collect(),
            pushed: ledger(),
            answered: ledger(),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
        })
    }

    /// One message to each, and one back. Says how long that took.
    fn everybody(&mut self, grpc: SocketAddr) -> anyhow::Result<Duration> {
        let (names, pushed, answered) = (&self.names, &mut self.pushed, &mut self.answered);
        self.runtime.block_on(async {
            let builder = LogicClient::builder().gateway(grpc.to_string());
            let builder = builder.service("storm").receive_messages(true);
            let client = builder.connect().await?;
            let mut events = client.events().context("events were taken")?;
            let began = Instant::now();
            let mut open = 0;
            for (at, name) in names.iter().enumerate() {
                let payload = pushed.issue(at, clock::now());
                // The other ledger counts what is sent, too.
                answered.issue(at, 0);
                client.push(Push::user(name).binary(payload)).await?;
                open += 1;
                while open >= WINDOW {
                    open -= usize::from(answer(&mut events, answered).await?);
                }
            }
            while open > 0 {
                open -= usize::from(answer(&mut events, answered).await?);
            }
            let took = began.elapsed();
            client.close(PATIENCE).await;
            Ok(took)
        })
    }

    /// Of answers.
    fn faults(&self) -> Faults {
        self.answered.faults()
    }
}

/// Takes the next event. Says whether it was an answer.
async fn answer(events: &mut Events, answered: &mut Ledger) -> anyhow::Result<bool> {
    let event = timeout(PATIENCE, events.next()).await;
    let wrong = |what: &str| Wrong(format!("{what}: {:?}", answered.faults()));
    let event = event.map_err(|_| wrong("no more answers come"))?;
    match event.context("the client is closed")? {
        Event::Message(message) => {
            let who = message
                .user
                .as_deref()
                .and_then(|user| user.strip_prefix("user-"));
            let who = who.and_then(|digits| digits.parse().ok());
            let text = message.kind == Kind::Text;
            if answered
                .check(who.context("a stranger")?, text, &message.payload)
                .is_none()
            {
                return Err(Wrong(format!("a wrong answer: {:?}", answered.faults())).into());
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}
