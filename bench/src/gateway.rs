//! A gateway of our own: this very program, started once more as a process that can be measured and killed.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use crate::{metrics::Metrics, process::Process};

/// What a gateway logs.
const LOG: &str = "RINGWAY_LOG";

/// How to start a gateway.
#[derive(Clone, Debug)]
pub struct Launch {
    /// `ringway`, or a program that takes the arguments of `ringway` behind `gateway`.
    pub program: PathBuf,
    /// What comes before them.
    pub first: Vec<String>,
    /// What is run: `serve` or `demo`.
    pub command: String,
    /// What comes behind the command and the addresses.
    pub arguments: Vec<String>,
    /// Its environment beyond ours.
    pub environment: Vec<(String, String)>,
    /// The CPUs it may use. Empty: all of ours.
    pub cpus: Vec<usize>,
    /// Where it listens: for clients, for services, for operators. By default on free ports of loopback.
    pub listen: [SocketAddr; 3],
}

/// A gateway that runs as a child process; it is killed when this is dropped.
pub struct Gateway {
    /// Where clients connect.
    pub ws: SocketAddr,
    /// Where logic services connect.
    pub grpc: SocketAddr,
    /// Where it tells how it is.
    pub admin: SocketAddr,
    /// How many shards it has.
    pub shards: u32,
    process: Process,
}

impl Launch {
    /// `program` is `ringway-bench`: its command `gateway` is the gateway it was built with.
    #[must_use]
    pub fn bench(program: PathBuf) -> Self {
        Self {
            program,
            first: vec!["gateway".into()],
            command: "serve".into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            cpus: Vec::new(),
            listen: [(Ipv4Addr::LOCALHOST, 0).into(); 3],
        }
    }

    /// `program` is `ringway`.
    #[must_use]
    pub fn ringway(program: PathBuf) -> Self {
        Self {
            first: Vec::new(),
            ..Self::bench(program)
        }
    }

    /// The demo.
    #[must_use]
    pub fn demo(mut self) -> Self {
        self.command = "demo".into();
        self
    }

    /// With these many shards.
    #[must_use]
    pub fn shards(self, shards: u32) -> Self {
        self.argument("--shards").argument(shards.to_string())
    }

    /// With one more argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With a setting, as `RINGWAY_…` of the environment.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    /// On these CPUs only.
    #[must_use]
    pub fn on(mut self, cpus: &[usize]) -> Self {
        self.cpus = cpus.to_vec();
        self
    }

    /// At ports that are free now and that the kernel gives to nobody who does not ask for them, so that whoever takes its
    /// place is found where it was: with room for `shards` ports behind the gRPC port.
    ///
    /// # Errors
    /// There are none.
    pub fn somewhere(mut self, shards: u32) -> anyhow::Result<Self> {
        let needed = shards as u16 + 3;
        let skip = std::process::id() as usize * 7 % 600;
        let free = |base: &u16| {
            (0..needed).all(|at| TcpListener::bind((Ipv4Addr::LOCALHOST, base + at)).is_ok())
        };
        let mut blocks = (20_000..30_000).step_by(16).cycle().skip(skip).take(600);
        let base = blocks.find(free).context("no free ports")?;
        self.listen = [0, 2, 1].map(|at| (Ipv4Addr::LOCALHOST, base + at).into());
        Ok(self)
    }

    /// Starts it, and waits until it is ready.
    ///
    /// # Errors
    /// The program cannot be started, or ends before it is ready.
    pub fn start(&self) -> anyhow::Result<Gateway> {
        let mut command = Command::new(&self.program);
        command.args(&self.first).arg(&self.command);
        for (flag, listen) in ["--ws", "--grpc", "--admin"].into_iter().zip(self.listen) {
            command.args([flag, &listen.to_string()]);
        }
        // Only what somebody should know; an environment that says otherwise wins.
        if std::env::var_os(LOG).is_none() {
            command.env(LOG, "warn");
        }
        command
            .args(&self.arguments)
            .envs(self.environment.iter().cloned());
        let mut process = Process::start(&mut command, &self.cpus)?;
        let ready = process.says("ringway ready ")?;
        Gateway::of(process, &ready)
    }
}

impl Gateway {
    fn of(process: Process, ready: &str) -> anyhow::Result<Self> {
        let field = |name: &str| {
            let mut fields = ready.split_whitespace();
            fields
                .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
                .with_context(|| format!("no {name} in {ready:?}"))
        };
        Ok(Self {
            ws: field("ws")?.parse()?,
            grpc: field("grpc")?.parse()?,
            admin: field("admin")?.parse()?,
            shards: field("shards")?.parse()?,
            process,
        })
    }

    /// What it says it is, see [`about`].
    #[must_use]
    pub fn about(&self) -> String {
        about(Some(self.admin))
    }

    /// The id of its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        Ok(kill_process(pid.context("no process")?, signal)?)
    }

    /// Waits for its end, for at most `patience`.
    ///
    /// # Errors
    /// It goes on.
    pub fn wait(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        self.process.wait(patience)
    }

    /// What it says at last, once it has drained: a number by that name.
    ///
    /// # Errors
    /// It ended otherwise.
    pub fn last_words(&mut self) -> anyhow::Result<BTreeMap<String, u64>> {
        let words = self.process.says("ringway ended ")?;
        let numbers = words.split(' ').map(|word| {
            let (name, number) = word.split_once('=').context("no number")?;
            Ok((name.to_owned(), number.parse()?))
        });
        numbers.collect()
    }
}

/// What the gateway with this admin port says it is: its version and driver.
#[must_use]
pub fn about(admin: Option<SocketAddr>) -> String {
    let metrics = admin.and_then(|admin| Metrics::read(admin).ok());
    let told = |label| metrics.as_ref()?.label("ringway_build_info", label);
    let driver = told("driver").unwrap_or_else(|| "not known".into());
    let version = told("version").unwrap_or_else(|| "not known".into());
    format!("ringway {version}, driver {driver}")
}
