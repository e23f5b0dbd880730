//! A process that is measured: it runs on CPUs of its own, and is killed when it is dropped.

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::cpu;

/// How often somebody looks whether something has happened.
const GLANCE: Duration = Duration::from_millis(5);

/// A child process.
pub struct Process {
    child: Child,
    name: String,
    /// Kept open: whoever cannot print is not what is measured.
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts `command` on `cpus` (none: on all of ours), with nothing to read and its output to us.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command, cpus: &[usize]) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = spawn(command, cpus)?;
        let output = child.stdout.take().context("a child without output")?;
        Ok(Self {
            child,
            name,
            output: BufReader::new(output),
        })
    }

    /// Waits for the line of output that begins with `prefix`, and gives the rest of it.
    ///
    /// # Errors
    /// It ends before that.
    pub fn says(&mut self, prefix: &str) -> anyhow::Result<String> {
        let mut line = String::new();
        while self.output.read_line(&mut line)? > 0 {
            if let Some(rest) = line.strip_prefix(prefix) {
                return Ok(rest.trim().to_owned());
            }
            line.clear();
        }
        let status = self.child.wait()?;
        bail!("{} ended before it was ready: {status}", self.name);
    }

    /// Waits until it listens at `address`.
    ///
    /// # Errors
    /// It ends, or does not listen within `patience`.
    pub fn listens(&mut self, address: SocketAddr, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        while let Err(error) = TcpStream::connect(address) {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended before it was ready: {status}", self.name);
            }
            if Instant::now() > deadline {
                bail!(
                    "{} does not listen at {address} after {patience:?}: {error}",
                    self.name
                );
            }
            thread::park_timeout(GLANCE);
        }
        Ok(())
    }

    /// The id of the process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end, for at most `patience`.
    ///
    /// # Errors
    /// It goes on.
    pub fn wait(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} has not ended within {patience:?}", self.name);
            }
            thread::park_timeout(GLANCE);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `command` on `cpus`; none: on all of ours. A child inherits the CPUs of the thread that starts it.
///
/// # Errors
/// It cannot be started.
pub fn spawn(command: &mut Command, cpus: &[usize]) -> anyhow::Result<Child> {
    let name = command.get_program().to_string_lossy().into_owned();
    let ours = cpu::allowed()?;
    if !cpus.is_empty() {
        cpu::pin(cpus)?;
    }
    let child = command.spawn();
    if !cpus.is_empty() {
        cpu::pin(&ours)?;
    }
    child.with_context(|| format!("cannot start {name}"))
}
