//! What only the bare ring has: several rings for a shard, and buffers that clients take turns with.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod driver;

use std::fs;

use driver::{Gateway, Logic, drivers, push, text};
use gateway_core::config::DriverChoice;
use tungstenite::Message;

/// Starts nothing where the driver is not under test.
fn on_rings() -> bool {
    drivers().contains(&DriverChoice::Uring)
}

/// A ring has room for 64 clients beside those that come in: 400 clients need five. They are pushed to wherever they are,
/// leave, and come again into the places that were given back.
#[test]
fn a_shard_with_more_clients_than_a_ring_has_more_rings() {
    if !on_rings() {
        return;
    }
    const CLIENTS: usize = 400;
    let before = rings();
    let gateway = Gateway::start_with(DriverChoice::Uring, 1, |config| {
        config.uring.ring_descriptors = 128;
    });
    let mut logic = Logic::connect(gateway.grpc);
    for round in 0..3 {
        let mut conns: Vec<_> = (0..CLIENTS)
            .map(|n| gateway.connect(&format!("user{n}")))
            .collect();
        let pushes = (0..CLIENTS).map(|n| push(&format!("user{n}"), format!("{round} {n}")));
        assert_eq!(logic.push_all(pushes).delivered, CLIENTS as u64);
        for (n, conn) in conns.iter_mut().enumerate() {
            assert_eq!(text(conn), format!("{round} {n}"));
            conn.send(Message::Ping(n.to_string().into())).unwrap();
            assert_eq!(conn.read().unwrap(), Message::Pong(n.to_string().into()));
        }
        drop(conns);
        gateway.wait_for(0, |m| m.connections.get());
    }
    let rings = rings() - before;
    assert!(
        (4..=6).contains(&rings),
        "{rings} rings for {CLIENTS} clients"
    );
}

/// One small buffer for all: every receive finds it taken by another one sooner or later, and is made again. Nothing is lost.
#[test]
fn receives_that_find_no_buffer_are_made_again() {
    if !on_rings() {
        return;
    }
    let gateway = Gateway::start_with(DriverChoice::Uring, 1, |config| {
        config.uring.ring_buffers = 1;
        config.uring.buffer_bytes = 256;
    });
    let mut conns: Vec<_> = (0..20).map(|n| gateway.connect(&n.to_string())).collect();
    for conn in &mut conns {
        for n in 0..100 {
            let ping = Message::Ping(format!("{n:0100}").into_bytes().into());
            conn.write(ping).unwrap();
        }
        conn.flush().unwrap();
    }
    for conn in &mut conns {
        for n in 0..100 {
            let pong = Message::Pong(format!("{n:0100}").into_bytes().into());
            assert_eq!(conn.read().unwrap(), pong);
        }
    }
    assert!(gateway.sum(|m| m.buffer_shortages.get()) > 0);
}

/// Clients that do not read are closed as too slow while their sockets are full, and the memory of what was on its way to
/// them goes to others at once: what those get, and what the slow ones got, must be whole frames of their own.
#[test]
fn closing_a_client_in_mid_send_damages_nobody() {
    const ROUNDS: usize = 5;
    const BYTES: usize = 200 << 10;
    for driver in drivers() {
        let gateway = Gateway::start_with(driver, 1, |config| {
            config.outbox.max_bytes = 1 << 20;
            config.ws.close_timeout_ms = 100;
        });
        let mut logic = Logic::connect(gateway.grpc);
        let mut reader = gateway.connect("reader");
        for round in 0..ROUNDS {
            let mut slow: Vec<_> = (0..4)
                .map(|n| gateway.connect(&format!("slow{n}")))
                .collect();
            // Until the kernel's buffers and the outbox are full.
            for n in 0..60 {
                let letters = vec![b'0' + n; BYTES];
                let pushes = (0..4).map(|to| push(&format!("slow{to}"), letters.clone()));
                logic.push_all(pushes);
                logic.push_all([push("reader", format!("{round} {n}"))]);
                assert_eq!(text(&mut reader), format!("{round} {n}"));
            }
            gateway.wait_for(1, |m| m.connections.get());
            for conn in &mut slow {
                let mut last = b'0';
                while let Ok(Message::Text(text)) = conn.read() {
                    let letter = text.as_bytes()[0];
                    assert!(letter >= last, "out of order");
                    assert!(text.len() == BYTES && text.bytes().all(|b| b == letter));
                    last = letter;
                }
            }
        }
    }
}

fn rings() -> usize {
    let fds = fs::read_dir("/proc/self/fd").unwrap().flatten();
    fds.filter_map(|fd| fs::read_link(fd.path()).ok())
        .filter(|target| target.to_string_lossy() == "anon_inode:[io_uring]")
        .count()
}
