//! A rolling restart under load, with real processes: three gateways go and come back one after the other, while a service
//! pushes and users reconnect.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/returning.rs"]
mod returning;
#[path = "common/sums.rs"]
mod sums;

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use common::{PATIENCE, ringway_somewhere};
use gateway_bench::{
    gateway::{Gateway, Launch},
    metrics::{self, Metrics},
};
use logic_client::{Locate, LogicClient, Push, PushError, Receipt};
use returning::Users;
use sums::{Back, Counted, Sums, keep};
use tokio::{task::JoinSet, time::MissedTickBehavior};

const GATEWAYS: usize = 3;
const SHARDS: u32 = 2;
const USERS: usize = 60;
const PUSH_EVERY: Duration = Duration::from_millis(2);
const SPREAD_MS: u64 = 1_000;
const RETRY_AFTER_MS: u64 = 1_000;

// Half of the load is confirmed: each message that was confirmed must have come, none twice, and of each other one the service must
// have been told; what it may send again, because it is told that nobody got it, nobody may have got. The other half is fire and
// forget: each message came, or came back, or was counted by its reason, and the sums of all three sides agree.
#[test]
fn a_rolling_restart_loses_no_confirmed_message_and_doubles_none() {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut fleet = Fleet::start();
        let names: Vec<_> = (0..USERS).map(|n| format!("user-{n}")).collect();
        let users = Users::start(&names, &fleet.gateways.each_ref().map(|g| g.ws));
        let back = Back::default();
        let client = fleet.service(&Back::default()).await;
        let plain = fleet.service(&back).await;
        fleet.wait_for_users().await;

        let over = Arc::new(AtomicBool::new(false));
        let load = tokio::spawn(push_until(client.clone(), names.clone(), Arc::clone(&over)));
        let silent = tokio::spawn(push_plainly(
            plain.clone(),
            names.clone(),
            Arc::clone(&over),
        ));
        for at in 0..GATEWAYS {
            fleet.restart(at).await;
            fleet.wait_for_users().await;
        }
        over.store(true, Relaxed);
        let pushed = load.await.unwrap();
        let silent = silent.await.unwrap();
        // What comes before these has come.
        for name in &names {
            reach(&client, &users, name, "the end").await;
            reach(&plain, &users, name, "the end of the rest").await;
        }
        plain.flush().await.unwrap();
        let report = judge(&pushed, &users);
        println!("{report}");
        let (broken, sent_away) = users.ends();
        assert!(broken.is_empty(), "{broken:?}");
        assert!(sent_away >= USERS, "all were sent away: {sent_away}");
        assert!(report.lost.is_empty(), "confirmed and lost: {report}");
        assert!(report.doubled.is_empty(), "came twice: {report}");
        assert!(report.denied.is_empty(), "handed back, and came: {report}");
        assert!(report.confirmed * 2 > pushed.len(), "too few: {report}");
        let sums = Sums::of(&silent, &back, &users, &plain.stats());
        sums.must_agree(&client.stats(), &pushed, fleet.counted());
        users.end().await;
    });
}

/// What became of one push, as the service was told.
struct Pushed {
    user: String,
    text: String,
    answer: Result<Receipt, PushError>,
}

/// Pushes at a steady pace, each message to one user; ends when all answers are there.
async fn push_until(client: LogicClient, users: Vec<String>, over: Arc<AtomicBool>) -> Vec<Pushed> {
    let mut pace = tokio::time::interval(PUSH_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pushes = JoinSet::new();
    let mut number = 0;
    while !over.load(Relaxed) {
        pace.tick().await;
        let user = users[number % users.len()].clone();
        let text = format!("message {number}");
        let client = client.clone();
        number += 1;
        pushes.spawn(async move {
            let push = Push::user(user.clone()).text(text.clone());
            let answer = client.push_confirmed(push);
            let answer = tokio::time::timeout(PATIENCE, answer).await;
            let answer = answer.unwrap_or_else(|_| panic!("no answer: {text} for {user}"));
            let answer = answer.map_err(|failed| failed.error);
            Pushed { user, text, answer }
        });
    }
    pushes.join_all().await
}

/// The same, and nobody waits for answers: numbers and users.
async fn push_plainly(
    client: LogicClient,
    users: Vec<String>,
    over: Arc<AtomicBool>,
) -> Vec<(String, String)> {
    let mut pace = tokio::time::interval(PUSH_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pushed = Vec::new();
    while !over.load(Relaxed) {
        pace.tick().await;
        let user = users[pushed.len() % users.len()].clone();
        let text = format!("plain message {}", pushed.len());
        let push = Push::user(user.clone()).text(text.clone());
        client.push(push).await.unwrap();
        pushed.push((user, text));
    }
    pushed
}

/// Pushes until it was written, and waits until it was read.
async fn reach(client: &LogicClient, users: &Users, user: &str, text: &str) {
    let reached = async {
        loop {
            let push = Push::user(user).text(text);
            if client
                .push_confirmed(push)
                .await
                .is_ok_and(|receipt| receipt.written > 0)
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while users.count(user, text) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.unwrap_or_else(|_| panic!("{user} is not reached"));
}

#[derive(Default)]
struct Report {
    confirmed: usize,
    no_target: usize,
    not_written: usize,
    returned: usize,
    unknown: usize,
    /// Confirmed, and never seen.
    lost: Vec<String>,
    /// Seen more than once.
    doubled: Vec<String>,
    /// Handed back as not delivered, and seen.
    denied: Vec<String>,
}

fn judge(pushed: &[Pushed], users: &Users) -> Report {
    let mut report = Report::default();
    for Pushed { user, text, answer } in pushed {
        let count = users.count(user, text);
        match answer {
            Ok(receipt) if receipt.written > 0 => {
                report.confirmed += 1;
                if count == 0 {
                    report.lost.push(format!("{text} for {user}"));
                }
            }
            Ok(receipt) if receipt.no_target > 0 => report.no_target += 1,
            Ok(_) => report.not_written += 1,
            Err(PushError::Unknown) => report.unknown += 1,
            Err(_) => report.returned += 1,
        }
        let may_have_come = match answer {
            Ok(receipt) => receipt.written > 0,
            Err(error) => *error == PushError::Unknown,
        };
        let told = || format!("{text} for {user}: {answer:?}");
        if count > 1 {
            report.doubled.push(told());
        } else if count == 1 && !may_have_come {
            report.denied.push(told());
        }
    }
    report
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} confirmed, {} without a target, {} not written, {} returned, {} unknown; lost: {:?}; twice: {:?}; denied: {:?}",
            self.confirmed,
            self.no_target,
            self.not_written,
            self.returned,
            self.unknown,
            self.lost,
            self.doubled,
            self.denied
        )
    }
}

/// The gateways, each with its addresses for life.
struct Fleet {
    launches: [Launch; GATEWAYS],
    gateways: [Gateway; GATEWAYS],
    /// What those counted that are no more.
    past: Vec<Counted>,
}

impl Fleet {
    fn start() -> Self {
        let launches = [(); GATEWAYS].map(|()| {
            let launch = ringway_somewhere(SHARDS)
                .setting("RINGWAY_DRAIN_SPREAD_MS", SPREAD_MS)
                .setting("RINGWAY_DRAIN_RETRY_AFTER_MS", RETRY_AFTER_MS);
            let port = launch.listen[0].port();
            launch.setting("RINGWAY_GATEWAY_ID", format!("gateway-{port}"))
        });
        let gateways = launches.each_ref().map(|launch| launch.start().unwrap());
        Self {
            launches,
            gateways,
            past: Vec::new(),
        }
    }

    async fn service(&self, back: &Back) -> LogicClient {
        // A push is sent where its user is: so it cannot wait for a gateway that is away and find there the user who has
        // got it elsewhere.
        let builder = LogicClient::builder()
            .locate(Locate::Directory)
            .on_returned(keep(back))
            .backoff(Duration::from_millis(20), Duration::from_millis(200));
        let gateways = self.gateways.iter();
        let builder = gateways.fold(builder, |builder, gateway| {
            builder.gateway(gateway.grpc.to_string())
        });
        builder.connect().await.unwrap()
    }

    /// As an operator does it: drain, wait until it is gone, start it again, wait until it is ready.
    async fn restart(&mut self, at: usize) {
        let (admin, program) = (self.gateways[at].admin, self.launches[at].program.clone());
        let drained = tokio::task::spawn_blocking(move || {
            let admin = admin.to_string();
            let arguments = ["gateway", "drain", "--wait", "--admin", admin.as_str()];
            Command::new(program).args(arguments).output().unwrap()
        });
        let drained = drained.await.unwrap();
        let told = String::from_utf8_lossy(&drained.stdout);
        assert!(drained.status.success(), "{drained:?}");
        assert!(told.ends_with("drained\n"), "{told}");
        let ended = self.gateways[at].wait(PATIENCE).unwrap();
        assert!(ended.success(), "{ended}");
        let words = self.gateways[at].last_words().unwrap();
        self.past.push(Counted {
            pushes: words["pushes"],
            written: words["written"],
            dropped: words.values().sum::<u64>() - words["pushes"] - words["written"],
        });
        let again = self.launches[at].start().unwrap();
        assert!(metrics::get(again.admin, "/readyz").is_ok());
        self.gateways[at] = again;
    }

    /// What all gateways of the test have counted, each once.
    fn counted(&self) -> Counted {
        let present = self.gateways.iter().map(|gateway| {
            let metrics = Metrics::read(gateway.admin).unwrap();
            let sum = |name: &str, labels: &[&str]| metrics.sum(name, labels) as u64;
            Counted {
                pushes: sum("ringway_messages_in_total", &["from=\"logic\""]),
                written: sum("ringway_messages_out_total", &["to=\"client\""]),
                dropped: sum("ringway_drops_total", &[]),
            }
        });
        self.past.iter().copied().chain(present).sum()
    }

    /// Until every user is somewhere.
    async fn wait_for_users(&self) {
        let all_are_here = async {
            loop {
                let connections = self.gateways.iter().map(|gateway| {
                    let metrics = Metrics::read(gateway.admin).unwrap();
                    metrics.sum("ringway_connections", &[])
                });
                if connections.sum::<f64>() as usize == USERS {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let all = tokio::time::timeout(PATIENCE, all_are_here).await;
        all.expect("every user comes back");
    }
}
