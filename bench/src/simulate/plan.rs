//! What a seed stands for: who there is, what they do, and what goes wrong when.

use std::time::Duration;

use gateway_core::config::{Config, WhenFull};

use super::{
    gateway::Launch,
    net::Conditions,
    oracle::Target,
    rng::Rng,
    seat::Costs,
    service::{Setup, Wanted},
};

/// A world before it begins.
pub struct Plan {
    /// The network when nothing is wrong with it.
    pub conditions: Conditions,
    /// Where gateways can run, and as what they begin.
    pub places: Vec<Launch>,
    /// The places with a gateway at the beginning.
    pub first: Vec<usize>,
    /// The clients, by user.
    pub clients: Vec<Option<u32>>,
    /// How many users there are.
    pub users: u32,
    /// The services.
    pub services: Vec<Kind>,
    /// What happens.
    pub acts: Vec<(Duration, Act)>,
    /// From then on nothing goes wrong any more.
    pub calm: Duration,
    /// Gateways soon forget services that do not come back; no clock jumps.
    pub forgets: bool,
    /// When a client gives up on a silent gateway.
    pub patience: Duration,
}

/// What a service is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// It speaks gRPC by itself.
    Plain {
        /// The consumer group.
        group: String,
        /// It acknowledges what it has handled.
        acks: bool,
        /// Its flow-control window.
        window: u32,
    },
    /// It links `logic-client`.
    Meshed(Setup),
}

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Act {
    /// A service pushes.
    Push(usize, Wanted),
    /// A service pushes to a connection it may have seen, which may be gone.
    PushConnection(usize, Wanted),
    /// A service adds a user to a topic.
    Subscribe(usize, u32, u32),
    /// A client sends.
    Send(usize, usize),
    /// A client closes, and stays away for a while.
    Leave(usize, Duration),
    /// A client reads nothing for a while.
    Stall(usize, Duration),
    /// A client's connection is reset.
    ResetClient(usize),
    /// A client's connection goes silent for ever.
    SilenceClient(usize),
    /// One of a service's connections is reset.
    ResetLink(usize),
    /// One of a service's connections goes silent: one way or both, for a while or for ever.
    SilenceLink(usize, Ways, Option<Duration>),
    /// A service stands still.
    FreezeService(usize, Duration),
    /// A service's clock jumps ahead.
    JumpService(usize, Duration),
    /// A service's process dies, and a new one begins.
    RestartService(usize),
    /// A gateway stands still.
    Freeze(usize, Duration),
    /// A gateway's clock jumps ahead.
    Jump(usize, Duration),
    /// A gateway's process dies, and its machine too if silently.
    Kill(usize, bool),
    /// A gateway goes away in an orderly manner.
    Drain(usize),
    /// A gateway begins, with so many shards.
    Start(usize, u16),
    /// The gateways there are, as services learn.
    Resolve(Vec<usize>),
    /// The network gets worse, or better.
    Net(Conditions),
}

/// Which ways of a connection are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ways {
    /// What the gateway would get.
    Down,
    /// What the service would get.
    Up,
    /// Both.
    Both,
}

const MILLI: Duration = Duration::from_millis(1);

impl Plan {
    /// The same seed gives the same plan.
    #[must_use]
    pub fn of(rng: &mut Rng) -> Self {
        let conditions = conditions(rng);
        let patience = Duration::from_secs(20);
        let mut places: Vec<Launch> = (0..rng.between(1, 3)).map(|_| launch(rng)).collect();
        let forgets = rng.percent(15);
        for place in places.iter_mut().filter(|_| forgets) {
            place.config.upstream.forget_service_ms = rng.between(200, 2_000) as u64;
        }
        let spare = places.len() > 1 && rng.percent(30);
        let first = (0..places.len() - usize::from(spare)).collect();
        let clients = rng.between(2, 12);
        let users = rng.between(1, clients) as u32;
        let clients = (0..clients).map(|_| {
            let named = rng.percent(85);
            named.then(|| rng.below(users as usize) as u32)
        });
        let clients: Vec<_> = clients.collect();
        let services = (0..rng.between(1, 3)).map(|_| kind(rng)).collect();
        let mut plan = Self {
            conditions,
            places,
            first,
            clients,
            users,
            services,
            acts: Vec::new(),
            calm: rng.between(3_000, 12_000) as u32 * MILLI,
            forgets,
            patience,
        };
        plan.add_load(rng);
        plan.add_faults(rng);
        // Those of one time keep their order.
        plan.acts.sort_by_key(|(at, _)| *at);
        plan
    }

    fn at(&mut self, rng: &mut Rng, act: Act) {
        let at = 200 * MILLI + rng.time(self.calm - 300 * MILLI);
        self.acts.push((at, act));
    }

    fn add_load(&mut self, rng: &mut Rng) {
        for service in 0..self.services.len() {
            for topic in 0..2 {
                for user in 0..self.users {
                    if rng.percent(50) {
                        self.acts
                            .push((MILLI, Act::Subscribe(service, user, topic)));
                    }
                }
            }
        }
        // Those above come before there is a gateway, mostly.
        for _ in 0..rng.between(0, 8) {
            let service = rng.below(self.services.len());
            let (user, topic) = (rng.below(self.users as usize), rng.below(2));
            self.at(rng, Act::Subscribe(service, user as u32, topic as u32));
        }
        let pushes = rng.between(20, 250);
        let bursts = rng.percent(40);
        for _ in 0..pushes {
            let service = rng.below(self.services.len());
            let wanted = self.wanted(rng);
            let count = if bursts && rng.percent(3) {
                rng.between(10, 60)
            } else {
                1
            };
            let at = 200 * MILLI + rng.time(self.calm - 300 * MILLI);
            for _ in 0..count {
                self.acts.push((at, Act::Push(service, wanted.clone())));
            }
        }
        for _ in 0..rng.between(0, 10) {
            let service = rng.below(self.services.len());
            let wanted = Wanted::plain(Target::Everyone, rng.between(4, 60));
            self.at(rng, Act::PushConnection(service, wanted));
        }
        for _ in 0..rng.between(5, 80) {
            let client = rng.below(self.clients.len());
            let size = rng.between(8, 200);
            self.at(rng, Act::Send(client, size));
        }
    }

    fn wanted(&self, rng: &mut Rng) -> Wanted {
        let user = rng.below(self.users as usize) as u32;
        let target = match rng.below(20) {
            0..12 => Target::User(user),
            12..14 => {
                let several = (0..self.users).filter(|other| *other == user || rng.percent(40));
                Target::Users(several.collect())
            }
            14..18 => Target::Topic(rng.below(2) as u32),
            _ => Target::Everyone,
        };
        let size = match rng.below(20) {
            0 => rng.between(2_000, 9_000),
            1..4 => rng.between(200, 1_000),
            _ => rng.between(8, 120),
        };
        Wanted {
            ttl_ms: if rng.percent(10) {
                rng.between(5, 2_000) as u32
            } else {
                0
            },
            key: rng.percent(10).then(|| rng.below(2) as u32),
            low: rng.percent(10),
            confirmed: rng.percent(25),
            ..Wanted::plain(target, size)
        }
    }

    fn add_faults(&mut self, rng: &mut Rng) {
        // Some worlds are left in peace: what fails there fails by itself.
        let faults = if rng.percent(10) {
            0
        } else {
            rng.between(1, 14)
        };
        for _ in 0..faults {
            let client = rng.below(self.clients.len());
            let service = rng.below(self.services.len());
            let place = rng.below(self.places.len());
            let a_while = rng.between(50, 4_000) as u32 * MILLI;
            match rng.below(20) {
                0..2 => self.at(rng, Act::ResetClient(client)),
                2 => self.at(rng, Act::SilenceClient(client)),
                3..5 => self.at(rng, Act::Stall(client, a_while)),
                5 => self.at(rng, Act::Leave(client, a_while)),
                6..10 => self.at(rng, Act::ResetLink(service)),
                10..12 => {
                    let ways = rng.pick(&[Ways::Down, Ways::Up, Ways::Both]);
                    let lasts = rng.percent(60).then_some(a_while);
                    self.at(rng, Act::SilenceLink(service, ways, lasts));
                }
                12 => self.at(rng, Act::FreezeService(service, a_while)),
                13 => self.at(rng, Act::RestartService(service)),
                14 => self.at(rng, Act::Freeze(place, a_while)),
                // A service is to be forgotten because it does not come back.
                15 if self.forgets => self.at(rng, Act::FreezeService(service, a_while)),
                15 if rng.percent(50) => self.at(rng, Act::JumpService(service, 10 * a_while)),
                15 => self.at(rng, Act::Jump(place, 10 * a_while)),
                16 | 17 => self.add_end(rng, place),
                18 => self.add_change(rng, place),
                _ => self.add_bad_net(rng, a_while),
            }
        }
    }

    /// A gateway ends, and comes back as another process, perhaps of another size.
    fn add_end(&mut self, rng: &mut Rng, place: usize) {
        let at = 200 * MILLI + rng.time(self.calm - 300 * MILLI);
        let end = end(rng, place);
        self.acts.push((at, end));
        let shards = match rng.percent(30) {
            true => rng.between(1, 3) as u16,
            false => self.places[place].shards,
        };
        let back = at + rng.between(10, 3_000) as u32 * MILLI;
        self.acts.push((back, Act::Start(place, shards)));
    }

    /// The set of gateways changes, and perhaps changes back.
    fn add_change(&mut self, rng: &mut Rng, place: usize) {
        let all: Vec<usize> = (0..self.places.len()).collect();
        let without: Vec<usize> = all
            .iter()
            .copied()
            .filter(|other| *other != place)
            .collect();
        if without.is_empty() {
            return;
        }
        let at = 200 * MILLI + rng.time(self.calm / 2);
        self.acts.push((at, Act::Resolve(without)));
        if rng.percent(50) {
            // A gateway that has left is used as long as it is there.
            let end = end(rng, place);
            let soon = at + rng.time(Duration::from_secs(1));
            self.acts.push((soon, end));
        }
        let shards = self.places[place].shards;
        let back = at + rng.time(self.calm / 2);
        self.acts.push((back, Act::Start(place, shards)));
        self.acts.push((back, Act::Resolve(all)));
    }

    fn add_bad_net(&mut self, rng: &mut Rng, lasts: Duration) {
        let at = 200 * MILLI + rng.time(self.calm - 300 * MILLI);
        let worse = Conditions {
            delay: self.conditions.delay * rng.between(5, 100) as u32,
            jitter: self.conditions.jitter * rng.between(1, 100) as u32,
            short: 50,
            ..self.conditions
        };
        self.acts.push((at, Act::Net(worse)));
        self.acts.push((at + lasts, Act::Net(self.conditions)));
    }
}

fn end(rng: &mut Rng, place: usize) -> Act {
    match rng.below(3) {
        0 => Act::Drain(place),
        1 => Act::Kill(place, false),
        _ => Act::Kill(place, true),
    }
}

fn conditions(rng: &mut Rng) -> Conditions {
    Conditions {
        delay: Duration::from_micros(rng.between(20, 2_000) as u64),
        jitter: Duration::from_micros(rng.between(1, 3_000) as u64),
        short: rng.pick(&[0, 5, 30]),
        buffer: rng.pick(&[2 << 10, 16 << 10, 128 << 10]),
    }
}

fn kind(rng: &mut Rng) -> Kind {
    let group = rng.pick(&["chat", "log"]).to_owned();
    if rng.percent(25) {
        return Kind::Plain {
            group,
            acks: rng.percent(80),
            window: 65_535,
        };
    }
    Kind::Meshed(Setup {
        group,
        commands: rng.pick(&[20, 1_000]),
        bytes: rng.pick(&[20 << 10, 1 << 20]),
        window: 65_536,
        one: rng.percent(25),
        max_age: rng.pick(&[2_000, 10_000, 1_800_000]) * MILLI,
        buffer_age: rng.pick(&[3_000, 30_000]) * MILLI,
        drop_oldest: rng.percent(25),
        resend: rng.percent(15),
        locate: rng.percent(40),
    })
}

/// Small limits, so that a small world reaches them.
fn launch(rng: &mut Rng) -> Launch {
    let mut config = Config::default();
    config.outbox.max_bytes = rng.pick(&[4 << 10, 16 << 10, 1 << 20]);
    config.outbox.max_messages = rng.pick(&[8, 64, 4096]);
    config.outbox.when_full = rng.pick(&[WhenFull::Close, WhenFull::Close, WhenFull::DropOldest]);
    config.tick.slice = rng.pick(&[2, 8, 256]);
    config.tick.link_bytes = rng.pick(&[4 << 10, 64 << 10, 1 << 20]);
    config.tick.lane_batches = rng.pick(&[1, 64]);
    config.lanes.batches = rng.pick(&[1, 4, 256]);
    // In a third of the worlds, without a draw of its own: seeds keep their worlds.
    if config.lanes.batches == 4 {
        config.outbox.share_from_bytes = 100;
    }
    config.lanes.batch_messages = rng.pick(&[1, 8, 256]);
    config.grpc.stream_window_bytes = 65_535;
    config.grpc.shard_window_bytes = 65_535;
    config.grpc.send_buffer_bytes = rng.pick(&[1 << 10, 16 << 10, 1 << 20]);
    config.grpc.keepalive_interval_ms = 10_000;
    config.grpc.keepalive_timeout_ms = 10_000;
    config.ws.ping_after_ms = rng.pick(&[2_000, 8_000]);
    config.ws.pong_timeout_ms = rng.pick(&[2_000, 8_000]);
    config.ws.close_timeout_ms = 2_000;
    config.directory.chunk_users = rng.pick(&[1, 1_000]);
    config.directory.max_queue_bytes = rng.pick(&[1 << 10, 1 << 20]);
    // What it was to get would be lost, as is documented; gateways' clocks jump, unless it is meant to be.
    config.upstream.forget_service_ms = 86_400_000;
    config.drain.spread_ms = rng.pick(&[0, 300, 2_000]);
    config.drain.retry_after_ms = rng.pick(&[0, 500, 2_000]);
    config.drain.grace_ms = 1_000;
    Launch {
        shards: rng.between(1, 3) as u16,
        config,
        costs: Costs::default(),
    }
}
