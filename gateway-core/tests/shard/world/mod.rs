//! A gateway without a kernel: shards, clients and logic services in one thread, on a clock that the test moves.

pub mod client;
pub mod logic;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use gateway_core::{
    config::Config,
    gateway::Gateway,
    identity::{ConnId, LinkId, ShardIndex, SocketId, shard_of},
    lanes,
    metrics::Metrics,
    shard::{Action, Closed, Shard},
    ws::{QueryUser, UpgradeConfig},
};

use client::Client;
use logic::Logic;

/// The run of the gateway.
pub const EPOCH: u64 = 77;

/// How long an ack waits for company at most.
pub const ACKS_WAIT: Duration = Duration::from_millis(2);

/// A client of the world, whatever shard its socket is on.
pub type ClientId = usize;
/// A logic service's connection.
pub type LogicId = usize;

pub struct World {
    pub now: Duration,
    pub shards: Vec<Shard>,
    pub metrics: Vec<Arc<Metrics>>,
    pub clients: BTreeMap<ClientId, Client>,
    pub logics: BTreeMap<LogicId, Logic>,
    conns: HashMap<ConnId, ClientId>,
    links: HashMap<(usize, LinkId), LogicId>,
    next: usize,
    /// Most bytes a socket takes at once.
    pub socket_takes: usize,
    /// Ticks of each shard since the world began.
    pub ticks: usize,
    pub accepting: bool,
}

pub fn world(shards: ShardIndex, configure: impl FnOnce(&mut Config)) -> World {
    let mut config = Config::default();
    configure(&mut config);
    let gateway = Arc::new(Gateway {
        id: "test".into(),
        epoch: EPOCH,
        version: "0",
        driver: "none".into(),
        shard_addresses: (0..shards)
            .map(|shard| format!(":{}", 9001 + shard))
            .collect(),
        upgrade: UpgradeConfig {
            subprotocols: config.ws.subprotocols.clone(),
            ..UpgradeConfig::default()
        },
        identify: Box::new(QueryUser { trusted: true }),
        config: config.clone(),
    });
    let metrics: Vec<_> = (0..shards)
        .map(|shard| Arc::new(Metrics::new(shard)))
        .collect();
    let shards = lanes::lanes(shards, &config.lanes)
        .into_iter()
        .zip(&metrics)
        .map(|(lanes, metrics)| Shard::new(gateway.clone(), metrics.clone(), lanes, 42))
        .collect();
    World {
        now: Duration::from_secs(1),
        shards,
        metrics,
        clients: BTreeMap::new(),
        logics: BTreeMap::new(),
        conns: HashMap::new(),
        links: HashMap::new(),
        next: 0,
        socket_takes: usize::MAX,
        ticks: 0,
        accepting: true,
    }
}

/// A user of a shard.
pub fn user_of(shard: u32, shards: u32) -> String {
    (0..)
        .map(|n| format!("user-{n}"))
        .find(|user| shard_of(user.as_bytes(), shards) == shard)
        .expect("some user belongs to every shard")
}

/// Clients of a shard that are no clients of the world: they are connected, and nothing else.
pub fn crowd(world: &mut World, shard: usize, clients: usize, user: impl Fn(usize) -> String) {
    let peer = SocketAddr::from(([127, 0, 0, 1], 1000));
    let (shard, now) = (&mut world.shards[shard], world.now);
    for client in 0..clients {
        let conn = shard.conn_opened(now, peer).expect("room");
        let mut request = client::request(&format!("/ws?user={}", user(client))).into_bytes();
        shard.bytes(now, SocketId::Conn(conn), &mut request);
        shard.tick(now);
        while let Some(socket) = shard.next_dirty() {
            let bytes = shard.to_send(now, socket).len();
            shard.sent(now, socket, bytes);
        }
    }
}

/// Clients say so much, 1,000 bytes each `times`, that their sockets are read no more; none is closed for it. Returns how many
/// messages they are.
pub fn talk_until_unread(world: &mut World, clients: &[ClientId], times: usize) -> usize {
    for _ in 0..times {
        for client in clients {
            world.client(*client).text(&"x".repeat(1000));
        }
        world.step();
    }
    for client in clients {
        let unread = !world.client(*client).outgoing.is_empty();
        assert!(unread, "its socket is read no more");
        assert_eq!(world.client(*client).closed(), None);
    }
    times * clients.len()
}

impl World {
    /// A client whose socket is accepted by `shard`; `target` is what it asks for.
    pub fn connect(&mut self, shard: usize, target: &str) -> ClientId {
        let id = self.accept(shard);
        self.client(id).request(target);
        self.settle();
        id
    }

    /// A client that has said nothing yet.
    pub fn accept(&mut self, shard: usize) -> ClientId {
        self.next += 1;
        let peer = SocketAddr::from(([127, 0, 0, 1], 1000));
        let conn = self.shards[shard]
            .conn_opened(self.now, peer)
            .expect("room");
        self.conns.insert(conn, self.next);
        self.clients.insert(self.next, Client::new(conn));
        self.next
    }

    /// A logic service on the port of `shard`.
    pub fn logic(&mut self, shard: usize) -> LogicId {
        self.logic_with(shard, h2_stream::Config::default())
    }

    /// The same, with other settings of HTTP/2.
    pub fn logic_with(&mut self, shard: usize, config: h2_stream::Config) -> LogicId {
        self.next += 1;
        let peer = SocketAddr::from(([127, 0, 0, 1], 2000));
        let link = self.shards[shard]
            .link_opened(self.now, peer)
            .expect("room");
        self.links.insert((shard, link), self.next);
        self.logics
            .insert(self.next, Logic::new(config, self.now, shard, link));
        self.next
    }

    pub fn client(&mut self, id: ClientId) -> &mut Client {
        self.clients.get_mut(&id).expect("a client of this world")
    }

    pub fn service(&mut self, id: LogicId) -> &mut Logic {
        self.logics.get_mut(&id).expect("a service of this world")
    }

    /// Lets time pass, in steps that no deadline outruns.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = (self.now + Duration::from_millis(50)).min(until);
            self.settle();
        }
    }

    /// Runs everything until nothing moves any more.
    pub fn settle(&mut self) {
        for _ in 0..200_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// One round: bytes in, a tick of every shard, bytes out. Whether anything moved.
    pub fn step(&mut self) -> bool {
        let mut moved = self.bytes_in();
        for shard in 0..self.shards.len() {
            self.shards[shard].tick(self.now);
            self.ticks += 1;
            moved |= self.bytes_out(shard);
            moved |= self.actions(shard);
            moved |= self.shards[shard].take_wakes().count() > 0;
            moved |= self.shards[shard].has_work();
        }
        moved
    }

    pub fn total(&self, count: impl Fn(&Metrics) -> u64) -> u64 {
        self.metrics.iter().map(|metrics| count(metrics)).sum()
    }

    /// The client's socket is reset.
    pub fn reset(&mut self, id: ClientId) {
        let conn = self.client(id).conn;
        self.client(id).gone = true;
        self.shards[usize::from(conn.shard())].closed(
            self.now,
            SocketId::Conn(conn),
            Closed::Reset,
        );
        self.settle();
    }

    /// The service's socket is reset.
    pub fn cut(&mut self, id: LogicId) {
        self.drop_link(id);
        self.settle();
    }

    /// The service's socket is reset, and nothing else happens.
    pub fn drop_link(&mut self, id: LogicId) {
        let logic = self.logics.remove(&id).expect("a service of this world");
        let socket = SocketId::Link(logic.link);
        self.shards[logic.shard].closed(self.now, socket, Closed::Reset);
    }

    /// Runs one shard until it moves no more; the others stand still.
    pub fn step_shard(&mut self, shard: usize) {
        for _ in 0..100 {
            self.bytes_in();
            self.shards[shard].tick(self.now);
            self.bytes_out(shard);
            self.actions(shard);
        }
    }

    fn bytes_in(&mut self) -> bool {
        let mut moved = false;
        for client in self.clients.values_mut() {
            let shard = &mut self.shards[usize::from(client.conn.shard())];
            let socket = SocketId::Conn(client.conn);
            if client.outgoing.is_empty() || client.gone || !shard.wants_bytes(socket) {
                continue;
            }
            let mut bytes = std::mem::take(&mut client.outgoing);
            shard.bytes(self.now, socket, &mut bytes);
            moved = true;
        }
        for logic in self.logics.values_mut() {
            let shard = &mut self.shards[logic.shard];
            let socket = SocketId::Link(logic.link);
            if logic.cut_off {
                continue;
            }
            logic.client.handle_timeout(self.now);
            if !shard.wants_bytes(socket) {
                continue;
            }
            let mut bytes = Vec::new();
            let most = logic.writes.min(64 << 10);
            if most > 0 && logic.client.write_output(&mut bytes, most) > 0 {
                logic.writes -= bytes.len();
                shard.bytes(self.now, socket, &mut bytes);
                moved = true;
            }
        }
        moved
    }

    fn bytes_out(&mut self, at: usize) -> bool {
        let mut moved = false;
        while let Some(socket) = self.shards[at].next_dirty() {
            moved = true;
            self.send(at, socket);
        }
        // Sockets that took a part, or were stalled, are writable again.
        for (socket, stalled) in self.flying(at) {
            if !stalled && !self.shards[at].to_send(self.now, socket).is_empty() {
                moved = true;
                self.send(at, socket);
            }
        }
        moved
    }

    fn flying(&self, at: usize) -> Vec<(SocketId, bool)> {
        let here = self
            .clients
            .values()
            .filter(|client| usize::from(client.conn.shard()) == at);
        here.filter(|client| client.flying)
            .map(|client| (SocketId::Conn(client.conn), client.stalled))
            .collect()
    }

    fn send(&mut self, at: usize, socket: SocketId) {
        let bytes = self.shards[at].to_send(self.now, socket).to_vec();
        let n = match socket {
            SocketId::Conn(conn) => {
                let client = self
                    .conns
                    .get(&conn)
                    .and_then(|id| self.clients.get_mut(id));
                let client = client.expect("bytes for a client of this world");
                let n = if client.stalled {
                    0
                } else {
                    bytes.len().min(self.socket_takes)
                };
                client.flying = n < bytes.len();
                client.receive(&bytes[..n]);
                n
            }
            SocketId::Link(link) => {
                let logic = self
                    .links
                    .get(&(at, link))
                    .and_then(|id| self.logics.get_mut(id));
                if let Some(logic) = logic.filter(|logic| !logic.cut_off) {
                    logic.receive(self.now, &bytes);
                }
                bytes.len()
            }
        };
        if n > 0 {
            self.shards[at].sent(self.now, socket, n);
        }
    }

    fn actions(&mut self, at: usize) -> bool {
        let mut moved = false;
        while let Some(action) = self.shards[at].next_action() {
            moved = true;
            match action {
                Action::Finish { socket } => {
                    if let SocketId::Conn(conn) = socket
                        && let Some(id) = self.conns.get(&conn)
                        && let Some(client) = self.clients.get_mut(id)
                    {
                        // A well-behaved client closes its end too.
                        client.ended = true;
                        if !client.stalled {
                            self.shards[at].closed(self.now, socket, Closed::Eof);
                            client.gone = true;
                        }
                    }
                    if let SocketId::Link(link) = socket
                        && let Some(id) = self.links.get(&(at, link))
                        && let Some(logic) = self.logics.get_mut(id)
                        && !logic.cut_off
                    {
                        logic.client.receive_eof(self.now);
                        logic.poll(self.now);
                        self.shards[at].closed(self.now, socket, Closed::Eof);
                    }
                }
                Action::Close {
                    socket: SocketId::Conn(conn),
                } => {
                    if let Some(client) = self
                        .conns
                        .get(&conn)
                        .and_then(|id| self.clients.get_mut(id))
                    {
                        (client.ended, client.gone) = (true, true);
                    }
                }
                Action::Close {
                    socket: SocketId::Link(link),
                } => {
                    if let Some(id) = self.links.remove(&(at, link))
                        && let Some(logic) = self.logics.get_mut(&id)
                    {
                        logic.client.receive_eof(self.now);
                        logic.poll(self.now);
                    }
                }
                Action::Move {
                    socket: SocketId::Conn(old),
                    to,
                    handshake,
                } => {
                    let id = self.conns.remove(&old).expect("a client moves");
                    let new = self.shards[usize::from(to)].conn_adopted(self.now, handshake);
                    let new = new.expect("room");
                    self.conns.insert(new, id);
                    self.client(id).conn = new;
                    self.metrics[at].crossings.count("socket");
                }
                Action::Move { .. } => panic!("links do not move"),
                Action::Resume { .. } => {}
                Action::StopAccepting => self.accepting = false,
            }
        }
        moved
    }
}
