//! A simulated gateway process: real shards and lanes, an epoch, a clock, and a life that can end at any time.

use std::{sync::Arc, time::Duration};

use gateway_core::{
    config::Config,
    gateway::Gateway,
    lanes,
    metrics::Metrics,
    shard::Shard,
    ws::{QueryUser, UpgradeConfig},
};

use super::{
    context::Context,
    net::{Owner, Port, Socket},
    rng::Rng,
    seat::{Costs, Peers, Seat},
};

/// What runs at one place; the place outlives it.
pub struct Process {
    /// The place.
    pub place: usize,
    /// This run.
    pub epoch: u64,
    pub(super) seats: Vec<Seat>,
    started: Duration,
    /// How far its clock has jumped ahead.
    skew: Duration,
    frozen_until: Duration,
    draining: bool,
    /// Over which time a drain closes clients.
    spread: Duration,
}

/// What a process is started with.
#[derive(Clone)]
pub struct Launch {
    /// How many shards.
    pub shards: u16,
    /// All settings.
    pub config: Config,
    /// What work costs.
    pub costs: Costs,
}

/// The name under which the gateway at a place is known, and the host of its addresses.
#[must_use]
pub fn name(place: usize) -> String {
    format!("g{place}")
}

/// The place of the gateway of a name.
#[must_use]
pub fn place(name: &str) -> Option<usize> {
    name.strip_prefix('g')?.parse().ok()
}

/// The place and port behind an address that [`Process`] or a resolver gave.
#[must_use]
pub fn address(text: &str) -> Option<super::net::Address> {
    let (host, port) = text.split_once(':')?;
    let gateway = place(host)?;
    let port = match port.parse::<u16>().ok()? {
        COMMON => Port::Common,
        port => Port::Shard(port.checked_sub(COMMON + 1)?),
    };
    Some(super::net::Address { gateway, port })
}

/// The common port of all gateways.
pub const COMMON: u16 = 9000;

impl Process {
    /// A new run.
    pub fn start(place: usize, launch: &Launch, now: Duration, rng: &mut Rng) -> Self {
        let epoch = rng.nonzero();
        let shards = launch.shards;
        let gateway = Arc::new(Gateway {
            id: name(place),
            epoch,
            version: "0",
            driver: "none".into(),
            shard_addresses: (1..=shards)
                .map(|shard| format!("{}:{}", name(place), COMMON + shard))
                .collect(),
            upgrade: UpgradeConfig::default(),
            identify: Box::new(QueryUser { trusted: true }),
            config: launch.config.clone(),
        });
        let seats = lanes::lanes(shards, &launch.config.lanes)
            .into_iter()
            .map(|lanes| {
                let index = lanes.index();
                let metrics = Arc::new(Metrics::new(index));
                let shard = Shard::new(gateway.clone(), metrics.clone(), lanes, rng.draw());
                let owner = Owner::Shard(place, index);
                let mut seat = Seat::new(shard, metrics, owner, epoch, launch.costs);
                let tick = &launch.config.tick;
                seat.set_budgets(tick.conn_bytes, tick.link_bytes);
                seat
            })
            .collect();
        Self {
            place,
            epoch,
            seats,
            started: now,
            skew: Duration::from_millis(1),
            frozen_until: Duration::ZERO,
            draining: false,
            spread: Duration::from_millis(launch.config.drain.spread_ms),
        }
    }

    /// Somebody dials: the socket waits until the shard accepts. False: nobody listens.
    pub fn knock(&mut self, context: &mut Context, socket: Socket, port: Port) -> bool {
        let any = context.rng.below(self.seats.len());
        let (at, peers) = match port {
            Port::WebSocket => (any, Peers::Client),
            Port::Common => (any, Peers::Service),
            Port::Shard(shard) => (usize::from(shard), Peers::Service),
        };
        let closed = peers == Peers::Client && self.draining;
        let Some(seat) = self.seats.get_mut(at).filter(|_| !closed) else {
            return false;
        };
        let owner = Owner::Shard(self.place, at as u16);
        let (now, agenda) = (context.now, &mut context.agenda);
        let here = context.net.accept(now, agenda, socket, owner);
        seat.knock(here, peers);
        context.agenda.run_at(now, owner);
        true
    }

    /// One tick of a shard. True: the process has drained and ends.
    pub fn run(&mut self, context: &mut Context, shard: u16) -> bool {
        let owner = Owner::Shard(self.place, shard);
        if context.now < self.frozen_until {
            context.agenda.run_at(self.frozen_until, owner);
            return false;
        }
        let clock = self.clock(context.now);
        let Some(seat) = self.seats.get_mut(usize::from(shard)) else {
            return false;
        };
        let rest = seat.run(context, clock);
        for (socket, to, handshake) in rest.moves {
            let owner = Owner::Shard(self.place, to);
            context.net.hand_over(socket, owner);
            context.agenda.run_at(context.now, owner);
            if let Some(seat) = self.seats.get_mut(usize::from(to)) {
                seat.hand(socket, handshake);
            }
        }
        for to in rest.wakes {
            // As long as waking a thread takes.
            let at = context.now + Duration::from_micros(context.rng.between(1, 30) as u64);
            context.agenda.run_at(at, Owner::Shard(self.place, to));
        }
        self.draining && self.seats.iter().all(|seat| seat.shard.is_drained())
    }

    /// All of it stands still, clock and all.
    pub fn freeze(&mut self, until: Duration) {
        self.frozen_until = self.frozen_until.max(until);
    }

    /// Its clock jumps ahead, as after a suspended machine wakes.
    pub fn jump(&mut self, context: &mut Context, by: Duration) {
        self.skew += by;
        self.wake_all(context);
    }

    /// It goes away in an orderly manner.
    pub fn drain(&mut self, context: &mut Context) {
        let clock = self.clock(context.now);
        self.draining = true;
        for seat in &mut self.seats {
            seat.shard.drain(clock, self.spread);
        }
        self.wake_all(context);
    }

    /// Whether it is going away.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// It dies: its kernel closes all sockets, or, with `silently`, the whole machine is gone.
    pub fn die(mut self, context: &mut Context, silently: bool) {
        for (seat, index) in self.seats.iter_mut().zip(0..) {
            context.coverage.harvest(&seat.metrics);
            for socket in seat.drain_sockets() {
                if silently {
                    context.net.silence(socket.peer(), super::net::FOR_EVER);
                }
                context.close(socket);
            }
            context.agenda.forget(Owner::Shard(self.place, index));
        }
        context.oracle.down.process_ended(self.epoch);
    }

    fn clock(&self, now: Duration) -> Duration {
        now.saturating_sub(self.started) + self.skew
    }

    fn wake_all(&self, context: &mut Context) {
        for (_, index) in self.seats.iter().zip(0..) {
            let owner = Owner::Shard(self.place, index);
            context.agenda.run_at(context.now, owner);
        }
    }
}
