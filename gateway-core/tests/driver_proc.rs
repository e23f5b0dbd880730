//! What `/proc` says of a running gateway: threads, cores, rings, memory. One test at a time, since it looks at the whole
//! process.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod driver;

use std::{fs, io::Write, sync::Mutex, time::Duration};

use driver::{Gateway, dial, drivers, open, wait_until};
use gateway_core::{config::DriverChoice, driver::placement::Host};

static TURN: Mutex<()> = Mutex::new(());

/// Each shard has a thread of its name, pinned where the placement says, and on io_uring its own rings.
#[test]
fn every_shard_has_its_thread_core_and_ring() {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for driver in drivers() {
        let rings = rings();
        let gateway = Gateway::start(driver, 3);
        let host = Host::detect();
        for (shard, thread) in gateway.threads().iter().enumerate() {
            let task = format!("/proc/self/task/{}", thread.id);
            let name = fs::read_to_string(format!("{task}/comm")).unwrap();
            assert_eq!(name.trim(), format!("shard-{shard}"));
            let status = fs::read_to_string(format!("{task}/status")).unwrap();
            let allowed = status
                .lines()
                .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
                .unwrap()
                .trim();
            if host.paid == host.allowed.len() {
                let core = host.allowed[shard % host.allowed.len()];
                assert_eq!(
                    (thread.core, allowed),
                    (Some(core), core.to_string().as_str())
                );
            } else {
                assert_eq!(
                    thread.core, None,
                    "a CPU quota leaves the choice to the kernel"
                );
            }
        }
        let each = match driver {
            DriverChoice::Glommio => 3,
            DriverChoice::Monoio | DriverChoice::Uring => 1,
            _ => 0,
        };
        assert_eq!(self::rings() - rings, 3 * each, "rings of each shard");
    }
}

/// Idle connections hold a pending poll each, and no buffer. The bound is for everything: driver, shard, and the
/// allocator's share; client sockets of this process hold no memory of ours.
#[test]
fn an_idle_connection_holds_no_large_buffer() {
    const CONNS: u64 = 3_000;
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for driver in drivers() {
        let gateway = Gateway::start(driver, 1);
        let open = |from: u64, to: u64| -> Vec<_> {
            let conns = (from..to).map(|n| open(dial(gateway.ws), &format!("user{n}")));
            // A client's WebSocket has buffers of its own: only its socket is kept.
            let sockets = conns
                .map(|conn| conn.get_ref().try_clone().unwrap())
                .collect();
            gateway.wait_for(to, |m| m.connections.get());
            sockets
        };
        let _first = open(0, 500);
        let before = resident();
        let _rest = open(500, 500 + CONNS);
        let each = resident().saturating_sub(before) / CONNS;
        println!(
            "{}: {each} bytes per idle connection",
            gateway.gateway.driver
        );
        assert!(each < 2048, "{each} bytes per idle connection");
    }
}

/// Every way a socket can end, among them those with a poll still pending: moved to another shard, closed by the client,
/// reset, refused, and timed out by the gateway. A poll that is left behind would keep the descriptor open.
#[test]
fn closed_sockets_leave_no_descriptor_behind() {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for driver in drivers() {
        let gateway = Gateway::start_with(driver, 3, |config| {
            config.ws.handshake_timeout_ms = 200;
            config.ws.close_timeout_ms = 200;
        });
        let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
        let before = descriptors();
        for round in 0..3 {
            let moved: Vec<_> = (0..60)
                .map(|n| gateway.connect(&format!("user{round}-{n}")))
                .collect();
            let silent: Vec<_> = (0..60).map(|_| dial(gateway.ws)).collect();
            let refused: Vec<_> = (0..60).map(|_| dial(gateway.ws)).collect();
            for mut stream in &refused {
                stream.write_all(b"nonsense\r\n\r\n").unwrap();
            }
            for conn in &moved[..30] {
                let socket = socket2::SockRef::from(conn.get_ref());
                socket.set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(moved);
            gateway.wait_for(0, |m| m.connections.get() + m.handshaking.get());
            drop((silent, refused));
        }
        wait_until(
            || descriptors() <= before,
            || format!("{before} descriptors, are {}", descriptors()),
        );
    }
}

fn rings() -> usize {
    let fds = fs::read_dir("/proc/self/fd").unwrap().flatten();
    fds.filter_map(|fd| fs::read_link(fd.path()).ok())
        .filter(|target| target.to_string_lossy() == "anon_inode:[io_uring]")
        .count()
}

fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
