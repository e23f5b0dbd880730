//! What the end-to-end tests share: a gateway in a process of its own.

#![allow(dead_code, unreachable_pub)]

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use gateway_bench::{
    clients::Clients,
    gateway::{Gateway, Launch},
};

pub mod generic;

/// Longer than anything takes on a machine that is busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// `ringway` as it was built with this test.
pub fn ringway() -> Launch {
    Launch::bench(PathBuf::from(env!("CARGO_BIN_EXE_ringway-bench")))
}

/// A client for each user.
pub fn connect(gateway: &Gateway, users: &[String]) -> Clients {
    let targets: Vec<_> = users.iter().map(|user| Clients::target(user)).collect();
    Clients::connect(gateway.ws, &targets).unwrap()
}

/// For tests that need most of the machine, or of this process' descriptors: one at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    // A test that failed has not spoilt anything.
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks until `answer` is there.
pub fn wait_for<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}
