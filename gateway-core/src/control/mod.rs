//! The control thread: health, readiness and metrics over HTTP. It reads what shards count and touches no data path.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::{net::TcpListener, sync::oneshot};

use crate::{config, metrics::Metrics};

mod admin;
mod listener;
mod report;
#[cfg(test)]
mod tests;
mod text;

/// The running control thread, named `control`. Dropping it ends the thread.
#[derive(Debug)]
pub struct Control {
    address: SocketAddr,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The gateway that is reported on: known once its shards run.
pub struct Subject {
    /// What each shard counts.
    pub metrics: Vec<Arc<Metrics>>,
    /// The clock of the shards: what their heartbeats are compared with.
    pub clock: Box<dyn Fn() -> Duration + Send + Sync>,
    /// The name of the gateway.
    pub id: String,
    /// This run of the process.
    pub epoch: u64,
    /// The version of the gateway.
    pub version: String,
    /// What moves the bytes.
    pub driver: String,
}

/// Where a gateway is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    Starting,
    Serving,
    Draining,
}

struct State {
    phase: AtomicU8,
    subject: OnceLock<Subject>,
    stalled_after: Duration,
}

impl Control {
    /// Binds the admin port and starts the thread. `/readyz` says no until [`serving`](Self::serving).
    ///
    /// # Errors
    /// The port cannot be had, or the thread or its runtime cannot be made.
    pub fn start(config: &config::Admin) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            phase: AtomicU8::new(Phase::Starting as u8),
            subject: OnceLock::new(),
            stalled_after: Duration::from_millis(config.stalled_after_ms),
        });
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let router = admin::router(Arc::clone(&state));
        let serve = async move {
            let serve = axum::serve(listener::Bounded::new(listener), router);
            tokio::select! {
                // It retries what fails; it does not end.
                _ = serve => {}
                _ = stopped => {}
            }
        };
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || runtime.block_on(serve))?;
        Ok(Self {
            address,
            state,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where the admin port is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The shards run: from now on the gateway is ready, and there is something to report. Once in a life.
    pub fn serving(&self, subject: Subject) {
        let first = self.state.subject.set(subject).is_ok();
        debug_assert!(first, "a control thread reports on one gateway");
        self.state.phase.store(Phase::Serving as u8, Relaxed);
    }

    /// The gateway goes away: it is not ready any more, and shards that stop ticking have ended.
    pub fn draining(&self) {
        self.state.phase.store(Phase::Draining as u8, Relaxed);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It fails only if the thread panicked, and then there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

impl State {
    fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Draining,
        }
    }

    /// The shards that do not tick, each with the time since its last tick.
    fn stalled(&self) -> Vec<(u16, Duration)> {
        let Some(subject) = self.subject.get() else {
            return Vec::new();
        };
        // While draining, shards end one by one, and the drain has a deadline of its own.
        if self.phase() != Phase::Serving {
            return Vec::new();
        }
        let ages = subject.metrics.iter().map(|m| (m.shard, subject.age(m)));
        ages.filter(|(_, age)| *age > self.stalled_after).collect()
    }
}

impl Subject {
    /// How long ago the shard ticked.
    fn age(&self, metrics: &Metrics) -> Duration {
        let heartbeat = Duration::from_nanos(metrics.heartbeat_nanos.get());
        (self.clock)().saturating_sub(heartbeat)
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("phase", &self.phase())
            .finish_non_exhaustive()
    }
}
