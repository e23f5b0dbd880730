//! What must stop nothing: no descriptors left, resets in the middle of a handshake, addresses in use.
//!
//! The descriptor limit is the process's: the tests of this file take turns.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod driver;

use std::{
    io::{Read, Write},
    net::SocketAddr,
    sync::Mutex,
    time::Duration,
};

use driver::{Gateway, Logic, dial, drivers, push, text, wait_until};
use gateway_core::{
    bootstrap::{BootError, Extras, start},
    config::{Config, DriverChoice},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

static TURN: Mutex<()> = Mutex::new(());

/// All descriptors are taken while twenty clients connect. They wait in the backlog (those of the bare ring only if they have to
/// move to another shard, for which a descriptor is needed), the errors are counted, and all get in as soon as there are
/// descriptors again, on the very listener that failed.
#[test]
fn running_out_of_descriptors_delays_and_kills_nothing() {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for driver in drivers() {
        let gateway = Gateway::start(driver, 2);
        let mut early = gateway.connect("early");
        let mut logic = Logic::connect(gateway.grpc);
        assert_eq!(logic.push_all([push("early", "1")]).delivered, 1);
        assert_eq!(text(&mut early), "1");

        let waiting: Vec<Socket> = (0..20)
            .map(|_| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap())
            .collect();
        let before = lower_limit();
        for (n, socket) in waiting.iter().enumerate() {
            socket.connect(&gateway.ws.into()).unwrap();
            (&*socket)
                .write_all(request(&format!("late{n}")).as_bytes())
                .unwrap();
        }
        wait_until(
            || gateway.sum(|m| m.accept_errors.total()) >= 3,
            || "three errors".to_owned(),
        );
        assert_eq!(logic.push_all([push("early", "2")]).delivered, 1);
        assert_eq!(
            text(&mut early),
            "2",
            "those who are in are served meanwhile"
        );
        let ticks = gateway.sum(|m| m.ticks.get());
        let errors = gateway.sum(|m| m.accept_errors.total());
        assert!(
            ticks < 100 * errors,
            "{ticks} ticks: it spins on the listener"
        );
        setrlimit(Resource::Nofile, before).unwrap();

        for socket in waiting {
            socket.set_read_timeout(Some(driver::LIMIT)).unwrap();
            let mut answer = [0; 12];
            (&socket).read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 101");
        }
        let reasons = |m: &gateway_core::metrics::Metrics| {
            let others = m
                .accept_errors
                .iter()
                .filter(|(reason, _)| *reason != "descriptors");
            others.map(|(_, n)| n).sum()
        };
        assert_eq!(gateway.sum(reasons), 0);
    }
}

/// Clients that reset in the middle of their request, before it, and right after it: nothing is left of them.
#[test]
fn resets_in_mid_handshake_leave_nothing_behind() {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let request = request("mallory");
    for driver in drivers() {
        let gateway = Gateway::start(driver, 2);
        for n in 0..300 {
            let mut stream = dial(gateway.ws);
            let part = request.len() * (n % 4) / 3;
            stream
                .write_all(&request.as_bytes()[..part.min(request.len())])
                .unwrap();
            // Resets instead of closing.
            socket2::SockRef::from(&stream)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
        gateway.wait_for(0, |m| m.handshaking.get());
        gateway.wait_for(0, |m| m.connections.get());
        let mut conn = gateway.connect("alice");
        let mut logic = Logic::connect(gateway.grpc);
        assert_eq!(logic.push_all([push("alice", "hi")]).delivered, 1);
        assert_eq!(text(&mut conn), "hi");
    }
}

/// Half-open connections never say a word: they are closed after the handshake's time, and hold up nobody.
#[test]
fn silent_sockets_are_closed_in_time() {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for driver in drivers() {
        let gateway = Gateway::start_with(driver, 2, |config| config.ws.handshake_timeout_ms = 300);
        let mut silent: Vec<_> = (0..1_000).map(|_| dial(gateway.ws)).collect();
        drop(gateway.connect("alice"));
        gateway.wait_for(0, |m| m.handshaking.get());
        let mut end = Vec::new();
        for stream in &mut silent {
            let _ = stream.read_to_end(&mut end);
        }
    }
}

/// A gateway never shares a port with another, and says which setting to change.
#[test]
fn boot_errors_name_the_setting() {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let gateway = Gateway::start(drivers()[0], 2);
    let refused = |adjust: &dyn Fn(&mut Config)| {
        let mut config = Config::default();
        config.shards.count = 2;
        config.ws.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.grpc.listen = config.ws.listen;
        adjust(&mut config);
        match start(config, Extras::default()) {
            Err(error) => error,
            Ok(_) => panic!("it must not start"),
        }
    };
    let error = refused(&|config| config.ws.listen = gateway.ws);
    assert!(error.to_string().contains("ws.listen"), "{error}");
    let error = refused(&|config| config.grpc.listen = gateway.shard_grpc[0]);
    assert!(error.to_string().contains("grpc.listen"), "{error}");
    let error = refused(&|config| config.grpc.listen.set_port(65_534));
    assert!(
        matches!(
            error,
            BootError::Setting {
                key: "grpc.listen",
                ..
            }
        ),
        "{error}"
    );
    let error = refused(&|config| config.grpc.listen = SocketAddr::from(([0, 0, 0, 0], 0)));
    assert!(error.to_string().contains("insecure"), "{error}");
    let error = refused(&|config| config.shards.cores = vec![5_000]);
    assert!(error.to_string().contains("shards.cores"), "{error}");
    let error = refused(&|config| config.shards.count = 1_025);
    assert!(error.to_string().contains("1024"), "{error}");
    // What was refused left nothing behind: the same port can be had once they are free.
    let ws = gateway.ws;
    drop(gateway);
    wait_until(
        || std::net::TcpStream::connect(ws).is_err(),
        || "the port to be free".to_owned(),
    );
    let again = Gateway::start_with(DriverChoice::Auto, 2, |config| config.ws.listen = ws);
    assert_eq!(again.ws, ws);
}

/// A valid handshake.
fn request(user: &str) -> String {
    format!(
        "GET /ws?user={user} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// Leaves no room for one more descriptor; gives the limit that was.
fn lower_limit() -> Rlimit {
    let before = getrlimit(Resource::Nofile);
    // Descriptors are the lowest free numbers: fill the holes below the highest, then forbid what lies above.
    let open = || std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = open().map(|entry| {
        entry
            .unwrap()
            .file_name()
            .into_string()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    });
    let highest = numbers.max().unwrap();
    let mut holes = Vec::new();
    loop {
        let file = std::fs::File::open("/dev/null").unwrap();
        if u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&file)).unwrap() > highest {
            break;
        }
        holes.push(file);
    }
    let limit = Rlimit {
        current: Some(highest + 1),
        ..before
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    std::mem::forget(holes);
    before
}
