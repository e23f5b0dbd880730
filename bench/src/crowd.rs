//! Clients that only take what comes, on a thread of their own: whoever is measured must not wait for them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    clients::{Clients, Event},
    cpu::{self, Rank},
};

/// How long the thread takes to notice that something is wanted of it.
const TURN: Duration = Duration::from_millis(5);

/// Clients that count what comes; they disconnect when this is dropped.
pub struct Crowd {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    reading: AtomicBool,
    over: AtomicBool,
    received: AtomicU64,
    closed: AtomicU64,
}

impl Crowd {
    /// Has `clients` read on a thread of their own.
    ///
    /// # Errors
    /// No thread.
    pub fn start(clients: Clients) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            reading: AtomicBool::new(true),
            over: AtomicBool::new(false),
            received: AtomicU64::new(0),
            closed: AtomicU64::new(0),
        });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("crowd".into());
        let thread = thread.spawn(move || theirs.run(clients))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Whether they read what comes, or leave it in their sockets.
    pub fn read(&self, reading: bool) {
        self.shared.reading.store(reading, Relaxed);
    }

    /// Messages that have come.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.shared.received.load(Relaxed)
    }

    /// Clients whose connection is over.
    #[must_use]
    pub fn closed(&self) -> u64 {
        self.shared.closed.load(Relaxed)
    }
}

impl Shared {
    fn run(&self, mut clients: Clients) {
        cpu::rank(Rank::Load);
        while !self.over.load(Relaxed) {
            if !self.reading.load(Relaxed) {
                thread::park_timeout(TURN);
                continue;
            }
            let count = |_, event: Event<'_>| {
                let counter = match event {
                    Event::Message { .. } => &self.received,
                    Event::Closed { .. } => &self.closed,
                };
                counter.fetch_add(1, Relaxed);
            };
            // A gateway that is killed resets connections: whoever counts sees that nothing comes.
            if let Err(error) = clients.receive(TURN, count) {
                eprintln!("ringway-bench: a crowd reads no more: {error}");
                return;
            }
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic.
            let _ = thread.join();
        }
    }
}
