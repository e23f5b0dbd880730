//! What the end-to-end tests share: a gateway in a process of its own.

#![allow(dead_code, unreachable_pub)]

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use gateway_bench::{
    clients::Clients,
    gateway::{Gateway, Launch},
};

pub mod generic;
pub mod load;
pub mod users;

/// Blocks of ports that this process has looked for.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Longer than anything takes on a machine that is busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// `ringway` as it was built with this test.
pub fn ringway() -> Launch {
    Launch::bench(PathBuf::from(env!("CARGO_BIN_EXE_ringway-bench")))
}

/// `ringway` at ports that can be named: whoever takes its place is found where it was. (The kernel gives such ports to
/// nobody who does not ask for them.)
pub fn ringway_somewhere(shards: u32) -> Launch {
    let needed = shards as u16 + 3;
    let mut blocks = (20_000..30_000).step_by(16).cycle();
    let skip = std::process::id() as usize * 7 % 600 + TAKEN.fetch_add(1, Relaxed);
    let base = blocks.by_ref().skip(skip).take(600).find(|base: &u16| {
        (0..needed).all(|at| TcpListener::bind((Ipv4Addr::LOCALHOST, base + at)).is_ok())
    });
    let base = base.expect("free ports");
    let mut launch = ringway().shards(shards);
    launch.listen = [0, 2, 1].map(|at| SocketAddr::from((Ipv4Addr::LOCALHOST, base + at)));
    launch
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
