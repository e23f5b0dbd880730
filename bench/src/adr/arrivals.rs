//! What the WebSocket clients have got, verified and timed on a thread of its own.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use tokio::{sync::Notify, time::timeout};

use crate::{
    clients::{Clients, Event},
    cpu::{self, Rank},
    verify::{Checker, Faults, Issuer},
};

/// How long the thread takes to notice that it is over.
const TURN: Duration = Duration::from_millis(20);
/// Whoever waits longer than this for a message has lost it.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest time that is told apart, in nanoseconds.
const LONGEST: u64 = 120_000_000_000;

/// The arrivals of all clients; the thread ends when the last of these is dropped.
#[derive(Clone)]
pub(super) struct Arrivals {
    shared: Arc<Shared>,
    _thread: Arc<Thread>,
}

struct Shared {
    started: Instant,
    over: AtomicBool,
    /// By client.
    arrived: Vec<Arrived>,
    delivered: AtomicU64,
    progress: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct Arrived {
    count: AtomicU64,
    progress: Notify,
}

struct State {
    latency: Histogram<u64>,
    checker: Checker,
    failed: Option<String>,
}

struct Thread {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
}

impl Arrivals {
    /// Has `clients` listen.
    pub(super) fn start(clients: Clients, checker: Checker) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            started: Instant::now(),
            over: AtomicBool::new(false),
            arrived: (0..clients.open()).map(|_| Arrived::default()).collect(),
            delivered: AtomicU64::new(0),
            progress: Notify::new(),
            state: Mutex::new(State {
                latency: Histogram::new_with_bounds(1, LONGEST, 3)?,
                checker,
                failed: None,
            }),
        });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("arrivals".into());
        let handle = Some(thread.spawn(move || theirs.listen(clients))?);
        let thread = Thread {
            shared: Arc::clone(&shared),
            handle,
        };
        Ok(Self {
            shared,
            _thread: Arc::new(thread),
        })
    }

    /// A measurement begins.
    pub(super) fn begin(&self) {
        self.shared.lock().latency.reset();
    }

    /// From the caller to the client, in nanoseconds.
    pub(super) fn latency(&self) -> Histogram<u64> {
        self.shared.lock().latency.clone()
    }

    /// The clock of the payloads.
    pub(super) fn now(&self) -> u64 {
        self.shared.now()
    }

    /// Good messages of all clients.
    pub(super) fn delivered(&self) -> u64 {
        self.shared.delivered.load(Relaxed)
    }

    /// Good messages of one client.
    pub(super) fn of(&self, client: usize) -> u64 {
        self.shared.arrived[client].count.load(Relaxed)
    }

    /// Waits until `client` has got so many.
    pub(super) async fn wait_for(&self, client: usize, count: u64) -> anyhow::Result<()> {
        let arrived = &self.shared.arrived[client];
        self.until(&arrived.progress, || arrived.count.load(Relaxed) >= count)
            .await
    }

    /// Waits until all clients together have got so many.
    pub(super) async fn all(&self, count: u64) -> anyhow::Result<()> {
        self.until(&self.shared.progress, || self.delivered() >= count)
            .await
    }

    /// What went wrong with what `issuer` has made, when nothing more will come.
    pub(super) fn faults(&self, issuer: &Issuer) -> Faults {
        self.shared.lock().checker.faults(issuer)
    }

    /// The patience begins anew with each arrival.
    async fn until(&self, progress: &Notify, enough: impl Fn() -> bool) -> anyhow::Result<()> {
        loop {
            let arrival = progress.notified();
            if enough() {
                return Ok(());
            }
            if let Some(failed) = &self.shared.lock().failed {
                bail!("{failed}");
            }
            let waited = timeout(PATIENCE, arrival).await;
            waited.with_context(|| {
                format!("{} messages have arrived, and no more do", self.delivered())
            })?;
        }
    }
}

impl Shared {
    fn listen(&self, mut clients: Clients) {
        cpu::rank(Rank::Measures);
        while !self.over.load(Relaxed) {
            let taken = clients.receive(TURN, |client, event| match event {
                Event::Message { text, payload } => self.take(client, text, payload),
                Event::Closed { code, reason } => {
                    self.fail(format!(
                        "client {client} was closed with {code:?} {reason:?}"
                    ));
                }
            });
            match taken {
                Ok(true) => self.progress.notify_one(),
                Ok(false) => {}
                Err(error) => return self.fail(error.to_string()),
            }
        }
    }

    fn take(&self, client: usize, text: bool, payload: &[u8]) {
        let delivered = {
            let mut state = self.lock();
            if let Some(sent) = state.checker.check(client, text, payload) {
                let nanos = self.now().saturating_sub(sent);
                state.latency.saturating_record(nanos);
                self.arrived[client].count.fetch_add(1, Relaxed);
            }
            state.checker.delivered()
        };
        self.delivered.store(delivered, Relaxed);
        self.arrived[client].progress.notify_one();
    }

    fn fail(&self, how: String) {
        self.lock().failed.get_or_insert(how);
        self.progress.notify_one();
        for arrived in &self.arrived {
            arrived.progress.notify_one();
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.shared.over.store(true, Relaxed);
        if let Some(handle) = self.handle.take() {
            // It does not panic.
            let _ = handle.join();
        }
    }
}
