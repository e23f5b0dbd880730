//! The load of simulated worlds on a real gateway: real sockets, real time, and the driver that `RINGWAY_SHARDS_DRIVER`
//! names. Who there is, what they do and in which order follows from the seed; faults and times are left out.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/judge.rs"]
mod judge;

use std::{
    collections::BTreeMap,
    future::poll_fn,
    ops::RangeInclusive,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use common::{PATIENCE, ringway};
use futures_util::{SinkExt, StreamExt, stream::SplitSink, stream::SplitStream};
use gateway_bench::{
    gateway::{Gateway, Launch},
    metrics::Metrics,
    simulate::{self, Act, Kind, Plan, Rng, Target, Wanted},
};
use judge::Judge;
use logic_client::{Builder, Leftovers, Locate, LogicClient, Streams};
use tokio::{net::TcpStream, sync::watch, task::JoinHandle, task::yield_now, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message},
};

const SEEDS: RangeInclusive<u64> = 1..=12;
/// What must be put to the test by some seed.
const COUNTED: [&str; 9] = [
    "a user",
    "users",
    "a topic",
    "everyone",
    "a connection",
    "receipts",
    "messages of clients",
    "worlds that somebody leaves",
    "worlds with several shards",
];
/// Between two looks at what has come.
const LOOK: Duration = Duration::from_millis(1);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;
type Shared = Arc<Mutex<Judge>>;

#[test]
fn traffic_of_simulated_worlds_comes_as_promised() {
    let mut counts = COUNTED.map(|what| (what, 0)).into();
    for seed in SEEDS {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut world = World::start(seed).await;
            world.live().await;
            world.end(&mut counts).await;
        });
    }
    println!("{counts:?}");
    // A promise that is never put to the test is not kept by passing.
    let unseen: Vec<_> = counts.iter().filter(|(_, count)| **count == 0).collect();
    assert!(unseen.is_empty(), "no seed brings {unseen:?}");
}

/// One gateway, and those whom its plan has.
struct World {
    seed: u64,
    plan: Plan,
    gateway: Gateway,
    services: Vec<Service>,
    clients: Vec<Client>,
    judge: Shared,
}

/// A logic service.
struct Service {
    client: LogicClient,
    /// It pushes to a user only if it knows that the user is there.
    locates: bool,
    events: JoinHandle<()>,
}

#[derive(Default)]
struct Client {
    user: Option<u32>,
    line: Option<Line>,
    /// When, in the plan's time, it comes back.
    back: Duration,
    /// When it reads again.
    reads: Duration,
}

/// An open connection.
struct Line {
    conn: usize,
    sink: SplitSink<Socket, Message>,
    reading: watch::Sender<bool>,
    reader: JoinHandle<()>,
}

impl World {
    async fn start(seed: u64) -> Self {
        let plan = Plan::of(&mut Rng::new(seed));
        let gateway = launch(&plan).start().unwrap();
        let groups = plan.services.iter().map(|kind| group(kind).to_owned());
        let judge = Arc::new(Mutex::new(Judge::of(groups)));
        let mut services = Vec::new();
        for kind in &plan.services {
            services.push(Service::start(kind, &gateway, &judge).await);
        }
        let client = |user: &Option<u32>| Client {
            user: *user,
            ..Client::default()
        };
        let clients = plan.clients.iter().map(client).collect();
        let mut world = Self {
            seed,
            plan,
            gateway,
            services,
            clients,
            judge,
        };
        world.go_on(Duration::ZERO).await;
        world.wait_until_all_are_known().await;
        world
    }

    /// All acts of the plan, one after the other, as fast as they are taken.
    async fn live(&mut self) {
        for (number, (at, act)) in std::mem::take(&mut self.plan.acts).into_iter().enumerate() {
            self.go_on(at).await;
            self.act(number, at, &act).await;
            // Others have their turn.
            yield_now().await;
            self.check();
        }
        self.go_on(Duration::MAX).await;
        for service in 0..self.services.len() {
            let last = Wanted {
                confirmed: true,
                ..Wanted::plain(Target::Everyone, 0)
            };
            self.push("the last one".into(), service, &last).await;
        }
        self.wait(|world| world.judge().missing()).await;
        self.wait(|world| {
            let metrics = Metrics::read(world.gateway.admin).unwrap();
            world.judge().imbalance(&metrics)
        })
        .await;
    }

    /// Everybody leaves: then everything that was ever written has come.
    async fn end(mut self, counts: &mut BTreeMap<&'static str, usize>) {
        self.judge().count(counts);
        let many = usize::from(self.gateway.shards > 1);
        *counts.entry("worlds with several shards").or_default() += many;
        for client in 0..self.clients.len() {
            self.leave(client).await;
        }
        for service in std::mem::take(&mut self.services) {
            let left = service.client.close(PATIENCE).await;
            assert_eq!(left, Leftovers::default(), "seed {}", self.seed);
            service.events.await.unwrap();
        }
        self.judge().finish();
        self.check();
    }

    /// The plan's time has come to `now`: who was away comes back, and who stood still reads.
    async fn go_on(&mut self, now: Duration) {
        for (at, client) in self.clients.iter_mut().enumerate() {
            if client.line.is_none() && client.back <= now {
                let line = Line::open(&self.gateway, at, client.user, &self.judge).await;
                client.line = Some(line);
            }
            if let Some(line) = client.line.as_ref().filter(|_| client.reads <= now) {
                line.reading.send_replace(true);
            }
        }
    }

    async fn act(&mut self, number: usize, at: Duration, act: &Act) {
        let text = format!("act {number}: {act:?}");
        match act {
            Act::Subscribe(service, user, topic) => {
                self.judge().subscribes(*service, *topic, *user);
                let (user, topic) = (simulate::user(*user), simulate::topic(*topic));
                let client = &self.services[*service].client;
                client.subscribe(user, topic).await.unwrap();
            }
            Act::Push(service, wanted) => self.push(text, *service, wanted).await,
            Act::PushConnection(service, wanted) => {
                let known = self.judge().known(number);
                if let Some(conn) = known {
                    let target = Target::Connection(conn as u32);
                    let wanted = wanted.clone();
                    self.push(text, *service, &Wanted { target, ..wanted })
                        .await;
                }
            }
            Act::Send(client, size) => {
                let judge = &self.judge;
                if let Some(line) = &mut self.clients[*client].line {
                    let payload = lock(judge).says(number, line.conn, *size);
                    line.sink.send(Message::binary(payload)).await.unwrap();
                }
            }
            Act::Leave(client, away) => {
                self.leave(*client).await;
                self.clients[*client].back = at + *away;
            }
            Act::Stall(client, time) => {
                let client = &mut self.clients[*client];
                client.reads = at + *time;
                if let Some(line) = &client.line {
                    line.reading.send_replace(false);
                }
            }
            // Faults.
            _ => {}
        }
    }

    async fn push(&self, act: String, service: usize, wanted: &Wanted) {
        let Service {
            client, locates, ..
        } = &self.services[service];
        let knows = |user| !*locates || !client.whereis(&simulate::user(user)).is_empty();
        let id = self.judge().issue(act, service, wanted, knows);
        let push = wanted.push(id, |conn| {
            let conn = self.judge().name(conn as usize);
            conn.map(Into::into).unwrap_or_default()
        });
        if !wanted.confirmed {
            return client.push(push).await.unwrap();
        }
        let (client, judge) = (client.clone(), Arc::clone(&self.judge));
        let mut answer = Box::pin(async move {
            let answer = client.push_confirmed(push).await;
            lock(&judge).answered(id, answer.map_err(|failed| failed.error));
        });
        // The first poll hands the push to the client: the order is that of these calls.
        let mut first = pin!(poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))));
        if first.as_mut().await.is_pending() {
            tokio::spawn(answer);
        }
    }

    /// A client closes, and reads to the end.
    async fn leave(&mut self, client: usize) {
        let Some(mut line) = self.clients[client].line.take() else {
            return;
        };
        self.judge().leaves(line.conn);
        line.reading.send_replace(true);
        line.sink.send(Message::Close(None)).await.unwrap();
        let ended = timeout(PATIENCE, line.reader).await;
        assert!(
            matches!(ended, Ok(Ok(()))),
            "seed {}: client {client} cannot leave",
            self.seed
        );
    }

    async fn wait_until_all_are_known(&self) {
        self.wait(|world| {
            let judge = world.judge();
            let nameless = judge
                .nameless()
                .map(|conn| format!("the name of connection {conn}"));
            let mut users = judge.users().into_iter().map(simulate::user);
            let locating = world.services.iter().filter(|service| service.locates);
            let locating: Vec<_> = locating.map(|service| &service.client).collect();
            let unknown = |user: &String| locating.iter().any(|of| of.whereis(user).is_empty());
            nameless.or_else(|| {
                users
                    .find(unknown)
                    .map(|user| format!("{user} in a directory"))
            })
        })
        .await;
    }

    /// Waits until nothing is missing.
    async fn wait(&self, missing: impl Fn(&Self) -> Option<String>) {
        let deadline = Instant::now() + PATIENCE;
        while let Some(missing) = missing(self) {
            self.check();
            let late = Instant::now() > deadline;
            assert!(!late, "seed {}: waited in vain for {missing}", self.seed);
            tokio::time::sleep(LOOK).await;
        }
        self.check();
    }

    fn check(&self) {
        let failure = self.judge().failure.clone();
        if let Some(failure) = failure {
            panic!("seed {}: {failure}", self.seed);
        }
    }

    fn judge(&self) -> MutexGuard<'_, Judge> {
        lock(&self.judge)
    }
}

impl Service {
    async fn start(kind: &Kind, gateway: &Gateway, judge: &Shared) -> Self {
        let returned = Arc::clone(judge);
        let builder = LogicClient::builder()
            .gateway(gateway.grpc.to_string())
            .service(group(kind))
            .receive_messages(true)
            .on_returned(move |back| {
                lock(&returned).returned(&back.push.request().payload, &back.reason);
            });
        let (builder, locates) = with_setup(builder, kind);
        let client = builder.connect().await.unwrap();
        let mut events = client.events().unwrap();
        let (judge, group) = (Arc::clone(judge), group(kind).to_owned());
        let events = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                lock(&judge).heard(&group, event);
            }
        });
        Self {
            client,
            locates,
            events,
        }
    }
}

impl Line {
    async fn open(gateway: &Gateway, client: usize, user: Option<u32>, judge: &Shared) -> Self {
        let conn = lock(judge).dials(client, user);
        let name = user.map(|user| format!("user={}&", simulate::user(user)));
        let query = format!("{}conn={conn}", name.unwrap_or_default());
        let (socket, _) = connect_async(format!("ws://{}/ws?{query}", gateway.ws))
            .await
            .unwrap();
        lock(judge).opened(conn);
        let (sink, stream) = socket.split();
        let (reading, may_read) = watch::channel(true);
        let reader = tokio::spawn(read(stream, may_read, conn, Arc::clone(judge)));
        Self {
            conn,
            sink,
            reading,
            reader,
        }
    }
}

/// Reads to the end, while it may.
async fn read(
    mut stream: SplitStream<Socket>,
    mut may_read: watch::Receiver<bool>,
    conn: usize,
    judge: Shared,
) {
    loop {
        if may_read.wait_for(|may| *may).await.is_err() {
            return;
        }
        match stream.next().await {
            Some(Ok(Message::Text(text))) => lock(&judge).came(conn, text.as_bytes()),
            Some(Ok(Message::Close(close))) => lock(&judge).ended(conn, &format!("{close:?}")),
            Some(Ok(other)) => lock(&judge).fail(format!("connection {conn} gets {other:?}")),
            None | Some(Err(Error::ConnectionClosed)) => {
                return lock(&judge).ended(conn, "the end");
            }
            Some(Err(error)) => {
                return lock(&judge).fail(format!("connection {conn} breaks: {error}"));
            }
        }
    }
}

/// The gateway at the plan's first place: as many shards, and the same small limits where they only make it wait.
fn launch(plan: &Plan) -> Launch {
    let place = &plan.places[plan.first[0]];
    let (tick, lanes) = (&place.config.tick, &place.config.lanes);
    let (grpc, directory) = (&place.config.grpc, &place.config.directory);
    ringway()
        .shards(place.shards.into())
        .setting("RINGWAY_TICK_SLICE", tick.slice)
        .setting("RINGWAY_TICK_LINK_BYTES", tick.link_bytes)
        .setting("RINGWAY_TICK_LANE_BATCHES", tick.lane_batches)
        .setting("RINGWAY_LANES_BATCHES", lanes.batches)
        .setting("RINGWAY_LANES_BATCH_MESSAGES", lanes.batch_messages)
        .setting("RINGWAY_GRPC_STREAM_WINDOW_BYTES", grpc.stream_window_bytes)
        .setting("RINGWAY_GRPC_SHARD_WINDOW_BYTES", grpc.shard_window_bytes)
        .setting("RINGWAY_GRPC_SEND_BUFFER_BYTES", grpc.send_buffer_bytes)
        .setting("RINGWAY_DIRECTORY_CHUNK_USERS", directory.chunk_users)
        .setting(
            "RINGWAY_DIRECTORY_MAX_QUEUE_BYTES",
            directory.max_queue_bytes,
        )
}

fn group(kind: &Kind) -> &str {
    match kind {
        Kind::Plain { group, .. } => group,
        Kind::Meshed(setup) => &setup.group,
    }
}

/// As the plan has it, but for buffers: they have room for all. Says whether it keeps a directory.
fn with_setup(builder: Builder, kind: &Kind) -> (Builder, bool) {
    let Kind::Meshed(setup) = kind else {
        return (builder, false);
    };
    let mut builder = builder
        .event_window(setup.window)
        .max_stream_age(setup.max_age);
    if setup.one {
        builder = builder.streams(Streams::One);
    }
    if setup.locate {
        builder = builder.locate(Locate::Directory);
    }
    (builder, setup.locate)
}

fn lock(judge: &Shared) -> MutexGuard<'_, Judge> {
    judge.lock().unwrap_or_else(PoisonError::into_inner)
}
