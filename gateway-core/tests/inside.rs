//! Looking inside a running gateway: `ringway top`, `/debug/shards`, `/debug/profile`.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

fn ringway(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    command.args(arguments).env("RINGWAY_CONFIG", "/dev/null");
    command
}

/// Exit code, output and errors.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = ringway(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A gateway of two shards, killed with the test.
struct Gateway {
    process: Child,
    admin: SocketAddr,
}

impl Gateway {
    fn start() -> Self {
        let any = "127.0.0.1:0";
        let mut process = ringway(&[
            "serve", "--ws", any, "--grpc", any, "--admin", any, "--shards", "2", "--log", "warn",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let mut lines = stdout.lines().map(Result::unwrap);
        let ready = lines.find(|line| line.starts_with("ringway ready "));
        let ready = ready.unwrap();
        let admin = ready
            .split(' ')
            .find_map(|word| word.strip_prefix("admin="));
        Self {
            admin: admin.unwrap().parse().unwrap(),
            process,
        }
    }

    /// Status, head and body.
    fn get(&self, path: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (
            head[9..12].parse().unwrap(),
            head.to_lowercase(),
            body.to_owned(),
        )
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn top_prints_every_shard_once_as_text_or_json() {
    let gateway = Gateway::start();
    let admin = gateway.admin.to_string();
    let deadline = Instant::now() + PATIENCE;
    let text = loop {
        let (code, text, errors) = run(&["top", "--once", "--admin", &admin]);
        assert_eq!(code, 0, "{errors}");
        // The first figures come a moment after the gateway is up.
        if text.contains("shard 1") {
            break text;
        }
        assert!(Instant::now() < deadline, "{text}");
    };
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].contains(&admin), "{text}");
    assert!(
        lines[1].starts_with("shd  cpu wait park kern ingr"),
        "{text}"
    );
    assert!(
        lines[2].starts_with("  0 ") && lines[3].starts_with("  1 "),
        "{text}"
    );
    assert!(text.contains("has time left"), "{text}");
    let (code, json, _) = run(&["top", "--json", "--admin", &admin]);
    let told: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, told["shards"].as_array().unwrap().len()), (0, 2));
}

#[test]
fn top_says_why_there_is_nothing_to_show() {
    // Connections of others come from 127.0.0.1: this port is nobody's even later.
    let nobody = TcpListener::bind("127.83.86.67:0").unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let (code, _, errors) = run(&["top", "--once", "--admin", &address]);
    assert_eq!(code, 6, "{errors}");
    assert!(
        errors.contains(&address) && errors.contains("refused"),
        "{errors}"
    );
    let (code, _, errors) = run(&["top", "--admin", &address]);
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("--once"), "{errors}");
}

#[test]
fn a_profile_is_a_picture_of_one_shard_and_one_is_taken_at_a_time() {
    let gateway = Gateway::start();
    for (query, word) in [
        ("shard=2", "0 to 1"),
        ("seconds=61", "1 to 60"),
        ("x=1", "allowed"),
    ] {
        let (status, _, text) = gateway.get(&format!("/debug/profile?{query}"));
        assert_eq!(status, 400, "{text}");
        assert!(text.contains(word), "{text}");
    }
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| gateway.get("/debug/profile?shard=1&seconds=3"));
        let deadline = Instant::now() + PATIENCE;
        // As soon as the first one has begun, the second one is refused.
        let second = loop {
            let second = gateway.get("/debug/profile?shard=0&seconds=1");
            if second.0 == 409 || first.is_finished() || Instant::now() > deadline {
                break second;
            }
        };
        (first.join().unwrap(), second)
    });
    let (status, head, text) = first;
    // A host may forbid it, and says so at once. An idle shard gives no sample.
    if text.contains("perf_event_paranoid") {
        return assert_eq!(status, 503, "{text}");
    }
    assert!([status, second.0].contains(&409), "{text} {}", second.2);
    match status {
        200 => {
            assert!(head.contains("content-type: image/svg+xml"), "{head}");
            assert!(text.contains("shard 1: 3 s at 997 Hz"), "{text}");
        }
        409 => assert!(text.contains("another profile"), "{text}"),
        _ => assert!(
            status == 503 && text.contains("no sample"),
            "{status} {text}"
        ),
    }
}
