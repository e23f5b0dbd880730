//! Messages through a peer to its clients, by one thread that pushes and receives: in a closed loop with a window of
//! messages in flight, or at a rate that does not depend on how the peer is doing.

use std::{
    cell::RefCell,
    convert::Infallible,
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::bail;
use hdrhistogram::Histogram;
use tokio::{
    io::unix::AsyncFd,
    sync::Notify,
    time::{timeout, timeout_at},
};

use crate::{
    clients::{Clients, Event},
    clock, cpu,
    figures::{Figures, Sample},
    peers::{Audience, Counters, Opener, Peer, Pusher},
    report::Latency,
    verify::{Ledger, Wrong},
};

/// Whoever waits longer than this for the peer has lost a message.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages that are pushed together, where the window has room.
pub const BURST: u64 = 64;
/// Unmeasured time at a rate.
const SETTLE: Duration = Duration::from_millis(300);
const LONGEST: u64 = 120_000_000_000;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// WebSocket clients, and whom of them messages are for.
    pub audience: Audience,
    /// Bytes of a message.
    pub payload: usize,
    /// When messages are pushed.
    pub flow: Flow,
    /// When it ends.
    pub until: Until,
}

/// When messages are pushed.
#[derive(Clone, Copy, Debug)]
pub enum Flow {
    /// So many deliveries in flight at most, but always a message.
    Window(u64),
    /// So many messages a second. Latency counts from when a message was due.
    Rate(f64),
}

/// When a measurement ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After this time.
    Time(Duration),
    /// After so many messages.
    Messages(u64),
}

/// What the pushing and the receiving side share; both run on one thread.
struct Run {
    ledger: RefCell<Ledger>,
    latency: RefCell<Histogram<u64>>,
    received: Notify,
}

/// Whose connection is over, and the code and reason of the Close.
type Closed = (usize, Option<u16>, String);

/// What has been used up so far.
struct Usage {
    at: Instant,
    server: Option<Duration>,
    load: Duration,
    counters: Counters,
    delivered: u64,
}

/// Pushes through `peer`, as its own pusher does.
///
/// # Errors
/// A client that is closed, messages that do not arrive, a peer that refuses some.
pub fn run(peer: &dyn Peer, plan: &Plan) -> anyhow::Result<Sample> {
    through(peer, plan, async || peer.pusher().await)
}

/// Pushes through `peer` by what `pusher` makes.
///
/// # Errors
/// As [`run`].
pub fn through(
    peer: &dyn Peer,
    plan: &Plan,
    pusher: impl AsyncFnOnce() -> anyhow::Result<Box<dyn Pusher>>,
) -> anyhow::Result<Sample> {
    let Audience { names, members } = &plan.audience;
    let doors = names.iter().map(|name| peer.door(name));
    let clients = Clients::enter(doors)?;
    let run = Rc::new(Run {
        ledger: RefCell::new(Ledger::grouped(names.len(), *members, plan.payload)),
        latency: RefCell::new(Histogram::new_with_bounds(1, LONGEST, 3)?),
        received: Notify::new(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    let receiving = local.spawn_local(receive(Rc::clone(&run), clients, peer.opener()));
    let measured = local.run_until(async {
        let pusher = pusher().await?;
        run.measure(peer, plan, pusher).await
    });
    let figures = runtime.block_on(async {
        tokio::select! {
            measured = measured => measured,
            failed = receiving => Err(failed?),
        }
    })?;
    Ok(Sample {
        about: peer.about(),
        figures,
        faults: run.ledger.borrow().faults(),
    })
}

impl Run {
    async fn measure(
        &self,
        peer: &dyn Peer,
        plan: &Plan,
        pusher: Box<dyn Pusher>,
    ) -> anyhow::Result<Figures> {
        let mut hand = Hand::new(self, peer, plan, pusher);
        hand.warm_up().await?;
        self.latency.borrow_mut().clear();
        let before = self.usage(peer)?;
        match plan.flow {
            Flow::Window(_) => hand.in_window(before.at, plan.until).await?,
            Flow::Rate(rate) => hand.at_rate(rate, plan.until).await?,
        }
        let pushing = before.at.elapsed();
        hand.all_arrived().await?;
        let after = self.usage(peer)?;
        hand.pusher.finish().await?;
        let mut figures = before.figures(&after, pushing);
        let load = (after.load - before.load).as_secs_f64() / (after.at - before.at).as_secs_f64();
        let load_name = match plan.flow {
            Flow::Window(_) => "load_cores",
            // It never sleeps: what it uses says nothing.
            Flow::Rate(_) => "spinning_load_cores",
        };
        figures.set(load_name, load);
        figures.set_latency(&Latency::of(&self.latency.borrow()));
        Ok(figures)
    }

    fn usage(&self, peer: &dyn Peer) -> anyhow::Result<Usage> {
        let pids = peer.pids();
        Ok(Usage {
            at: Instant::now(),
            server: (!pids.is_empty())
                .then(|| cpu::time_of(&pids))
                .transpose()?,
            load: cpu::time(std::process::id())?,
            counters: peer.counters()?,
            delivered: self.delivered(),
        })
    }

    fn delivered(&self) -> u64 {
        self.ledger.borrow().delivered()
    }

    /// Takes what has arrived. Says whether there was anything, and who was closed.
    fn take(
        &self,
        clients: &mut Clients,
        opener: &mut Opener,
    ) -> io::Result<(bool, Option<Closed>)> {
        let (now, mut closed) = (clock::now(), None);
        let (mut ledger, mut latency) = (self.ledger.borrow_mut(), self.latency.borrow_mut());
        let came = clients.receive(Duration::ZERO, |client, event| match event {
            Event::Message { text, payload } => {
                opener(client, text, payload, &mut |text, message| {
                    if let Some(sent) = ledger.check(client, text, message) {
                        latency.saturating_record(now.saturating_sub(sent));
                    }
                });
            }
            Event::Closed { code, reason } => closed = Some((client, code, reason.to_owned())),
        })?;
        Ok((came, closed))
    }
}

/// Whoever pushes.
struct Hand<'a> {
    run: &'a Run,
    pusher: Box<dyn Pusher>,
    targets: u64,
    members: u64,
    users: u64,
    in_a_row: u64,
    window: u64,
    /// Messages pushed.
    pushed: u64,
    /// The deliveries they make.
    awaited: u64,
}

impl<'a> Hand<'a> {
    fn new(run: &'a Run, peer: &dyn Peer, plan: &Plan, pusher: Box<dyn Pusher>) -> Self {
        let window = match plan.flow {
            Flow::Window(window) => window,
            // Paths are warmed up with a window, too.
            Flow::Rate(_) => 64 * BURST,
        };
        Self {
            run,
            pusher,
            targets: plan.audience.targets() as u64,
            members: plan.audience.members as u64,
            users: plan.audience.users() as u64,
            in_a_row: peer.in_a_row() as u64,
            window,
            pushed: 0,
            awaited: 0,
        }
    }

    /// Every target: all paths are warm, and everybody is reached.
    async fn warm_up(&mut self) -> anyhow::Result<()> {
        let warm = self.targets * self.in_a_row;
        self.in_window(Instant::now(), Until::Messages(warm))
            .await?;
        self.all_arrived().await
    }

    async fn in_window(&mut self, began: Instant, until: Until) -> anyhow::Result<()> {
        let before = self.pushed;
        // A part of the window: what is on its way meanwhile keeps the peer busy.
        let burst = BURST.min(self.window / self.members / 4).max(1);
        loop {
            let burst = match until {
                Until::Time(length) if began.elapsed() >= length => return Ok(()),
                Until::Time(_) => burst,
                Until::Messages(all) if self.pushed - before == all => return Ok(()),
                Until::Messages(all) => burst.min(all - (self.pushed - before)),
            };
            self.room(burst * self.members).await?;
            let now = clock::now();
            for _ in 0..burst {
                self.push(now).await?;
            }
            self.pusher.flush().await?;
            tokio::task::yield_now().await;
        }
    }

    /// Never sleeps, so that no timer makes messages late.
    async fn at_rate(&mut self, rate: f64, until: Until) -> anyhow::Result<()> {
        let (began, mut sent, mut settled) = (clock::now(), 0, false);
        let length = match until {
            Until::Time(length) => length + SETTLE,
            Until::Messages(messages) => Duration::from_secs_f64(messages as f64 / rate) + SETTLE,
        };
        loop {
            let elapsed = clock::now() - began;
            if elapsed >= length.as_nanos() as u64 {
                return Ok(());
            }
            if !settled && elapsed >= SETTLE.as_nanos() as u64 {
                settled = true;
                self.run.latency.borrow_mut().clear();
            }
            let due = (elapsed as f64 * rate / 1e9) as u64;
            if sent < due {
                while sent < due {
                    sent += 1;
                    self.push(began + (sent as f64 * 1e9 / rate) as u64).await?;
                }
                self.pusher.flush().await?;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn push(&mut self, stamp: u64) -> anyhow::Result<()> {
        let target = self.pushed / self.in_a_row % self.targets;
        let payload = self.run.ledger.borrow_mut().issue(target as usize, stamp);
        self.pushed += 1;
        self.awaited += self.members.min(self.users - target * self.members);
        if !self.pusher.push(target as usize, payload) {
            self.pusher.flush().await?;
        }
        Ok(())
    }

    /// Waits until `more` deliveries are within the window.
    async fn room(&self, more: u64) -> anyhow::Result<()> {
        let window = self.window.max(more);
        while self.awaited - self.run.delivered() + more > window {
            let received = timeout(PATIENCE, self.run.received.notified()).await;
            received.map_err(|_| self.stuck())?;
        }
        Ok(())
    }

    async fn all_arrived(&self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.run.delivered() < self.awaited {
            let received = timeout_at(deadline, self.run.received.notified()).await;
            received.map_err(|_| self.stuck())?;
        }
        Ok(())
    }

    fn stuck(&self) -> Wrong {
        let (delivered, awaited) = (self.run.delivered(), self.awaited);
        let faults = self.run.ledger.borrow().faults();
        let what =
            format!("{delivered} of {awaited} messages have arrived, and no more do: {faults:?}");
        Wrong(what)
    }
}

impl Usage {
    fn figures(&self, after: &Self, pushing: Duration) -> Figures {
        let seconds = (after.at - self.at).as_secs_f64();
        let messages = (after.delivered - self.delivered) as f64;
        let grown = |figure: fn(&Counters) -> Option<f64>| {
            Some(figure(&after.counters)? - figure(&self.counters)?)
        };
        let mut figures = Figures::default();
        figures.set("messages", messages);
        figures.set("seconds", seconds);
        figures.set("pushing_seconds", pushing.as_secs_f64());
        figures.set("messages_per_second", messages / seconds);
        if let Some((before, after)) = self.server.zip(after.server) {
            let server = (after - before).as_secs_f64();
            figures.set("server_micros_per_message", server * 1e6 / messages);
            figures.set("server_cores", server / seconds);
        }
        let (sent, sends) = (grown(|all| all.messages), grown(|all| all.sends));
        let joined = sent.zip(sends).map(|(sent, sends)| sent / sends.max(1.0));
        figures.set_if("messages_per_send", joined);
        figures.set_if("crossings", grown(|all| all.crossings));
        figures
    }
}

/// Takes what arrives, until something fails.
async fn receive(run: Rc<Run>, mut clients: Clients, mut opener: Box<Opener>) -> anyhow::Error {
    match receive_all(&run, &mut clients, &mut opener).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn receive_all(
    run: &Run,
    clients: &mut Clients,
    opener: &mut Opener,
) -> anyhow::Result<Infallible> {
    // What took its place is unsafe, and asks that the descriptor stay open: an `OwnedFd` does.
    #[allow(deprecated)]
    let readiness = AsyncFd::new(clients.readiness().try_clone_to_owned()?)?;
    loop {
        let mut ready = readiness.readable().await?;
        loop {
            let (came, closed) = run.take(clients, opener)?;
            if let Some((client, code, reason)) = closed {
                bail!("client {client} was closed with {code:?} {reason:?}");
            }
            if !came {
                break;
            }
            run.received.notify_one();
            tokio::task::yield_now().await;
        }
        ready.clear_ready();
    }
}
