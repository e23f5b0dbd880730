//! The network between simulated processes: connections that carry bytes late, in pieces, or not at all.
//!
//! A connection is two [`Half`]s; what is written at one end arrives in the other. Within a direction nothing overtakes
//! anything (it is TCP), between connections anything may. Buffers are bounded as those of sockets are.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{
    agenda::{Agenda, Event},
    credit::Meter,
    rng::Rng,
};

/// Who has a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A shard of a gateway process.
    Shard(usize, u16),
    /// A WebSocket client.
    Client(usize),
    /// A logic service.
    Service(usize),
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Socket(u32);

impl Socket {
    /// The other end.
    #[must_use]
    pub fn peer(self) -> Self {
        Self(self.0 ^ 1)
    }

    /// What both ends have in common; never used again in a world.
    #[must_use]
    pub fn connection(self) -> u32 {
        self.0 >> 1
    }

    fn at(self) -> usize {
        self.0 as usize
    }
}

/// What can be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The place of a gateway; whoever runs there answers.
    pub gateway: usize,
    /// Which listener.
    pub port: Port,
}

/// The listeners of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// For clients; any shard may accept.
    WebSocket,
    /// For services; any shard may accept.
    Common,
    /// For services: one shard.
    Shard(u16),
}

/// What reading has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The peer will say no more.
    Eof,
    /// The connection is broken.
    Reset,
}

/// What holds for all connections.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// From one end to the other, at least.
    pub delay: Duration,
    /// On top of that, at most, anew for every write.
    pub jitter: Duration,
    /// Reads and writes of a hundred that carry only a part.
    pub short: usize,
    /// Most bytes between the writer and the reader of one direction.
    pub buffer: usize,
}

/// All connections of a world.
pub struct Net {
    pub(super) conditions: Conditions,
    halves: Vec<Half>,
    dialled: BTreeMap<u32, Address>,
    /// Sockets about which something is new.
    news: BTreeMap<Owner, Vec<Socket>>,
    /// Reads and writes that were cut short.
    pub shortened: u64,
    rng: Rng,
}

/// One end: what comes in here.
struct Half {
    owner: Owner,
    state: State,
    arrived: VecDeque<u8>,
    under_way: VecDeque<(Duration, Chunk)>,
    /// Nothing arrives before.
    silent_until: Duration,
    /// The newest time at which something arrives.
    last: Duration,
    /// Bytes between the writer and the reader.
    outstanding: usize,
    /// The other end waits for room.
    awaited: bool,
    /// An end of what comes in, behind what has arrived.
    end: Option<Read>,
    /// This end says no more.
    shut: bool,
    in_news: bool,
    meter: Option<Meter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Dialled, not answered.
    Connecting,
    Open,
    /// Given up by its owner.
    Closed,
}

enum Chunk {
    Bytes(Vec<u8>),
    Fin,
    Reset,
}

/// Silence without end.
pub const FOR_EVER: Duration = Duration::MAX;

impl Net {
    /// Without connections.
    #[must_use]
    pub fn new(conditions: Conditions, rng: Rng) -> Self {
        Self {
            conditions,
            halves: Vec::new(),
            dialled: BTreeMap::new(),
            news: BTreeMap::new(),
            shortened: 0,
            rng,
        }
    }

    /// Begins to connect. [`Event::Dialled`] follows; the world answers it with [`Net::accept`] or [`Net::refuse`], or not.
    pub fn dial(
        &mut self,
        now: Duration,
        agenda: &mut Agenda,
        owner: Owner,
        address: Address,
    ) -> Socket {
        let socket = Socket(self.halves.len() as u32);
        let meter = || (address.port != Port::WebSocket).then(Meter::default);
        // What the gateway's side receives begins with the preface of HTTP/2.
        let theirs = meter().map(Meter::behind_preface);
        self.halves.push(Half::new(owner, meter()));
        self.halves.push(Half::new(owner, theirs));
        self.dialled.insert(socket.connection(), address);
        let at = now + self.conditions.delay + self.rng.time(self.conditions.jitter);
        agenda.at(at, Event::Dialled(socket));
        socket
    }

    /// Where an attempt wants to get, unless it was given up.
    pub fn dialled(&self, socket: Socket) -> Option<Address> {
        let waits = self.halves[socket.at()].state == State::Connecting;
        self.dialled
            .get(&socket.connection())
            .copied()
            .filter(|_| waits)
    }

    /// The attempt is answered: `owner` gets the other end.
    pub fn accept(
        &mut self,
        now: Duration,
        agenda: &mut Agenda,
        socket: Socket,
        owner: Owner,
    ) -> Socket {
        let other = socket.peer();
        self.halves[socket.at()].state = State::Open;
        self.halves[other.at()].state = State::Open;
        self.halves[other.at()].owner = owner;
        self.tell(now + self.conditions.delay, agenda, socket);
        other
    }

    /// The attempt fails.
    pub fn refuse(&mut self, now: Duration, agenda: &mut Agenda, socket: Socket) {
        self.halves[socket.at()].state = State::Open;
        self.halves[socket.at()].end = Some(Read::Reset);
        self.halves[socket.peer().at()].state = State::Closed;
        self.tell(now + self.conditions.delay, agenda, socket);
    }

    /// Whether an attempt was answered, in one way or the other.
    #[must_use]
    pub fn is_connected(&self, socket: Socket) -> bool {
        self.halves[socket.at()].state == State::Open
    }

    /// Whether the answer to an attempt was no, or the connection has broken since.
    #[must_use]
    pub fn is_refused(&self, socket: Socket) -> bool {
        self.halves[socket.at()].end == Some(Read::Reset)
    }

    /// Reads at most `limit` bytes behind those in `into`.
    pub fn read(
        &mut self,
        now: Duration,
        agenda: &mut Agenda,
        socket: Socket,
        limit: usize,
        into: &mut Vec<u8>,
    ) -> Read {
        let short = self.shorten(limit);
        let half = &mut self.halves[socket.at()];
        if half.arrived.is_empty() {
            return half.end.unwrap_or(Read::Nothing);
        }
        let n = half.arrived.len().min(short);
        into.extend(half.arrived.drain(..n));
        half.outstanding -= n;
        if std::mem::take(&mut half.awaited) {
            let at = now + self.conditions.delay;
            self.tell(at, agenda, socket.peer());
        }
        Read::Bytes(n)
    }

    /// Whether a read would bring something.
    #[must_use]
    pub fn is_readable(&self, socket: Socket) -> bool {
        let half = &self.halves[socket.at()];
        !half.arrived.is_empty() || half.end.is_some()
    }

    /// Writes what fits; it leaves at `at`. `None`: the connection is broken. When not all of it fits, the owner is told
    /// of room.
    pub fn write(
        &mut self,
        at: Duration,
        agenda: &mut Agenda,
        socket: Socket,
        bytes: &[u8],
    ) -> Option<usize> {
        let here = &self.halves[socket.at()];
        if here.shut || here.end == Some(Read::Reset) || here.state != State::Open {
            return None;
        }
        let short = self.shorten(bytes.len());
        let buffer = self.conditions.buffer;
        let there = &mut self.halves[socket.peer().at()];
        let room = buffer.saturating_sub(there.outstanding);
        let n = bytes.len().min(room).min(short);
        if n < bytes.len() {
            // A short write is over soon; a full buffer when the reader has read.
            if n < room {
                self.tell(at + self.conditions.delay, agenda, socket);
            } else {
                there.awaited = true;
            }
        }
        if n > 0 {
            let ends = [socket.at(), socket.peer().at()];
            if let Ok([here, there]) = self.halves.get_disjoint_mut(ends) {
                there.outstanding += n;
                if let (Some(back), Some(there)) = (&mut here.meter, &mut there.meter) {
                    there.pass(&bytes[..n]);
                    back.note_credit(there);
                }
            }
            self.send(at, agenda, socket, Chunk::Bytes(bytes[..n].to_vec()));
        }
        Some(n)
    }

    /// Says no more.
    pub fn shut(&mut self, now: Duration, agenda: &mut Agenda, socket: Socket) {
        if !std::mem::replace(&mut self.halves[socket.at()].shut, true) {
            self.send(now, agenda, socket, Chunk::Fin);
        }
    }

    /// Lets go of an end: if something has not been read, the other one gets a reset, as from a kernel.
    pub fn close(&mut self, now: Duration, agenda: &mut Agenda, socket: Socket) {
        let half = &mut self.halves[socket.at()];
        if half.state == State::Closed {
            return;
        }
        half.state = State::Closed;
        let unread = !half.arrived.is_empty();
        half.arrived = VecDeque::new();
        let shut = std::mem::replace(&mut half.shut, true);
        if unread {
            self.send(now, agenda, socket, Chunk::Reset);
        } else if !shut {
            self.send(now, agenda, socket, Chunk::Fin);
        }
    }

    /// Breaks a connection: both ends get a reset, and what is under way is lost.
    pub fn reset(&mut self, now: Duration, agenda: &mut Agenda, socket: Socket) {
        for end in [socket, socket.peer()] {
            let half = &mut self.halves[end.at()];
            if half.state == State::Open {
                half.under_way.clear();
                half.arrived.clear();
                half.outstanding = 0;
                half.end = Some(Read::Reset);
                self.tell(now, agenda, end);
            }
        }
    }

    /// Nothing arrives at `socket` before `until`; nobody is told.
    pub fn silence(&mut self, socket: Socket, until: Duration) {
        let half = &mut self.halves[socket.at()];
        half.silent_until = half.silent_until.max(until);
    }

    /// The end of an attempt or of what is under way has come to `socket`: whoever has it is told.
    pub fn arrive(&mut self, now: Duration, agenda: &mut Agenda, socket: Socket) -> usize {
        let half = &mut self.halves[socket.at()];
        if half.silent_until > now {
            if half.silent_until != FOR_EVER {
                agenda.at(half.silent_until, Event::Arrive(socket));
            }
            return 0;
        }
        let mut bytes = 0;
        let mut any = false;
        while half.under_way.front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, chunk)) = half.under_way.pop_front()
        {
            any = true;
            match chunk {
                Chunk::Bytes(chunk) if half.state == State::Closed => {
                    half.outstanding -= chunk.len();
                    // Nobody reads it: the sender gets a reset.
                    let back = &mut self.halves[socket.peer().at()];
                    if back.silent_until <= now {
                        back.end = Some(Read::Reset);
                        back.arrived.clear();
                        self.tell(now + self.conditions.delay, agenda, socket.peer());
                    }
                    return 0;
                }
                // Behind a reset nothing comes: it would have a hole.
                Chunk::Bytes(chunk) if half.end == Some(Read::Reset) => {
                    half.outstanding -= chunk.len();
                }
                Chunk::Bytes(chunk) => {
                    bytes += chunk.len();
                    half.arrived.extend(chunk);
                }
                Chunk::Fin => {
                    half.end.get_or_insert(Read::Eof);
                }
                Chunk::Reset => {
                    half.arrived.clear();
                    half.end = Some(Read::Reset);
                }
            }
        }
        if any {
            self.tell(now, agenda, socket);
        }
        bytes
    }

    /// Whom a socket belongs to now.
    pub fn hand_over(&mut self, socket: Socket, owner: Owner) {
        let half = &mut self.halves[socket.at()];
        let old = std::mem::replace(&mut half.owner, owner);
        half.in_news = false;
        if let Some(news) = self.news.get_mut(&old) {
            news.retain(|other| *other != socket);
        }
    }

    /// Sockets of `owner` about which something is new.
    pub fn take_news(&mut self, owner: Owner) -> Vec<Socket> {
        let news = self.news.remove(&owner).unwrap_or_default();
        for socket in &news {
            self.halves[socket.at()].in_news = false;
        }
        news
    }

    /// How much both sides of an open gRPC connection may send, in the words of [`Meter`]; `None`: it is none, or not open.
    #[must_use]
    pub fn withheld_credit(&self, socket: Socket) -> Option<String> {
        let (one, other) = (&self.halves[socket.at()], &self.halves[socket.peer().at()]);
        if one.state != State::Open || other.state != State::Open {
            return None;
        }
        let (one, other) = (one.meter.as_ref()?, other.meter.as_ref()?);
        one.withheld_by(other).or_else(|| other.withheld_by(one))
    }

    /// The sockets that `owner` has and has not closed.
    pub fn sockets_of(&self, owner: Owner) -> Vec<Socket> {
        let all = (0..self.halves.len() as u32).map(Socket);
        all.filter(|socket| {
            let half = &self.halves[socket.at()];
            half.owner == owner && half.state == State::Open
        })
        .collect()
    }

    /// Whether a connection is open at both ends and carries bytes.
    #[must_use]
    pub fn is_whole(&self, socket: Socket) -> bool {
        !self.is_dead(socket)
            && [socket, socket.peer()].iter().all(|end| {
                let half = &self.halves[end.at()];
                half.state == State::Open && half.end.is_none()
            })
    }

    /// Whether nothing will ever come through, and nobody is told.
    #[must_use]
    pub fn is_dead(&self, socket: Socket) -> bool {
        let ends = [socket, socket.peer()];
        ends.iter()
            .any(|end| self.halves[end.at()].silent_until == FOR_EVER)
    }

    fn send(&mut self, at: Duration, agenda: &mut Agenda, from: Socket, chunk: Chunk) {
        let to = from.peer();
        let way = self.conditions.delay + self.rng.time(self.conditions.jitter);
        let half = &mut self.halves[to.at()];
        let arrives = (at + way).max(half.last);
        half.last = arrives;
        half.under_way.push_back((arrives, chunk));
        agenda.at(arrives, Event::Arrive(to));
    }

    fn tell(&mut self, at: Duration, agenda: &mut Agenda, socket: Socket) {
        let half = &mut self.halves[socket.at()];
        if half.state == State::Closed {
            return;
        }
        if !std::mem::replace(&mut half.in_news, true) {
            self.news.entry(half.owner).or_default().push(socket);
        }
        agenda.run_at(at, half.owner);
    }

    fn shorten(&mut self, most: usize) -> usize {
        if most > 1 && self.rng.percent(self.conditions.short) {
            self.shortened += 1;
            self.rng.between(1, most)
        } else {
            most
        }
    }
}

impl Half {
    fn new(owner: Owner, meter: Option<Meter>) -> Self {
        Self {
            owner,
            state: State::Connecting,
            arrived: VecDeque::new(),
            under_way: VecDeque::new(),
            silent_until: Duration::ZERO,
            last: Duration::ZERO,
            outstanding: 0,
            awaited: false,
            end: None,
            shut: false,
            in_news: false,
            meter,
        }
    }
}
