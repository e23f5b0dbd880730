//! The examples of `logic-client`, as somebody tries them out: beside a real gateway, with real clients, ended by ctrl-c.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use common::{connect, ringway, wait_for};
use gateway_bench::{
    clients::{Clients, Event},
    gateway::Gateway,
};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn echo_returns_what_a_client_says() {
    let gateway = ringway().start().unwrap();
    let example = Example::start("echo", &gateway);
    let mut clients = Heard::connect(&gateway, &["alice"]);
    clients.say(0, "is anybody there?");
    assert_eq!(clients.next(0), "is anybody there?");
    assert_eq!(example.ends_by_ctrl_c(), "0 answers were not sent\n");
}

#[test]
fn chat_tells_a_room_and_nobody_else() {
    let gateway = ringway().shards(2).start().unwrap();
    let example = Example::start("chat", &gateway);
    let mut clients = Heard::connect(&gateway, &["alice", "bob", "carol"]);
    for client in 0..3 {
        assert!(clients.next(client).starts_with("welcome!"));
    }
    clients.say(0, "/join tea");
    assert_eq!(clients.next(0), "* alice has joined tea");
    clients.say(1, "/join tea");
    assert_eq!(clients.next(1), "* bob has joined tea");
    assert_eq!(clients.next(0), "* bob has joined tea");
    clients.say(1, "milk?");
    assert_eq!(clients.next(0), "[tea] bob: milk?");
    // Carol is in no room: the first she hears is the answer to herself.
    clients.say(2, "hello?");
    assert_eq!(clients.next(2), "/join ROOM first");
    example.ends_by_ctrl_c();
}

#[test]
fn ticker_sends_prices_to_everyone() {
    let gateway = ringway().start().unwrap();
    let mut clients = Heard::connect(&gateway, &["alice"]);
    let example = Example::start("ticker", &gateway);
    let price: serde_json::Value = serde_json::from_str(&clients.next(0)).unwrap();
    assert!(
        price["symbol"].is_string() && price["price"].is_number(),
        "{price}"
    );
    example.ends_by_ctrl_c();
}

/// An example that runs, and what it says.
struct Example(Child, BufReader<ChildStdout>);

impl Example {
    /// Waits until it says that it is up. The examples are built with the tests of their crate (`cargo test --workspace`),
    /// not with this one.
    fn start(name: &str, gateway: &Gateway) -> Self {
        let beside = Path::new(env!("CARGO_BIN_EXE_ringway-bench"))
            .parent()
            .unwrap();
        let program = beside.join("examples").join(name);
        let mut command = Command::new(&program);
        command.args(["--gateway", &gateway.grpc.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let started = command.spawn();
        let mut child = started.unwrap_or_else(|error| {
            panic!("{program:?}: {error}; cargo build -p logic-client --examples")
        });
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert!(line.ends_with("until ctrl-c\n"), "{line:?}");
        Self(child, output)
    }

    /// Gives what it has said since it was up.
    fn ends_by_ctrl_c(mut self) -> String {
        kill_process(Pid::from_child(&self.0), Signal::INT).unwrap();
        let ended = wait_for("its end", || self.0.try_wait().unwrap());
        assert!(ended.success(), "{ended}");
        let mut said = String::new();
        self.1.read_to_string(&mut said).unwrap();
        said
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Clients, and what each of them has heard.
struct Heard {
    clients: Clients,
    messages: Vec<VecDeque<String>>,
}

impl Heard {
    fn connect(gateway: &Gateway, users: &[&str]) -> Self {
        let users: Vec<_> = users.iter().map(|&user| user.to_owned()).collect();
        Self {
            clients: connect(gateway, &users),
            messages: vec![VecDeque::new(); users.len()],
        }
    }

    fn say(&mut self, client: usize, text: &str) {
        self.clients.send(client, true, text.as_bytes()).unwrap();
    }

    /// The next message for this client.
    fn next(&mut self, client: usize) -> String {
        let Self { clients, messages } = self;
        wait_for("a message", || {
            let take = |whose: usize, event: Event<'_>| {
                if let Event::Message { payload, .. } = event {
                    messages[whose].push_back(String::from_utf8(payload.to_vec()).unwrap());
                }
            };
            clients.receive(Duration::from_millis(10), take).unwrap();
            messages[client].pop_front()
        })
    }
}
