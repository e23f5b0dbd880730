//! Who is in trouble, and how it is made.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use logic_client::{LogicClient, Push};
use rustix::process::Signal;

use super::{Options, Stage, Which};
use crate::{
    clients::Clients,
    cpu::{self, Rank},
    crowd::Crowd,
    gateway::{Gateway, Launch},
    metrics::Metrics,
    witness::{Sender, Witnesses},
};

/// Gateways of case b; the first one is frozen.
const GATEWAYS: usize = 10;
/// Commands that may wait for each of them: few, so that a frozen one's buffer is full for most of a window.
const BUFFER: usize = 1_024;
/// Members of the topic of case d.
const MEMBERS: usize = 10_000;
/// Bursts of a millisecond between two pushes to it.
const EVERY: u32 = 200;
/// What the client gets that stops reading, once a millisecond: its sockets are full within a second.
const LARGE: usize = 8 << 10;

/// Sets up a case; `load` are the CPUs for all but the gateways.
pub(super) async fn set_up(
    which: Which,
    options: &Options,
    launch: &Launch,
    load: &[usize],
) -> anyhow::Result<Stage> {
    match which {
        Which::A | Which::All => reader(options, launch, load).await,
        Which::B => gateway(options, launch, load).await,
        Which::C => service(options, launch, load).await,
        Which::D => topic(options, launch, load).await,
    }
}

async fn reader(options: &Options, launch: &Launch, load: &[usize]) -> anyhow::Result<Stage> {
    let launch = launch.clone().shards(1);
    // It shall stay, with all its queues full.
    let gateway = launch
        .setting("RINGWAY_OUTBOX_WHEN_FULL", "drop_oldest")
        .start()?;
    run_on(load)?;
    let (witnesses, sender) = witnesses(options, &[&gateway], 999, BUFFER * 64).await?;
    let stuck = Clients::connect(gateway.ws, &[Clients::target("stuck")])?;
    let stuck = Crowd::start(stuck)?;
    let (large, admin) = (Bytes::from(vec![0; LARGE]), gateway.admin);
    Ok(Stage {
        about: "one client of a shard stops reading; messages to 999 others on it",
        rate: options.rate.unwrap_or(10_000.0),
        witnesses,
        sender,
        extra: Box::new(move || Some(Push::user("stuck").binary(large.clone()))),
        trouble: Box::new(move |trouble| {
            stuck.read(!trouble);
            Ok(())
        }),
        evidence: Box::new(move || {
            let dropped = Metrics::read(admin)?.sum("ringway_drops_total", &[]);
            Ok((dropped as u64, "messages dropped for the one"))
        }),
        gateways: Rc::new(vec![gateway]),
    })
}

async fn gateway(options: &Options, launch: &Launch, load: &[usize]) -> anyhow::Result<Stage> {
    let launch = launch.clone().shards(1);
    let gateways = (0..GATEWAYS).map(|_| launch.start());
    let gateways: Vec<_> = gateways.collect::<Result<_, _>>()?;
    run_on(load)?;
    let all: Vec<_> = gateways.iter().collect();
    let (frozen, others) = (all[0], &all[1..]);
    let client = connect(&all, BUFFER).await?;
    let (clients, names) = clients(others, 10)?;
    let (witnesses, sender) = listen(options, clients, names, client)?;
    let its = Clients::connect(frozen.ws, &[Clients::target("frozen")])?;
    let its = Crowd::start(its)?;
    let gateways = Rc::new(gateways);
    let signalled = Rc::clone(&gateways);
    Ok(Stage {
        about: "one gateway of ten is frozen; messages to users of nine from one logic client",
        rate: options.rate.unwrap_or(2_000.0),
        witnesses,
        sender,
        extra: Box::new(|| Some(Push::user("frozen").text("wake up"))),
        trouble: Box::new(move |trouble| {
            signalled[0].signal(if trouble { Signal::STOP } else { Signal::CONT })
        }),
        evidence: Box::new(move || Ok((its.received(), "messages to a user of the one"))),
        gateways,
    })
}

async fn service(options: &Options, launch: &Launch, load: &[usize]) -> anyhow::Result<Stage> {
    let gateway = launch.clone().shards(1).start()?;
    run_on(load)?;
    let (witnesses, sender) = witnesses(options, &[&gateway], 100, BUFFER * 64).await?;
    let victims: Vec<_> = (0..100).map(|at| format!("flooded-{at}")).collect();
    let targets: Vec<_> = victims.iter().map(|user| Clients::target(user)).collect();
    let crowd = Crowd::start(Clients::connect(gateway.ws, &targets)?)?;
    let flood = Rc::new(Flood::start(gateway.grpc.to_string(), victims)?);
    let switched = Rc::clone(&flood);
    Ok(Stage {
        about: "one logic service floods a shard; messages of another one",
        rate: options.rate.unwrap_or(500.0),
        witnesses,
        sender,
        extra: Box::new(|| None),
        trouble: Box::new(move |trouble| {
            switched.shared.on.store(trouble, Relaxed);
            Ok(())
        }),
        // The flood is what arrives: its client waits when the gateway gives no credit.
        evidence: Box::new(move || Ok((crowd.received(), "messages of the flood arrived"))),
        gateways: Rc::new(vec![gateway]),
    })
}

async fn topic(options: &Options, launch: &Launch, load: &[usize]) -> anyhow::Result<Stage> {
    let gateway = launch.clone().shards(1).start()?;
    run_on(load)?;
    let (witnesses, sender) = witnesses(options, &[&gateway], 100, BUFFER * 64).await?;
    let members: Vec<_> = (0..MEMBERS).map(|at| format!("member-{at}")).collect();
    let targets: Vec<_> = members.iter().map(|user| Clients::target(user)).collect();
    let crowd = Crowd::start(Clients::connect(gateway.ws, &targets)?)?;
    for member in members {
        sender.client.subscribe(member, "crowd").await?;
    }
    sender.client.flush().await?;
    let on = Rc::new(Cell::new(false));
    let (switch, mut bursts) = (Rc::clone(&on), 0);
    let payload = Bytes::from(vec![0; options.payload]);
    Ok(Stage {
        about: "a topic of 10,000 members is pushed to five times a second; messages to single users",
        rate: options.rate.unwrap_or(1_000.0),
        witnesses,
        sender,
        extra: Box::new(move || {
            bursts += 1;
            let due = on.get() && bursts % EVERY == 0;
            due.then(|| Push::topic("crowd").binary(payload.clone()))
        }),
        trouble: Box::new(move |trouble| {
            switch.set(trouble);
            Ok(())
        }),
        evidence: Box::new(move || Ok((crowd.received(), "messages of the topic arrived"))),
        gateways: Rc::new(vec![gateway]),
    })
}

/// From here on this process uses the CPUs of the load, and this thread comes first there.
fn run_on(load: &[usize]) -> anyhow::Result<()> {
    cpu::pin(load)?;
    cpu::rank(Rank::Measures);
    Ok(())
}

/// `each` witnesses on each gateway, and a logic client of theirs.
async fn witnesses(
    options: &Options,
    gateways: &[&Gateway],
    each: usize,
    buffer: usize,
) -> anyhow::Result<(Witnesses, Sender)> {
    let client = connect(gateways, buffer).await?;
    let (clients, names) = clients(gateways, each)?;
    listen(options, clients, names, client)
}

async fn connect(gateways: &[&Gateway], buffer: usize) -> anyhow::Result<LogicClient> {
    let addresses = gateways.iter().map(|gateway| gateway.grpc.to_string());
    let builder = addresses.fold(LogicClient::builder(), |builder, address| {
        builder.gateway(address)
    });
    Ok(builder.buffer(buffer, 16 << 20).connect().await?)
}

fn clients(gateways: &[&Gateway], each: usize) -> anyhow::Result<(Clients, Vec<String>)> {
    let names: Vec<_> = (0..gateways.len() * each)
        .map(|at| format!("witness-{at}"))
        .collect();
    let targets: Vec<_> = names.iter().map(|name| Clients::target(name)).collect();
    let homes = gateways.iter().cycle().map(|gateway| gateway.ws);
    let at: Vec<_> = homes.zip(targets.iter().map(String::as_str)).collect();
    Ok((Clients::connect_each(at.into_iter())?, names))
}

fn listen(
    options: &Options,
    clients: Clients,
    names: Vec<String>,
    client: LogicClient,
) -> anyhow::Result<(Witnesses, Sender)> {
    let address = move |at: usize| Push::user(names[at].as_str());
    Witnesses::start(clients, options.payload, client, address)
}

/// A logic service of its own, on a thread of its own, that pushes as fast as it can while it is switched on.
struct Flood {
    shared: Arc<Switch>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Switch {
    on: AtomicBool,
    over: AtomicBool,
}

impl Flood {
    fn start(gateway: String, users: Vec<String>) -> anyhow::Result<Self> {
        let shared = Arc::new(Switch::default());
        let theirs = Arc::clone(&shared);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = thread::Builder::new().name("flood".into());
        let thread = thread.spawn(move || {
            cpu::rank(Rank::Load);
            if let Err(error) = runtime.block_on(theirs.run(gateway, &users)) {
                eprintln!("ringway-bench: the flood has ended: {error}");
            }
        })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }
}

impl Switch {
    async fn run(&self, gateway: String, users: &[String]) -> anyhow::Result<()> {
        let client = LogicClient::builder().gateway(gateway).connect().await?;
        let payload = Bytes::from(vec![0; 128]);
        let mut user = users.iter().cycle();
        while !self.over.load(Relaxed) {
            if !self.on.load(Relaxed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
            for user in user.by_ref().take(64) {
                let push = Push::user(user.as_str()).binary(payload.clone());
                client.push(push).await?;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.shared.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic.
            let _ = thread.join();
        }
    }
}
