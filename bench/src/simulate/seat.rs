//! The driver of one simulated shard: as the one on monoio, but its sockets are the world's and its clock is told.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use gateway_core::{
    identity::{ShardIndex, SocketId},
    metrics::Metrics,
    shard::{Action, Closed, Handshake, Shard},
};

use super::{
    context::Context,
    frames::Frames,
    net::{Owner, Read, Socket},
    tally::Tally,
};

/// What work costs a shard, in time of the world.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// A tick, whatever it does.
    pub tick: Duration,
    /// A send to a client.
    pub send: Duration,
    /// A command that a tick has taken.
    pub command: Duration,
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            tick: Duration::from_micros(5),
            send: Duration::from_micros(2),
            command: Duration::from_nanos(300),
        }
    }
}

/// Who dials a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// A WebSocket client.
    Client,
    /// A logic service.
    Service,
}

/// One shard with its sockets.
pub struct Seat {
    pub(super) shard: Shard,
    pub(super) metrics: Arc<Metrics>,
    owner: Owner,
    epoch: u64,
    costs: Costs,
    /// By socket: what the shard calls it, and what was written to it.
    sockets: BTreeMap<Socket, Seated>,
    /// Looked up only: its order means nothing.
    names: HashMap<SocketId, Socket>,
    ready: VecDeque<Socket>,
    backlog: VecDeque<(Socket, Peers)>,
    moved: VecDeque<(Socket, Handshake)>,
    accepting: bool,
    /// Until then it works on its last tick.
    busy_until: Duration,
    buffer: Vec<u8>,
    conn_bytes: usize,
    link_bytes: usize,
    tally: Tally,
}

struct Seated {
    id: SocketId,
    /// It has not taken all of the last write.
    full: bool,
    /// Frames to the client, and from it.
    down: Frames,
    up: Frames,
    /// Messages that the kernel took of a send that it has not taken whole.
    aloft: u64,
}

/// What a tick leaves for others.
#[derive(Default)]
pub struct Rest {
    /// Sockets that go to other shards.
    pub moves: Vec<(Socket, ShardIndex, Handshake)>,
    /// Shards to be woken.
    pub wakes: Vec<ShardIndex>,
}

/// A look at every connection in every tick is for small worlds only.
const MOST_AUDITED: usize = 64;
/// Least bytes a link gets in its turn.
const LEAST: usize = 4 << 10;

impl Seat {
    /// A shard without sockets.
    pub fn new(
        shard: Shard,
        metrics: Arc<Metrics>,
        owner: Owner,
        epoch: u64,
        costs: Costs,
    ) -> Self {
        Self {
            shard,
            metrics,
            owner,
            epoch,
            costs,
            sockets: BTreeMap::new(),
            names: HashMap::new(),
            ready: VecDeque::new(),
            backlog: VecDeque::new(),
            moved: VecDeque::new(),
            accepting: true,
            busy_until: Duration::ZERO,
            buffer: Vec::new(),
            conn_bytes: 64 << 10,
            link_bytes: 1 << 20,
            tally: Tally::default(),
        }
    }

    /// Most bytes read from a client at once, and from links in a tick.
    pub fn set_budgets(&mut self, conn_bytes: usize, link_bytes: usize) {
        (self.conn_bytes, self.link_bytes) = (conn_bytes, link_bytes);
    }

    /// Somebody has connected.
    pub fn knock(&mut self, socket: Socket, peers: Peers) {
        self.backlog.push_back((socket, peers));
    }

    /// A socket comes from another shard.
    pub fn hand(&mut self, socket: Socket, handshake: Handshake) {
        self.moved.push_back((socket, handshake));
    }

    /// Everything that is open here; the process is about to die.
    pub fn drain_sockets(&mut self) -> Vec<Socket> {
        let waiting = self.backlog.drain(..).map(|(socket, _)| socket);
        let moved = self.moved.drain(..).map(|(socket, _)| socket);
        let all = waiting.chain(moved).chain(self.sockets.keys().copied());
        let all = all.collect();
        self.sockets.clear();
        self.names.clear();
        all
    }

    /// One tick. `clock` is the time of the process.
    pub fn run(&mut self, context: &mut Context, clock: Duration) -> Rest {
        let mut rest = Rest::default();
        if context.now < self.busy_until {
            context.agenda.run_at(self.busy_until, self.owner);
            return rest;
        }
        let taken = self.metrics.messages_in_logic.get();
        for socket in context.net.take_news(self.owner) {
            if let Some(seated) = self.sockets.get_mut(&socket) {
                seated.full = false;
                self.ready.push_back(socket);
            }
        }
        let writable: Vec<Socket> = self.ready.iter().copied().collect();
        self.read(context, clock);
        self.shard.tick(clock);
        let commands = self.metrics.messages_in_logic.get() - taken;
        let mut cost = self.costs.tick + self.costs.command * commands as u32;
        for socket in writable {
            self.send(context, clock, socket, &mut cost);
        }
        while let Some(id) = self.shard.next_dirty() {
            if let Some(socket) = self.names.get(&id).copied() {
                self.send(context, clock, socket, &mut cost);
            }
        }
        self.act(context, &mut rest);
        self.accept(context, clock, &mut rest);
        rest.wakes.extend(self.shard.take_wakes());
        self.audit(context);
        self.busy_until = context.now + cost;
        self.plan(context, clock);
        context.trace.note(
            context.now,
            [1, self.busy_until.as_nanos() as u64, commands],
            // Idle ticks would fill the trace.
            || match commands {
                0 => String::new(),
                _ => format!("{:?} ran for {cost:?}, took {commands}", self.owner),
            },
        );
        rest
    }

    /// Whether every bound holds, and no delivery has vanished.
    fn audit(&self, context: &mut Context) {
        if self.sockets.len() >= MOST_AUDITED {
            return;
        }
        if let Some(over) = self.shard.over_limit() {
            context
                .oracle
                .fail(format!("{:?} is over a limit: {over}", self.owner));
        }
        let aloft = self.sockets.values().map(|seated| seated.aloft).sum();
        let wrong = self.tally.unaccounted(&self.shard, &self.metrics, aloft);
        if let Some(wrong) = wrong {
            context.oracle.fail(format!("{:?}: {wrong}", self.owner));
        }
    }

    /// When it runs next.
    fn plan(&mut self, context: &mut Context, clock: Duration) {
        let more = self.shard.has_work()
            || !self.ready.is_empty()
            || !self.backlog.is_empty()
            || !self.moved.is_empty();
        if more {
            context.agenda.run_at(self.busy_until, self.owner);
        } else if let Some(deadline) = self.shard.next_deadline() {
            let at = context.now + deadline.saturating_sub(clock);
            context.agenda.run_at(at.max(self.busy_until), self.owner);
        }
    }

    /// Reads clients once, links in turns until the budget is used.
    fn read(&mut self, context: &mut Context, clock: Duration) {
        let mut left = self.link_bytes;
        let links = self.ready.len().max(1);
        for _ in 0..self.ready.len() {
            let Some(socket) = self.ready.pop_front() else {
                return;
            };
            let Some(seated) = self.sockets.get(&socket) else {
                continue;
            };
            let id = seated.id;
            let limit = match id {
                SocketId::Conn(_) => self.conn_bytes,
                SocketId::Link(_) => (self.link_bytes / links).max(LEAST).min(left),
            };
            if limit == 0 {
                self.ready.push_back(socket);
                continue;
            }
            let n = self.read_one(context, clock, socket, id, limit);
            if matches!(id, SocketId::Link(_)) {
                left -= n;
            }
            if n > 0 && context.net.is_readable(socket) {
                self.ready.push_back(socket);
            }
        }
    }

    fn read_one(
        &mut self,
        context: &mut Context,
        clock: Duration,
        socket: Socket,
        id: SocketId,
        limit: usize,
    ) -> usize {
        if !self.shard.wants_bytes(id) {
            let connection = socket.connection();
            let facts = [15, u64::from(connection), 0];
            context.trace.note(context.now, facts, || {
                format!("connection {connection} is not read")
            });
            return 0;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let (now, agenda) = (context.now, &mut context.agenda);
        let read = context.net.read(now, agenda, socket, limit, &mut buffer);
        let n = match read {
            Read::Nothing => 0,
            Read::Eof => {
                self.lost(context, clock, socket, Closed::Eof);
                0
            }
            Read::Reset => {
                self.lost(context, clock, socket, Closed::Reset);
                0
            }
            Read::Bytes(n) => {
                self.take(context, clock, socket, id, &mut buffer);
                n
            }
        };
        self.buffer = buffer;
        n
    }

    /// Gives the shard what was read; of clients, tells the oracle which messages it took.
    fn take(
        &mut self,
        context: &mut Context,
        clock: Duration,
        socket: Socket,
        id: SocketId,
        bytes: &mut [u8],
    ) {
        let mut messages = Vec::new();
        if let Some(seated) = self.sockets.get_mut(&socket)
            && matches!(id, SocketId::Conn(_))
        {
            seated.up.feed(bytes);
            if seated.up.take_status().is_some() {
                context
                    .oracle
                    .down
                    .registered(context.now, socket.connection());
            }
            while let Some((opcode, payload)) = seated.up.next() {
                messages.extend((opcode <= 2).then_some(payload));
            }
        }
        let before = self.metrics.messages_in_client.get();
        self.shard.bytes(clock, id, bytes);
        let taken = self.metrics.messages_in_client.get() - before;
        let (now, connection) = (context.now, socket.connection());
        for message in messages.iter().take(taken as usize) {
            context.trace.note(
                now,
                [14, u64::from(connection), message.len() as u64],
                || {
                    let text = String::from_utf8_lossy(&message[..message.len().min(24)]);
                    format!("{:?} took {text:?} of connection {connection}", self.owner)
                },
            );
            context.oracle.taken(now, connection, message);
        }
    }

    fn send(
        &mut self,
        context: &mut Context,
        clock: Duration,
        socket: Socket,
        cost: &mut Duration,
    ) {
        let Some(seated) = self.sockets.get_mut(&socket) else {
            return;
        };
        if seated.full {
            return;
        }
        let id = seated.id;
        let bytes = self.shard.to_send(clock + *cost, id);
        if bytes.is_empty() {
            return;
        }
        if matches!(id, SocketId::Conn(_)) {
            *cost += self.costs.send;
        }
        let at = context.now + *cost;
        let Some(n) = context.net.write(at, &mut context.agenda, socket, bytes) else {
            return self.lost(context, clock, socket, Closed::Reset);
        };
        seated.full = n < bytes.len();
        if matches!(id, SocketId::Conn(_)) {
            seated.down.feed(&bytes[..n]);
            let messages = context.written(at, self.epoch, socket, &mut seated.down);
            self.tally.took(messages, &mut seated.aloft, !seated.full);
        }
        if n > 0 {
            self.shard.sent(clock + *cost, id, n);
        }
    }

    fn act(&mut self, context: &mut Context, rest: &mut Rest) {
        while let Some(action) = self.shard.next_action() {
            match action {
                Action::Finish { socket } => {
                    if let Some(socket) = self.names.get(&socket) {
                        context.net.shut(context.now, &mut context.agenda, *socket);
                    }
                }
                Action::Close { socket } => {
                    if let Some(socket) = self.forget(socket) {
                        context.close(socket);
                    }
                }
                Action::Move {
                    socket,
                    to,
                    handshake,
                } => {
                    if let Some(socket) = self.forget(socket) {
                        rest.moves.push((socket, to, handshake));
                    }
                }
                Action::Resume { socket } => {
                    if let Some(socket) = self.names.get(&socket) {
                        self.ready.push_back(*socket);
                    }
                }
                Action::StopAccepting => self.accepting = false,
            }
        }
    }

    /// New sockets come after the actions: a slot that the shard gives anew is free here too by now.
    fn accept(&mut self, context: &mut Context, clock: Duration, rest: &mut Rest) {
        while let Some((socket, peers)) = self.backlog.pop_front() {
            let peer = SocketAddr::from(([10, 0, 0, 1], 1000 + socket.connection() as u16));
            let id = match peers {
                Peers::Client if !self.accepting => None,
                Peers::Client => self.shard.conn_opened(clock, peer).map(SocketId::Conn),
                Peers::Service => self.shard.link_opened(clock, peer).map(SocketId::Link),
            };
            self.seat(context, socket, id, Frames::behind_head(), rest);
        }
        while let Some((socket, handshake)) = self.moved.pop_front() {
            let id = self.shard.conn_adopted(clock, handshake);
            // It has said its request already.
            let id = id.map(SocketId::Conn);
            context
                .oracle
                .down
                .registered(context.now, socket.connection());
            self.seat(context, socket, id, Frames::default(), rest);
        }
    }

    fn seat(
        &mut self,
        context: &mut Context,
        socket: Socket,
        id: Option<SocketId>,
        up: Frames,
        rest: &mut Rest,
    ) {
        let Some(id) = id else {
            return context.close(socket);
        };
        if let SocketId::Conn(conn) = id {
            let connection = socket.connection();
            context
                .oracle
                .down
                .seated(connection, self.epoch, conn.to_wire());
        }
        let seated = Seated {
            id,
            full: false,
            down: Frames::behind_head(),
            up,
            aloft: 0,
        };
        self.sockets.insert(socket, seated);
        self.names.insert(id, socket);
        self.ready.push_back(socket);
        self.act(context, rest);
    }

    fn lost(&mut self, context: &mut Context, clock: Duration, socket: Socket, why: Closed) {
        if let Some(seated) = self.sockets.remove(&socket) {
            self.names.remove(&seated.id);
            self.tally.broke_off(seated.aloft);
            self.shard.closed(clock, seated.id, why);
            context.close(socket);
        }
    }

    fn forget(&mut self, id: SocketId) -> Option<Socket> {
        let socket = self.names.remove(&id)?;
        let seated = self.sockets.remove(&socket);
        self.tally
            .broke_off(seated.map_or(0, |seated| seated.aloft));
        Some(socket)
    }
}
