//! `POST /v1/push` as scripts use it, against the real process.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use serde_json::Value;
use tokio_tungstenite::tungstenite::{Message, WebSocket};

mod process;

use process::{Gateway, PATIENCE};

/// One HTTP/1.1 connection to the admin port.
struct Script {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Script {
    fn of(gateway: &Gateway) -> Self {
        let stream = TcpStream::connect(gateway.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            unread: Vec::new(),
        }
    }

    /// Status and body.
    fn push(&mut self, body: &[u8]) -> (u16, Value) {
        self.push_with("", body)
    }

    fn push_with(&mut self, head: &str, body: &[u8]) -> (u16, Value) {
        let length = body.len();
        let head =
            format!("POST /v1/push HTTP/1.1\r\nhost: x\r\n{head}content-length: {length}\r\n\r\n");
        self.stream.write_all(head.as_bytes()).unwrap();
        // A gateway that has refused it already need not take the rest.
        let _ = self.stream.write_all(body);
        self.answer()
    }

    fn answer(&mut self) -> (u16, Value) {
        let end = |bytes: &[u8]| bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let head = loop {
            if let Some(at) = end(&self.unread) {
                break String::from_utf8(self.unread.drain(..at + 4).collect()).unwrap();
            }
            self.read();
        };
        let head = head.to_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length: usize = length.split('\r').next().unwrap().parse().unwrap();
        while self.unread.len() < length {
            self.read();
        }
        let body: Vec<u8> = self.unread.drain(..length).collect();
        let json = serde_json::from_slice(&body).unwrap();
        (head[9..12].parse().unwrap(), json)
    }

    fn read(&mut self) {
        let mut buffer = [0; 4096];
        let n = self.stream.read(&mut buffer).unwrap();
        assert!(
            n > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&self.unread)
        );
        self.unread.extend_from_slice(&buffer[..n]);
    }
}

fn counts(delivered: u64, no_target: u64) -> Value {
    serde_json::json!({
        "accepted": 1, "delivered": delivered, "no_target": no_target, "dropped": 0, "rejected": 0
    })
}

fn next(client: &mut WebSocket<TcpStream>) -> Message {
    client.read().unwrap()
}

// alice and bob are on different shards: whatever the target, the counts are those of the whole gateway.
#[test]
fn a_script_pushes_to_every_kind_of_target_over_one_connection() {
    let gateway = Gateway::start(&[]);
    let mut clients = ["alice", "bob", "carol"].map(|user| gateway.connect(user));
    let mut script = Script::of(&gateway);
    let cases: [(&str, u64, u64); 6] = [
        (r#"{"user": "alice", "text": "1"}"#, 1, 0),
        (r#"{"users": ["alice", "bob", "bob"], "text": "2"}"#, 2, 0),
        (r#"{"everyone": true, "base64": "AP8="}"#, 3, 0),
        (r#"{"user": "nobody", "text": "3"}"#, 0, 1),
        (r#"{"topic": "empty", "text": "4"}"#, 0, 1),
        (r#"{"connection": "1:2", "text": "5"}"#, 0, 1),
    ];
    for (body, delivered, no_target) in cases {
        let answer = script.push(body.as_bytes());
        assert_eq!(answer, (200, counts(delivered, no_target)), "{body}");
    }
    let binary = Message::binary(&[0, 255][..]);
    let [alice, bob, carol] = &mut clients;
    for expected in [Message::text("1"), Message::text("2"), binary.clone()] {
        assert_eq!(next(alice), expected);
    }
    for expected in [Message::text("2"), binary.clone()] {
        assert_eq!(next(bob), expected);
    }
    assert_eq!(next(carol), binary);
}

// The texts are those of the gRPC port: there is one set of checks.
#[test]
fn limits_are_those_of_grpc_and_a_refused_push_costs_nothing_else() {
    let gateway = Gateway::start(&[
        "--set",
        "limits.max_payload_bytes=1024",
        "--set",
        "limits.max_users_per_push=2",
        "--set",
        "grpc.max_message_bytes=4096",
    ]);
    let mut script = Script::of(&gateway);
    let long = "x".repeat(1025);
    let cases = [
        (
            r#"{"user": "", "text": ""}"#.to_owned(),
            "user_id of 0 bytes; allowed: 1 to 256 bytes of UTF-8",
        ),
        (
            format!(r#"{{"topic": "{}", "text": ""}}"#, &long[..257]),
            "topic of 257 bytes",
        ),
        (
            format!(r#"{{"user": "a", "text": "{long}"}}"#),
            "payload of 1025 bytes, at most 1024 allowed",
        ),
        (
            r#"{"users": ["a", "b", "c"], "text": ""}"#.to_owned(),
            "3 users, at most 2 allowed",
        ),
        (
            r#"{"users": [], "text": ""}"#.to_owned(),
            "users: at least one",
        ),
        (
            format!(
                r#"{{"user": "a", "text": "", "conflation_key": "{}"}}"#,
                &long[..257]
            ),
            "conflation_key of 257 bytes",
        ),
        (
            r#"{"user": "a", "text": "", "ttl": 1}"#.to_owned(),
            "unknown field `ttl`",
        ),
    ];
    for (body, expected) in &cases {
        let (status, answer) = script.push(body.as_bytes());
        let error = answer["error"].as_str().unwrap();
        assert_eq!(status, 400, "{error}");
        assert!(error.contains(expected), "{error}");
    }
    // What has not been read of a refused call goes with its connection.
    let mut page = Script::of(&gateway);
    let origin = "origin: https://example.org\r\n";
    let (status, _) = page.push_with(origin, br#"{"user": "a", "text": ""}"#);
    assert_eq!(status, 403);
    let good = script.push(br#"{"user": "a", "text": ""}"#);
    assert_eq!(good, (200, counts(0, 1)), "the connection goes on");
    let (status, answer) = script.push(&[b' '; 4097]);
    assert_eq!(status, 413);
    let error = answer["error"].as_str().unwrap();
    assert!(error.contains("grpc.max_message_bytes"), "{error}");

    let metrics = gateway.admin("/metrics").1;
    let sample = |line: &str| {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}\n{metrics}"
        );
    };
    sample("ringway_http_pushes_total{result=\"taken\"} 1");
    sample("ringway_http_pushes_total{result=\"refused\"} 9");
    sample("ringway_http_pushes_total{result=\"failed\"} 0");
}

// More calls at a time than a shard's queue would hold one by one: all are answered, and arrive in order per connection.
#[test]
fn scripts_push_at_the_same_time() {
    const SCRIPTS: usize = 20;
    const PUSHES: usize = 50;
    let gateway = Gateway::start(&[]);
    std::thread::scope(|scope| {
        for script in 0..SCRIPTS {
            let gateway = &gateway;
            scope.spawn(move || {
                let user = format!("user-{script}");
                let mut client = gateway.connect(&user);
                let mut script = Script::of(gateway);
                for n in 0..PUSHES {
                    let body = format!(r#"{{"user": "{user}", "text": "{n}"}}"#);
                    assert_eq!(script.push(body.as_bytes()), (200, counts(1, 0)));
                }
                for n in 0..PUSHES {
                    assert_eq!(next(&mut client), Message::text(n.to_string()));
                }
            });
        }
    });
}
