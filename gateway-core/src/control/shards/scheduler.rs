//! What the kernel's scheduler says of threads: `/proc/PID/task/TID/schedstat`, `status` and `stat` (proc(5)).

use std::{collections::HashMap, fs, path::Path};

/// What a thread has had so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// Nanoseconds on a CPU.
    pub(super) running: u64,
    /// Nanoseconds ready to run, but not running.
    pub(super) waiting: u64,
    /// Times it was taken off its CPU although it wanted to go on.
    pub(super) preempted: u64,
}

/// The threads of this host (as far as this process sees them) that ran last on a CPU, and their nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Neighbours(HashMap<(i32, i32), u64>);

/// Processes looked at, at most: the look must not hold up the control thread.
const PROCESSES: usize = 4096;

/// The times of a thread of this process. `None`: it has ended, or the host does not tell.
pub(super) fn times(thread: i32) -> Option<Times> {
    let task = Path::new("/proc/self/task").join(thread.to_string());
    let (running, waiting) = schedstat(&task)?;
    let status = fs::read_to_string(task.join("status")).ok()?;
    let switches = status
        .lines()
        .find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
    Some(Times {
        running,
        waiting,
        preempted: switches?.trim().parse().ok()?,
    })
}

impl Neighbours {
    /// Those whose last CPU is `core`, but not the threads `own`.
    pub(super) fn of(core: usize, own: &[i32]) -> Self {
        let processes = numbers("/proc").take(PROCESSES);
        let threads = processes.flat_map(|process| {
            numbers(format!("/proc/{process}/task")).map(move |thread| (process, thread))
        });
        let beside = threads.filter(|(_, thread)| !own.contains(thread));
        let times = beside.filter_map(|(process, thread)| {
            let task = format!("/proc/{process}/task/{thread}");
            let task = Path::new(&task);
            (last_cpu(task)? == core).then_some(())?;
            Some(((process, thread), schedstat(task)?.0))
        });
        Self(times.collect())
    }

    /// Whoever ran most since `before`: its name and process.
    pub(super) fn busiest_since(&self, before: &Self) -> Option<String> {
        let since = |(id, time): (&(i32, i32), &u64)| {
            let before = before.0.get(id)?;
            Some((time.saturating_sub(*before), *id))
        };
        let (time, (process, thread)) = self.0.iter().filter_map(since).max()?;
        let name = fs::read_to_string(format!("/proc/{process}/task/{thread}/comm")).ok()?;
        (time > 0).then(|| format!("{} (pid {process})", name.trim_end()))
    }
}

/// Nanoseconds on a CPU, and waiting for one.
fn schedstat(task: &Path) -> Option<(u64, u64)> {
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    let mut figures = text.split_ascii_whitespace().map(str::parse);
    Some((figures.next()?.ok()?, figures.next()?.ok()?))
}

/// Field 39 of `stat`; the second may hold spaces, and ends with the last parenthesis.
fn last_cpu(task: &Path) -> Option<usize> {
    let text = fs::read_to_string(task.join("stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(39 - 3)?.parse().ok()
}

/// The entries of a folder that are numbers.
fn numbers(folder: impl AsRef<Path>) -> impl Iterator<Item = i32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_this_thread() {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        let before = times(thread).unwrap();
        let began = std::time::Instant::now();
        while began.elapsed().as_millis() < 20 {
            std::hint::spin_loop();
        }
        let after = times(thread).unwrap();
        let spent = after.running + after.waiting - before.running - before.waiting;
        assert!(spent > 5_000_000, "{before:?} {after:?}");
    }

    #[test]
    fn a_thread_that_has_ended_has_no_times() {
        assert_eq!(times(i32::MAX), None);
    }
}
