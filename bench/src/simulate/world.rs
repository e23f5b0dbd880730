//! One world: it begins as its plan says, goes through what its plan has for it, comes to rest, and is examined.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use gateway_core::config::WhenFull;

use super::{
    agenda::{Agenda, Event},
    client::Client,
    context::Context,
    coverage::Coverage,
    gateway::{Launch, Process},
    label,
    net::{FOR_EVER, Net, Owner, Socket},
    oracle::{Oracle, Target},
    plan::{Act, Kind, Plan, Ways},
    rng::Rng,
    service::{Meshed, Plain, Service, Wanted},
    trace::Trace,
};

/// A world under way.
pub struct World {
    pub(super) context: Context,
    pub(super) places: Vec<Place>,
    pub(super) clients: Vec<Client>,
    pub(super) services: Vec<Box<dyn Service>>,
    kinds: Vec<Kind>,
    /// Until then a service stands still.
    frozen: Vec<Duration>,
    /// The gateways there are, as services know.
    resolved: Vec<usize>,
    acts: Vec<Act>,
    pub(super) users: u32,
    calm: Duration,
}

/// Where a gateway runs, or will run again.
pub struct Place {
    pub(super) launch: Launch,
    pub(super) process: Option<Process>,
}

/// What came of a world.
pub struct Outcome {
    /// The first promise that was broken.
    pub failure: Option<String>,
    /// What happened.
    pub trace: Trace,
    /// What it came by.
    pub coverage: Coverage,
    /// How long it lasted, in its own time.
    pub lasted: Duration,
}

/// After the faults have stopped, rest must come within this time.
const RECOVERY: Duration = Duration::from_secs(150);
/// How often it is looked whether everything is at rest.
const LOOK: Duration = Duration::from_millis(250);
/// So much happens in no world that makes progress.
const MOST_EVENTS: u64 = 5_000_000;

/// Lives through the world of a seed. A panic is a promise that was broken.
#[must_use]
pub fn live(seed: u64, keep_lines: bool) -> Outcome {
    let mut rng = Rng::new(seed);
    let plan = Plan::of(&mut rng);
    let mut world = World::new(plan, rng, keep_lines);
    match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(Ok(())) => world.end(),
        Ok(Err(failure)) => {
            world.context.oracle.fail(failure);
            world.end()
        }
        Err(panic) => {
            world.context.oracle.fail(message(&*panic));
            world.outcome()
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panic: {}", text.as_deref().unwrap_or("without a message"))
}

impl World {
    /// As its plan says.
    pub(super) fn new(plan: Plan, mut rng: Rng, keep_lines: bool) -> Self {
        let context = Context {
            now: Duration::ZERO,
            agenda: Agenda::default(),
            net: Net::new(plan.conditions, rng.fork()),
            rng,
            trace: Trace::new(keep_lines),
            oracle: Oracle::new(plan.forgets),
            coverage: Coverage::default(),
        };
        let mut world = Self {
            context,
            places: Vec::new(),
            clients: Vec::new(),
            services: Vec::new(),
            frozen: vec![Duration::ZERO; plan.services.len()],
            kinds: plan.services,
            resolved: plan.first.clone(),
            acts: Vec::new(),
            users: plan.users,
            calm: plan.calm,
        };
        for (place, launch) in plan.places.into_iter().enumerate() {
            let lossy = launch.config.outbox.when_full == WhenFull::DropOldest;
            world.context.oracle.down.set_lossy(place, lossy);
            world.places.push(Place {
                launch,
                process: None,
            });
        }
        for place in plan.first {
            world.start(place);
        }
        for index in 0..world.kinds.len() {
            let service = world.service(index);
            world.services.push(service);
        }
        world.resolve();
        for (index, user) in plan.clients.into_iter().enumerate() {
            world.clients.push(Client::new(index, user, plan.patience));
            let at = world.context.rng.time(Duration::from_millis(200));
            world.context.agenda.run_at(at, Owner::Client(index));
        }
        for (index, (at, act)) in plan.acts.into_iter().enumerate() {
            world.context.agenda.at(at, Event::Act(index));
            world.acts.push(act);
        }
        world
    }

    /// Through the faults, to rest, through a last round of messages, to rest again.
    fn run(&mut self) -> Result<(), String> {
        self.until(self.calm)?;
        self.calm_down();
        self.rest()?;
        self.last_round();
        self.rest()?;
        self.until(self.context.now + Duration::from_secs(2))?;
        self.rest()?;
        self.examine();
        self.verdict()
    }

    fn verdict(&self) -> Result<(), String> {
        match self.context.oracle.failure() {
            Some(failure) => Err(failure.to_owned()),
            None => Ok(()),
        }
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// A promise was broken.
    pub(super) fn until(&mut self, until: Duration) -> Result<(), String> {
        while let Some((at, event)) = self.context.agenda.next(until) {
            self.context.now = at;
            self.happen(event);
            self.verdict()?;
            if self.context.trace.events() > MOST_EVENTS {
                return Err("too much happens: somebody goes round in circles".into());
            }
        }
        self.context.now = until;
        Ok(())
    }

    fn happen(&mut self, event: Event) {
        let context = &mut self.context;
        match event {
            Event::Arrive(socket) => {
                let bytes = context.net.arrive(context.now, &mut context.agenda, socket);
                let facts = [7, u64::from(socket.connection()), bytes as u64];
                context.trace.note(context.now, facts, || {
                    format!("connection {}: {bytes} bytes arrive", socket.connection())
                });
            }
            Event::Dialled(socket) => self.dialled(socket),
            Event::Run(Owner::Shard(place, shard)) => self.run_shard(place, shard),
            Event::Run(Owner::Client(client)) => {
                let places = self.offered();
                self.clients[client].run(&mut self.context, &places);
            }
            Event::Run(Owner::Service(service)) => self.run_service(service),
            Event::Act(act) => {
                let act = self.acts[act].clone();
                let facts = [8, 0, 0];
                self.context
                    .trace
                    .note(self.context.now, facts, || format!("act: {act:?}"));
                self.act(act);
            }
        }
    }

    fn dialled(&mut self, socket: Socket) {
        let context = &mut self.context;
        let Some(address) = context.net.dialled(socket) else {
            return;
        };
        let process = self.places[address.gateway].process.as_mut();
        let taken = process.is_some_and(|process| process.knock(context, socket, address.port));
        let facts = [9, u64::from(socket.connection()), u64::from(taken)];
        context.trace.note(context.now, facts, || {
            let connection = socket.connection();
            format!("connection {connection} to {address:?} is taken: {taken}")
        });
        if !taken {
            context.net.refuse(context.now, &mut context.agenda, socket);
        }
    }

    fn run_shard(&mut self, place: usize, shard: u16) {
        let Some(process) = &mut self.places[place].process else {
            return;
        };
        if process.run(&mut self.context, shard)
            && let Some(process) = self.places[place].process.take()
        {
            self.context.coverage.hit("gateways", "drained");
            process.die(&mut self.context, false);
        }
    }

    fn run_service(&mut self, service: usize) {
        if self.context.now < self.frozen[service] {
            let at = self.frozen[service];
            return self.context.agenda.run_at(at, Owner::Service(service));
        }
        self.services[service].run(&mut self.context);
    }

    /// Where a load balancer sends clients: sometimes to where nobody is any more.
    fn offered(&mut self) -> Vec<usize> {
        let stale = self.context.now < self.calm && self.context.rng.percent(10);
        let places = self.places.iter().enumerate().filter(|(_, place)| {
            let process = place.process.as_ref();
            stale || process.is_some_and(|process| !process.is_draining())
        });
        places.map(|(place, _)| place).collect()
    }

    fn start(&mut self, place: usize) {
        let Place { launch, process } = &mut self.places[place];
        if process.is_none() {
            let context = &mut self.context;
            let new = Process::start(place, launch, context.now, &mut context.rng);
            context
                .trace
                .note(context.now, [10, place as u64, new.epoch], || {
                    format!(
                        "g{place} begins with {} shards, epoch {:016x}",
                        launch.shards, new.epoch
                    )
                });
            context.coverage.hit("gateways", "started");
            context.oracle.down.process_began(context.now, new.epoch);
            *process = Some(new);
        }
    }

    fn service(&mut self, index: usize) -> Box<dyn Service> {
        let context = &mut self.context;
        match &self.kinds[index] {
            Kind::Plain {
                group,
                acks,
                window,
            } => Box::new(Plain::new(context, index, group, *acks, *window)),
            Kind::Meshed(setup) => Box::new(Meshed::new(context, index, setup)),
        }
    }

    fn resolve(&mut self) {
        for service in &mut self.services {
            service.set_gateways(&mut self.context, &self.resolved);
        }
    }

    fn act(&mut self, act: Act) {
        let now = self.context.now;
        self.context
            .coverage
            .hit("acts", &label(&format!("{act:?}")));
        match act {
            Act::Push(service, wanted) => self.services[service].push(&mut self.context, &wanted),
            Act::PushConnection(service, wanted) => self.push_to_connection(service, wanted),
            Act::Subscribe(service, user, topic) => {
                self.services[service].subscribe(&mut self.context, user, topic);
            }
            Act::Send(client, size) => {
                self.clients[client].send(&mut self.context, size);
            }
            Act::Leave(client, away) => self.clients[client].leave(&mut self.context, away),
            Act::Stall(client, time) => {
                self.clients[client].stall(&mut self.context, (now + time).min(self.calm));
            }
            Act::Freeze(place, time) => self.with(place, |process, _| {
                process.freeze(now + time);
            }),
            Act::Jump(place, by) => self.with(place, |process, context| process.jump(context, by)),
            Act::Drain(place) => self.with(place, Process::drain),
            Act::Kill(place, silently) => {
                if let Some(process) = self.places[place].process.take() {
                    process.die(&mut self.context, silently);
                }
            }
            Act::Start(place, shards) => {
                if self.places[place].process.is_none() {
                    self.places[place].launch.shards = shards;
                }
                self.start(place);
            }
            Act::Resolve(places) => {
                self.resolved = places;
                self.resolve();
            }
            Act::Net(conditions) => self.context.net.conditions = conditions,
            Act::FreezeService(service, time) => {
                self.frozen[service] = self.frozen[service].max(now + time);
            }
            Act::JumpService(service, by) => self.services[service].jump(&mut self.context, by),
            Act::RestartService(service) => {
                self.services[service].die(&mut self.context);
                self.services[service] = self.service(service);
                self.services[service].set_gateways(&mut self.context, &self.resolved);
            }
            Act::ResetClient(_)
            | Act::SilenceClient(_)
            | Act::ResetLink(_)
            | Act::SilenceLink(..) => {
                self.cut(act);
            }
        }
    }

    fn with(&mut self, place: usize, act: impl FnOnce(&mut Process, &mut Context)) {
        if let Some(process) = &mut self.places[place].process {
            act(process, &mut self.context);
        }
    }

    /// What happens to one connection.
    fn cut(&mut self, act: Act) {
        let now = self.context.now;
        match act {
            Act::ResetClient(client) => {
                if let Some(socket) = self.clients[client].socket() {
                    let context = &mut self.context;
                    context.net.reset(now, &mut context.agenda, socket);
                }
            }
            Act::SilenceClient(client) => self.clients[client].silence(&mut self.context),
            Act::ResetLink(service) => {
                if let Some(socket) = self.link(service) {
                    let context = &mut self.context;
                    context.net.reset(now, &mut context.agenda, socket);
                }
            }
            Act::SilenceLink(service, ways, lasts) => {
                let until = lasts.map_or(FOR_EVER, |lasts| now + lasts);
                if let Some(socket) = self.link(service) {
                    if ways != Ways::Down {
                        self.context.net.silence(socket, until);
                    }
                    if ways != Ways::Up {
                        self.context.net.silence(socket.peer(), until);
                    }
                }
            }
            _ => {}
        }
    }

    /// One of a service's connections.
    fn link(&mut self, service: usize) -> Option<Socket> {
        let sockets = self.context.net.sockets_of(Owner::Service(service));
        (!sockets.is_empty()).then(|| self.context.rng.pick(&sockets))
    }

    fn push_to_connection(&mut self, service: usize, wanted: Wanted) {
        let down = &self.context.oracle.down;
        let seen: Vec<u32> = down
            .conns()
            .filter(|(_, conn)| conn.epoch != 0)
            .map(|(at, _)| at)
            .collect();
        if !seen.is_empty() {
            let target = Target::Connection(self.context.rng.pick(&seen));
            let wanted = Wanted { target, ..wanted };
            self.services[service].push(&mut self.context, &wanted);
        }
    }

    /// Whatever was taken away comes back.
    fn calm_down(&mut self) {
        for place in 0..self.places.len() {
            self.start(place);
        }
        self.resolved = (0..self.places.len()).collect();
        self.resolve();
    }

    fn rest(&mut self) -> Result<(), String> {
        let limit = self.context.now + RECOVERY;
        let mut quiet = 0;
        while quiet < 3 {
            if self.context.now > limit {
                return Err(format!(
                    "no rest {RECOVERY:?} after the faults stopped: {}",
                    self.unrest()
                ));
            }
            self.until(self.context.now + LOOK)?;
            // Who died or drained meanwhile begins again.
            for place in 0..self.places.len() {
                self.start(place);
            }
            quiet = if self.is_quiet() { quiet + 1 } else { 0 };
        }
        Ok(())
    }

    fn end(mut self) -> Outcome {
        for place in &mut self.places {
            if let Some(process) = place.process.take() {
                process.die(&mut self.context, false);
            }
        }
        let shortened = self.context.net.shortened;
        let coverage = &mut self.context.coverage;
        coverage.add("network", "reads and writes cut short", shortened);
        self.outcome()
    }

    fn outcome(self) -> Outcome {
        Outcome {
            failure: self.context.oracle.failure().map(str::to_owned),
            lasted: self.context.now,
            trace: self.context.trace,
            coverage: self.context.coverage,
        }
    }
}
