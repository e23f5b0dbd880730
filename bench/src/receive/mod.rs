//! The receiving side of a load: it checks and times what arrives, and whoever pushes knows how far it is. It runs on the thread that
//! pushes, or in a process of its own.

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use anyhow::{Error, Result};
use hdrhistogram::Histogram;
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::verify::{Checker, Faults, Wrong};

mod apart;
mod clients;
mod service;

pub use apart::{Apart, Task, serve};
pub use clients::from_clients;
pub use service::as_service;

/// Whoever waits longer than this for a message has lost it.
const PATIENCE: Duration = Duration::from_secs(10);
const LONGEST: u64 = 120_000_000_000;

/// How much has arrived, for whoever waits for it.
#[derive(Debug, Default)]
pub struct Progress {
    delivered: Cell<u64>,
    more: Notify,
}

/// Checks and times what arrives.
pub struct Intake {
    checker: RefCell<Checker>,
    nanos: RefCell<Histogram<u64>>,
    progress: Rc<Progress>,
}

/// What has arrived.
#[derive(Debug)]
pub struct Taken {
    /// Good messages, all of them.
    pub delivered: u64,
    /// What went wrong, but for messages after the last one that has come.
    pub faults: Faults,
    /// How long they took since [`Receiving::begin`], in nanoseconds.
    pub nanos: Histogram<u64>,
}

/// The receiving side, as whoever pushes has it.
pub struct Receiving {
    progress: Rc<Progress>,
    side: Side,
}

enum Side {
    Here(Rc<Intake>),
    Apart(Apart),
}

/// Where the receiving side runs that has a process of its own.
#[derive(Clone, Debug)]
pub struct Place {
    /// `ringway-bench`.
    pub program: PathBuf,
    /// Its CPUs.
    pub cpus: Vec<usize>,
    /// Whoever pushes has others.
    pub own: bool,
}

/// Does `work`, unless the receiving side has `failed` before.
///
/// # Errors
/// What either says.
pub async fn unless<T>(
    failed: JoinHandle<Error>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        // It knows why, when the other one only sees that nothing comes.
        biased;
        failed = failed => Err(failed?),
        done = work => done,
    }
}

impl Progress {
    /// So many good messages have come.
    fn reach(&self, delivered: u64) {
        self.delivered.set(delivered);
        self.more.notify_one();
    }
}

impl Intake {
    /// What `checker` expects.
    ///
    /// # Errors
    /// None in practice: the bounds of the histogram are fixed.
    pub fn new(checker: Checker) -> Result<Self> {
        Ok(Self {
            checker: RefCell::new(checker),
            nanos: RefCell::new(Histogram::new_with_bounds(1, LONGEST, 3)?),
            progress: Rc::default(),
        })
    }

    /// A message to `user`, or from it, that has come at `now`. Whoever waits is told with [`Intake::tell`].
    pub fn take(&self, user: usize, text: bool, payload: &[u8], now: u64) {
        if let Some(sent) = self.checker.borrow_mut().check(user, text, payload) {
            let nanos = now.saturating_sub(sent);
            self.nanos.borrow_mut().saturating_record(nanos);
        }
    }

    /// Tells whoever waits how much has come.
    pub fn tell(&self) {
        self.progress.reach(self.checker.borrow().delivered());
    }

    fn taken(&self) -> Taken {
        let checker = self.checker.borrow();
        Taken {
            delivered: checker.delivered(),
            faults: checker.faults_so_far(),
            nanos: self.nanos.borrow().clone(),
        }
    }
}

impl Receiving {
    /// On this thread.
    #[must_use]
    pub fn here(intake: &Rc<Intake>) -> Self {
        Self {
            progress: Rc::clone(&intake.progress),
            side: Side::Here(Rc::clone(intake)),
        }
    }

    /// The process of its own, if it has one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match &self.side {
            Side::Here(_) => None,
            Side::Apart(apart) => Some(apart.pid()),
        }
    }

    /// Good messages that have come.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.progress.delivered.get()
    }

    /// Waits until `delivered` of `awaited` messages have come.
    ///
    /// # Errors
    /// [`Wrong`]: they have not within 10 s.
    pub async fn until(&mut self, delivered: u64, awaited: u64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.delivered() < delivered {
            let more = timeout_at(deadline, self.progress.more.notified()).await;
            if more.is_err() {
                return Err(self.stuck(awaited).await?.into());
            }
        }
        Ok(())
    }

    async fn stuck(&mut self, awaited: u64) -> Result<Wrong> {
        let taken = self.taken().await?;
        let (delivered, faults) = (taken.delivered, taken.faults(awaited));
        let what =
            format!("{delivered} of {awaited} messages have arrived, and no more do: {faults:?}");
        Ok(Wrong(what))
    }

    /// From now on it is measured how long messages take.
    ///
    /// # Errors
    /// The process is gone.
    pub async fn begin(&mut self) -> Result<()> {
        match &mut self.side {
            Side::Here(intake) => {
                intake.nanos.borrow_mut().clear();
                Ok(())
            }
            Side::Apart(apart) => apart.begin().await,
        }
    }

    /// What has arrived so far.
    ///
    /// # Errors
    /// The process is gone.
    pub async fn taken(&mut self) -> Result<Taken> {
        match &mut self.side {
            Side::Here(intake) => Ok(intake.taken()),
            Side::Apart(apart) => apart.taken().await,
        }
    }
}

impl Taken {
    /// What went wrong with `awaited` messages, when nothing more will come.
    #[must_use]
    pub fn faults(&self, awaited: u64) -> Faults {
        let missing = awaited.saturating_sub(self.delivered);
        Faults {
            missing: self.faults.missing.max(missing),
            ..self.faults
        }
    }
}
