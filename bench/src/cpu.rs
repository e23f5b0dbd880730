//! Where processes run, and for how long they did.

use std::{fs, sync::OnceLock, time::Duration};

use anyhow::Context;
use nix::{time::clock_getcpuclockid, unistd::Pid};
use rustix::{
    process::setpriority_process,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// The CPUs this thread may use, in order.
///
/// # Errors
/// What the kernel says.
pub fn allowed() -> anyhow::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|cpu| set.is_set(*cpu))
        .collect())
}

/// The CPUs this process had when it was started, in order, however threads were pinned since.
///
/// # Errors
/// What the kernel says.
pub fn all() -> anyhow::Result<Vec<usize>> {
    static ALL: OnceLock<Vec<usize>> = OnceLock::new();
    if let Some(all) = ALL.get() {
        return Ok(all.clone());
    }
    let now = allowed()?;
    Ok(ALL.get_or_init(|| now).clone())
}

/// Keeps this thread, and the threads and processes it starts from now on, on `cpus`.
///
/// # Errors
/// What the kernel says: a CPU that does not exist, or is not allowed.
pub fn pin(cpus: &[usize]) -> anyhow::Result<()> {
    // Whoever asks later must not be told of less.
    all()?;
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu);
    }
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on CPUs {cpus:?}"))
}

/// Who runs where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The CPUs of what is measured.
    pub server: Vec<usize>,
    /// The CPUs of the load.
    pub load: Vec<usize>,
}

impl Places {
    /// Shares the CPUs that this process may use: the last one is for the load, the others are for what is measured; a single one is
    /// for both.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn here() -> anyhow::Result<Self> {
        Self::with(1)
    }

    /// The same for a load of several processes: each has a CPU of its own as long as one is left for what is measured.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn with(loads: usize) -> anyhow::Result<Self> {
        Ok(Self::among(&all()?, loads))
    }

    fn among(cpus: &[usize], loads: usize) -> Self {
        let own = loads.max(1).min(cpus.len().saturating_sub(1));
        let (server, load) = cpus.split_at(cpus.len() - own);
        Self {
            server: server.to_vec(),
            load: if own == 0 { server } else { load }.to_vec(),
        }
    }
}

/// Who may run first where a CPU is shared. What else the machine does comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// Its own waiting is not what is measured.
    Measures,
    /// What is measured.
    Measured,
    /// What only makes load.
    Load,
}

/// Ranks this thread, and the threads and processes it starts from now on. Without the privilege nothing changes: then
/// the figures tell of other processes too.
pub fn rank(rank: Rank) {
    let nice = match rank {
        Rank::Measures => -15,
        Rank::Measured => -10,
        Rank::Load => -5,
    };
    let _ = setpriority_process(None, nice);
}

/// The load average of the last minute: who else was at work.
#[must_use]
pub fn load_average() -> f64 {
    let read = fs::read_to_string("/proc/loadavg").ok();
    read.and_then(|line| line.split(' ').next()?.parse().ok())
        .unwrap_or(f64::NAN)
}

/// User and system time of the calling thread.
#[must_use]
pub fn own_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// User and system time of process `pid` by its own clock, in nanoseconds exactly, threads that have ended included
/// (clock_getcpuclockid(3); `/proc/PID/stat` counts in ticks of 10 ms).
///
/// # Errors
/// The process is gone.
pub fn time(pid: u32) -> anyhow::Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid.try_into()?));
    let clock = clock.with_context(|| format!("no CPU clock of process {pid}"))?;
    Ok(clock.now()?.into())
}

/// CPU time of all of them, see [`time`].
///
/// # Errors
/// As there.
pub fn time_of(pids: &[u32]) -> anyhow::Result<Duration> {
    pids.iter().map(|pid| time(*pid)).sum()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn busy_threads_cost_time() {
        let before = time(std::process::id()).unwrap();
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        let spent = time(std::process::id()).unwrap() - before;
        // Others may have had the CPU for a part of it.
        assert!(spent > Duration::from_millis(5), "{spent:?}");
    }

    #[test]
    fn every_process_of_load_has_a_cpu_of_its_own_where_there_are_enough() {
        let among = |cpus: &[usize], loads| {
            let places = Places::among(cpus, loads);
            (places.server, places.load)
        };
        assert_eq!(among(&[3], 2), (vec![3], vec![3]));
        assert_eq!(among(&[0, 1], 1), (vec![0], vec![1]));
        assert_eq!(among(&[0, 1], 2), (vec![0], vec![1]));
        assert_eq!(among(&[0, 1, 2], 2), (vec![0], vec![1, 2]));
        assert_eq!(among(&[0, 1, 2, 3], 2), (vec![0, 1], vec![2, 3]));
    }

    #[test]
    fn threads_that_have_ended_have_cost_what_they_cost() {
        let before = time(std::process::id()).unwrap();
        let busy = std::thread::spawn(|| {
            let started = own_time();
            while own_time() - started < Duration::from_millis(20) {
                std::hint::spin_loop();
            }
        });
        busy.join().unwrap();
        let spent = time(std::process::id()).unwrap() - before;
        assert!(spent >= Duration::from_millis(20), "{spent:?}");
    }
}
