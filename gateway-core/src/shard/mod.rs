//! The shard: a pure state machine that owns connections, users, topics and links.
//!
//! # The driver's contract
//! In: [`Shard::conn_opened`], [`Shard::link_opened`], [`Shard::bytes`], [`Shard::sent`], [`Shard::closed`], then
//! [`Shard::tick`]. Out, after each tick and in this order: [`Shard::next_dirty`] with [`Shard::to_send`],
//! [`Shard::next_action`], [`Shard::take_wakes`], [`Shard::has_work`], [`Shard::next_deadline`]. The shard never waits:
//! it opens no socket, reads no clock and spawns nothing. `now` is the time since the start of the process, the same
//! clock on every shard.

mod audit;
mod batch;
mod busy;
mod clients;
mod closing;
mod conn;
mod deadlines;
mod dialogue;
mod directory;
mod dirty;
mod drain;
mod events;
mod fanout;
mod forward;
mod greeting;
mod jobs;
mod kept;
mod leavers;
mod ledger;
mod links;
mod listen;
mod members;
mod message;
mod outbox;
mod outlets;
mod pressure;
mod query;
mod registry;
mod route;
mod sessions;
mod topics;
mod upstream;
mod waiting;
mod work;

use std::{collections::VecDeque, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use crate::{
    gateway::Gateway,
    identity::{ConnId, LinkId, ShardIndex, SocketId},
    lanes::{Forward, Lanes, ReceiverRef},
    metrics::Metrics,
    timesheet::{Phase, Seam, Timesheet},
    ws::SessionLimits,
};

pub use conn::Handshake;
pub use drain::DRAIN_TAIL;
use {
    batch::Pool, deadlines::Deadlines, directory::Directory, dirty::Dirty, drain::Drain,
    drain::Others, fanout::Fanouts, jobs::Jobs, ledger::Ledger, links::Links, query::Queries,
    registry::Conns, registry::Names, registry::Users, topics::Topics, upstream::Upstream,
    work::Outgoing,
};
use {greeting::Askers, leavers::Leavers, outlets::Outlets, sessions::Sessions, waiting::Waiting};

/// One core's part of a gateway.
pub struct Shard {
    index: ShardIndex,
    gateway: Arc<Gateway>,
    metrics: Arc<Metrics>,
    sheet: Rc<Timesheet>,
    session_limits: SessionLimits,

    conns: Conns,
    users: Users,
    topics: Topics,
    pool: Pool,
    deadlines: Deadlines,
    ledger: Ledger,
    fanouts: Fanouts,

    links: Links,
    sessions: Sessions,
    askers: Askers,
    /// The flow-control window of each link.
    window: u32,
    upstream: Upstream,
    directory: Directory,
    queries: Queries,
    outlets: Outlets,
    leavers: Leavers,
    waiting: Waiting,
    /// Streams of this shard that have too much waiting.
    full_streams: Vec<ReceiverRef>,
    /// Connections that are not read, and the stream they wait for.
    paused: Vec<(ReceiverRef, ConnId)>,

    lanes: Lanes,
    /// For each shard, what waits for its lanes.
    outgoing: Vec<Outgoing>,
    /// Commands from a lane for which there was no room.
    held_work: Option<(ShardIndex, VecDeque<Forward>)>,
    /// Links that hold a command for which there was no room.
    blocked: Vec<LinkId>,

    dirty: Dirty,
    dirty_links: VecDeque<LinkId>,
    actions: VecDeque<Action>,
    /// Bytes that sessions hold of messages that have come in part.
    held_bytes: usize,
    drain: Option<Drain>,
    others: Others,
    random: u64,
    /// Time of the newest tick.
    now: Duration,
}

/// How soon to look again whether a full lane has room.
const RETRY: Duration = Duration::from_millis(1);

/// What a shard asks of its driver.
#[derive(Debug)]
pub enum Action {
    /// Everything was sent: shut down writing. Reading goes on, until [`Closed::Eof`] or [`Action::Close`].
    Finish {
        /// Whose.
        socket: SocketId,
    },
    /// Close the socket. The shard has forgotten it already.
    Close {
        /// Whose.
        socket: SocketId,
    },
    /// Give the socket to another shard's driver. This shard has forgotten it already.
    Move {
        /// Whose.
        socket: SocketId,
        /// To whom.
        to: ShardIndex,
        /// For [`Shard::conn_adopted`].
        handshake: Handshake,
    },
    /// [`Shard::wants_bytes`] has become true again: read on.
    Resume {
        /// Whose.
        socket: SocketId,
    },
    /// Accept no more WebSockets. Links are still accepted.
    StopAccepting,
}

/// How a socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The peer has said all it will say.
    Eof,
    /// The peer has reset the connection.
    Reset,
    /// Reading or writing failed otherwise.
    Failed,
}

impl Shard {
    /// A shard without connections. `seed` is random in each epoch.
    #[must_use]
    pub fn new(gateway: Arc<Gateway>, metrics: Arc<Metrics>, lanes: Lanes, seed: u64) -> Self {
        let config = &gateway.config;
        let index = lanes.index();
        let limits = &config.limits;
        let names = Names::new(seed);
        Self {
            index,
            sheet: Rc::new(Timesheet::new(&config.timesheet, metrics.clone())),
            session_limits: SessionLimits {
                max_message: config.ws.max_message_bytes,
                ..SessionLimits::default()
            },
            // Room for those whose handshake is refused politely when the shard is full.
            conns: Conns::new(index, limits.max_connections + 1024, seed),
            users: Users::new(names),
            topics: Topics::new(names, limits.max_topics, limits.max_topics_per_user),
            pool: Pool::default(),
            deadlines: Deadlines::default(),
            ledger: Ledger {
                jobs: Jobs::default(),
                metrics: metrics.clone(),
            },
            fanouts: Fanouts::default(),
            links: Links::default(),
            sessions: Sessions::new(&config.sessions),
            askers: Askers::default(),
            window: 0,
            upstream: Upstream::new(config.upstream.clone()),
            directory: Directory::new(config.directory.clone()),
            queries: Queries::default(),
            outlets: Outlets::default(),
            leavers: Leavers::default(),
            waiting: Waiting::new(Duration::from_millis(config.upstream.no_receiver_ms)),
            full_streams: Vec::new(),
            paused: Vec::new(),
            outgoing: (0..lanes.shards()).map(|_| Outgoing::default()).collect(),
            lanes,
            held_work: None,
            blocked: Vec::new(),
            dirty: Dirty::new(Duration::from_micros(config.tick.gather_us)),
            dirty_links: VecDeque::new(),
            actions: VecDeque::new(),
            held_bytes: 0,
            drain: None,
            others: Others::default(),
            random: seed | 1,
            now: Duration::ZERO,
            gateway,
            metrics,
        }
    }

    /// Which shard this is.
    #[must_use]
    pub fn index(&self) -> ShardIndex {
        self.index
    }

    /// Where this shard's time goes. It is off until the driver starts it.
    #[must_use]
    pub fn timesheet(&self) -> Rc<Timesheet> {
        Rc::clone(&self.sheet)
    }

    // ---------------------------------------------------------------------------------------------------------- in --

    /// A client's socket was accepted. `None`: the shard is full (counted); close the socket.
    pub fn conn_opened(&mut self, now: Duration, peer: SocketAddr) -> Option<ConnId> {
        self.sheet.client();
        let timeout = self.gateway.config.ws.handshake_timeout_ms;
        let handshake = Handshake {
            peer,
            bytes: Vec::new(),
            until_ms: now.as_millis() as u64 + timeout,
            moved: false,
        };
        self.new_conn(now, handshake)
    }

    /// A client's socket has moved here. `None`: as for [`Shard::conn_opened`].
    pub fn conn_adopted(&mut self, now: Duration, handshake: Handshake) -> Option<ConnId> {
        self.sheet.client();
        self.new_conn(now, handshake)
    }

    /// A socket that was to move found no room in the lane (counted); close it.
    pub fn move_refused(&mut self) {
        self.metrics.refused_handshakes.count("overload");
    }

    /// A logic service's socket was accepted. `None`: there are too many (counted); close the socket.
    pub fn link_opened(&mut self, now: Duration, peer: SocketAddr) -> Option<LinkId> {
        self.new_link(now, peer)
    }

    /// Bytes were read. They are changed: client frames are unmasked in place.
    pub fn bytes(&mut self, now: Duration, socket: SocketId, bytes: &mut [u8]) {
        match socket {
            SocketId::Conn(id) => {
                self.sheet.client();
                self.conn_bytes(now, id, bytes);
            }
            SocketId::Link(id) => self.link_bytes(now, id, bytes),
        }
    }

    /// The kernel took `n` bytes of what [`Shard::to_send`] gave.
    pub fn sent(&mut self, now: Duration, socket: SocketId, n: usize) {
        match socket {
            SocketId::Conn(id) => self.conn_sent(now, id, n),
            SocketId::Link(id) => self.link_sent(id, n),
        }
    }

    /// A socket is at its end. The driver drops it after this call.
    pub fn closed(&mut self, now: Duration, socket: SocketId, why: Closed) {
        match socket {
            SocketId::Conn(id) => {
                self.sheet.client();
                if why == Closed::Reset {
                    self.metrics.client_errors.count("reset");
                }
                self.remove_conn(now, id, "");
            }
            SocketId::Link(id) => self.link_gone(now, id),
        }
    }

    /// Everything that is due: deadlines, lanes, what links hand out, a slice of the fan-outs.
    pub fn tick(&mut self, now: Duration) {
        self.sheet.cross(Seam::Work);
        self.dirty.begin(now);
        self.now = now;
        self.queries.new_tick();
        self.lanes.new_tick(now);
        self.sheet.enter(Phase::Timers);
        self.run_deadlines(now);
        self.sheet.enter(Phase::Lanes);
        self.take_notices(now);
        self.take_work(now);
        for id in std::mem::take(&mut self.blocked) {
            self.mark_link_ready(id);
        }
        self.sheet.enter(Phase::Timers);
        self.expire_sessions(now);
        self.forget_services(now);
        self.close_unserved(now);
        self.sheet.enter(Phase::Fanout);
        self.run_fanouts(now);
        self.run_links(now);
        self.sheet.enter(Phase::Egress);
        self.finish_jobs();
        self.run_directory();
        self.resume_paused();
        self.sheet.enter(Phase::Timers);
        self.run_drain(now);
        self.sheet.enter(Phase::Lanes);
        self.flush_lanes();
        // Answers of jobs leave in the tick they were made in.
        self.run_links(now);
        self.metrics.outbox_bytes.set(self.pool.bytes() as u64);
        self.tell_who_is_busy(now);
        self.sheet.cross(Seam::Flush);
    }

    fn run_deadlines(&mut self, now: Duration) {
        let now_ms = now.as_millis() as u64;
        let mut due = 0;
        while let Some((at, id)) = self.deadlines.pop(now_ms) {
            if let Some(conn) = self.conns.get_mut(id)
                && conn.armed_ms == at
            {
                conn.armed_ms = 0;
                due += 1;
                self.on_deadline(now, id);
            }
        }
        self.sheet.timers(due);
    }

    // --------------------------------------------------------------------------------------------------------- out --

    /// The next socket with bytes to send and none in flight; of clients at most a slice per tick, those with single pushes
    /// first.
    pub fn next_dirty(&mut self) -> Option<SocketId> {
        while let Some(id) = self.dirty_links.pop_front() {
            if self.links.get(id).is_some() {
                return Some(SocketId::Link(id));
            }
        }
        let slice = self.gateway.config.tick.slice;
        self.dirty.next(&mut self.conns, slice).map(SocketId::Conn)
    }

    /// The bytes to be sent next; empty: none. They stay where they are until all of them are [`Shard::sent`], or the
    /// socket is closed.
    pub fn to_send(&mut self, now: Duration, socket: SocketId) -> &[u8] {
        match socket {
            SocketId::Conn(id) => match self.conns.get_mut(id) {
                Some(conn) => {
                    self.dirty.sends(now, conn);
                    let ledger = &mut self.ledger;
                    let mut drop = |job, outcome| ledger.decide(job, outcome, id);
                    conn.outbox.freeze(&mut self.pool, now, &mut drop)
                }
                None => &[],
            },
            SocketId::Link(id) => self.links.get_mut(id).map_or(&[], |state| state.freeze()),
        }
    }

    /// What else is to be done.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether a socket may be read; if not, [`Action::Resume`] tells when it may again.
    #[must_use]
    pub fn wants_bytes(&self, socket: SocketId) -> bool {
        match socket {
            SocketId::Conn(id) => self.conns.get(id).is_some_and(|conn| !conn.paused),
            SocketId::Link(id) => self.links.get(id).is_some_and(|state| state.wants_bytes()),
        }
    }

    /// Whether the socket stays with this shard: no [`Action::Move`] will name it any more.
    #[must_use]
    pub fn stays(&self, socket: SocketId) -> bool {
        match socket {
            SocketId::Conn(id) => {
                let conn = self.conns.get(id);
                !conn.is_some_and(|conn| matches!(conn.phase, conn::Phase::Handshaking(_)))
            }
            SocketId::Link(_) => true,
        }
    }

    /// Whether work was left over: let completions in, then tick again without waiting.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.dirty.is_empty()
            || !self.dirty_links.is_empty()
            || !self.fanouts.is_empty()
            || self.directory.has_work()
            || self.links_ready()
            || (!self.lanes.is_empty() && self.held_work.is_none())
    }

    /// When the next tick is due, whatever happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let conns = self.deadlines.next().map(Duration::from_millis);
        // Room in a lane does not announce itself: look again soon.
        let room = self.waits_for_room().then_some(self.now + RETRY);
        let sessions = self.sessions.next_expiry();
        let unserved = self.waiting.next_deadline();
        let forgotten = self.upstream.next_deadline();
        let all = [
            conns,
            self.dirty.deadline(),
            self.links.next_deadline(),
            room,
            self.drain_deadline(),
            sessions,
            unserved,
            forgotten,
        ];
        all.into_iter().flatten().min()
    }

    /// The shards to be woken: at most once each.
    pub fn take_wakes(&mut self) -> impl Iterator<Item = ShardIndex> + '_ {
        self.lanes.take_wakes()
    }
}
