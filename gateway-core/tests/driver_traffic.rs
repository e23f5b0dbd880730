//! Real bytes through real sockets, on every driver: pushes in, messages out, sockets from shard to shard, and the end.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod driver;

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::TcpStream,
};

use driver::{Gateway, Logic, drivers, open, push, text, wait_until};
use gateway_proto::{shard_of, v1::gateway_frame::Body};
use tungstenite::{Message, protocol::frame::coding::CloseCode};

/// Users on three shards, whose sockets the kernel accepts anywhere: two thirds of them have to move, and every push of the
/// common port's shard to other shards has to cross.
#[test]
fn pushes_arrive_in_order_whichever_shard_accepted() {
    for driver in drivers() {
        let gateway = Gateway::start(driver, 3);
        let users: Vec<String> = (0..60).map(|n| format!("user{n}")).collect();
        let mut conns: HashMap<_, _> = users.iter().map(|u| (u, gateway.connect(u))).collect();
        gateway.wait_for(60, |m| m.connections.get());
        let moved = gateway.sum(|m| count(&m.crossings, "socket"));
        assert!((10..60).contains(&moved), "{moved} of 60 sockets moved");

        let mut common = Logic::connect(gateway.grpc);
        assert_eq!(common.describe().shards, 3);
        let pushes = (0..50).flat_map(|n| {
            users
                .iter()
                .map(move |user| push(user, format!("{user} {n}")))
        });
        let answer = common.push_all(pushes);
        assert_eq!((answer.accepted, answer.delivered), (3000, 3000));
        for (user, conn) in &mut conns {
            for n in 0..50 {
                assert_eq!(text(conn), format!("{user} {n}"));
            }
        }
        assert!(gateway.sum(|m| count(&m.crossings, "push")) > 0);
    }
}

/// What arrives at the shard that owns the user crosses nothing.
#[test]
fn pushes_to_the_own_shard_do_not_cross() {
    for driver in drivers() {
        let gateway = Gateway::start_with(driver, 2, |config| config.outbox.max_messages = 10_000);
        let mut conn = gateway.connect("alice");
        let mut logic = Logic::connect(gateway.shard_grpc[shard_of(b"alice", 2) as usize]);
        let answer = logic.push_all((0..10_000).map(|n| push("alice", n.to_string())));
        assert_eq!((answer.accepted, answer.delivered), (10_000, 10_000));
        for n in 0..10_000 {
            assert_eq!(text(&mut conn), n.to_string());
        }
        assert_eq!(gateway.sum(|m| count(&m.crossings, "push")), 0);
        // Counted once the kernel has taken them, which the client may see first.
        gateway.wait_for(10_000, |m| m.messages_out_client.get());
    }
}

/// A client that does not read: its socket fills, the send is partial, and the rest has to follow byte for byte once it reads.
#[test]
fn a_full_socket_is_sent_the_rest_when_it_has_room() {
    for driver in drivers() {
        let gateway = Gateway::start_with(driver, 1, |config| config.outbox.max_bytes = 64 << 20);
        let mut slow = gateway.connect("slow");
        let mut other = gateway.connect("other");
        let mut logic = Logic::connect(gateway.grpc);
        let payload = |n: u64| n.to_string().repeat((900 << 10) / n.to_string().len());
        assert_eq!(
            logic
                .push_all((10..40).map(|n| push("slow", payload(n))))
                .delivered,
            30
        );

        assert_eq!(logic.push_all([push("other", "hi")]).delivered, 1);
        assert_eq!(text(&mut other), "hi", "a slow client stalls nobody");
        assert!(gateway.sum(|m| m.outbox_bytes.get()) > 0);
        for n in 10..40 {
            assert!(text(&mut slow) == payload(n), "message {n} is damaged");
        }
    }
}

/// A service stops reading while a client sends all it can: the gateway stops reading the client, so that what it holds stays
/// bounded; once the service reads on everything comes, in order and whole.
#[test]
fn a_client_is_not_read_while_its_service_is_behind() {
    const MESSAGES: u32 = 40_000;
    for driver in drivers() {
        let gateway = Gateway::start_with(driver, 1, |config| {
            config.grpc.send_buffer_bytes = 64 << 10;
        });
        let mut logic = Logic::connect(gateway.grpc);
        let stream = logic.receive("chat");
        let mut socket = gateway.connect("alice").get_ref().try_clone().unwrap();
        assert!(matches!(logic.next_frame(stream), Body::Opened(_)));
        let sender = std::thread::spawn(move || {
            for n in 0..MESSAGES {
                // A masked binary frame of 1,000 bytes, with a mask of zeros.
                let mut frame = vec![0x82, 0xfe, 0x03, 0xe8, 0, 0, 0, 0];
                frame.extend(n.to_be_bytes().repeat(250));
                socket.write_all(&frame).unwrap();
            }
            socket
        });
        let received = || gateway.sum(|m| m.received_bytes_client.get());
        let mut last = 0;
        wait_until(
            || {
                std::thread::park_timeout(std::time::Duration::from_millis(100));
                std::mem::replace(&mut last, received()) == received() && last > 0
            },
            || "the gateway to stop reading".to_owned(),
        );
        assert!(last < 8 << 20, "it has read {last} bytes for nobody");
        for n in 0..MESSAGES {
            match logic.next_frame(stream) {
                Body::Message(message) => assert!(message.payload == n.to_be_bytes().repeat(250)),
                other => panic!("not a message: {other:?}"),
            }
        }
        sender.join().unwrap();
    }
}

/// Several links send at once all they can, with a small byte budget: every one must get its turns.
#[test]
fn busy_links_share_the_budget() {
    for driver in drivers() {
        let gateway = Gateway::start_with(driver, 1, |config| config.tick.link_bytes = 16 << 10);
        let _conn = gateway.connect("alice");
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let grpc = gateway.grpc;
                std::thread::spawn(move || {
                    Logic::connect(grpc)
                        .push_all((0..20_000).map(|_| push("nobody", [b'x'; 128])))
                        .no_target
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), 20_000);
        }
        let largest = gateway.metrics[0]
            .tick_bytes
            .iter()
            .filter(|(_, n)| *n > 0)
            .last()
            .unwrap();
        assert!(
            largest.0 <= 32 << 10,
            "a tick read up to {} bytes",
            largest.0
        );
    }
}

/// Thousands of clients come at once, more than a tick accepts and more than the ring's submission queue: all get in, and
/// all are noticed when they leave at once.
#[test]
fn a_storm_of_clients_gets_in_and_out() {
    const CLIENTS: u64 = 2_000;
    for driver in drivers() {
        let gateway = Gateway::start(driver, 2);
        let streams: Vec<_> = (0..CLIENTS).map(|_| driver::dial(gateway.ws)).collect();
        gateway.wait_for(CLIENTS, |m| m.handshaking.get());
        let conns: Vec<_> = streams
            .into_iter()
            .enumerate()
            .map(|(n, s)| open(s, &format!("user{n}")))
            .collect();
        gateway.wait_for(CLIENTS, |m| m.connections.get());
        drop(conns);
        gateway.wait_for(0, |m| m.connections.get());
    }
}

/// Clients of all shards are told to go, links end after them, the threads end, and the ports are free.
#[test]
fn a_drain_closes_everyone_and_ends() {
    for driver in drivers() {
        let gateway = Gateway::start_with(driver, 2, |config| {
            config.drain.spread_ms = 50;
            // Our link reads no GOAWAY, so that it is cut off in the end.
            config.drain.grace_ms = 200;
        });
        let (ws, grpc) = (gateway.ws, gateway.grpc);
        let conns: Vec<_> = (0..20)
            .map(|n| gateway.connect(&format!("user{n}")))
            .collect();
        let mut logic = Logic::connect(grpc);
        logic.describe();
        let readers: Vec<_> = conns
            .into_iter()
            .map(|mut conn| {
                std::thread::spawn(move || match conn.read().unwrap() {
                    Message::Close(Some(close)) => {
                        // Answers the close, until the gateway hangs up.
                        while conn.read().is_ok() {}
                        close.code
                    }
                    other => panic!("not a close: {other:?}"),
                })
            })
            .collect();
        gateway.drain();
        for reader in readers {
            assert_eq!(reader.join().unwrap(), CloseCode::Restart);
        }
        assert!(TcpStream::connect(ws).is_err(), "nobody accepts any more");
        assert!(TcpStream::connect(grpc).is_err());
    }
}

/// An order to stop waits for nobody.
#[test]
fn stopping_closes_at_once() {
    for driver in drivers() {
        let gateway = Gateway::start(driver, 2);
        let mut conn = gateway.connect("alice");
        drop(gateway);
        let mut byte = [0];
        let read = conn.get_mut().read(&mut byte);
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
}

/// An idle shard ticks often enough to show that it is alive, and not more.
#[test]
fn an_idle_shard_beats_and_does_not_spin() {
    for driver in drivers() {
        let gateway = Gateway::start(driver, 1);
        let _conn = gateway.connect("alice");
        let metrics = &gateway.metrics[0];
        let beat = metrics.heartbeat_nanos.get();
        let ticks = metrics.ticks.get();
        wait_until(
            || metrics.heartbeat_nanos.get() > beat + 1_500_000_000,
            || "two heartbeats".to_owned(),
        );
        let ticks = metrics.ticks.get() - ticks;
        assert!(ticks < 50, "{ticks} ticks in two seconds without work");
    }
}

fn count(family: &gateway_core::metrics::Family, label: &str) -> u64 {
    family.iter().find(|(known, _)| *known == label).unwrap().1
}
