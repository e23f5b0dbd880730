//! The tick.

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    io,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use rustix::event::PollFlags;

use super::{
    accept::{ACCEPTS, Door},
    act::Leavers,
    receive::Held,
    ring::{Completion, Sleep},
    rings::Rings,
    send::Flight,
    services::Services,
    shape,
    table::Table,
    token::Token,
};
use crate::{
    driver::{
        Clock, Seat,
        mailbox::{Mailbox, Port},
        spin::Spin,
        tick::{self, HEARTBEAT, follow_orders},
        turns::{LINK_READ, Turns},
        watch,
    },
    identity::{ConnId, LinkId, SocketId},
    metrics::Metrics,
    shard::Shard,
    timesheet::{Rest, Timesheet},
};

/// Most completions handled in a tick, so that a tick stays short: at 1-2 µs each, about a millisecond.
const COMPLETIONS: usize = 512;

/// One shard with its sockets.
pub(super) struct Reactor {
    // First, so that it goes first: no request may outlive the memory that it refers to.
    pub(super) rings: Rings,
    pub(super) shard: Shard,
    pub(super) table: Table,
    /// Where clients come in. `None`: closed.
    pub(super) door: Option<Door>,
    pub(super) services: Vec<Services>,
    pub(super) mailbox: Mailbox,
    pub(super) ports: Vec<Port>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    /// All reads of links go through this one buffer.
    pub(super) buffer: Box<[u8]>,
    pub(super) conn_bytes: usize,
    /// Links with data.
    pub(super) links: Turns<LinkId>,
    /// Sockets that may have to ask for bytes again.
    pub(super) rearm: Vec<SocketId>,
    /// Clients whose receive has found no buffer.
    pub(super) starved: VecDeque<ConnId>,
    /// How many buffers a ring has.
    pub(super) buffers: usize,
    /// Sockets that have room again.
    pub(super) roomy: Vec<SocketId>,
    /// The sends of this tick, by number.
    pub(super) flights: Vec<Flight>,
    /// What has come from clients that the shard does not want to hear now.
    pub(super) held: HashMap<ConnId, Held>,
    /// Connections on their way to other shards.
    pub(super) leavers: Leavers,
    /// Descriptors on their way into a ring's table: the kernel reads them there.
    pub(super) adopting: Box<[Cell<i32>; ACCEPTS]>,
    /// Something is left for the next tick, which must not wait.
    pub(super) again: bool,
    /// Completions taken in this tick.
    taken: u64,
    pub(super) sheet: Rc<Timesheet>,
    spin: Spin,
}

impl Reactor {
    /// A shard that accepts nobody yet.
    ///
    /// # Errors
    /// The kernel refuses a ring.
    pub(super) fn new(seat: Seat) -> io::Result<Self> {
        let config = &seat.gateway.config;
        let conn_bytes = config.tick.conn_bytes;
        let links = Turns::new(config.tick.link_bytes.max(1));
        let spin_us = config.tick.spin_us;
        let buffers = usize::from(config.uring.ring_buffers);
        let rings = Rings::new(shape(&config.uring))?;
        let metrics = Arc::clone(&seat.metrics);
        let shard = Shard::new(seat.gateway, metrics, seat.lanes, seat.seed);
        Ok(Self {
            rings,
            table: Table::default(),
            door: Some(Door::new(seat.ws)),
            services: seat.grpc.into_iter().map(Services::new).collect(),
            mailbox: seat.mailbox,
            ports: seat.ports,
            metrics: seat.metrics,
            clock: seat.clock,
            buffer: vec![0; LINK_READ].into(),
            conn_bytes: conn_bytes.max(1),
            links,
            rearm: Vec::new(),
            starved: VecDeque::new(),
            buffers,
            roomy: Vec::new(),
            flights: Vec::new(),
            held: HashMap::new(),
            leavers: Leavers::default(),
            adopting: Box::new([const { Cell::new(-1) }; ACCEPTS]),
            again: false,
            taken: 0,
            sheet: watch::start(&shard, seat.clock),
            shard,
            spin: Spin::new(spin_us),
        })
    }

    /// Runs until the shard has drained or is stopped.
    ///
    /// # Errors
    /// The kernel takes no more requests.
    pub(super) fn run(mut self, up: impl FnOnce()) -> io::Result<()> {
        self.await_bell();
        up();
        loop {
            let started = self.now();
            if !self.tick(started) {
                break;
            }
            self.rest(started)?;
        }
        self.rings.hang_up();
        Ok(())
    }

    /// False: the shard has ended.
    fn tick(&mut self, now: Duration) -> bool {
        self.sheet.begin(now);
        self.again = false;
        self.mailbox.bell().wake_up();
        if follow_orders(&self.mailbox, &mut self.shard, now) {
            return false;
        }
        if self.is_busy() {
            self.spin.worked(now);
        }
        self.land();
        self.take_completions(now);
        let taking = self.read_links(now);
        self.shard.tick(now);
        if taking.taken() > 0 {
            let took = self.now().saturating_sub(now);
            self.links.spent(&taking, took);
        }
        self.act(now);
        self.move_stuck(now);
        // New sockets come after the actions: a slot that the shard gives anew is free here too by now.
        self.accept(now);
        self.adopt(now);
        self.rearm();
        self.flush();
        self.ring_others();
        !self.shard.is_drained()
    }

    fn take_completions(&mut self, now: Duration) {
        for _ in 0..COMPLETIONS {
            let Some((ring, completion)) = self.rings.next() else {
                return;
            };
            self.taken += 1;
            self.completed(now, ring, completion);
        }
    }

    fn completed(&mut self, now: Duration, ring: usize, completion: Completion) {
        match completion.token {
            // Failed, and shows in what follows; or a send, which `land` has heard of; or the ring knows all about it.
            Token::Nothing | Token::Send(_) | Token::Alarm => {}
            Token::Bell => {
                self.mailbox.bell().silence();
                if !completion.more {
                    self.await_bell();
                }
            }
            Token::Ring(at) => {
                self.rings.rang(at);
                if !completion.more {
                    self.rings.await_bell(at);
                }
            }
            Token::Listener(at) => self.services[at as usize].ready(),
            Token::Accept(at) => self.accepted(now, at, completion.result),
            Token::Leave(at) => self.left(now, at as usize, completion.result),
            Token::Receive(key) => self.received(now, ring, key, completion),
            Token::Room(key) => self.has_room(key),
            Token::LinkReadable(key) => self.link_readable(key),
            Token::LinkRoom(key) => self.link_has_room(key),
        }
    }

    fn await_bell(&mut self) {
        let bell = self.mailbox.bell();
        self.rings
            .first()
            .poll(bell, PollFlags::IN, true, Token::Bell);
    }

    /// Wakes the shards that have got something in this tick.
    fn ring_others(&mut self) {
        for shard in self.shard.take_wakes() {
            self.ports[usize::from(shard)].ring();
        }
    }

    /// The end of the tick.
    fn count(&self, started: Duration) -> Duration {
        let now = self.now();
        tick::count(&self.metrics, started, now);
        now
    }

    /// Hands over what the tick has asked for. Sleeps if nothing is left to do, until the next deadline at most.
    fn rest(&mut self, started: Duration) -> io::Result<()> {
        let taken = std::mem::take(&mut self.taken);
        if self.is_busy() {
            let entered = self.sheet.kernel(|| self.rings.enter(None));
            let now = self.count(started);
            self.sheet.end(now, Rest::GoesOn, taken);
            return entered;
        }
        let now = self.count(started);
        let deadline = self.next_deadline(now);
        if deadline <= now {
            self.sheet.end(now, Rest::GoesOn, taken);
            return self.rings.enter(None);
        }
        self.sheet.end(now, Rest::Sleeps, taken);
        if self.spin.goes_on(now) && self.look_on(deadline) {
            return self.rings.enter(None);
        }
        let bell = self.mailbox.bell();
        bell.fall_asleep();
        // What came before the bell knew is in the mailbox, or work in the lanes.
        let quiet = self.mailbox.is_empty() && !self.shard.has_work();
        let now = self.now();
        self.rings.enter(quiet.then_some(Sleep {
            now,
            until: deadline,
        }))
    }

    /// Looks on, without a system call. True: something has come, or is due.
    fn look_on(&mut self, deadline: Duration) -> bool {
        let until = self.spin.until().min(deadline);
        while self.now() < until {
            if self.rings.have_news() || !self.mailbox.is_empty() || self.shard.has_work() {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    fn is_busy(&self) -> bool {
        // Sends have to land before the shard knows what became of them.
        self.again
            || !self.flights.is_empty()
            || !self.links.is_empty()
            || self.rings.have_completions()
            || self.shard.has_work()
    }

    fn next_deadline(&self, now: Duration) -> Duration {
        let services = self.services.iter().filter_map(Services::deadline);
        let door = self.door.as_ref().and_then(Door::deadline);
        services
            .chain(door)
            .chain(self.leavers.deadline())
            .chain(self.shard.next_deadline())
            .fold(now + HEARTBEAT, Duration::min)
    }

    /// The time since the start.
    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }
}
