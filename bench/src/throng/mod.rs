//! More WebSocket clients than one process may have descriptors: several processes, each with a source address of its own
//! (loopback has 16 million), whose clients come back when they are thrown out.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    slice, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use crate::{clients::OTHER_DESCRIPTORS, cpu, peers::Door, process, verify::Faults};

mod member;
mod work;

pub use work::run;

/// Stands for the name of a user in the target of a [`Door`].
pub const SOMEBODY: &str = "{user}";
/// Most clients of one process.
const MOST: usize = 16_000;
/// Most clients that come from one address. Ports for one destination are 28,232 by default, and an even and an odd half of that
/// are searched one after the other.
const CLIENTS_OF_AN_ADDRESS: usize = 2_000;
/// How often processes are asked how far they are.
const GLANCE: Duration = Duration::from_millis(3);

/// What a process is told at its start.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where clients connect
    #[arg(long)]
    pub address: SocketAddr,
    /// Path and query of their handshakes, with `{user}` for the name
    #[arg(long)]
    pub target: String,
    /// Where the first of them come from; further ones come from the addresses after that
    #[arg(long)]
    pub source: Ipv4Addr,
    /// The index of the first user
    #[arg(long)]
    pub first: usize,
    /// How many users
    #[arg(long)]
    pub count: usize,
    /// Bytes of a message
    #[arg(long)]
    pub payload: usize,
    /// Handshakes at a time
    #[arg(long)]
    pub parallel: usize,
    /// Send back what comes
    #[arg(long)]
    pub answer: bool,
}

/// What a process is told later: a word on a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Connect everybody, and stay connected.
    Connect,
    /// Say how things are.
    Tell,
    /// Disconnect everybody, by reset: no port stays taken.
    Leave,
}

/// How things are with the clients of a process, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Clients that are connected now.
    pub open: u64,
    /// Handshakes begun so far.
    pub attempts: u64,
    /// Connections lost so far.
    pub lost: u64,
    /// Clients that were told not to come again.
    pub refused: u64,
    /// Good messages that have come.
    pub received: u64,
    /// What went wrong with messages, but for those that have not come.
    pub faults: Faults,
}

/// The processes; they end when this is dropped.
pub struct Throng {
    companies: Vec<Company>,
    clients: u64,
}

struct Company {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What a throng is made of.
#[derive(Clone, Debug)]
pub struct Muster {
    /// Where clients connect: that of the user [`SOMEBODY`].
    pub door: Door,
    /// How many, with a user each.
    pub clients: usize,
    /// Processes at least; more are taken where descriptors do not suffice.
    pub processes: usize,
    /// Bytes of a message.
    pub payload: usize,
    /// Handshakes at a time, in all.
    pub parallel: usize,
    /// Whether they send back what comes.
    pub answer: bool,
    /// The first source address is 127.`net`.0.1: another one where ports of the last one may still be taken.
    pub net: u8,
}

impl Throng {
    /// Starts the processes on `cpus`, by turns; `program` is `ringway-bench`. Nobody connects yet.
    ///
    /// # Errors
    /// They cannot be started.
    pub fn start(program: &Path, cpus: &[usize], muster: &Muster) -> anyhow::Result<Self> {
        let allowed = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let most = (allowed.saturating_sub(OTHER_DESCRIPTORS) as usize).min(MOST);
        ensure!(
            most > 0,
            "a process may have {allowed} descriptors only: raise ulimit -Hn"
        );
        ensure!(
            muster.door.greeting.is_empty(),
            "crowds say nothing after the handshake, and this peer's clients must"
        );
        let needed = muster.clients.div_ceil(most).max(muster.processes).max(1);
        let share = muster.clients.div_ceil(needed);
        let mut companies = Vec::new();
        for at in 0..needed {
            let first = at * share;
            let options = Options {
                address: muster.door.address,
                target: muster.door.target.clone(),
                source: Ipv4Addr::new(127, muster.net, at as u8, 1),
                first,
                count: share.min(muster.clients - first.min(muster.clients)),
                payload: muster.payload,
                parallel: muster.parallel.div_ceil(needed),
                answer: muster.answer,
            };
            let cpu = cpus.get(at % cpus.len().max(1));
            companies.push(Company::start(
                program,
                cpu.map_or(&[], slice::from_ref),
                &options,
            )?);
        }
        Ok(Self {
            companies,
            clients: muster.clients as u64,
        })
    }

    /// How many processes there are.
    #[must_use]
    pub fn processes(&self) -> usize {
        self.companies.len()
    }

    /// Their CPU time.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        let pids: Vec<_> = self
            .companies
            .iter()
            .map(|company| company.child.id())
            .collect();
        cpu::time_of(&pids)
    }

    /// Has everybody connect, and says how long that took.
    ///
    /// # Errors
    /// They are not all connected within `patience`, or some are told not to come again.
    pub fn connect(&mut self, patience: Duration) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.order(Order::Connect)?;
        self.until_open(began, patience, 0)
    }

    /// Waits until everybody is connected, after so many connections were `lost` since the processes were started. Says how
    /// long that is after `began`.
    ///
    /// # Errors
    /// As [`Throng::connect`].
    pub fn until_open(
        &mut self,
        began: Instant,
        patience: Duration,
        lost: u64,
    ) -> anyhow::Result<Duration> {
        loop {
            let state = self.state()?;
            let elapsed = began.elapsed();
            if state.open == self.clients && state.lost >= lost {
                return Ok(elapsed);
            }
            let open = state.open;
            ensure!(state.refused == 0, "told not to come again: {state:?}");
            if elapsed > patience {
                bail!(
                    "{open} of {} are connected after {patience:?}: {state:?}",
                    self.clients
                );
            }
            thread::park_timeout(GLANCE);
        }
    }

    /// Has everybody leave, by reset.
    ///
    /// # Errors
    /// A process is gone.
    pub fn leave(&mut self) -> anyhow::Result<()> {
        self.order(Order::Leave)?;
        self.state().map(drop)
    }

    /// How things are now.
    ///
    /// # Errors
    /// A process is gone.
    pub fn state(&mut self) -> anyhow::Result<State> {
        self.order(Order::Tell)?;
        let states = self.companies.iter_mut().map(Company::answer);
        states.sum()
    }

    fn order(&mut self, order: Order) -> anyhow::Result<()> {
        for company in &mut self.companies {
            let told = writeln!(company.orders, "{}", order.word());
            told.context("a process of clients is gone")?;
        }
        Ok(())
    }
}

impl Company {
    fn start(program: &Path, cpus: &[usize], options: &Options) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.arg("throng");
        for (name, value) in [
            ("--address", options.address.to_string()),
            ("--target", options.target.clone()),
            ("--source", options.source.to_string()),
            ("--first", options.first.to_string()),
            ("--count", options.count.to_string()),
            ("--payload", options.payload.to_string()),
            ("--parallel", options.parallel.to_string()),
        ] {
            command.args([name, &value]);
        }
        if options.answer {
            command.arg("--answer");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = process::spawn(&mut command, cpus)?;
        let orders = child.stdin.take().context("no input")?;
        let answers = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self {
            child,
            orders,
            answers,
        })
    }

    fn answer(&mut self) -> anyhow::Result<State> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let state = serde_json::from_str(&line);
        state.with_context(|| format!("a process of clients answers {line:?}"))
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl std::iter::Sum for State {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, state| Self {
            open: sum.open + state.open,
            attempts: sum.attempts + state.attempts,
            lost: sum.lost + state.lost,
            refused: sum.refused + state.refused,
            received: sum.received + state.received,
            faults: [sum.faults, state.faults].into_iter().sum(),
        })
    }
}

impl Order {
    const ALL: [Self; 3] = [Self::Connect, Self::Tell, Self::Leave];

    fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tell => "tell",
            Self::Leave => "leave",
        }
    }

    fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|order| order.word() == word)
    }
}
