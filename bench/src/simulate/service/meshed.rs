//! A service that links `logic-client`: the real mesh, its runners driven here.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gateway_proto::v1::message_request::Target as Wire;
use logic_client::{
    Builder, Event, Events, Locate, LogicClient, Notice, Overflow, PushError, ReturnReason,
    Returned, StreamState, Streams, TryPushError, What,
    resolver::Endpoint,
    simulation::{self, Awaited, Mesh, Queue, Seeker, Wish},
};

use super::{
    Service, Wanted,
    asking::Asking,
    request::{named, subscribe},
    setup::{MOST_SHARDS, Setup, World},
    strand::Strand,
};
use crate::simulate::{
    context::Context,
    gateway, label,
    net::Owner,
    oracle::{Answer, Fate, Target},
};

/// One process of a service.
pub struct Meshed {
    index: usize,
    group: usize,
    source: u64,
    began: Duration,
    /// How far its clock has jumped ahead.
    skew: Duration,
    mesh: Arc<Mesh>,
    events: Events,
    seekers: Vec<Search>,
    strands: Vec<Strand>,
    /// What the mesh has told since it was asked last.
    told: Arc<Mutex<Told>>,
    awaited: BTreeMap<usize, Awaited>,
    setup: Setup,
}

#[derive(Default)]
struct Told {
    returned: Vec<Returned>,
    notices: Vec<Notice>,
}

struct Search {
    seeker: Seeker,
    asking: Option<Asking>,
    over: bool,
}

impl Meshed {
    /// A process that begins now.
    pub fn new(context: &mut Context, index: usize, setup: &Setup) -> Self {
        let told: Arc<Mutex<Told>> = Arc::default();
        let (notices, returned) = (Arc::clone(&told), Arc::clone(&told));
        let streams = match setup.one {
            true => Streams::One,
            false => Streams::PerShard,
        };
        let locate = match setup.locate {
            true => Locate::Directory,
            false => Locate::Everywhere,
        };
        let overflow = match setup.drop_oldest {
            true => Overflow::DropOldest,
            false => Overflow::Wait,
        };
        let builder: Builder = LogicClient::builder()
            .overflow(overflow)
            .locate(locate)
            .resolver(World)
            .streams(streams)
            .max_stream_age(setup.max_age)
            .buffer_age(setup.buffer_age)
            .resend_unknown(setup.resend)
            .service(&*setup.group)
            .receive_messages(true)
            .buffer(setup.commands, setup.bytes)
            .event_window(setup.window)
            .on_notice(move |notice| lock(&notices).notices.push(notice.clone()))
            .on_returned(move |back| lock(&returned).returned.push(back));
        let mut session = [0; 16];
        session[..8].copy_from_slice(&context.rng.draw().to_le_bytes());
        session[8..].copy_from_slice(&context.rng.draw().to_le_bytes());
        let mesh = match simulation::mesh(builder, session) {
            Ok(mesh) => mesh,
            Err(error) => panic!("a setup that works: {error}"),
        };
        Self {
            index,
            group: context.oracle.up.group(&setup.group, true),
            source: context.oracle.down.new_source(),
            began: context.now,
            skew: Duration::ZERO,
            events: mesh.events(),
            seekers: Vec::new(),
            mesh,
            strands: Vec::new(),
            told,
            awaited: BTreeMap::new(),
            setup: setup.clone(),
        }
    }

    fn owner(&self) -> Owner {
        Owner::Service(self.index)
    }

    fn clock(&self, context: &Context) -> Duration {
        context.now - self.began + self.skew
    }

    fn seek(&mut self, context: &mut Context, clock: Duration, started: &mut Vec<Arc<Queue>>) {
        let owner = self.owner();
        for Search {
            seeker,
            asking,
            over,
        } in &mut self.seekers
        {
            if let Some(answer) = asking
                .as_mut()
                .and_then(|asking| asking.poll(context, clock))
            {
                if let Some(asking) = asking.take() {
                    asking.end(context);
                }
                seeker.described(clock, answer);
            }
            seeker.poll(clock);
            while let Some(wish) = seeker.next_wish() {
                match wish {
                    Wish::Describe { .. } => {
                        if let Some(asking) = asking.take() {
                            asking.end(context);
                        }
                        match Asking::begin(context, clock, owner, seeker.address()) {
                            Ok(begun) => *asking = Some(begun),
                            Err(error) => seeker.described(clock, Err(error)),
                        }
                    }
                    Wish::Start { queue } => started.push(queue),
                    Wish::End => *over = true,
                    // A seeker has no connections.
                    Wish::Dial { .. } | Wish::Close { .. } => {}
                }
            }
            if *over {
                // Nobody would notice any more that it is silent.
                if let Some(asking) = asking.take() {
                    asking.end(context);
                }
            }
            // Its first question leaves with this.
            if let Some(asking) = asking {
                asking.poll(context, clock);
            }
        }
        self.seekers.retain(|search| !search.over);
    }

    fn take_events(&mut self, context: &mut Context) -> bool {
        let mut any = false;
        while let Some(event) = self.events.try_next() {
            any = true;
            if let Event::Message(message) = event {
                let named = message.connection;
                let connection = context.oracle.down.named(named.epoch, named.id);
                let facts = [5, named.id, message.payload.len() as u64];
                context.trace.note(context.now, facts, || {
                    let text = message.text().unwrap_or_default();
                    format!(
                        "service {} got {:?}",
                        self.index,
                        &text[..text.len().min(24)]
                    )
                });
                let up = &mut context.oracle.up;
                up.received(self.group, connection, &message.payload);
            }
        }
        any
    }

    fn take_told(&mut self, context: &mut Context) {
        let told = std::mem::take(&mut *lock(&self.told));
        for notice in told.notices {
            self.take_notice(context, &notice);
        }
        for back in told.returned {
            self.take_back(context, &back);
        }
        let answered: Vec<_> = self
            .awaited
            .iter_mut()
            .filter_map(|(id, awaited)| awaited.try_answer().map(|answer| (*id, answer)))
            .collect();
        for (id, answer) in answered {
            self.awaited.remove(&id);
            context.trace.note(context.now, [11, id as u64, 0], || {
                format!("push {id} is answered: {answer:?}")
            });
            let answer = match answer {
                Ok(receipt) => Answer::Receipt {
                    written: receipt.written,
                    lost: receipt.lost(),
                },
                Err(failed) if failed.error == PushError::Unknown => Answer::Unknown,
                Err(error) => {
                    context.coverage.hit(
                        "confirmed pushes failed",
                        &label(&format!("{:?}", error.error)),
                    );
                    Answer::Failed
                }
            };
            context.oracle.down.answered(id, answer);
        }
    }

    fn take_notice(&mut self, context: &mut Context, notice: &Notice) {
        let what = label(&format!("{:?}", notice.what));
        context.coverage.hit("mesh", &what);
        let facts = [12, u64::from(notice.shard), what.len() as u64];
        context.trace.note(context.now, facts, || {
            format!("service {}: {notice}", self.index)
        });
        if let What::CommandReturned { .. }
        | What::Rejected(_)
        | What::Unknown { .. }
        | What::GatewayRemoved = &notice.what
        {
            context.oracle.down.doubt_members(self.source);
        }
        let place = gateway::address(&notice.gateway).map(|address| address.gateway);
        if let (What::Unknown { .. }, Some(place)) = (&notice.what, place) {
            context.oracle.down.doubt(self.source, place);
        }
        if let What::Connected { epoch, .. } = &notice.what {
            let up = &mut context.oracle.up;
            if self.setup.one {
                // The other shards are told through lanes.
                let at = context.now + Duration::from_millis(20);
                (0..MOST_SHARDS).for_each(|shard| up.known(at, self.group, *epoch, shard));
            } else {
                up.known(context.now, self.group, *epoch, notice.shard);
            }
        }
    }

    /// Whether every bound of the client holds.
    fn audit(&self, context: &mut Context) {
        let mut strands = self.strands.iter();
        let over = self.mesh.over_limit(self.awaited.len());
        if let Some(over) = over.or_else(|| strands.find_map(Strand::over_limit)) {
            let text = format!("service {} is over a limit: {over}", self.index);
            context.oracle.fail(text);
        }
    }

    /// A push came back.
    fn take_back(&self, context: &mut Context, back: &Returned) {
        let reason = label(&format!("{:?}", back.reason));
        context.coverage.hit("returned by meshes", &reason);
        let request = back.push.request();
        let id = crate::simulate::oracle::number(&request.payload);
        let place = gateway::address(&back.gateway).map(|address| address.gateway);
        let (Some(id), Some(place)) = (id, place) else {
            let text = format!(
                "service {} got back what nobody pushed: {back:?}",
                self.index
            );
            return context.oracle.fail(text);
        };
        let facts = [13, id as u64, place as u64];
        context.trace.note(context.now, facts, || {
            let (gateway, shard) = (&back.gateway, back.shard);
            format!("push {id} comes back from {gateway} shard {shard}: {reason}")
        });
        let users = match &request.target {
            Some(Wire::Users(users)) => {
                let numbers = users
                    .user_ids
                    .iter()
                    .filter_map(|user| crate::simulate::user_number(user));
                Some(numbers.collect())
            }
            _ => None,
        };
        let shard = (!self.setup.one).then_some(back.shard);
        let fate = match back.reason {
            // Of a push whose shards have changed, some may have had their parts.
            ReturnReason::Unknown | ReturnReason::ShardsChanged => Fate::Unknown,
            _ => Fate::Returned,
        };
        context.oracle.down.fate(id, place, shard, users, fate);
    }

    /// The gateways that a push goes to, as far as that is certain.
    fn places(&self, target: &Target) -> Vec<usize> {
        match target {
            Target::User(user) if self.setup.locate => {
                let places = self.mesh.whereis(&crate::simulate::user(*user));
                let current = places.iter().filter(|place| place.current);
                return current
                    .filter_map(|place| gateway::place(&place.gateway))
                    .collect();
            }
            Target::Users(_) if self.setup.locate => return Vec::new(),
            _ => {}
        }
        let streams = self.mesh.stats().streams;
        let places = streams
            .iter()
            .filter_map(|stream| gateway::address(&stream.gateway));
        let mut places: Vec<usize> = places.map(|address| address.gateway).collect();
        places.dedup();
        places
    }
}

impl Service for Meshed {
    fn run(&mut self, context: &mut Context) {
        let owner = self.owner();
        let clock = self.clock(context);
        context.net.take_news(owner);
        let mut started = Vec::new();
        self.seek(context, clock, &mut started);
        loop {
            for strand in &mut self.strands {
                strand.run(context, clock, &mut started);
            }
            self.strands.retain(|strand| !strand.is_over());
            let more = !started.is_empty();
            for queue in started.drain(..) {
                self.strands.push(Strand::new(&self.mesh, queue, owner));
            }
            // What was handled is acknowledged by another look at the streams.
            if !self.take_events(context) && !more {
                break;
            }
        }
        self.take_told(context);
        self.audit(context);
        let seekers = self
            .seekers
            .iter()
            .filter_map(|search| search.seeker.next_deadline());
        let strands = self.strands.iter().filter_map(Strand::next_deadline);
        if let Some(next) = seekers.chain(strands).min() {
            let at = self.began + next.saturating_sub(self.skew);
            let soonest = context.now + Duration::from_micros(100);
            context.agenda.run_at(at.max(soonest), owner);
        }
    }

    fn push(&mut self, context: &mut Context, wanted: &Wanted) {
        let places = self.places(&wanted.target);
        let id = wanted.issue(
            context,
            self.index,
            self.source,
            self.setup.resend,
            places.clone(),
        );
        let push = wanted.push(id, |connection| named(context, connection));
        let clock = self.clock(context);
        if wanted.confirmed {
            match self.mesh.try_push_confirmed(clock, push) {
                Ok(Some(awaited)) => {
                    self.awaited.insert(id, awaited);
                }
                Ok(None) | Err(_) => {
                    context.coverage.hit("mesh", "push refused: full");
                    context.oracle.down.answered(id, Answer::Failed);
                }
            }
        } else if let Err(refused) = self.mesh.try_push(clock, push) {
            match refused {
                TryPushError::Full(_) => context.coverage.hit("mesh", "push refused: full"),
                other => context
                    .oracle
                    .fail(format!("push {id} was refused: {other}")),
            }
            for place in places {
                context
                    .oracle
                    .down
                    .fate(id, place, None, None, Fate::Returned);
            }
        }
        context.agenda.run_at(context.now, self.owner());
    }

    fn subscribe(&mut self, context: &mut Context, user: u32, topic: u32) {
        context.oracle.down.subscribed(topic, user);
        let clock = self.clock(context);
        let places = self.places(&Target::Topic(topic));
        let (now, source) = (context.now, self.source);
        match self.mesh.try_command(clock, subscribe(user, topic)) {
            Ok(true) => context
                .oracle
                .down
                .is_subscribed(now, source, topic, user, places),
            _ => context.coverage.hit("mesh", "subscription refused: full"),
        }
        context.agenda.run_at(context.now, self.owner());
    }

    fn set_gateways(&mut self, context: &mut Context, places: &[usize]) {
        let name = |place: &usize| format!("{}:{}", gateway::name(*place), gateway::COMMON);
        let endpoints = places.iter().map(name).map(Endpoint::new).collect();
        let changes = self.mesh.set_gateways(self.clock(context), endpoints);
        let begun = changes.started.into_iter().map(|seeker| Search {
            seeker,
            asking: None,
            over: false,
        });
        self.seekers.extend(begun);
        context.agenda.run_at(context.now, self.owner());
    }

    fn jump(&mut self, context: &mut Context, by: Duration) {
        self.skew += by;
        context.agenda.run_at(context.now, self.owner());
    }

    fn die(&mut self, context: &mut Context) {
        for strand in &mut self.strands {
            strand.die(context);
        }
        for asking in self
            .seekers
            .iter_mut()
            .filter_map(|search| search.asking.take())
        {
            asking.end(context);
        }
        context.oracle.down.orphan(self.source);
    }

    fn is_quiet(&self) -> bool {
        let stats = self.mesh.stats();
        self.awaited.is_empty()
            && stats.missing.is_empty()
            && stats
                .directory
                .is_none_or(|known| known.complete == known.shards)
            && stats.streams.iter().all(|stream| {
                stream.state == StreamState::Open && stream.buffered == 0 && stream.unacked == 0
            })
    }

    fn whereis(&self, user: u32) -> Option<BTreeMap<usize, u32>> {
        let places = self.mesh.whereis(&crate::simulate::user(user));
        let known = places.iter().filter_map(|place| {
            let at = gateway::place(&place.gateway)?;
            Some((at, place.connections))
        });
        self.setup.locate.then(|| known.collect())
    }

    fn unreleased(&self) -> usize {
        self.strands.iter().map(Strand::unreleased).sum()
    }

    fn describe(&self) -> String {
        let stats = self.mesh.stats();
        let streams = stats.streams.iter().map(|stream| {
            format!(
                "{}/{} {:?} buffered {} unacked {} last error {:?}",
                stream.gateway,
                stream.shard,
                stream.state,
                stream.buffered,
                stream.unacked,
                stream.last_error
            )
        });
        let streams: Vec<_> = streams.collect();
        let missing = &stats.missing;
        let (streams, awaited) = (streams.join(", "), self.awaited.len());
        let directory = &stats.directory;
        format!("{streams}; missing {missing:?}; {awaited} awaited; directory {directory:?}")
    }
}

fn lock(told: &Mutex<Told>) -> std::sync::MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}
