//! Flame graphs of one shard's thread: sampled by the kernel, named and drawn on a thread of their own.

mod flame;
mod sample;
#[cfg(test)]
mod tests;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release},
    },
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use crate::identity::ShardIndex;

/// Whether a profile is being taken: one at a time, in all of the process.
#[derive(Clone, Debug, Default)]
pub(super) struct Profiler(Arc<AtomicBool>);

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) shard: ShardIndex,
    pub(super) seconds: u64,
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProfileError {
    #[error(
        "another profile is being taken; try again when it is done, a minute from now at the latest"
    )]
    Busy,
    #[error(
        "this host does not let the gateway sample its threads (perf_event_open: {0}). Set kernel.perf_event_paranoid to 2 or \
         less, or give the process CAP_PERFMON; in a container its seccomp profile must allow perf_event_open"
    )]
    Refused(#[source] io::Error),
    #[error("no sample in {0} s: the shard's thread did nothing")]
    Nothing(u64),
    #[error("cannot draw the flame graph: {0}")]
    Drawing(#[source] io::Error),
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    #[error("the profile was broken off")]
    Broken,
}

/// Samples are taken this often in each second that the thread is on a CPU: an odd number, so that it keeps no step with
/// timers.
const FREQUENCY: u64 = 997;
/// The longest profile.
const MOST_SECONDS: u64 = 60;
/// What is taken when nobody says how long.
const USUAL_SECONDS: u64 = 5;

impl Wanted {
    /// What a query asks for, of a gateway with so many shards.
    ///
    /// # Errors
    /// What is wrong with it, and what is allowed.
    pub(super) fn read(query: &str, shards: usize) -> Result<Self, String> {
        let mut wanted = Self {
            shard: 0,
            seconds: USUAL_SECONDS,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let refused =
                |allowed: String| format!("{name} = {value} is refused; allowed: {allowed}");
            match name {
                "shard" => {
                    let shard = value.parse::<ShardIndex>().ok();
                    let shard = shard.filter(|at| usize::from(*at) < shards);
                    let last = shards.saturating_sub(1);
                    wanted.shard = shard.ok_or_else(|| refused(format!("0 to {last}")))?;
                }
                "seconds" => {
                    let seconds = value.parse::<u64>().ok();
                    let seconds = seconds.filter(|of| (1..=MOST_SECONDS).contains(of));
                    let allowed = format!("1 to {MOST_SECONDS}");
                    wanted.seconds = seconds.ok_or_else(|| refused(allowed))?;
                }
                _ => return Err(format!("there is no {name}; allowed: shard, seconds")),
            }
        }
        Ok(wanted)
    }
}

impl Profiler {
    /// Samples a thread of this process, and gives the flame graph as SVG.
    ///
    /// # Errors
    /// Somebody else's profile is being taken, the host forbids it, or the thread did nothing.
    pub(super) async fn profile(
        &self,
        wanted: Wanted,
        thread: i32,
    ) -> Result<Vec<u8>, ProfileError> {
        if self.0.swap(true, AcqRel) {
            return Err(ProfileError::Busy);
        }
        let busy = Busy(Arc::clone(&self.0));
        let (done, result) = oneshot::channel();
        // Not one of the runtime's threads: the process does not wait for it at its end.
        thread::Builder::new()
            .name("profile".into())
            .spawn(move || {
                let result = take(wanted, thread);
                drop(busy);
                // Nobody may wait for it any more.
                let _ = done.send(result);
            })
            .map_err(ProfileError::Thread)?;
        result.await.unwrap_or(Err(ProfileError::Broken))
    }
}

/// While it lives a profile is being taken.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Release);
    }
}

fn take(wanted: Wanted, thread: i32) -> Result<Vec<u8>, ProfileError> {
    let length = Duration::from_secs(wanted.seconds);
    let samples = sample::sample(thread, FREQUENCY, length).map_err(ProfileError::Refused)?;
    if samples.stacks.is_empty() {
        return Err(ProfileError::Nothing(wanted.seconds));
    }
    let title = format!(
        "shard {}: {} s at {FREQUENCY} Hz of time on a CPU",
        wanted.shard, wanted.seconds
    );
    flame::draw(&title, &samples).map_err(ProfileError::Drawing)
}
