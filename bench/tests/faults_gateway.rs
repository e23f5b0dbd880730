//! Gateways that die or freeze, as real processes: what their users get, and what the logic service is told.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use common::{
    PATIENCE, alone,
    load::{Load, Way, assert_rising, numbers},
    ringway, ringway_somewhere,
    users::Users,
    wait_for,
};
use gateway_bench::gateway::Gateway;
use logic_client::{LogicClient, PushError, Receipt, What};
use rustix::process::Signal;

#[test]
fn killed_gateway_loses_nothing_that_was_confirmed_and_doubles_nothing() {
    // kill -9 under load, then another process at the same addresses. Of every message the sender knows: it has arrived, it
    // has not, or nobody can know.
    let _alone = alone();
    let launch = ringway_somewhere(2);
    let mut gateway = launch.start().unwrap();
    let users = Users::start(&[gateway.ws], 20);
    let service = LogicClient::builder().gateway(gateway.grpc.to_string());
    let load = Load::start(service, &users.names, 2_000, Way::Confirmed);
    load.wait_for_pushed(1_000);

    let killed = Instant::now();
    gateway.signal(Signal::KILL).unwrap();
    gateway.wait(PATIENCE).unwrap();
    // The kernel may take a moment to let go of the addresses: whoever restarts gateways tries again.
    let _next = wait_for("another process in its place", || launch.start().ok());
    users.wait_connected();
    wait_for("the streams to the new process", || {
        load.first_notice(killed, |what| matches!(what, What::Connected { .. }))
    });
    load.wait_for_pushed(1_000);
    load.stop();
    let outcomes = load.outcomes();

    let [mut written, mut nobody, mut unknown] = [0; 3];
    let is_written =
        |outcome: &Result<Receipt, PushError>| matches!(outcome, Ok(told) if told.written == 1);
    let confirmed = outcomes.iter().filter(|(_, told)| is_written(told));
    let seen = users.seen_after(confirmed.map(|(which, _)| *which));
    for ((user, number), outcome) in &outcomes {
        let name = &users.names[*user];
        let got = numbers(name, &seen[*user].messages);
        let times = got.iter().filter(|got| *got == number).count();
        match outcome {
            Ok(receipt) if receipt.written == 1 => {
                assert_eq!(times, 1, "{name} {number}: confirmed");
                written += 1;
            }
            Ok(receipt) => {
                assert_eq!(times, 0, "{name} {number}: {receipt:?}");
                nobody += 1;
            }
            Err(PushError::Unknown) => {
                assert!(times <= 1, "{name} {number}: {times} times");
                unknown += 1;
            }
            Err(error) => panic!("{name} {number}: {error}"),
        }
    }
    for (name, user) in users.names.iter().zip(&seen) {
        assert_rising(name, &numbers(name, &user.messages));
        assert_eq!(user.ends, [None], "{name}: cut off once, without a Close");
    }
    println!("{written} written, {nobody} found nobody, {unknown} unknown");
    assert!(written > 1_000, "{written} of {} written", outcomes.len());
}

#[test]
fn frozen_gateway_delays_only_its_own_users_and_catches_up() {
    // A pause too short for anybody to give up: users of the other gateways notice nothing, those of the frozen one get
    // everything later, once and in order.
    let _alone = alone();
    let gateways: Vec<_> = (0..3)
        .map(|_| ringway().shards(1).start().unwrap())
        .collect();
    let homes: Vec<_> = gateways.iter().map(|gateway| gateway.ws).collect();
    let users = Users::start(&homes, 12);
    let load = Load::start(
        service_of(&gateways),
        &users.names,
        1_000,
        Way::FireAndForget,
    );
    load.wait_for_pushed(500);

    gateways[0].signal(Signal::STOP).unwrap();
    wait_for("the gateway to stand still", || {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", gateways[0].pid()));
        state.unwrap().contains(") T ").then_some(())
    });
    // What was on its way in its users' sockets may still come.
    thread::park_timeout(Duration::from_millis(100));
    let before = users.seen();
    load.wait_for_pushed(2_000);
    let during = users.seen();
    gateways[0].signal(Signal::CONT).unwrap();

    for at in 0..users.names.len() {
        let came = during[at].messages.len() - before[at].messages.len();
        match at % 3 {
            0 => assert_eq!(came, 0, "{}: its gateway is frozen", users.names[at]),
            // 2,000 for twelve; what is on its way does not count.
            _ => assert!(came > 120, "{} got {came}", users.names[at]),
        }
    }
    let longest = load.longest_push();
    assert!(longest < Duration::from_secs(1), "a push took {longest:?}");
    load.stop();
    everything_arrives_once(&users, load.pushed());
}

#[test]
fn gateway_frozen_until_its_links_are_given_up_resumes_without_loss() {
    // The client finds the link dead, and dials again in vain until the gateway goes on: the same run of the process, so
    // that nothing may be lost, doubled, or handed back.
    let _alone = alone();
    let gateway = ringway().shards(2).start().unwrap();
    let users = Users::start(&[gateway.ws], 10);
    let service = LogicClient::builder()
        .gateway(gateway.grpc.to_string())
        .keepalive(Duration::from_millis(300));
    let load = Load::start(service, &users.names, 1_000, Way::FireAndForget);
    load.wait_for_pushed(500);

    let frozen = Instant::now();
    gateway.signal(Signal::STOP).unwrap();
    wait_for("the streams to be given up", || {
        load.first_notice(frozen, |what| matches!(what, What::Lost { .. }))
    });
    // New attempts fail too.
    load.wait_for_pushed(1_000);
    // A stream may be open again before the signal's sender knows that it was sent.
    let thawed = Instant::now();
    gateway.signal(Signal::CONT).unwrap();
    wait_for("the streams to be open again", || {
        load.first_notice(thawed, |what| matches!(what, What::Connected { .. }))
    });
    load.wait_for_pushed(500);
    load.stop();
    everything_arrives_once(&users, load.pushed());
    assert_eq!(load.stats().total().unknown, 0);
}

#[test]
fn gateway_that_advertises_shards_where_nobody_listens_is_served_through_its_common_port() {
    // The host it tells for its shards' ports is one where nothing is bound.
    let _alone = alone();
    let launch = ringway_somewhere(2).setting("RINGWAY_GRPC_ADVERTISE_HOST", "127.77.0.1");
    let gateway = launch.start().unwrap();
    let users = Users::start(&[gateway.ws], 20);
    let began = Instant::now();
    let load = Load::start(
        service_of(std::slice::from_ref(&gateway)),
        &users.names,
        1_000,
        Way::FireAndForget,
    );
    load.wait_for_pushed(1_000);
    let warned = load.first_notice(began, |what| *what == What::CommonPort);
    assert!(warned.is_some(), "the notice");
    let streams = load.stats().streams;
    assert!(streams.len() == 1 && streams[0].common_port, "{streams:?}");
    load.stop();
    everything_arrives_once(&users, load.pushed());
}

fn service_of(gateways: &[Gateway]) -> logic_client::Builder {
    let addresses = gateways.iter().map(|gateway| gateway.grpc.to_string());
    addresses.fold(LogicClient::builder(), |builder, address| {
        builder.gateway(address)
    })
}

/// Waits until `pushed` messages, dealt out in turns, have come; each once and in order.
fn everything_arrives_once(users: &Users, pushed: u64) {
    wait_for("every message", || {
        let seen = users.seen();
        let got: usize = seen.iter().map(|user| user.messages.len()).sum();
        (got as u64 >= pushed).then_some(())
    });
    let seen = users.seen();
    let mut all = BTreeSet::new();
    for (at, (name, user)) in users.names.iter().zip(&seen).enumerate() {
        let numbers = numbers(name, &user.messages);
        assert_rising(name, &numbers);
        all.extend(numbers.into_iter().map(|number| (at, number)));
    }
    assert_eq!(all.len() as u64, pushed, "messages that differ");
}
