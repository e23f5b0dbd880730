//! The control thread: health, readiness, metrics, drains and single pushes over HTTP. It reads what shards count, tells them
//! to go away, pushes as any service does, and touches no data path.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task,
};

use crate::{config, metrics::Metrics};

mod admin;
mod drain;
mod life;
mod listener;
pub(crate) mod loopback;
mod profile;
pub(crate) mod push;
mod registration;
mod report;
mod shards;
#[cfg(test)]
mod tests;
mod text;

pub use drain::{Begun, Load, Plan, Progress};
use drain::{Start, Wish};
use life::{Course, Followers};
pub use life::{FAREWELL, Life};
pub use registration::Registrant;
pub use shards::{BusiestReport, Finding, PhaseReport, Scheduled, ShardReport, Shards, Spread};

/// The running control thread, named `control`. Dropping it ends the thread.
#[derive(Debug)]
pub struct Control {
    address: SocketAddr,
    state: Arc<State>,
    followers: Followers,
    /// Takes what must end first.
    stop: Option<oneshot::Sender<Vec<task::JoinHandle<()>>>>,
    thread: Option<JoinHandle<()>>,
}

/// The gateway that is reported on: known once its shards run.
pub struct Subject {
    /// What each shard counts.
    pub metrics: Vec<Arc<Metrics>>,
    /// The thread of each shard, as in `/proc/self/task`, and the CPU it is pinned to.
    pub threads: Vec<(i32, Option<usize>)>,
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
    /// At which pace it drains.
    pub drain_settings: config::Drain,
    /// Makes the shards drain, spread over that time.
    pub drain: Box<dyn Fn(Duration) + Send + Sync>,
    /// The gRPC port of each shard, in order: where pushes go.
    pub shard_grpc: Vec<SocketAddr>,
    /// Longest body of a push, in bytes.
    pub max_push_bytes: usize,
}

struct State {
    course: Course,
    subject: OnceLock<Subject>,
    start: OnceLock<Start>,
    /// Where pushes are taken, once the shards run.
    desk: OnceLock<push::Desk>,
    /// How the registration fares, if there is one.
    registration: OnceLock<Arc<registration::Health>>,
    observer: shards::Observer,
    profiler: profile::Profiler,
    stalled_after: Duration,
}

impl Control {
    /// Binds the admin port and starts the thread. `/readyz` says no until [`ready`](Self::ready).
    ///
    /// # Errors
    /// The port cannot be had, or the thread or its runtime cannot be made.
    pub fn start(config: &config::Admin) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let state = Arc::new(State {
            course: Course::start(),
            subject: OnceLock::new(),
            start: OnceLock::new(),
            desk: OnceLock::new(),
            registration: OnceLock::new(),
            observer: shards::Observer::default(),
            profiler: profile::Profiler::default(),
            stalled_after: Duration::from_millis(config.stalled_after_ms),
        });
        let mut followers = Followers::on(runtime.handle().clone());
        followers.spawn(shards::observe(Arc::clone(&state), state.course.follow()));
        let (stop, stopped) = oneshot::channel();
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
                followers = stopped => life::farewell(followers.unwrap_or_default()).await,
            }
        };
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || runtime.block_on(serve))?;
        Ok(Self {
            address,
            state,
            followers,
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
    pub fn ready(&self, subject: Subject) {
        let (shards, max_body) = (&subject.shard_grpc, subject.max_push_bytes);
        let desk = push::Desk::open(shards, max_body, self.followers.runtime());
        let first = self.state.desk.set(desk).is_ok() && self.state.subject.set(subject).is_ok();
        debug_assert!(first, "a control thread reports on one gateway");
        self.state.course.advance(Life::Ready);
    }

    /// Begins to drain at the pace of the settings: the gateway is not ready any more, and shards that stop ticking have
    /// ended. False: it drains already.
    pub fn drain(&self) -> bool {
        self.state.drain(Wish::default()).is_ok()
    }

    /// Where the gateway is in its life, now and whenever that changes.
    #[must_use]
    pub fn life(&self) -> watch::Receiver<Life> {
        self.state.course.follow()
    }

    /// Registers the gateway as soon as it is ready, and withdraws it when its life has ended. Once in a life. Whether
    /// that works changes nothing else, readiness included: who is connected stays, and who knows the gateway finds it.
    pub fn register(&mut self, registrant: Registrant) {
        let health = Arc::new(registration::Health::default());
        let first = self.state.registration.set(Arc::clone(&health)).is_ok();
        debug_assert!(first, "a gateway registers once");
        self.spawn(registrant.follow(self.life(), health));
    }

    /// Runs `task` on the control thread, beside the admin port. It must end soon after [`Life::Ended`]: the process
    /// waits for it, but no longer than [`FAREWELL`].
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.followers.spawn(task);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.state.course.advance(Life::Ended);
        let followers = self.followers.take();
        if let Some(stop) = self.stop.take() {
            // It fails only if the thread panicked.
            let _ = stop.send(followers);
        }
        if let Some(thread) = self.thread.take() {
            // It fails only if the thread panicked, and then there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

impl State {
    fn life(&self) -> Life {
        self.course.now()
    }

    /// The shards that do not tick, each with the time since its last tick.
    fn stalled(&self) -> Vec<(u16, Duration)> {
        let Some(subject) = self.subject.get() else {
            return Vec::new();
        };
        // While draining, shards end one by one, and the drain has a deadline of its own.
        if self.life() != Life::Ready {
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
            .field("life", &self.life())
            .finish_non_exhaustive()
    }
}
