//! The binary as operators and scripts meet it: ready line, signals, exit codes, `push` to a real WebSocket.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio_tungstenite::tungstenite::Message;

mod process;

use process::{Gateway, PATIENCE, get, ringway, run};

// Users of both shards get their text through the common port, then the drain closes them with 1012 and ends the process.
#[test]
fn a_gateway_pushes_and_drains() {
    let gateway = Gateway::start(&["--set", "drain.spread_ms=100"]);
    assert_eq!(gateway.admin("/readyz"), (200, "ready\n".into()));
    let users = ["alice", "bob", "carol", "dave"];
    let mut clients = users.map(|user| gateway.connect(user));
    for user in users {
        let (code, stdout, stderr) = gateway.push(&["--user", user, "--text", "hi"]);
        assert_eq!(
            (code, stdout.as_str()),
            (0, "delivered=1 no_target=0 dropped=0 rejected=0\n"),
            "{stderr}"
        );
    }
    let (code, stdout, _) = gateway.push(&["--everyone", "--text", "all", "--binary"]);
    assert_eq!(code, 0);
    assert!(stdout.starts_with("delivered=4 "), "{stdout}");
    for client in &mut clients {
        assert_eq!(client.read().unwrap(), Message::text("hi"));
        assert_eq!(client.read().unwrap(), Message::binary(&b"all"[..]));
    }
    let metrics = gateway.admin("/metrics").1;
    let has = |sample: &str| metrics.lines().any(|line| line == sample);
    // Who tests a driver must not be given another one.
    let drivers = match std::env::var("RINGWAY_SHARDS_DRIVER").as_deref() {
        Ok("uring") => vec!["uring"],
        Ok("monoio") => vec!["monoio (io_uring)"],
        Ok("epoll") => vec!["monoio (epoll)"],
        Ok("glommio") => vec!["glommio"],
        _ => vec!["uring", "monoio (io_uring)", "monoio (epoll)", "glommio"],
    };
    let info = |driver| format!("ringway_build_info{{version=\"0.1.0\",driver=\"{driver}\"}} 1");
    assert!(
        drivers.into_iter().any(|name| has(&info(name))),
        "{metrics}"
    );

    gateway.signal(Signal::TERM);
    for mut client in clients {
        let Message::Close(Some(close)) = client.read().unwrap() else {
            panic!("no Close");
        };
        assert_eq!(u16::from(close.code), 1012);
        // Answers the Close.
        while client.read().is_ok() {}
    }
    assert_eq!(gateway.end(), 0);
}

// An operator asks first, then drains at a pace of his own, and is told when the gateway is gone.
#[test]
fn drain_tells_what_it_would_do_then_does_it_and_waits() {
    let gateway = Gateway::start(&["--set", "drain.connections_per_second=100"]);
    let clients: Vec<_> = (0..30)
        .map(|user| gateway.connect(&user.to_string()))
        .collect();
    let admin = gateway.admin.to_string();
    let drain =
        |arguments: &[&str]| run(&[&["drain", "--admin", admin.as_str()], arguments].concat());
    let (code, stdout, stderr) = drain(&["--dry-run"]);
    let told = "would drain 30 connections, 0 streams on 0 links over 300 ms (drain.connections_per_second), \
                at most 6.8 s in all\n";
    assert_eq!((code, stdout.as_str()), (0, told), "{stderr}");
    assert_eq!(gateway.admin("/readyz").0, 200, "nothing has changed");

    let readers: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            thread::spawn(move || {
                let close = client.read().unwrap();
                while client.read().is_ok() {}
                (close, Instant::now())
            })
        })
        .collect();
    let (code, stdout, stderr) = drain(&["--spread", "900ms", "--wait"]);
    assert_eq!(code, 0, "{stderr}");
    let lines: Vec<_> = stdout.lines().collect();
    let told = "drains 30 connections, 0 streams on 0 links over 900 ms (spread_ms of the call), at most 7.4 s in all";
    assert_eq!(lines.first(), Some(&told));
    assert_eq!(lines.last(), Some(&"drained"));
    assert!(
        lines.iter().any(|line| line.starts_with("left: ")),
        "{stdout}"
    );
    let mut closed: Vec<_> = readers
        .into_iter()
        .map(|reader| reader.join().unwrap())
        .map(|(close, at)| match close {
            Message::Close(Some(close)) if u16::from(close.code) == 1012 => at,
            other => panic!("{other:?}"),
        })
        .collect();
    closed.sort();
    let took = closed[29] - closed[0];
    assert!(took > Duration::from_millis(600), "all within {took:?}");
    assert_eq!(gateway.end(), 0);
    let (code, _, stderr) = drain(&[]);
    assert_eq!(code, 6, "{stderr}");
}

// What runs before a pod gets its SIGTERM may have begun the drain: that signal must not cut it short.
#[test]
fn a_signal_does_not_cut_a_drain_short_that_a_call_began() {
    let gateway = Gateway::start(&["--set", "drain.max_spread_ms=20000"]);
    let mut clients: Vec<_> = (0..8)
        .map(|user| gateway.connect(&user.to_string()))
        .collect();
    let admin = gateway.admin.to_string();
    let (code, _, stderr) = run(&["drain", "--admin", &admin, "--spread", "21s"]);
    assert_eq!(code, 4);
    assert!(stderr.contains("drain.max_spread_ms"), "{stderr}");
    let (code, _, stderr) = run(&["drain", "--admin", &admin, "--spread", "2s"]);
    assert_eq!(code, 0, "{stderr}");
    let (code, stdout, _) = run(&["drain", "--admin", &admin]);
    assert_eq!((code, stdout.as_str()), (0, "drains already\n"));
    gateway.signal(Signal::TERM);
    for client in &mut clients {
        let Message::Close(Some(close)) = client.read().unwrap() else {
            panic!("no Close");
        };
        assert_eq!(u16::from(close.code), 1012);
        while client.read().is_ok() {}
    }
    assert_eq!(gateway.end(), 0);

    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let (code, _, stderr) = run(&["drain", "--admin", &address, "--timeout", "200ms"]);
    assert_eq!(code, 6, "{stderr}");
}

// The drain would take ten minutes.
#[test]
fn a_second_signal_ends_the_process_at_once() {
    let gateway = Gateway::start(&["--set", "drain.spread_ms=600000"]);
    let _clients: Vec<_> = (0..8)
        .map(|user| gateway.connect(&user.to_string()))
        .collect();
    gateway.signal(Signal::INT);
    let deadline = Instant::now() + PATIENCE;
    while gateway.admin("/readyz") != (503, "draining\n".into()) {
        assert!(Instant::now() < deadline, "it does not drain");
    }
    assert_eq!(gateway.admin("/healthz").0, 200);
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.end(), 1);
}

#[test]
fn exit_codes_of_push_tell_what_became_of_the_message() {
    let gateway = Gateway::start(&[]);
    let (code, stdout, _) = gateway.push(&["--user", "nobody", "--text", "hi"]);
    let counts = "delivered=0 no_target=1 dropped=0 rejected=0\n";
    assert_eq!((code, stdout.as_str()), (3, counts));
    assert_eq!(gateway.push(&["--connection", "1:2", "--text", "hi"]).0, 3);
    let (code, _, stderr) = gateway.push(&["--topic", "", "--text", "hi"]);
    assert_eq!(code, 4, "{stderr}");
    assert_eq!(gateway.push(&["--text", "for whom?"]).0, 2);

    // Connections of others come from 127.0.0.1: this port is nobody's even later.
    let free = TcpListener::bind("127.83.86.67:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let (code, _, stderr) = run(&["push", "--gateway", &address, "--everyone", "--text", "hi"]);
    assert_eq!(code, 6);
    assert!(stderr.contains("cannot connect"), "{stderr}");
}

// Something listens and never answers.
#[test]
fn push_gives_up_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let push = ["push", "--gateway", &address, "--everyone", "--text", "hi"];
    let (code, _, stderr) = run(&[&push[..], &["--timeout", "200ms"]].concat());
    assert_eq!(code, 6, "{stderr}");
}

#[test]
fn what_prevents_a_start_is_told_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let cases: [(&[&str], &str); 5] = [
        (
            &["--shards", "2000"],
            "ringway: --shards: shards.count = 2000 is refused; allowed: 0 to 1_024\n",
        ),
        (&["--grpc", "0.0.0.0:0"], "gateway.insecure = true"),
        (&["--set", "ws.bcklog=1"], "did you mean ws.backlog?"),
        (&["--config", "/nowhere.toml"], "/nowhere.toml"),
        (
            &[
                "--ws",
                "127.0.0.1:0",
                "--grpc",
                "127.0.0.1:0",
                "--admin",
                &taken,
            ],
            "admin.listen",
        ),
    ];
    for (arguments, message) in cases {
        let (code, stdout, stderr) = run(&[&["serve", "--log", "error"], arguments].concat());
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn the_environment_sets_what_flags_leave_open() {
    let output = ringway(&["config", "--shards", "3"])
        .env("RINGWAY_SHARDS_COUNT", "5")
        .env("RINGWAY_OUTBOX_MAX_BYTES", "4194304")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\ncount = 3\n"), "{text}");
    assert!(
        text.contains("Set by RINGWAY_OUTBOX_MAX_BYTES.\nmax_bytes = 4194304\n"),
        "{text}"
    );
}

// The echo goes through the chat service and back: text stays text, binary binary.
#[test]
fn the_demo_serves_its_page_and_echoes() {
    let demo = Gateway::start_as("demo", &[]);
    let (status, page) = get(demo.ws, "/");
    assert_eq!(status, 200);
    assert!(page.contains("<html"), "{page}");
    let mut client = demo.open("/echo");
    for message in [Message::text("hi"), Message::binary(&[0, 255][..])] {
        client.send(message.clone()).unwrap();
        assert_eq!(client.read().unwrap(), message);
    }
    drop(client);
    demo.signal(Signal::TERM);
    assert_eq!(demo.end(), 0);
}
