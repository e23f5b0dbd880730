//! A gateway that runs out of descriptors, as an operator meets it who has forgotten to raise the limit.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use common::{
    alone,
    load::{Load, Way, assert_rising, numbers},
    ringway,
    users::Users,
    wait_for,
};
use gateway_bench::{
    clients::Clients,
    gateway::Launch,
    metrics::{self, Metrics},
};
use logic_client::LogicClient;

/// Descriptors that the gateway may have.
const LIMIT: usize = 100;
/// A part of them.
const USERS: usize = 10;

#[test]
fn gateway_without_descriptors_serves_who_is_connected_counts_and_recovers() {
    let _alone = alone();
    let gateway = limited(ringway().shards(1)).start().unwrap();
    let users = Users::start(&[gateway.ws], USERS);
    let service = LogicClient::builder().gateway(gateway.grpc.to_string());
    let load = Load::start(service, &users.names, 500, Way::Confirmed);

    // On the bare ring clients take no descriptors, services do.
    let driver = Metrics::read(gateway.admin).unwrap();
    let direct = driver.label("ringway_build_info", "driver").as_deref() == Some("uring");
    let crowded = if direct { gateway.grpc } else { gateway.ws };
    // More than there is room for: the kernel takes them, the gateway cannot.
    let strangers: Vec<_> = (0..LIMIT)
        .map(|_| TcpStream::connect(crowded).unwrap())
        .collect();
    // The admin port needs a descriptor as well: what was counted is asked for when there are some again.
    wait_for("the descriptors to run out", || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap();
        (open.count() >= LIMIT - 1).then_some(())
    });
    let before = users.seen();
    load.wait_for_pushed(1_000);
    let during = users.seen();
    for at in 0..USERS {
        let came = during[at].messages.len() - before[at].messages.len();
        // 1,000 for ten; what is on its way does not count.
        assert!(came > 80, "{} got {came}", users.names[at]);
    }
    let patience = Duration::from_millis(if direct { 5_000 } else { 500 });
    assert_eq!(
        connects_within(gateway.ws, patience).is_some(),
        direct,
        "whether somebody new is served who takes no descriptor"
    );

    drop(strangers);
    wait_for("a new client to be served", || {
        connects_within(gateway.ws, Duration::from_secs(1))
    });
    load.stop();
    for ((user, number), outcome) in load.outcomes() {
        let receipt = outcome.unwrap();
        assert_eq!(
            receipt.written, 1,
            "{} {number}: {receipt:?}",
            users.names[user]
        );
    }
    for (name, user) in users.names.iter().zip(users.seen()) {
        assert_rising(name, &numbers(name, &user.messages));
        assert_eq!(user.connections, 1, "{name} was cut off: {:?}", user.ends);
    }
    let failed = Metrics::read(gateway.admin)
        .unwrap()
        .sum("ringway_accept_errors_total", &["reason=\"descriptors\""]);
    assert!(failed > 0.0, "accepts failed for want of descriptors");
    metrics::get(gateway.admin, "/readyz").unwrap();
}

/// Starts it through a shell that lowers the limit, the hard one too: the gateway raises its own as far as it may.
fn limited(launch: Launch) -> Launch {
    let ulimit = format!("ulimit -n {LIMIT}; exec \"$0\" \"$@\"");
    let program = launch.program.to_str().unwrap().to_owned();
    let mut first = vec!["-c".to_owned(), ulimit, program];
    first.extend(launch.first.iter().cloned());
    Launch {
        program: "/bin/sh".into(),
        first,
        ..launch
    }
}

/// A client whose handshake is answered in time.
fn connects_within(ws: SocketAddr, patience: Duration) -> Option<()> {
    let (done, connected) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = done.send(Clients::connect(ws, &[Clients::target("late")]).is_ok());
    });
    connected
        .recv_timeout(patience)
        .ok()
        .filter(|is| *is)
        .map(drop)
}
