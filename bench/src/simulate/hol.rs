//! Head-of-line blocking on virtual time: how much later do messages come to those who have nothing to do with it?
//!
//! Every world here is lived through with the trouble and without it; load, network and costs are the same.

use std::time::Duration;

use gateway_core::config::Config;

use super::{
    gateway::Launch,
    net::Conditions,
    oracle::Target,
    plan::{Act, Kind, Plan},
    rng::Rng,
    seat::Costs,
    service::{Setup, Wanted},
    world::World,
};

/// Sends of a slice, and what each costs.
const SENDS: u32 = 256;
const SEND: Duration = Duration::from_micros(2);

/// How long a slice takes.
pub const SLICE: Duration = Duration::from_micros(512);

/// When everybody is connected, and the load begins.
const BEGIN: Duration = Duration::from_secs(2);

/// How long messages took that had nothing to do with the trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delays {
    /// How many there were.
    pub messages: usize,
    /// The longest.
    pub worst: Duration,
}

/// One of 1,000 clients of a shard stops reading, while all get messages.
///
/// # Errors
/// A promise was broken.
pub fn slow_client(trouble: bool) -> Result<Delays, String> {
    let mut plan = plan(1, 1_000);
    plan.services = vec![plain()];
    for step in 0..5_000_u32 {
        let at = BEGIN + Duration::from_micros(200) * step;
        let user = 1 + step % 999;
        plan.push(at, 0, Wanted::plain(Target::User(user), 128));
        if step % 10 == 0 {
            plan.push(at, 0, Wanted::plain(Target::User(0), 8 << 10));
        }
    }
    if trouble {
        plan.acts
            .push((BEGIN, Act::Stall(0, Duration::from_secs(5))));
    }
    delays(plan, |target| *target != Target::User(0))
}

/// One of ten gateways stands still for 10 s, while one mesh sends to clients of the other nine.
///
/// # Errors
/// A promise was broken.
pub fn frozen_gateway(trouble: bool) -> Result<Delays, String> {
    let mut plan = plan(10, 100);
    plan.services = vec![Kind::Meshed(Setup {
        group: "chat".into(),
        commands: 10_000,
        bytes: 16 << 20,
        window: 1 << 20,
        one: false,
        max_age: Duration::from_secs(1_800),
        buffer_age: Duration::from_secs(30),
        drop_oldest: false,
        resend: false,
        locate: false,
    })];
    for step in 0..12_000_u32 {
        let at = BEGIN + Duration::from_millis(1) * step;
        plan.push(at, 0, Wanted::plain(Target::User(step % 100), 128));
    }
    if trouble {
        plan.acts
            .push((BEGIN, Act::Freeze(0, Duration::from_secs(10))));
    }
    let world = live(plan)?;
    // Who is on the frozen gateway is concerned.
    let conns = world.context.oracle.down.conns();
    let there = conns
        .filter(|(_, conn)| conn.place == 0)
        .filter_map(|(_, conn)| conn.user);
    let there: Vec<u32> = there.collect();
    Ok(sum(
        &world,
        |target| !matches!(target, Target::User(user) if there.contains(user)),
    ))
}

/// One service floods a shard, while another one sends a few.
///
/// # Errors
/// A promise was broken.
pub fn flood(trouble: bool) -> Result<Delays, String> {
    let mut plan = plan(1, 1_000);
    plan.services = vec![plain(), plain()];
    for step in 0..400_u32 {
        let at = BEGIN + Duration::from_millis(5) * step;
        plan.push(at, 0, Wanted::plain(Target::User(step % 100), 128));
    }
    if trouble {
        for burst in 0..100_u32 {
            let at = BEGIN + Duration::from_millis(10) * burst;
            for step in 0..500_u32 {
                let user = 100 + (burst * 500 + step) % 200;
                plan.push(at, 1, Wanted::plain(Target::User(user), 128));
            }
        }
    }
    delays(
        plan,
        |target| matches!(target, Target::User(user) if *user < 100),
    )
}

/// A topic with 10,000 members is pushed to, while single users get messages.
///
/// # Errors
/// A promise was broken.
pub fn wide_topic(trouble: bool) -> Result<Delays, String> {
    let mut plan = plan(1, 10_000);
    plan.services = vec![plain()];
    for user in 0..10_000 {
        plan.acts.push((BEGIN / 2, Act::Subscribe(0, user, 0)));
    }
    for step in 0..200_u32 {
        let at = BEGIN + Duration::from_millis(1) * step;
        plan.push(at, 0, Wanted::plain(Target::User(step * 17 % 10_000), 128));
    }
    for step in (0..4_u32).filter(|_| trouble) {
        let at = BEGIN + Duration::from_millis(50) * step;
        plan.push(at, 0, Wanted::plain(Target::Topic(0), 128));
    }
    delays(plan, |target| matches!(target, Target::User(_)))
}

impl Plan {
    fn push(&mut self, at: Duration, service: usize, wanted: Wanted) {
        self.acts.push((at, Act::Push(service, wanted)));
    }
}

fn plan(gateways: usize, clients: u32) -> Plan {
    let launch = Launch {
        shards: 1,
        config: Config::default(),
        costs: Costs {
            send: SEND,
            ..Costs::default()
        },
    };
    debug_assert_eq!(launch.config.tick.slice, SENDS as usize);
    Plan {
        conditions: Conditions {
            delay: Duration::from_micros(100),
            jitter: Duration::ZERO,
            short: 0,
            buffer: 256 << 10,
        },
        places: vec![launch; gateways],
        first: (0..gateways).collect(),
        clients: (0..clients).map(Some).collect(),
        users: clients,
        services: Vec::new(),
        acts: Vec::new(),
        calm: Duration::from_secs(3_600),
        forgets: false,
        patience: Duration::from_secs(60),
    }
}

fn plain() -> Kind {
    Kind::Plain {
        group: "chat".into(),
        acks: true,
        window: 1 << 20,
    }
}

fn live(mut plan: Plan) -> Result<World, String> {
    plan.acts.sort_by_key(|(at, _)| *at);
    let last = plan.acts.last().map_or(BEGIN, |(at, _)| *at);
    let mut world = World::new(plan, Rng::new(1), false);
    world.until(last + Duration::from_secs(1))?;
    Ok(world)
}

fn delays(plan: Plan, counts: impl Fn(&Target) -> bool) -> Result<Delays, String> {
    Ok(sum(&live(plan)?, counts))
}

fn sum(world: &World, counts: impl Fn(&Target) -> bool) -> Delays {
    let all = world.context.oracle.down.delays();
    let counted = all.filter(|(target, _)| counts(target));
    let mut delays = Delays {
        messages: 0,
        worst: Duration::ZERO,
    };
    for (_, took) in counted {
        delays.messages += 1;
        delays.worst = delays.worst.max(took);
    }
    delays
}
