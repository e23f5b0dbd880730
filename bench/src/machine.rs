//! Where a measurement ran: what somebody must know who compares figures.

use std::{fmt, fs, process::Command};

use serde::{Deserialize, Serialize};

use crate::cpu;

/// The machine and what was built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The model of its CPUs.
    pub cpu: String,
    /// How many of them this process may use.
    pub cpus: usize,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Name and release of the kernel.
    pub kernel: String,
    /// The commit of the working tree, with a mark if it was changed. `None`: not run in one.
    pub commit: Option<String>,
    /// Of `ringway-bench`.
    pub version: String,
    /// UTC, as RFC 3339.
    pub at: String,
    /// Over the last minute: who else was at work.
    pub load_average: f64,
}

impl Machine {
    /// This one, now. What cannot be found out is empty.
    #[must_use]
    pub fn here() -> Self {
        let uname = rustix::system::uname();
        let kernel = [uname.sysname(), uname.release(), uname.machine()];
        Self {
            cpu: line_of("/proc/cpuinfo", "model name").unwrap_or_default(),
            cpus: cpu::all().map_or(0, |cpus| cpus.len()),
            memory_mib: line_of("/proc/meminfo", "MemTotal")
                .and_then(|line| line.trim_end_matches(" kB").parse::<u64>().ok())
                .map_or(0, |kib| kib >> 10),
            kernel: kernel.map(|part| part.to_string_lossy()).join(" "),
            commit: said_by("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
            version: env!("CARGO_PKG_VERSION").into(),
            at: said_by("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]).unwrap_or_default(),
            load_average: cpu::load_average(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cpu,
            cpus,
            memory_mib,
            kernel,
            ..
        } = self;
        let gib = *memory_mib as f64 / 1024.0;
        write!(f, "{cpus} CPUs ({cpu}), {gib:.0} GiB, {kernel}")
    }
}

/// What stands behind `name :` in a file of `/proc`.
fn line_of(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn said_by(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let said = output.status.success() && !text.trim().is_empty();
    said.then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_a_kernel_cpus_and_memory() {
        let machine = Machine::here();
        assert!(machine.kernel.starts_with("Linux "), "{machine:?}");
        assert!(machine.cpus > 0 && machine.memory_mib > 0, "{machine:?}");
    }
}
