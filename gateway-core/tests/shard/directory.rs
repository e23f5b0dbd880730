//! Who is online, as streams are told: snapshots, changes, bounds.

use std::collections::BTreeMap;

use crate::world::{
    ClientId, LogicId, World, crowd,
    logic::{listening, pushing, receiving, to_user},
    user_of, world,
};
use gateway_core::identity::shard_of;
use gateway_proto::v1::{self, Scope, gateway_frame::Body as Up, snapshot::Stage};
use h2_stream::{Code, Config};

/// What a listener makes of what it is told. Panics on whatever breaks the protocol.
#[derive(Default)]
struct Book {
    read: usize,
    shards: BTreeMap<u32, Page>,
}

/// What is known of one shard.
#[derive(Default)]
struct Page {
    users: BTreeMap<String, u32>,
    version: u64,
    begun: u32,
    whole: bool,
}

impl Book {
    /// Reads what has come since the last time.
    fn read(&mut self, world: &mut World, logic: LogicId, shards: u32) {
        let frames = &world.service(logic).frames;
        let owner = |user: &str| shard_of(user.as_bytes(), shards);
        for frame in &frames[self.read..] {
            match frame {
                Up::Snapshot(snapshot) => {
                    let page = self.shards.entry(snapshot.shard).or_default();
                    page.snapshot(snapshot.stage.as_ref().expect("a stage"));
                }
                Up::Online(online) => self.page(owner(&online.user_id)).online(online),
                Up::Offline(offline) => {
                    let page = self.page(owner(&offline.user_id));
                    page.rise(offline.version);
                    page.users.remove(&offline.user_id);
                }
                _ => {}
            }
        }
        self.read = frames.len();
    }

    fn page(&mut self, shard: u32) -> &mut Page {
        self.shards.get_mut(&shard).expect("a snapshot comes first")
    }

    fn is_whole(&self, shards: usize) -> bool {
        self.shards.len() == shards && self.shards.values().all(|page| page.whole)
    }

    fn users(&self) -> BTreeMap<String, u32> {
        let pages = self.shards.values();
        pages.flat_map(|page| page.users.clone()).collect()
    }
}

impl Page {
    fn snapshot(&mut self, stage: &Stage) {
        match stage {
            Stage::Begin(begin) => {
                self.rise(begin.version);
                self.users.clear();
                (self.begun, self.whole) = (self.begun + 1, false);
            }
            Stage::Chunk(chunk) => {
                assert!(self.begun > 0 && !self.whole, "a chunk outside a snapshot");
                assert!(chunk.users.len() <= 1000);
                chunk.users.iter().for_each(|user| self.online(user));
            }
            Stage::End(end) => {
                self.rise(end.version);
                self.whole = true;
            }
        }
    }

    fn online(&mut self, online: &v1::UserOnline) {
        self.rise(online.version);
        assert!(online.connections > 0);
        self.users
            .insert(online.user_id.clone(), online.connections);
    }

    fn rise(&mut self, version: u64) {
        assert!(version >= self.version, "versions never fall on a stream");
        self.version = version;
    }
}

fn listener(world: &mut World, shard: usize, scope: Scope) -> LogicId {
    let logic = world.logic(shard);
    world.service(logic).hello(listening(scope));
    logic
}

#[test]
fn a_snapshot_comes_first_and_then_every_change() {
    let mut world = world(1, |_| {});
    let first = world.connect(0, "/ws?user=alice");
    world.connect(0, "/ws");
    let logic = listener(&mut world, 0, Scope::Shard);
    world.settle();
    let mut book = Book::default();
    book.read(&mut world, logic, 1);
    assert!(book.is_whole(1));
    assert_eq!(book.users(), BTreeMap::from([("alice".into(), 1)]));
    let second = world.connect(0, "/ws?user=alice");
    world.connect(0, "/ws?user=bob");
    book.read(&mut world, logic, 1);
    let both = BTreeMap::from([("alice".into(), 2), ("bob".into(), 1)]);
    assert_eq!(book.users(), both);
    world.client(first).close(1000);
    world.settle();
    book.read(&mut world, logic, 1);
    assert_eq!(book.users()["alice"], 1);
    world.reset(second);
    book.read(&mut world, logic, 1);
    assert_eq!(book.users(), BTreeMap::from([("bob".into(), 1)]));
    assert_eq!(book.shards[&0].begun, 1);
    assert_eq!(world.total(|m| m.directory_queue_bytes.get()), 0);
}

#[test]
fn a_stream_of_the_whole_gateway_gets_a_snapshot_of_each_shard() {
    let mut world = world(3, |_| {});
    for shard in 0..3 {
        let user = user_of(shard, 3);
        world.connect(0, &format!("/ws?user={user}"));
    }
    let logic = listener(&mut world, 1, Scope::Gateway);
    world.settle();
    let mut book = Book::default();
    book.read(&mut world, logic, 3);
    assert!(book.is_whole(3));
    assert_eq!(book.users().len(), 3);
    world.connect(2, &format!("/ws?user={}", user_of(2, 3)));
    book.read(&mut world, logic, 3);
    assert_eq!(book.users()[&user_of(2, 3)], 2);
    assert_eq!(world.total(|m| m.directory_streams.get()), 3);
    world.cut(logic);
    assert_eq!(world.total(|m| m.directory_streams.get()), 0);
    world.connect(2, &format!("/ws?user={}", user_of(2, 3)));
    assert_eq!(world.total(|m| m.directory_queue_bytes.get()), 0);
}

#[test]
fn a_listener_that_reads_nothing_is_bounded_and_begins_anew() {
    let mut world = world(1, |config| {
        config.grpc.send_buffer_bytes = 1 << 10;
        config.directory.max_queue_bytes = 4 << 10;
    });
    let slow = narrow(&mut world, 0);
    world.service(slow).reads = false;
    world.service(slow).hello(listening(Scope::Shard));
    world.settle();
    let mut owners = Vec::new();
    for round in 0..200 {
        let user = format!("user-{round}");
        let client = world.connect(0, &format!("/ws?user={user}"));
        owners.push((client, user));
        if round % 3 == 0 {
            world.reset(client);
        }
        let queued = world.total(|m| m.directory_queue_bytes.get());
        assert!(queued <= 4 << 10, "{queued} bytes");
    }
    assert!(world.total(|m| m.directory_restarts.get()) > 0);
    world.service(slow).release_all();
    world.settle();
    let mut book = Book::default();
    book.read(&mut world, slow, 1);
    assert!(book.is_whole(1) && book.shards[&0].begun > 1);
    assert_eq!(book.users(), truth(&world, &owners));
}

/// Pushes to another user, and acks of the listener's own stream, are not held up by a large snapshot.
#[test]
fn a_snapshot_of_100_000_users_stalls_no_push() {
    const USERS: usize = 100_000;
    let mut world = world(1, |_| {});
    let alice = world.connect(0, "/ws?user=alice");
    crowd(&mut world, 0, USERS, |n| format!("crowd-{n}"));
    let pusher = world.logic(0);
    world.service(pusher).hello(pushing(Scope::Shard));
    world.settle();
    let logic = listener(&mut world, 0, Scope::Shard);
    let mut book = Book::default();
    let mut steps = 0;
    while !book.is_whole(1) {
        let (own, other) = (to_user("alice", "own"), to_user("alice", "other"));
        let sequence = world.service(logic).push(own);
        world.service(pusher).push(other);
        let before = world.service(logic).frames.len();
        world.step();
        assert_eq!(world.client(alice).texts().len(), 2 * (steps + 1));
        // The ack leaves in the same round, whatever part of the snapshot is before it.
        assert_eq!(world.service(logic).acked(), sequence);
        let told = world.service(logic).frames[before..].iter().map(size);
        assert!(told.sum::<usize>() <= 256 << 10);
        book.read(&mut world, logic, 1);
        steps += 1;
        assert!(steps < 1000, "the snapshot makes no progress");
    }
    assert_eq!(book.users().len(), USERS + 1);
    assert!(steps >= USERS / 1000, "{steps} rounds");
    assert_eq!(world.total(|m| m.directory_queue_bytes.get()), 0);
}

/// Run with `--ignored --nocapture`: what 100,000 users cost a shard, and what it costs to tell somebody of them.
#[test]
#[ignore = "prints figures of the whole process"]
fn memory_per_user() {
    const USERS: usize = 100_000;
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
        let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4096
    };
    let mut world = world(1, |_| {});
    let before = resident();
    crowd(&mut world, 0, USERS, |n| format!("user-{n:08}"));
    let connected = resident();
    let logic = listener(&mut world, 0, Scope::Shard);
    let frames = |world: &mut World| std::mem::take(&mut world.service(logic).frames).len();
    let mut most = connected;
    while world.step() {
        most = most.max(resident());
        frames(&mut world);
    }
    println!(
        "{} bytes per user and connection without a listener, at most {} more with one",
        (connected - before) / USERS,
        (most - connected) / USERS
    );
}

/// What ticks tell is bounded for all listeners together.
#[test]
fn a_hundred_listeners_share_the_bound_of_a_tick() {
    let mut world = world(1, |config| config.directory.slice = 500);
    crowd(&mut world, 0, 300, |n| format!("crowd-{n}"));
    let mut books: Vec<_> = (0..100)
        .map(|_| (listener(&mut world, 0, Scope::Shard), Book::default()))
        .collect();
    let told = |world: &mut World, logic: LogicId| -> usize {
        let frames = &world.service(logic).frames;
        frames.iter().map(entries).sum()
    };
    let mut before = 0;
    let ids: Vec<_> = books.iter().map(|(logic, _)| *logic).collect();
    while world.step() {
        let sum = ids.iter().map(|logic| told(&mut world, *logic)).sum();
        assert!(sum - before <= 500, "{sum} after {before}");
        before = sum;
    }
    for (logic, book) in &mut books {
        book.read(&mut world, *logic, 1);
        assert_eq!((book.is_whole(1), book.users().len()), (true, 300));
    }
}

#[test]
fn a_gateway_without_a_directory_says_so() {
    let mut world = world(1, |config| config.directory.enabled = false);
    let logic = listener(&mut world, 0, Scope::Shard);
    world.settle();
    let directory = v1::Capability::Directory.into();
    let granted = &world.service(logic).welcome().capabilities;
    assert!(!granted.contains(&directory));
    let rejections = world.service(logic).rejections();
    assert_eq!(rejections, [(0, v1::RejectReason::Unsupported)]);
}

#[test]
fn more_listeners_than_the_bound_are_refused() {
    let mut world = world(1, |config| config.directory.max_streams = 1);
    let (first, second) = (
        listener(&mut world, 0, Scope::Shard),
        listener(&mut world, 0, Scope::Shard),
    );
    world.settle();
    assert_eq!(world.service(first).rejections(), []);
    let rejections = world.service(second).rejections();
    assert_eq!(rejections, [(0, v1::RejectReason::Overloaded)]);
}

/// Clients come and go, listeners come, go, stall and fall behind: once all is quiet, every listener knows the truth.
#[test]
fn whatever_happens_listeners_end_with_the_truth() {
    let (mut restarts, mut snapshots) = (0, 0);
    for seed in 1..=60 {
        let world = random_run(seed);
        restarts += world.total(|m| m.directory_restarts.get());
        snapshots += world.total(|m| m.directory_snapshots.get());
    }
    assert!(restarts > 20, "the bound was reached {restarts} times only");
    assert!(snapshots > 200);
}

fn random_run(seed: u64) -> World {
    let shards = 1 + (seed % 3) as u16;
    let mut world = world(shards, |config| {
        config.grpc.send_buffer_bytes = 1 << 10;
        config.directory.max_queue_bytes = 1 << 10;
        config.directory.chunk_users = 3;
        config.directory.slice = 5;
        config.lanes.batches = 1;
    });
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |n: u64| {
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    };
    let (mut clients, mut owners) = (Vec::new(), Vec::new());
    let mut books: Vec<(LogicId, Book)> = Vec::new();
    for _ in 0..600 {
        match below(10) {
            0..=3 => {
                let shard = below(shards.into()) as usize;
                let client = world.accept(shard);
                let user = format!("user-{}-{:x<80}", below(40), "");
                world.client(client).request(&format!("/ws?user={user}"));
                owners.push((client, user));
                clients.push(client);
            }
            4..=6 if !clients.is_empty() => {
                let client = clients.swap_remove(below(clients.len() as u64) as usize);
                world.client(client).close(1000);
            }
            7 if books.len() < 4 => {
                let logic = narrow(&mut world, below(shards.into()) as usize);
                let scope = [Scope::Shard, Scope::Gateway][below(2) as usize];
                world.service(logic).hello(listening(scope));
                books.push((logic, Book::default()));
            }
            8 if !books.is_empty() => {
                let (logic, _) = books[below(books.len() as u64) as usize];
                let service = world.service(logic);
                if service.reads {
                    service.reads = false;
                } else {
                    service.release_all();
                }
            }
            9 if below(6) == 0 && !books.is_empty() => {
                let (logic, _) = books.swap_remove(below(books.len() as u64) as usize);
                world.cut(logic);
            }
            _ => {}
        }
        for _ in 0..below(3) {
            world.step();
        }
        for (logic, book) in &mut books {
            book.read(&mut world, *logic, shards.into());
        }
    }
    for (logic, _) in &books {
        world.service(*logic).release_all();
    }
    world.settle();
    let everybody = truth(&world, &owners);
    for (logic, mut book) in books {
        book.read(&mut world, logic, shards.into());
        let told: Vec<u32> = book.shards.keys().copied().collect();
        let mut expected = everybody.clone();
        expected.retain(|user, _| told.contains(&shard_of(user.as_bytes(), shards.into())));
        assert!(book.is_whole(told.len()), "seed {seed}");
        assert!([1, usize::from(shards)].contains(&told.len()));
        assert_eq!(book.users(), expected, "seed {seed}");
    }
    assert_eq!(world.total(|m| m.directory_queue_bytes.get()), 0);
    world
}

/// A service that takes little at once, and nothing while it does not read.
fn narrow(world: &mut World, shard: usize) -> LogicId {
    let config = Config {
        stream_window: 700,
        ..Config::default()
    };
    world.logic_with(shard, config)
}

/// Users with an open connection, with how many they have.
fn truth(world: &World, owners: &[(ClientId, String)]) -> BTreeMap<String, u32> {
    let mut users = BTreeMap::new();
    for (client, user) in owners {
        let client = &world.clients[client];
        if client.answer.is_some() && client.closed().is_none() && !client.gone {
            *users.entry(user.clone()).or_default() += 1;
        }
    }
    users
}

fn size(frame: &Up) -> usize {
    prost::Message::encoded_len(&v1::GatewayFrame {
        body: Some(frame.clone()),
    })
}

/// How many users a frame tells of.
fn entries(frame: &Up) -> usize {
    match frame {
        Up::Online(_) | Up::Offline(_) => 1,
        Up::Snapshot(v1::Snapshot {
            stage: Some(Stage::Chunk(chunk)),
            ..
        }) => chunk.users.len(),
        _ => 0,
    }
}

#[test]
fn a_stream_that_is_refused_as_a_receiver_leaves_no_listener_behind() {
    let mut world = world(2, |config| config.upstream.max_services = 1);
    let known = world.logic(0);
    world
        .service(known)
        .hello(receiving("known", Scope::Gateway, false));
    world.settle();
    let refused = world.logic(0);
    let mut hello = receiving("one too many", Scope::Gateway, false);
    hello.receive.push(v1::Receive::Directory.into());
    world.service(refused).hello(hello);
    world.settle();
    let end = world.service(refused).end().expect("it is refused");
    assert_eq!(end.code, Code::ResourceExhausted);
    for metrics in &world.metrics {
        assert_eq!(metrics.directory_streams.get(), 0);
    }
}
