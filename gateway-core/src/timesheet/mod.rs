//! The timesheet of a shard: which phase its time goes to, and who takes it.
//!
//! It costs four looks at the clock per tick, and counts that the shard keeps anyway. A tick is cut at three **seams**:
//! it reads, works, sends; then it rests. Only in one tick of many the phases within are timed too; the time of all ticks is
//! divided as these show. So every nanosecond since the start is in exactly one phase.
//!
//! It reads no clock of its own: the driver gives it a [`Watch`]. Without one it is off, and costs a test of a flag.

mod busiest;
mod slow;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, OnceCell, RefCell},
    sync::Arc,
    time::Duration,
};

pub use crate::metrics::{Audience, Board, Cause, Phase};
use crate::{
    config,
    identity::{LinkId, ShardIndex},
    metrics::{LinkLoad, Metrics},
};

use busiest::Busiest;
use slow::{Tally, Unresolved};

/// What a driver lends a timesheet.
pub trait Watch {
    /// The time since the start of the process: the clock that the shard's `now` comes from.
    fn now(&self) -> Duration;

    /// How long this thread was ready to run and did not, so far. `None`: the host does not tell.
    fn run_delay(&self) -> Option<Duration>;
}

/// One shard's timesheet. Driver and shard of one thread share it.
pub struct Timesheet {
    watch: OnceCell<Box<dyn Watch>>,
    metrics: Arc<Metrics>,
    enabled: bool,
    detail_every: u32,
    slow: Duration,
    /// What one look at the watch costs, in nanoseconds.
    look: Cell<u64>,

    /// The phases of this tick are timed.
    detailed: Cell<bool>,
    phase: Cell<Phase>,
    phase_since: Cell<u64>,
    /// Nanoseconds of the phases of this tick, by seam.
    details: [[Cell<u64>; Phase::COUNT]; Seam::COUNT],

    books: RefCell<Books>,
    tally: Tally,
    busiest: RefCell<Busiest>,
}

/// The parts of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seam {
    /// From waking up to [`Shard::tick`](crate::shard::Shard::tick): the driver reads.
    Read,
    /// The shard's tick.
    Work,
    /// After it: the driver sends, and does what the shard asks for.
    Flush,
}

/// What happens between two ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// The driver sleeps.
    Sleeps,
    /// Something is left to do: the driver only looks for completions.
    GoesOn,
}

#[derive(Debug)]
struct Books {
    rest: Rest,
    rest_since: u64,
    began: u64,
    seam: Seam,
    seam_since: u64,
    /// Nanoseconds of the seams of this tick.
    tick: [u64; Seam::COUNT],
    /// Nanoseconds of the seams that are not divided among the phases yet.
    undivided: [u64; Seam::COUNT],
    /// How the newest detailed ticks divide each seam: sums that fade.
    shares: [[u64; Phase::COUNT]; Seam::COUNT],
    /// Ticks until the next detailed one.
    until_detail: u32,
    detailed_at: u64,
    random: u32,
    /// The newest look at the run delay, and when it was.
    delay: u64,
    delay_at: u64,
    slow_ticks: u64,
    unresolved: Option<Unresolved>,
    /// Deliveries and sends there had been when this tick began.
    counted: [u64; 2],
}

/// However few the ticks, details are taken this often.
const DETAIL_AFTER: Duration = Duration::from_millis(100);
/// How old the last look at the run delay may be when a tick begins: it costs a system call.
const DELAY_AGE: Duration = Duration::from_millis(5);
/// By detailed tick an eighth of what earlier ones showed is forgotten.
const FADE: u32 = 3;

impl Seam {
    const COUNT: usize = 3;
    const ALL: [Self; Self::COUNT] = [Self::Read, Self::Work, Self::Flush];

    /// What its time is, as long as nobody says otherwise.
    fn usual(self) -> Phase {
        match self {
            Self::Read => Phase::Ingress,
            Self::Work => Phase::Other,
            Self::Flush => Phase::Egress,
        }
    }
}

impl Timesheet {
    /// A timesheet that is off until [`start`](Self::start).
    #[must_use]
    pub fn new(config: &config::Timesheet, metrics: Arc<Metrics>) -> Self {
        Self {
            watch: OnceCell::new(),
            enabled: config.enabled,
            detail_every: config.detail_every.max(1),
            slow: Duration::from_millis(config.slow_tick_ms),
            look: Cell::new(0),
            detailed: Cell::new(false),
            phase: Cell::new(Phase::Other),
            phase_since: Cell::new(0),
            details: std::array::from_fn(|_| std::array::from_fn(|_| Cell::new(0))),
            books: RefCell::new(Books {
                rest: Rest::Sleeps,
                rest_since: 0,
                began: 0,
                seam: Seam::Read,
                seam_since: 0,
                tick: [0; Seam::COUNT],
                undivided: [0; Seam::COUNT],
                shares: [[0; Phase::COUNT]; Seam::COUNT],
                until_detail: 0,
                detailed_at: 0,
                random: u32::from(metrics.shard) | 1 << 16,
                delay: 0,
                delay_at: 0,
                slow_ticks: 0,
                unresolved: None,
                counted: [0; 2],
            }),
            tally: Tally::default(),
            busiest: RefCell::new(Busiest::default()),
            metrics,
        }
    }

    /// Begins, if the settings allow it. Once in a life; later calls change nothing.
    pub fn start(&self, watch: impl Watch + 'static) {
        if !self.enabled || self.watch.set(Box::new(watch)).is_err() {
            return;
        }
        let mut looks = [0; 33];
        looks.fill_with(|| self.now());
        let mut costs: Vec<_> = looks.windows(2).map(|pair| pair[1] - pair[0]).collect();
        costs.sort_unstable();
        self.look.set(costs[costs.len() / 2]);
        let mut books = self.books.borrow_mut();
        books.rest_since = self.now();
        books.delay = self.run_delay();
    }

    // ------------------------------------------------------------------------------------------ what a driver calls --

    /// A tick begins at `now`; the time since the last one was rest.
    pub fn begin(&self, now: Duration) {
        if self.watch.get().is_none() {
            return;
        }
        let now = nanos(now);
        let mut books = self.books.borrow_mut();
        let rested = now.saturating_sub(books.rest_since);
        let rest = match books.rest {
            Rest::Sleeps => Phase::Parked,
            Rest::GoesOn => Phase::Kernel,
        };
        self.metrics.time.phases[rest as usize].add(rested);
        (books.began, books.seam, books.seam_since) = (now, Seam::Read, now);
        books.tick = [0; Seam::COUNT];
        books.counted = self.counted();
        self.tally.reset();
        if now >= books.delay_at + nanos(DELAY_AGE) {
            (books.delay, books.delay_at) = (self.run_delay(), now);
        }
        self.detailed.set(books.is_detailed(now, self.detail_every));
        self.phase.set(Seam::Read.usual());
        self.phase_since.set(now);
    }

    /// The tick that began last ends at `now`, and what follows is rest. `ready`: how many completions (or ready sockets)
    /// it took.
    pub fn end(&self, now: Duration, rest: Rest, ready: u64) {
        if self.watch.get().is_none() {
            return;
        }
        let now = nanos(now);
        if ready > 0 {
            self.metrics.time.completions.record(ready);
        }
        let mut books = self.books.borrow_mut();
        self.close_seam(&mut books, now);
        (books.rest, books.rest_since) = (rest, now);
        for seam in Seam::ALL {
            books.undivided[seam as usize] += books.tick[seam as usize];
        }
        if self.detailed.replace(false) {
            self.divide(&mut books);
        }
        let took = now - books.began;
        if !self.slow.is_zero() && took >= nanos(self.slow) {
            self.was_slow(&mut books, took);
        }
    }

    /// Does a system call: its time is the kernel's.
    #[inline]
    pub fn kernel<T>(&self, call: impl FnOnce() -> T) -> T {
        let was = self.enter(Phase::Kernel);
        let result = call();
        self.enter(was);
        result
    }

    // -------------------------------------------------------------------------------------------- what a shard calls --

    /// From here on it is this phase's time. Says whose it was. Nothing is timed unless this tick's details are taken.
    #[inline]
    pub fn enter(&self, phase: Phase) -> Phase {
        if self.detailed.get() {
            return self.turn(phase);
        }
        phase
    }

    /// The tick goes on to its next part.
    pub fn cross(&self, seam: Seam) {
        let Some(watch) = self.watch.get() else {
            return;
        };
        let now = nanos(watch.now());
        let mut books = self.books.borrow_mut();
        self.close_seam(&mut books, now);
        (books.seam, books.seam_since) = (seam, now);
        self.phase.set(seam.usual());
        self.phase_since.set(now);
    }

    /// A link has run, and brought so much since it last did.
    pub fn link(&self, link: LinkId, commands: u64, bytes: u64) {
        if self.watch.get().is_none() {
            return;
        }
        self.metrics.time.commands.add(commands);
        self.tally.link(link, commands, bytes);
    }

    /// A fan-out made deliveries in this tick.
    pub fn fanout(&self, audience: &Audience, members: u64, deliveries: u64) {
        if self.watch.get().is_none() || deliveries == 0 {
            return;
        }
        self.metrics.time.fanout_deliveries.add(deliveries);
        self.tally.fanout(audience, members, deliveries);
        let mut busiest = self.busiest.borrow_mut();
        busiest.fanout(audience, members, deliveries);
    }

    /// Another shard forwarded commands.
    pub fn lane(&self, from: ShardIndex, commands: u64) {
        if self.watch.get().is_some() {
            self.tally.lane(from, commands);
            self.busiest.borrow_mut().lane(from, commands);
        }
    }

    /// Deadlines were due.
    pub fn timers(&self, due: u64) {
        self.tally.timers(due);
    }

    /// A client has come, sent something or left.
    pub fn client(&self) {
        self.tally.client();
    }

    /// Whether it is time to tell who takes the shard's time: call [`name_slow`](Self::name_slow) and
    /// [`publish`](Self::publish).
    #[must_use]
    pub fn is_due(&self, now: Duration) -> bool {
        self.watch.get().is_some()
            && (self.busiest.borrow().is_due(now) || self.books.borrow().unresolved.is_some())
    }

    /// Tells of a slow tick, if there was one; `name` says whose a link is.
    pub fn name_slow(&self, name: impl FnOnce(LinkId) -> Option<String>) {
        // If the board is being read, the next tick tries again.
        if let Some(mut board) = self.metrics.time.try_board()
            && let Some(slow) = self.books.borrow_mut().unresolved.take()
        {
            if board.slow.len() >= Board::SLOW {
                board.slow.remove(0);
            }
            board.slow.push(slow.resolve(name));
        }
    }

    /// Tells who brought most, if a window has passed; `links` says what each of them brought in it.
    pub fn publish(&self, now: Duration, links: impl FnOnce() -> Vec<LinkLoad>) {
        let mut busiest = self.busiest.borrow_mut();
        if busiest.is_due(now)
            && let Some(mut board) = self.metrics.time.try_board()
        {
            busiest.publish(now, links(), &mut board);
        }
    }

    // -------------------------------------------------------------------------------------------------------- inside --

    fn now(&self) -> u64 {
        self.watch.get().map_or(0, |watch| nanos(watch.now()))
    }

    fn run_delay(&self) -> u64 {
        let delay = self.watch.get().and_then(|watch| watch.run_delay());
        delay.map_or(0, nanos)
    }

    fn counted(&self) -> [u64; 2] {
        [self.metrics.deliveries.get(), self.metrics.sends.get()]
    }

    #[inline(never)]
    fn turn(&self, phase: Phase) -> Phase {
        let now = self.now();
        let was = self.phase.replace(phase);
        let seam = self.books.borrow().seam;
        self.spent(seam, was, now);
        self.phase_since.set(now);
        was
    }

    /// The present phase has lasted until `now`. What looking at the clock costs is nobody's.
    fn spent(&self, seam: Seam, phase: Phase, now: u64) {
        let spent = now.saturating_sub(self.phase_since.get() + self.look.get());
        let sum = &self.details[seam as usize][phase as usize];
        sum.set(sum.get() + spent);
    }

    fn close_seam(&self, books: &mut Books, now: u64) {
        books.tick[books.seam as usize] += now.saturating_sub(books.seam_since);
        if self.detailed.get() {
            self.spent(books.seam, self.phase.get(), now);
        }
    }

    /// Divides the time of the seams since the last detailed tick as this one and those before it show.
    fn divide(&self, books: &mut Books) {
        for seam in Seam::ALL {
            let shares = &mut books.shares[seam as usize];
            for (share, detail) in shares.iter_mut().zip(&self.details[seam as usize]) {
                *share = *share - (*share >> FADE) + detail.take();
            }
            let whole: u64 = shares.iter().sum();
            let undivided = std::mem::take(&mut books.undivided[seam as usize]);
            let mut left = undivided;
            for (phase, share) in Phase::ALL.into_iter().zip(shares.iter()) {
                let part = u128::from(undivided) * u128::from(*share) / u128::from(whole.max(1));
                left -= part as u64;
                self.metrics.time.phases[phase as usize].add(part as u64);
            }
            self.metrics.time.phases[seam.usual() as usize].add(left);
        }
    }

    fn was_slow(&self, books: &mut Books, took: u64) {
        let now = books.began + took;
        let delay = self.run_delay();
        let not_running = delay.saturating_sub(books.delay).min(took);
        (books.delay, books.delay_at) = (delay, now);
        let [deliveries, sends] = self.counted();
        let [deliveries, sends] = [deliveries - books.counted[0], sends - books.counted[1]];
        // Each delivery has a send at most: the others were of what earlier ticks had left.
        let waited = sends.saturating_sub(deliveries);
        let suspect = self.tally.suspect(took, not_running, waited);
        self.metrics.time.slow_ticks.count(suspect.cause().label());
        books.slow_ticks += 1;
        // If the one before could not be told yet, the longer one counts.
        if books.unresolved.as_ref().is_none_or(|of| of.took < took) {
            books.unresolved = Some(Unresolved {
                number: books.slow_ticks,
                began: books.began,
                took,
                not_running,
                parts: books.tick,
                suspect,
            });
        }
    }
}

impl Books {
    /// Whether the tick that begins now is a detailed one: about one in `every`, at irregular intervals.
    fn is_detailed(&mut self, now: u64, every: u32) -> bool {
        let waited = now.saturating_sub(self.detailed_at) >= nanos(DETAIL_AFTER);
        if self.until_detail > 0 && !waited {
            self.until_detail -= 1;
            return false;
        }
        // xorshift32: so that nothing periodic is always or never looked at.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.until_detail = every / 2 + self.random % every;
        self.detailed_at = now;
        true
    }
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}
