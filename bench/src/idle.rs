//! What connections cost that do nothing: memory of the process, before and after they have come.

use std::{thread, time::Duration};

use crate::{
    figures::{Figures, Findings, Sample},
    gateway::Launch,
    memory::Memory,
    peers::{Peer, Stage},
    setup::Setup,
    throng::{Muster, SOMEBODY, Throng},
    verify::Faults,
};

/// Time for what a process does after handshakes. Memory is looked at, not waited for.
const SETTLE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(120);

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What is measured
    #[command(flatten)]
    pub setup: Setup,
    /// Processes of clients; more are taken where descriptors do not suffice
    #[arg(long, default_value_t = 1)]
    pub load_processes: usize,
}

/// Runs the measurement. All memory that the process holds more with connections than without is theirs: sessions, tables,
/// buffers. The kernel's, for their sockets, is not in it.
///
/// # Errors
/// Options that cannot work, a peer that does not start, clients that cannot connect.
pub fn run(options: &Options, launch: &Launch) -> anyhow::Result<Findings> {
    let setup = &options.setup;
    setup.check()?;
    let stage = setup.stage(launch, 1)?;
    let place = stage.clone();
    setup.contest("idle", stage, setup.settings(), |peer| {
        measure(options, &place, peer)
    })
}

fn measure(options: &Options, stage: &Stage, peer: &mut dyn Peer) -> anyhow::Result<Sample> {
    let pids = peer.pids();
    let muster = Muster {
        door: peer.door(SOMEBODY),
        clients: options.setup.connections,
        processes: options.load_processes,
        payload: options.setup.payload,
        parallel: 256,
        answer: false,
        net: 1,
    };
    let mut throng = Throng::start(&stage.program, &stage.places.load, &muster)?;
    thread::park_timeout(SETTLE);
    let before = Memory::of(&pids)?;
    let took = throng.connect(PATIENCE)?;
    thread::park_timeout(SETTLE);
    let after = Memory::of(&pids)?;
    throng.leave()?;
    thread::park_timeout(SETTLE);
    let left = Memory::of(&pids)?;
    let connections = options.setup.connections as f64;
    let each = |after: u64, before: u64| (after as f64 - before as f64) / connections;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut figures = Figures::default();
    figures.set("bytes_per_connection", each(after.pss, before.pss));
    figures.set(
        "anonymous_bytes_per_connection",
        each(after.anonymous, before.anonymous),
    );
    figures.set("rss_mib", mib(after.rss));
    figures.set("rss_before_mib", mib(before.rss));
    figures.set("rss_after_all_left_mib", mib(left.rss));
    figures.set("connected_in_seconds", took.as_secs_f64());
    figures.set("load_processes", throng.processes() as f64);
    Ok(Sample {
        about: peer.about(),
        figures,
        faults: Faults::default(),
    })
}
