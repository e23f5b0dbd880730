//! How fast connections are made, and what that costs.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    cpu::{self, Places},
    figures::{Figures, Findings, Sample},
    gateway::Launch,
    peers::{Peer, Stage},
    setup::Setup,
    throng::{Muster, SOMEBODY, Throng},
    verify::Faults,
};

/// The first batch is not measured: it fills what stays.
const WARM_UP: u8 = 1;
const PATIENCE: Duration = Duration::from_secs(60);
/// Time for a peer to notice that everybody has left.
const SETTLE: Duration = Duration::from_millis(300);

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What is measured
    #[command(flatten)]
    pub setup: Setup,
    /// Handshakes at a time
    #[arg(long, default_value_t = 256)]
    pub parallel: usize,
    /// How often all of them connect in a round
    #[arg(long, default_value_t = 2)]
    pub batches: u8,
    /// Processes of clients; more are taken where descriptors do not suffice
    #[arg(long, default_value_t = 1)]
    pub load_processes: usize,
}

/// Runs the measurement: all clients connect, and stay until the last one has. Then they are gone, unmeasured.
///
/// # Errors
/// Options that cannot work, a peer that does not start, clients that cannot connect.
pub fn run(options: &Options, launch: &Launch) -> anyhow::Result<Findings> {
    let setup = &options.setup;
    setup.check()?;
    let mut settings = setup.settings();
    settings.insert("parallel".into(), options.parallel.into());
    settings.insert("batches".into(), options.batches.into());
    settings.insert("load_processes".into(), options.load_processes.into());
    let places = Places::with(options.load_processes)?;
    let stage = setup.stage(launch, 1)?.at(places);
    let place = stage.clone();
    setup.contest("connect", stage, settings, |peer| {
        measure(options, &place, peer)
    })
}

fn measure(options: &Options, stage: &Stage, peer: &mut dyn Peer) -> anyhow::Result<Sample> {
    let pids = peer.pids();
    let muster = |net| Muster {
        door: peer.door(SOMEBODY),
        clients: options.setup.connections,
        processes: options.load_processes,
        payload: options.setup.payload,
        parallel: options.parallel,
        answer: false,
        net,
    };
    let (mut elapsed, mut server, mut load) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for batch in 0..WARM_UP + options.batches.max(1) {
        let muster = muster(1 + batch);
        let mut throng = Throng::start(&stage.program, &stage.places.load, &muster)?;
        throng.state()?;
        let (began, before, load_before) =
            (Instant::now(), cpu::time_of(&pids)?, throng.cpu_time()?);
        throng.connect(PATIENCE)?;
        if batch >= WARM_UP {
            elapsed += began.elapsed();
            server += cpu::time_of(&pids)? - before;
            load += throng.cpu_time()? - load_before;
        }
        throng.leave()?;
        thread::park_timeout(SETTLE);
    }
    let handshakes = options.setup.connections as f64 * f64::from(options.batches.max(1));
    let mut figures = Figures::default();
    let micros = server.as_secs_f64() * 1e6 / handshakes;
    figures.set("handshakes", handshakes);
    figures.set("handshakes_per_second", handshakes / elapsed.as_secs_f64());
    figures.set("server_micros_per_handshake", micros);
    figures.set("handshakes_per_core_second", 1e6 / micros);
    figures.set("server_cores", server.as_secs_f64() / elapsed.as_secs_f64());
    let cpus = stage.places.load.len();
    if cpus > 1 {
        figures.set("load_cpus", cpus as f64);
    }
    figures.set("load_cores", load.as_secs_f64() / elapsed.as_secs_f64());
    Ok(Sample {
        about: peer.about(),
        figures,
        faults: Faults::default(),
    })
}
