//! A logic service under steady load: every message is numbered, and every outcome noted.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use logic_client::{Builder, LogicClient, Notice, Push, PushError, Receipt, Returned, Stats, What};

use super::wait_for;

/// What became of a confirmed push.
pub type Outcome = Result<Receipt, PushError>;

/// A logic service on a thread of its own that pushes to one user after the other.
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// How it pushes.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// `push_confirmed`, many at a time.
    Confirmed,
    /// `push`.
    FireAndForget,
}

/// A user's index, and the number of a message to them.
pub type Numbered = (usize, u64);

#[derive(Default)]
struct Shared {
    started: Mutex<Option<Instant>>,
    over: AtomicBool,
    stop: AtomicBool,
    stopped: AtomicBool,
    pushed: AtomicU64,
    outcomes: Mutex<BTreeMap<Numbered, Outcome>>,
    /// The longest that a call of `push` has taken, in microseconds.
    longest: AtomicU64,
    notices: Mutex<Vec<(Instant, Notice)>>,
    returned: Mutex<Vec<Returned>>,
    stats: Mutex<Stats>,
}

impl Load {
    /// Connects as `builder` says, and pushes `rate` messages a second to `users`.
    pub fn start(builder: Builder, users: &[String], rate: u64, way: Way) -> Self {
        let shared = Arc::new(Shared::default());
        let (theirs, users) = (Arc::clone(&shared), users.to_vec());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(theirs.run(builder, &users, rate, way));
        });
        let load = Self {
            shared,
            thread: Some(thread),
        };
        load.wait_for_pushed(1);
        load
    }

    /// Messages pushed so far.
    pub fn pushed(&self) -> u64 {
        self.shared.pushed.load(Relaxed)
    }

    /// Waits until so many more are pushed.
    pub fn wait_for_pushed(&self, more: u64) {
        let goal = self.pushed() + more;
        wait_for("pushes", || (self.pushed() >= goal).then_some(()));
    }

    /// Pushes no more. What is on its way goes on.
    pub fn stop(&self) {
        self.shared.stop.store(true, Relaxed);
        wait_for("the load to stop", || {
            self.shared.stopped.load(Relaxed).then_some(())
        });
    }

    /// Waits until every confirmed push has its outcome, and gives them.
    pub fn outcomes(&self) -> BTreeMap<Numbered, Outcome> {
        wait_for("the outcomes of all pushes", || {
            let outcomes = lock(&self.shared.outcomes);
            (outcomes.len() as u64 >= self.pushed()).then_some(())
        });
        lock(&self.shared.outcomes).clone()
    }

    /// Confirmed pushes that have an outcome.
    pub fn decided(&self) -> usize {
        lock(&self.shared.outcomes).len()
    }

    /// The longest that a call of `push` has taken.
    pub fn longest_push(&self) -> Duration {
        Duration::from_micros(self.shared.longest.load(Relaxed))
    }

    /// What the client told of its streams.
    pub fn notices(&self) -> Vec<(Instant, Notice)> {
        lock(&self.shared.notices).clone()
    }

    /// What the client has handed back.
    pub fn returned(&self) -> Vec<Returned> {
        lock(&self.shared.returned).clone()
    }

    /// When a notice like this first came after `since`.
    pub fn first_notice(&self, since: Instant, is_it: impl Fn(&What) -> bool) -> Option<Instant> {
        let notices = lock(&self.shared.notices);
        let mut after = notices.iter().filter(|(at, _)| *at >= since);
        let (at, _) = after.find(|(_, notice)| is_it(&notice.what))?;
        Some(*at)
    }

    /// The client's figures of the last few milliseconds.
    pub fn stats(&self) -> Stats {
        lock(&self.shared.stats).clone()
    }
}

/// The text of a message.
pub fn text(user: &str, number: u64) -> String {
    format!("{user} {number}")
}

/// The numbers of the messages that `user` got; all must be theirs.
pub fn numbers(user: &str, messages: &[String]) -> Vec<u64> {
    messages
        .iter()
        .map(|message| number(user, message))
        .collect()
}

/// The number of a message.
pub fn number(user: &str, message: &str) -> u64 {
    let (whose, number) = message.split_once(' ').unwrap();
    assert_eq!(whose, user, "a message astray");
    number.parse().unwrap()
}

/// Each came once, and after all that have lower numbers.
pub fn assert_rising(user: &str, numbers: &[u64]) {
    for pair in numbers.windows(2) {
        assert!(
            pair[0] < pair[1],
            "{user} got {} after {}",
            pair[1],
            pair[0]
        );
    }
}

impl Shared {
    async fn run(self: &Arc<Self>, builder: Builder, users: &[String], rate: u64, way: Way) {
        let theirs = Arc::clone(self);
        let note = move |notice: &Notice| {
            lock(&theirs.notices).push((Instant::now(), notice.clone()));
        };
        let theirs = Arc::clone(self);
        let keep = move |returned: Returned| lock(&theirs.returned).push(returned);
        let builder = builder.on_notice(note).on_returned(keep);
        let client = builder.connect().await.unwrap();
        *lock(&self.started) = Some(Instant::now());
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        // After a wait nothing is made up for.
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut owed = 0;
        let mut turn = 0_u64;
        while !self.over.load(Relaxed) {
            tick.tick().await;
            *lock(&self.stats) = client.stats();
            if self.stop.load(Relaxed) {
                self.stopped.store(true, Relaxed);
                continue;
            }
            owed += rate;
            while owed >= 1_000 {
                owed -= 1_000;
                let user = (turn % users.len() as u64) as usize;
                let number = turn / users.len() as u64;
                turn += 1;
                let push = Push::user(users[user].as_str()).text(text(&users[user], number));
                let began = Instant::now();
                match way {
                    Way::Confirmed => self.confirm(&client, push, (user, number)).await,
                    Way::FireAndForget => client.push(push).await.unwrap(),
                }
                let took = began.elapsed().as_micros() as u64;
                self.longest.fetch_max(took, Relaxed);
                self.pushed.fetch_add(1, Relaxed);
            }
        }
    }

    /// Pushes now, and notes the outcome when it is there.
    async fn confirm(self: &Arc<Self>, client: &LogicClient, push: Push, which: Numbered) {
        let (shared, client) = (Arc::clone(self), client.clone());
        let mut outcome = Box::pin(async move {
            let outcome = client.push_confirmed(push).await;
            let outcome = outcome.map_err(|failed| failed.error);
            lock(&shared.outcomes).insert(which, outcome);
        });
        // The first poll hands the push to the client: the order is that of these calls.
        let mut first = pin!(poll_fn(|cx| Poll::Ready(outcome.as_mut().poll(cx))));
        if first.as_mut().await.is_pending() {
            tokio::spawn(outcome);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it panicked about has been printed.
            let _ = thread.join();
        }
    }
}
