//! The shards' threads: named, pinned, watched.

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Receiver, Sender, channel},
    thread::{Builder, JoinHandle},
};

use super::{BootError, Remote, ShardFailed, Thread};
use crate::{
    driver::{Driver, Seat, placement::pin},
    identity::ShardIndex,
};

/// All shards' threads.
pub(super) struct Threads {
    /// Who they are, in order.
    pub(super) threads: Vec<Thread>,
    handles: Vec<JoinHandle<()>>,
    ended: Receiver<(ShardIndex, End)>,
    remote: Remote,
}

/// How a shard ended: because it was asked to, or why else.
type End = Result<(), String>;

/// What a thread reports through.
#[derive(Clone)]
struct Reports {
    up: Sender<(ShardIndex, Thread)>,
    ended: Sender<(ShardIndex, End)>,
}

impl Threads {
    /// Starts a thread per seat and waits until all are up.
    ///
    /// # Errors
    /// One of them did not come up. The others are stopped.
    pub(super) fn start(
        driver: Driver,
        seats: Vec<Seat>,
        cores: &[Option<usize>],
        remote: Remote,
    ) -> Result<Self, BootError> {
        let (up_in, up) = channel();
        let (ended_in, ended) = channel();
        let reports = Reports {
            up: up_in,
            ended: ended_in,
        };
        let mut all = Self {
            threads: Vec::new(),
            handles: Vec::new(),
            ended,
            remote,
        };
        let started = all.start_each(driver, seats, cores, &reports);
        drop(reports);
        // Only the threads can report now: this ends when each has said that it is up, or is gone.
        for (shard, thread) in up {
            all.threads[usize::from(shard)] = thread;
        }
        match started.and_then(|()| all.all_are_up()) {
            Ok(()) => Ok(all),
            Err(error) => {
                all.remote.stop_now();
                // The first error counts.
                let _ = all.join();
                Err(error)
            }
        }
    }

    /// Waits for all to end. When one fails the others are stopped.
    ///
    /// # Errors
    /// The first that failed.
    pub(super) fn join(self) -> Result<(), ShardFailed> {
        let mut result = Ok(());
        for (shard, end) in self.ended {
            if let Err(reason) = end {
                tracing::error!(shard, reason, "a shard failed: the gateway stops");
                self.remote.stop_now();
                result = result.and(Err(ShardFailed { shard, reason }));
            }
        }
        for handle in self.handles {
            // A panic has been caught and reported.
            let _ = handle.join();
        }
        result
    }

    fn start_each(
        &mut self,
        driver: Driver,
        seats: Vec<Seat>,
        cores: &[Option<usize>],
        reports: &Reports,
    ) -> Result<(), BootError> {
        for (seat, core) in seats.into_iter().zip(cores) {
            let shard = seat.metrics.shard;
            let started = start(driver, seat, *core, reports.clone());
            let handle = started.map_err(|error| BootError::Kernel {
                what: "start a thread (shards.count)",
                shard: Some(shard),
                error,
            })?;
            self.handles.push(handle);
            self.threads.push(Thread { id: 0, core: *core });
        }
        Ok(())
    }

    /// To be asked when nobody will say any more that it is up.
    fn all_are_up(&self) -> Result<(), BootError> {
        let Some(shard) = self.threads.iter().position(|thread| thread.id == 0) else {
            return Ok(());
        };
        let reason = self
            .ended
            .recv()
            .map_or_else(|_| Err("it is gone".to_owned()), |(_, end)| end)
            .err();
        Err(BootError::Shard {
            shard: shard as ShardIndex,
            setting: "shards.driver",
            reason: reason.unwrap_or_else(|| "it ended".to_owned()),
        })
    }
}

fn start(
    driver: Driver,
    seat: Seat,
    core: Option<usize>,
    reports: Reports,
) -> io::Result<JoinHandle<()>> {
    let shard = seat.metrics.shard;
    let body = move || {
        let thread = Thread {
            id: rustix::thread::gettid().as_raw_nonzero().get(),
            core: core.filter(|core| pinned(shard, *core)),
        };
        let Reports { up, ended } = reports;
        // `up` goes with the closure, also when the driver fails before it calls it.
        let up = move || {
            let _ = up.send((shard, thread));
        };
        let end = catch_unwind(AssertUnwindSafe(|| driver.run(seat, up)));
        let end = match end {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(panic) => Err(message(&*panic)),
        };
        let _ = ended.send((shard, end));
    };
    Builder::new().name(format!("shard-{shard}")).spawn(body)
}

fn pinned(shard: ShardIndex, core: usize) -> bool {
    let pinned = pin(core);
    if !pinned {
        tracing::warn!(shard, core, "cannot be pinned to its core, runs anywhere");
    }
    pinned
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("without a message"))
}
