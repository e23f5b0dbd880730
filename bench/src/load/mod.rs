//! Messages through a peer to its clients: in a closed loop with a window of messages in flight, or at a rate that does not depend on
//! how the peer is doing. One thread pushes and receives, unless those who receive have a process of their own.

use std::{
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde_json::Value;
use tokio::task::{LocalSet, spawn_local};

use crate::{
    clients::Clients,
    cpu::{self, Places},
    figures::{Figures, Sample},
    gateway::Launch,
    peers::{Audience, Peer, Pusher, Stage},
    receive::{self, Intake, Place, Receiving, Task},
    report::Latency,
    setup::Setup,
    verify::{Faults, Ledger},
};

mod hand;

use hand::Hand;

/// Messages that are pushed together, where the window has room.
pub const BURST: u64 = 64;

/// Who makes the load.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Crew {
    /// Processes of the load; with 2 those who receive have their own, and a CPU of their own if there are three
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub load_processes: u8,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// WebSocket clients, and whom of them messages are for.
    pub audience: Audience,
    /// Bytes of a message.
    pub payload: usize,
    /// When messages are pushed.
    pub flow: Flow,
    /// When it ends.
    pub until: Until,
    /// Where those run who receive, if they have a process of their own.
    pub apart: Option<Place>,
}

/// When messages are pushed.
#[derive(Clone, Copy, Debug)]
pub enum Flow {
    /// So many deliveries in flight at most, but always a message.
    Window(u64),
    /// So many messages a second. Latency counts from when a message was due.
    Rate(f64),
}

/// When a measurement ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After this time.
    Time(Duration),
    /// After so many messages.
    Messages(u64),
}

/// What has been used up so far.
pub(crate) struct Usage {
    at: Instant,
    server: Option<Duration>,
    load: Duration,
    /// Of the load's second process.
    receiving: Option<Duration>,
    delivered: u64,
}

impl Default for Crew {
    fn default() -> Self {
        Self { load_processes: 1 }
    }
}

impl Crew {
    /// The options that a scenario has with it, for the report.
    #[must_use]
    pub fn settings(self, setup: &Setup) -> BTreeMap<String, Value> {
        let mut settings = setup.settings();
        settings.insert("load_processes".into(), self.load_processes.into());
        settings
    }

    /// What peers are started for, see [`Setup::stage`], and where those run who receive, if they have a process of their own.
    ///
    /// # Errors
    /// A peer that only one process of load can listen to; what the kernel says of our CPUs.
    pub fn stage(
        self,
        setup: &Setup,
        launch: &Launch,
        members: usize,
    ) -> Result<(Stage, Option<Place>)> {
        let stage = setup.stage(launch, members)?;
        if self.load_processes == 1 {
            return Ok((stage, None));
        }
        if let Some(kind) = setup.against.iter().find(|kind| kind.has_envelope()) {
            bail!(
                "--load-processes 2 --against {} is refused: its clients do not get plain messages; allowed: 1",
                kind.name()
            );
        }
        let mut places = Places::with(self.load_processes.into())?;
        let place = Place {
            program: launch.program.clone(),
            cpus: vec![places.load[0]],
            own: places.load.len() > 1,
        };
        // Those who push have the other one, if there is another one.
        places.load.drain(..places.load.len() - 1);
        Ok((stage.at(places), Some(place)))
    }
}

/// Pushes through `peer`, as its own pusher does.
///
/// # Errors
/// A client that is closed, messages that do not arrive, a peer that refuses some.
pub fn run(peer: &dyn Peer, plan: &Plan) -> Result<Sample> {
    through(peer, plan, async || peer.pusher().await)
}

/// Pushes through `peer` by what `pusher` makes.
///
/// # Errors
/// As [`run`].
pub fn through(
    peer: &dyn Peer,
    plan: &Plan,
    pusher: impl AsyncFnOnce() -> Result<Box<dyn Pusher>>,
) -> Result<Sample> {
    let doors = plan.audience.names.iter().map(|name| peer.door(name));
    let ledger = Ledger::grouped(plan.audience.users(), plan.audience.members, plan.payload);
    let (issuer, checker) = ledger.split();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (figures, faults) = LocalSet::new().block_on(&runtime, async {
        let (receiving, failed) = match &plan.apart {
            None => {
                let clients = Clients::enter(doors)?;
                let intake = Rc::new(Intake::new(checker)?);
                let taking = receive::from_clients(Rc::clone(&intake), clients, peer.opener());
                (Receiving::here(&intake), spawn_local(taking))
            }
            Some(place) => {
                let task = Task::Clients {
                    doors: doors.collect(),
                    members: plan.audience.members,
                    payload: plan.payload,
                };
                let (receiving, following) = Receiving::apart(place, &task).await?;
                (receiving, spawn_local(following))
            }
        };
        receive::unless(failed, async {
            let hand = Hand::new(peer, plan, pusher().await?, issuer, receiving);
            measure(hand, peer, plan).await
        })
        .await
    })?;
    Ok(Sample {
        about: peer.about(),
        figures,
        faults,
    })
}

async fn measure(mut hand: Hand, peer: &dyn Peer, plan: &Plan) -> Result<(Figures, Faults)> {
    hand.warm_up().await?;
    hand.receiving.begin().await?;
    // To ask costs the server time, which is none of a message's.
    let counted = peer.counters()?;
    let before = Usage::now(peer, &hand.receiving)?;
    let idle = match plan.flow {
        Flow::Window(_) => {
            hand.in_window(before.at, plan.until).await?;
            Duration::ZERO
        }
        Flow::Rate(rate) => hand.at_rate(rate, plan.until).await?,
    };
    let pushing = before.at.elapsed();
    hand.all_arrived().await?;
    let after = Usage::now(peer, &hand.receiving)?;
    let counted = peer.counters()?.since(&counted);
    let (taken, faults) = hand.finish().await?;
    let mut figures = before.figures(&after, idle, plan.apart.as_ref());
    figures.set_if("messages_per_send", counted.messages_per_send());
    figures.set_if("crossings", counted.crossings);
    figures.set("pushing_seconds", pushing.as_secs_f64());
    figures.set_latency(&Latency::of(&taken.nanos));
    Ok((figures, faults))
}

impl Usage {
    /// Of `peer` and of the load, whose receiving side this is.
    ///
    /// # Errors
    /// A process is gone.
    pub(crate) fn now(peer: &dyn Peer, receiving: &Receiving) -> Result<Self> {
        let pids = peer.pids();
        Ok(Self {
            at: Instant::now(),
            server: (!pids.is_empty())
                .then(|| cpu::time_of(&pids))
                .transpose()?,
            load: cpu::time(std::process::id())?,
            receiving: receiving.pid().map(cpu::time).transpose()?,
            delivered: receiving.delivered(),
        })
    }

    /// When that was.
    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    /// What has been used from this on, with those who receive on this thread or `apart`. While it was `idle`, the load has only
    /// looked whether there was something to do.
    pub(crate) fn figures(&self, after: &Self, idle: Duration, apart: Option<&Place>) -> Figures {
        let seconds = (after.at - self.at).as_secs_f64();
        let messages = (after.delivered - self.delivered) as f64;
        let mut figures = Figures::default();
        figures.set("messages", messages);
        figures.set("seconds", seconds);
        figures.set("messages_per_second", messages / seconds);
        if let Some((before, after)) = self.server.zip(after.server) {
            let server = (after - before).as_secs_f64();
            figures.set("server_micros_per_message", server * 1e6 / messages);
            figures.set("server_cores", server / seconds);
        }
        let mut load = (after.load - self.load).saturating_sub(idle);
        if let Some(((before, after), place)) = self.receiving.zip(after.receiving).zip(apart) {
            load += after - before;
            let receiving = (after - before).as_secs_f64();
            figures.set("receiving_cores", receiving / seconds);
            if place.own {
                figures.set("load_cpus", 2.0);
            }
        }
        figures.set("load_cores", load.as_secs_f64() / seconds);
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_that_only_looks_for_something_to_do_uses_nothing() {
        let before = Usage {
            at: Instant::now(),
            server: None,
            load: Duration::ZERO,
            receiving: None,
            delivered: 0,
        };
        let after = Usage {
            at: before.at + Duration::from_secs(2),
            load: Duration::from_secs(2),
            ..before
        };
        let cores = |idle| before.figures(&after, idle, None).get("load_cores");
        assert_eq!(cores(Duration::ZERO), Some(1.0));
        assert_eq!(cores(Duration::from_millis(500)), Some(0.75));
    }
}
