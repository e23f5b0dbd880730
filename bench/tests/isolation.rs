//! Shards share nothing that one could hold while another needs it.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use common::{alone, connect, ringway};
use gateway_bench::{clients::Event, cpu, metrics::Metrics};
use gateway_proto::shard_of;
use logic_client::{LogicClient, Push};
use nix::{
    sys::{
        ptrace,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tokio::sync::mpsc;

const SHARDS: u32 = 4;
const USERS_PER_SHARD: usize = 8;
const MOMENTS: u32 = 100;

#[test]
fn stopping_one_shard_thread_does_not_stop_pushes_to_the_others() {
    // Load on all shards, so that a random moment finds the shard at work: in the middle of a lane, a counter, a table,
    // and with any lock it might hold. The others must complete pushes before it goes on.
    let _alone = alone();
    let gateway = ringway().shards(SHARDS).start().unwrap();
    let threads = shard_threads(gateway.pid());
    let users = users();
    let names: Vec<_> = users.concat();
    let mut clients = connect(&gateway, &names);
    let over = Arc::new(AtomicBool::new(false));
    let reader = {
        let over = Arc::clone(&over);
        thread::spawn(move || {
            while !over.load(Relaxed) {
                let fail = |client, event: Event<'_>| {
                    assert!(
                        matches!(event, Event::Message { .. }),
                        "client {client}: {event:?}"
                    );
                };
                clients.receive(Duration::from_millis(10), fail).unwrap();
            }
        })
    };
    let (orders, taken) = mpsc::channel(1);
    let (connected, load) = std::sync::mpsc::channel();
    let address = gateway.grpc.to_string();
    let logic = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(logic_service(address, users, taken, || {
            connected.send(()).unwrap();
        }));
    });
    load.recv().unwrap();

    for moment in 0..MOMENTS {
        let shard = moment % SHARDS;
        thread::park_timeout(Duration::from_micros(u64::from(random(moment) % 3_000)));
        let (done, completed) = std::sync::mpsc::channel();
        let stopped = Stopped::new(threads[shard as usize]);
        orders
            .blocking_send(Order {
                stopped: shard,
                done,
            })
            .unwrap();
        let completed = completed.recv_timeout(Duration::from_secs(10));
        assert!(
            completed.is_ok(),
            "moment {moment}: shard {shard} holds up others"
        );
        drop(stopped);
    }
    drop(orders);
    logic.join().unwrap();
    over.store(true, Relaxed);
    reader.join().unwrap();
    let crossed = Metrics::read(gateway.admin)
        .unwrap()
        .sum("ringway_crossings_total", &["kind=\"push\""]);
    assert_eq!(crossed, 0.0);
}

#[test]
fn each_shard_has_its_thread_its_cpu_and_its_ring() {
    let _alone = alone();
    // Named one by one, they are used even where a CPU quota says otherwise.
    let allowed = cpu::allowed().unwrap().into_iter();
    let cpus: Vec<_> = allowed.cycle().take(SHARDS as usize).collect();
    let cores = cpus
        .iter()
        .map(usize::to_string)
        .collect::<Vec<_>>()
        .join(",");
    let gateway = ringway()
        .shards(SHARDS)
        .setting("RINGWAY_SHARDS_CORES", cores)
        .start()
        .unwrap();
    for (shard, thread) in shard_threads(gateway.pid()).into_iter().enumerate() {
        let status =
            fs::read_to_string(format!("/proc/{}/task/{thread}/status", gateway.pid())).unwrap();
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .unwrap();
        assert_eq!(allowed.trim(), cpus[shard].to_string(), "shard {shard}");
    }
    let metrics = Metrics::read(gateway.admin).unwrap();
    let driver = metrics.label("ringway_build_info", "driver").unwrap();
    let ring = if driver.contains("epoll") {
        "anon_inode:[eventpoll]"
    } else {
        "anon_inode:[io_uring]"
    };
    let descriptors = fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap();
    let targets =
        descriptors.filter_map(|descriptor| fs::read_link(descriptor.unwrap().path()).ok());
    let rings = targets.filter(|target| target.as_os_str() == ring).count();
    assert!(rings >= SHARDS as usize, "{rings} of {ring}");
}

/// Users by shard.
fn users() -> Vec<Vec<String>> {
    let of_shard = |shard| {
        let names = (0..).map(|n| format!("user-{n}"));
        let names = names.filter(move |name| shard_of(name.as_bytes(), SHARDS) == shard);
        names.take(USERS_PER_SHARD).collect()
    };
    (0..SHARDS).map(of_shard).collect()
}

/// Confirmed pushes to all shards but one are wanted.
struct Order {
    stopped: u32,
    done: std::sync::mpsc::Sender<()>,
}

/// Pushes to everybody, all the time, and takes orders until there are no more.
async fn logic_service(
    gateway: String,
    users: Vec<Vec<String>>,
    mut orders: mpsc::Receiver<Order>,
    connected: impl FnOnce(),
) {
    let client = LogicClient::builder()
        .gateway(gateway)
        .connect()
        .await
        .unwrap();
    let (client, users) = (Arc::new(client), Arc::new(users));
    connected();
    let load = async {
        for (count, user) in users.iter().flatten().cycle().enumerate() {
            // A stopped shard's buffer fills; that must not hold up the load of the others.
            let _ = client.try_push(Push::user(user.as_str()).text("load"));
            if count % 64 == 0 {
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
        }
    };
    let confirm = async {
        while let Some(order) = orders.recv().await {
            confirm_all_but(&client, &users, order.stopped).await;
            order.done.send(()).unwrap();
        }
    };
    tokio::select! {
        () = load => {}
        () = confirm => {}
    }
}

/// One push to each user of the other shards, each confirmed by its shard's receipt. The one that is stopped confirms
/// nothing meanwhile: it is really stopped.
async fn confirm_all_but(client: &LogicClient, users: &[Vec<String>], stopped: u32) {
    let stopped = stopped as usize;
    let confirm = |user: &String| client.push_confirmed(Push::user(user.as_str()).text("confirm"));
    let mut held = std::pin::pin!(confirm(&users[stopped][0]));
    let others = async {
        for user in users
            .iter()
            .enumerate()
            .filter(|(shard, _)| *shard != stopped)
            .flat_map(|(_, users)| users)
        {
            let receipt = confirm(user).await.unwrap();
            assert_eq!(receipt.written, 1, "{user}: {receipt:?}");
        }
    };
    tokio::select! {
        biased;
        receipt = &mut held => panic!("shard {stopped} is stopped, and answers: {receipt:?}"),
        () = others => {}
    }
}

/// The thread of each shard, by its name.
fn shard_threads(pid: u32) -> Vec<i32> {
    let tasks: Vec<_> = fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .map(|task| task.unwrap())
        .collect();
    let of_shard = |shard| {
        let name = format!("shard-{shard}\n");
        let named = tasks
            .iter()
            .filter(|task| fs::read_to_string(task.path().join("comm")).unwrap() == name);
        let named: Vec<_> = named.collect();
        assert_eq!(named.len(), 1, "threads named {name:?}");
        named[0].file_name().to_str().unwrap().parse().unwrap()
    };
    (0..SHARDS).map(of_shard).collect()
}

/// A thread that does not run until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(thread: i32) -> Self {
        let thread = Pid::from_raw(thread);
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        let status = waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        assert!(
            matches!(
                status,
                WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..)
            ),
            "{status:?}"
        );
        Self(thread)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have ended, if its gateway has.
        let _ = ptrace::detach(self.0, None);
    }
}

/// Unlike each other, and the same in each run.
fn random(seed: u32) -> u32 {
    let mixed = (seed + 1).wrapping_mul(0x9e37_79b1);
    (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca77) >> 8
}
