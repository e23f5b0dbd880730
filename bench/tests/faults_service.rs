//! Logic services that die, freeze, share users or stand side by side, as real processes: what their users get.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use common::{
    alone,
    load::{Load, Way, assert_rising, numbers},
    ringway,
    users::Users,
    wait_for,
};
use gateway_bench::{gateway::Gateway, service::READY};
use logic_client::{LogicClient, ReturnReason, What, simulation};
use rustix::process::{Pid, Signal, kill_process};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringway-bench");

#[test]
fn users_of_a_killed_service_are_answered_by_another_process() {
    // Everybody talks all the time, and one of the two processes is killed with -9: each message is answered, by one or by
    // the other. Both may answer what was on its way.
    let _alone = alone();
    let gateway = ringway().shards(2).start().unwrap();
    let victim = Service::start(&gateway, "talk", "victim");
    let _heir = Service::start(&gateway, "talk", "heir");
    let users = Users::start(&[gateway.ws], 20);
    let mut said = Said::default();
    said.talk(&users, 20);
    wait_for("answers of the one that will be killed", || {
        Answers::of(&users).by("victim").then_some(())
    });
    said.talk(&users, 40);
    victim.signal(Signal::KILL);
    said.talk(&users, 40);
    let answers = said.wait_for_answers(&users);
    answers.assert_each_process_answers_in_order();
    assert!(answers.by("heir"));
    assert_nobody_was_cut_off(&users);
}

#[test]
fn users_of_a_frozen_service_are_answered_by_another_process() {
    // It is not dead, but does not answer pings: its streams end, and what it has not acknowledged goes to the other one.
    let _alone = alone();
    let gateway = ringway()
        .shards(2)
        .setting("RINGWAY_GRPC_KEEPALIVE_INTERVAL_MS", 400)
        .setting("RINGWAY_GRPC_KEEPALIVE_TIMEOUT_MS", 400);
    let gateway = gateway.start().unwrap();
    let sleeper = Service::start(&gateway, "talk", "sleeper");
    let _heir = Service::start(&gateway, "talk", "heir");
    let users = Users::start(&[gateway.ws], 20);
    let mut said = Said::default();
    said.talk(&users, 20);
    wait_for("answers of the one that will be frozen", || {
        Answers::of(&users).by("sleeper").then_some(())
    });
    sleeper.signal(Signal::STOP);
    said.talk(&users, 20);
    said.wait_for_answers(&users);
    // It finds its streams gone, opens new ones, and serves again.
    sleeper.signal(Signal::CONT);
    said.talk(&users, 20);
    let answers = said.wait_for_answers(&users);
    answers.assert_each_process_answers_in_order();
    assert_nobody_was_cut_off(&users);
}

#[test]
fn five_processes_of_one_service_share_the_users() {
    let _alone = alone();
    let gateway = ringway().shards(2).start().unwrap();
    let names = ["one", "two", "three", "four", "five"];
    let _services = names.map(|name| Service::start(&gateway, "talk", name));
    let users = Users::start(&[gateway.ws], 60);
    let mut said = Said::default();
    said.talk(&users, 20);
    let answers = said.wait_for_answers(&users);
    answers.assert_each_process_answers_in_order();
    for (user, answers) in answers.0.iter().enumerate() {
        assert_eq!(
            answers.len(),
            20,
            "user {user} got an answer twice: {answers:?}"
        );
        let by: BTreeSet<_> = answers.iter().map(|(name, _)| name).collect();
        assert_eq!(by.len(), 1, "user {user} was answered by {by:?}");
    }
    for name in names {
        assert!(answers.by(name), "{name} has got nothing to do");
    }
}

#[test]
fn two_services_each_get_every_event() {
    let _alone = alone();
    let gateway = ringway().shards(2).start().unwrap();
    let _chat = Service::start(&gateway, "chat", "chat");
    let _audit = Service::start(&gateway, "audit", "audit");
    let users = Users::start(&[gateway.ws], 20);
    let mut said = Said::default();
    said.talk(&users, 20);
    wait_for("two answers to each message", || {
        let answers = Answers::of(&users);
        let enough = answers.0.iter().all(|answers| answers.len() >= 40);
        enough.then_some(())
    });
    let answers = Answers::of(&users);
    answers.assert_each_process_answers_in_order();
    for (user, answers) in answers.0.iter().enumerate() {
        let differ: BTreeSet<_> = answers.iter().collect();
        assert_eq!(answers.len(), 40, "user {user}");
        assert_eq!(differ.len(), 40, "user {user} got an answer twice");
    }
}

#[test]
fn two_clients_that_share_a_session_are_told_and_lose_nothing() {
    // As if one virtual machine had been copied. Whoever comes second must neither take the other's place again and again,
    // nor have its commands taken for the other's.
    let _alone = alone();
    let gateway = ringway().shards(2).start().unwrap();
    let users = Users::start(&[gateway.ws], 20);
    let (one, other) = users.names.split_at(10);
    let start = |users: &[String]| {
        let builder = LogicClient::builder().gateway(gateway.grpc.to_string());
        let builder = simulation::with_session(builder, [7; 16]);
        Load::start(builder, users, 1_000, Way::FireAndForget)
    };
    let loads = [start(one), start(other)];
    for load in &loads {
        load.wait_for_pushed(1_000);
    }
    let told = loads.iter().flat_map(Load::notices);
    let told = told.filter(|(_, notice)| notice.what == What::SharedSession);
    assert!(told.count() > 0, "nobody was told");
    for load in &loads {
        load.stop();
    }
    // Every message has arrived, or was handed back.
    wait_for("everything to be accounted for", || {
        let seen = users.seen();
        let all = loads.iter().enumerate().all(|(part, load)| {
            let seen = &seen[part * 10..][..10];
            let arrived: usize = seen.iter().map(|user| user.messages.len()).sum();
            (arrived + load.returned().len()) as u64 >= load.pushed()
        });
        all.then_some(())
    });
    for (name, user) in users.names.iter().zip(users.seen()) {
        assert_rising(name, &numbers(name, &user.messages));
    }
    for load in &loads {
        for returned in load.returned() {
            assert_eq!(returned.reason, ReturnReason::Unknown);
        }
    }
}

/// A logic service in a process of its own; it is killed when this is dropped.
struct Service(Child);

impl Service {
    fn start(gateway: &Gateway, service: &str, name: &str) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["service", "--service", service, "--name", name]);
        command.args(["--gateway", &gateway.grpc.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), READY);
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How many messages everybody has said.
#[derive(Default)]
struct Said(u64);

impl Said {
    /// Everybody says `count` more, each numbered.
    fn talk(&mut self, users: &Users, count: u64) {
        for number in self.0..self.0 + count {
            for user in 0..users.names.len() {
                users.say(user, number.to_string());
            }
            thread::park_timeout(Duration::from_millis(5));
        }
        self.0 += count;
    }

    /// Waits until each message has been answered, at least once.
    fn wait_for_answers(&self, users: &Users) -> Answers {
        wait_for("an answer to every message", || {
            let answers = Answers::of(users);
            let all = answers.0.iter().all(|answers| {
                let differ: BTreeSet<_> = answers.iter().map(|(_, number)| number).collect();
                differ.len() as u64 == self.0
            });
            all.then_some(answers)
        })
    }
}

/// By user: who answered, and to which message.
struct Answers(Vec<Vec<(String, u64)>>);

impl Answers {
    fn of(users: &Users) -> Self {
        let answer = |message: &String| {
            let (name, number) = message.split_once(' ').unwrap();
            (name.to_owned(), number.parse().unwrap())
        };
        let seen = users.seen().into_iter();
        Self(
            seen.map(|user| user.messages.iter().map(answer).collect())
                .collect(),
        )
    }

    /// Somebody was answered by `name`.
    fn by(&self, name: &str) -> bool {
        self.0.iter().flatten().any(|(by, _)| by == name)
    }

    /// Events come in order per user, and to one process never twice.
    fn assert_each_process_answers_in_order(&self) {
        for (user, answers) in self.0.iter().enumerate() {
            let mut last = BTreeMap::new();
            for (name, number) in answers {
                if let Some(before) = last.insert(name, number) {
                    assert!(
                        before < number,
                        "{name} answers user {user}: {before}, then {number}"
                    );
                }
            }
        }
    }
}

fn assert_nobody_was_cut_off(users: &Users) {
    for (name, user) in users.names.iter().zip(users.seen()) {
        assert_eq!(user.connections, 1, "{name} was cut off: {:?}", user.ends);
    }
}
