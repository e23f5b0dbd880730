//! Witnesses: users whose messages are timed, from the push to the client that has received it, while something
//! happens to others.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures_util::stream::{FuturesUnordered, StreamExt};
use hdrhistogram::Histogram;
use logic_client::{LogicClient, Push};
use tokio::{sync::Notify, time::timeout_at};

use crate::{
    clients::{Clients, Event},
    cpu::{self, Rank},
    pace::pace,
    verify::{Checker, Faults, Issuer, Ledger},
};

/// How long the reading thread takes to notice that it is over.
const TURN: Duration = Duration::from_millis(20);
/// Whoever waits longer than this for the last messages has lost them.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest time that is told apart, in nanoseconds.
const LONGEST: u64 = 120_000_000_000;

/// The clients of the witnesses, on a thread of their own.
pub struct Witnesses {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Pushes to the witnesses, one after the other.
pub struct Sender {
    /// Who pushes.
    pub client: LogicClient,
    shared: Arc<Shared>,
    issuer: Issuer,
    /// Makes the push to a witness, still without payload.
    address: Box<dyn Fn(usize) -> Push>,
    users: usize,
    sent: u64,
}

/// What a window has shown.
#[derive(Clone, Debug)]
pub struct Window {
    /// In nanoseconds.
    pub latency: Histogram<u64>,
    /// Messages pushed within it. All have arrived.
    pub messages: u64,
    /// From the first push to the last one.
    pub pushing: Duration,
}

struct Shared {
    started: Instant,
    over: AtomicBool,
    delivered: AtomicU64,
    arrived: Notify,
    state: Mutex<State>,
}

struct State {
    latency: Histogram<u64>,
    checker: Checker,
    failed: Option<String>,
}

impl Witnesses {
    /// Has `clients` listen. Gives the sender that times what they receive; `address` makes a push to the client of
    /// an index, `payload` is the length of a message.
    ///
    /// # Errors
    /// No thread.
    pub fn start(
        clients: Clients,
        payload: usize,
        client: LogicClient,
        address: impl Fn(usize) -> Push + 'static,
    ) -> anyhow::Result<(Self, Sender)> {
        let users = clients.open();
        let (issuer, checker) = Ledger::new(users, payload).split();
        let shared = Arc::new(Shared {
            started: Instant::now(),
            over: AtomicBool::new(false),
            delivered: AtomicU64::new(0),
            arrived: Notify::new(),
            state: Mutex::new(State {
                latency: Histogram::new_with_bounds(1, LONGEST, 3)?,
                checker,
                failed: None,
            }),
        });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("witnesses".into());
        let thread = thread.spawn(move || theirs.listen(clients))?;
        let sender = Sender {
            client,
            shared: Arc::clone(&shared),
            issuer,
            address: Box::new(address),
            users,
            sent: 0,
        };
        let thread = Some(thread);
        Ok((Self { shared, thread }, sender))
    }

    /// What went wrong with what `sender` has pushed, when nothing more will come.
    #[must_use]
    pub fn faults(&self, sender: &Sender) -> Faults {
        self.shared.lock().checker.faults(&sender.issuer)
    }
}

impl Sender {
    /// One message to each witness: all paths are warm, and everybody is reached.
    ///
    /// # Errors
    /// As [`Sender::paced`].
    pub async fn warm_up(&mut self) -> anyhow::Result<()> {
        for _ in 0..self.users {
            self.push(Instant::now()).await?;
        }
        self.all_arrived().await
    }

    /// Pushes `rate` messages a second for `length`, see [`pace`]. With each burst `extra` may give a push that is not
    /// timed.
    ///
    /// # Errors
    /// The client is closed, a witness is closed, or messages do not arrive.
    pub async fn paced(
        &mut self,
        rate: f64,
        length: Duration,
        mut extra: impl FnMut() -> Option<Push>,
    ) -> anyhow::Result<Window> {
        let before = self.begin();
        let pushing = pace(rate, length, async |stamp, due| {
            for _ in 0..due {
                self.push(stamp).await?;
            }
            if let Some(push) = extra() {
                self.client.push(push).await?;
            }
            Ok(())
        });
        let pushing = pushing.await?;
        self.end(before, pushing).await
    }

    /// Pushes as fast as `in_flight` messages allow, for `length`.
    ///
    /// # Errors
    /// As [`Sender::paced`].
    pub async fn saturating(&mut self, in_flight: u64, length: Duration) -> anyhow::Result<Window> {
        let (began, before) = (Instant::now(), self.begin());
        while began.elapsed() < length {
            self.room(in_flight).await?;
            let now = Instant::now();
            for _ in 0..64 {
                self.push(now).await?;
            }
            tokio::task::yield_now().await;
        }
        self.end(before, began.elapsed()).await
    }

    /// As [`Sender::saturating`], with a receipt for each push.
    ///
    /// # Errors
    /// As there; a push that was not written once.
    pub async fn confirming(&mut self, in_flight: u64, length: Duration) -> anyhow::Result<Window> {
        let (began, before) = (Instant::now(), self.begin());
        let (client, mut receipts) = (self.client.clone(), FuturesUnordered::new());
        while began.elapsed() < length {
            let now = Instant::now();
            for _ in 0..64 {
                receipts.push(client.push_confirmed(self.next(now)));
            }
            while receipts.len() as u64 >= in_flight {
                let receipt = receipts.next().await.context("no receipt")??;
                if receipt.written != 1 {
                    bail!("a push was not written once: {receipt:?}");
                }
            }
        }
        let pushing = began.elapsed();
        while let Some(receipt) = receipts.next().await {
            receipt?;
        }
        self.end(before, pushing).await
    }

    /// The next push, not yet given to the client; `stamp` is when it was due.
    pub fn next(&mut self, stamp: Instant) -> Push {
        let user = (self.sent % self.users as u64) as usize;
        let stamp = stamp.duration_since(self.shared.started).as_nanos() as u64;
        self.sent += 1;
        (self.address)(user).binary(self.issuer.issue(user, stamp))
    }

    /// Waits until fewer than `in_flight` messages are on their way.
    ///
    /// # Errors
    /// As [`Sender::paced`].
    pub async fn room(&self, in_flight: u64) -> anyhow::Result<()> {
        self.arrived(|delivered| self.sent - delivered < in_flight)
            .await
    }

    /// A window begins. Gives the number of messages pushed before.
    pub fn begin(&mut self) -> u64 {
        self.shared.lock().latency.reset();
        self.sent
    }

    /// Waits for what is on its way, and says how it went since [`Sender::begin`], which gave `before`.
    ///
    /// # Errors
    /// As [`Sender::paced`].
    pub async fn end(&self, before: u64, pushing: Duration) -> anyhow::Result<Window> {
        self.all_arrived().await?;
        Ok(Window {
            latency: self.shared.lock().latency.clone(),
            messages: self.sent - before,
            pushing,
        })
    }

    async fn push(&mut self, stamp: Instant) -> anyhow::Result<()> {
        let push = self.next(stamp);
        Ok(self.client.push(push).await?)
    }

    async fn all_arrived(&self) -> anyhow::Result<()> {
        self.arrived(|delivered| delivered >= self.sent).await
    }

    async fn arrived(&self, enough: impl Fn(u64) -> bool) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let arrived = self.shared.arrived.notified();
            if enough(self.shared.delivered.load(Relaxed)) {
                return Ok(());
            }
            if let Some(failed) = &self.shared.lock().failed {
                bail!("{failed}");
            }
            timeout_at(deadline, arrived)
                .await
                .with_context(|| self.stuck())?;
        }
    }

    fn stuck(&self) -> String {
        let state = self.shared.lock();
        let (delivered, sent) = (state.checker.delivered(), self.sent);
        let faults = state.checker.faults(&self.issuer);
        format!("{delivered} of {sent} messages have arrived, and no more do: {faults:?}")
    }
}

impl Shared {
    fn listen(&self, mut clients: Clients) {
        cpu::rank(Rank::Measures);
        let mut batch = Vec::new();
        while !self.over.load(Relaxed) {
            let taken = clients.receive(TURN, |client, event| match event {
                Event::Message { text, payload } => {
                    let mut state = self.lock();
                    if let Some(sent) = state.checker.check(client, text, payload) {
                        batch.push(self.now().saturating_sub(sent));
                    }
                }
                Event::Closed { code, reason } => {
                    let how = format!("witness {client} was closed with {code:?} {reason:?}");
                    self.lock().failed.get_or_insert(how);
                    self.arrived.notify_one();
                }
            });
            if let Err(error) = taken {
                self.lock().failed.get_or_insert(error.to_string());
                self.arrived.notify_one();
                return;
            }
            if batch.is_empty() {
                continue;
            }
            let delivered = {
                let mut state = self.lock();
                for nanos in batch.drain(..) {
                    state.latency.saturating_record(nanos);
                }
                state.checker.delivered()
            };
            self.delivered.store(delivered, Relaxed);
            self.arrived.notify_one();
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Witnesses {
    fn drop(&mut self) {
        self.shared.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic.
            let _ = thread.join();
        }
    }
}
