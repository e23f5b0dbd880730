//! Where processes run, and for how long they did.

use std::{fs, time::Duration};

use anyhow::Context;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

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

/// Keeps this thread, and the threads and processes it starts from now on, on `cpus`.
///
/// # Errors
/// What the kernel says: a CPU that does not exist, or is not allowed.
pub fn pin(cpus: &[usize]) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu);
    }
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on CPUs {cpus:?}"))
}

/// User and system time of all threads that process `pid` has now, in nanoseconds exactly (`/proc/PID/stat` counts in
/// ticks of 10 ms).
///
/// # Errors
/// The process is gone, or the kernel was built without scheduler statistics.
pub fn time(pid: u32) -> anyhow::Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path().join("schedstat");
        let Ok(stat) = fs::read_to_string(&path) else {
            // The thread has ended meanwhile.
            continue;
        };
        let on_cpu = stat
            .split_ascii_whitespace()
            .next()
            .and_then(|n| n.parse::<u64>().ok());
        nanos += on_cpu.with_context(|| format!("{}: {stat:?}", path.display()))?;
    }
    Ok(Duration::from_nanos(nanos))
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
}
