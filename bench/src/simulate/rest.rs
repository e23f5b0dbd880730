//! A world at rest: whether it is, what is asked of everybody then, and what must hold.

use std::collections::BTreeMap;

use super::{
    client::Client, net::Owner, oracle::Target, seat::Seat, service::Wanted, world::World,
};

impl World {
    pub(super) fn is_quiet(&self) -> bool {
        let net = &self.context.net;
        let whole = |client: &Client| {
            client.is_open() && client.socket().is_some_and(|socket| net.is_whole(socket))
        };
        let shards = self
            .places
            .iter()
            .filter_map(|place| place.process.as_ref());
        self.clients.iter().all(whole)
            && self.services.iter().all(|service| service.is_quiet())
            && self.owners().all(|owner| {
                let sockets = net.sockets_of(owner);
                !sockets.iter().any(|socket| net.is_dead(*socket))
            })
            && shards
                .flat_map(|process| &process.seats)
                .all(|seat| seat.metrics.outbox_bytes.get() == 0)
    }

    /// Shards and services.
    fn owners(&self) -> impl Iterator<Item = Owner> + '_ {
        let shards = self.places.iter().enumerate().flat_map(|(place, at)| {
            let seats = at.process.iter().flat_map(|process| &process.seats);
            seats
                .zip(0..)
                .map(move |(_, shard)| Owner::Shard(place, shard))
        });
        shards.chain((0..self.services.len()).map(Owner::Service))
    }

    /// Why there is no rest.
    pub(super) fn unrest(&self) -> String {
        let net = &self.context.net;
        let open = |client: &&Client| {
            client.is_open() && client.socket().is_some_and(|socket| net.is_whole(socket))
        };
        let clients = self.clients.iter().filter(|client| !open(client));
        let clients: Vec<_> = clients
            .map(|client| (client.index, client.socket()))
            .collect();
        let services: Vec<_> = self
            .services
            .iter()
            .map(|service| service.describe())
            .collect();
        let sockets = self.owners().flat_map(|owner| net.sockets_of(owner));
        let full: Vec<u64> = self
            .places
            .iter()
            .filter_map(|place| place.process.as_ref())
            .flat_map(|process| &process.seats)
            .map(|seat| seat.metrics.outbox_bytes.get())
            .collect();
        let dead: Vec<_> = sockets.filter(|socket| net.is_dead(*socket)).collect();
        format!(
            "clients without a connection {clients:?}; services {services:?}; dead connections {dead:?}; \
             bytes in outboxes {full:?}"
        )
    }

    /// Everybody hears from everybody once more.
    pub(super) fn last_round(&mut self) {
        for service in 0..self.services.len() {
            for user in 0..self.users {
                let mut wanted = Wanted::plain(Target::User(user), 100);
                wanted.confirmed = true;
                self.services[service].push(&mut self.context, &wanted);
            }
            let everyone = Wanted::plain(Target::Everyone, 100);
            self.services[service].push(&mut self.context, &everyone);
        }
        for client in &mut self.clients {
            client.send(&mut self.context, 50);
        }
    }

    /// What must hold in a world at rest.
    pub(super) fn examine(&mut self) {
        self.context.oracle.finish();
        let topics = self.context.oracle.down.topics_checked();
        self.context
            .coverage
            .add("oracle", "deliveries to topics that had to come", topics);
        let twice = self.context.oracle.down.anonymous_twice();
        self.context
            .coverage
            .add("oracle", "pushes that an anonymous client had twice", twice);
        self.examine_credit();
        self.examine_directories();
        for place in self
            .places
            .iter()
            .filter_map(|place| place.process.as_ref())
        {
            let count = |seat: &Seat| seat.metrics.connections.get();
            let told: u64 = place.seats.iter().map(count).sum();
            let conns = self.context.oracle.down.conns();
            let open = conns.filter(|(_, conn)| conn.epoch == place.epoch && conn.is_open());
            let open = open.count() as u64;
            if told != open {
                let text = format!(
                    "g{} counts {told} connections, {open} are open",
                    place.place
                );
                self.context.oracle.fail(text);
            }
        }
    }

    /// Everything was handled: both sides have given all credit back to HTTP/2, and that to the other side, but for what
    /// is not worth a frame.
    fn examine_credit(&mut self) {
        let seats = self.places.iter().flat_map(|place| &place.process);
        let seats = seats.flat_map(|process| &process.seats);
        let by_gateways: usize = seats.map(|seat| seat.shard.unreleased()).sum();
        let services = self.services.iter();
        let by_services: usize = services.map(|service| service.unreleased()).sum();
        if by_gateways + by_services > 0 {
            let text = format!(
                "{by_gateways} bytes of credit stay with gateways, {by_services} with services"
            );
            self.context.oracle.fail(text);
        }
        for service in 0..self.services.len() {
            for socket in self.context.net.sockets_of(Owner::Service(service)) {
                if let Some(withheld) = self.context.net.withheld_credit(socket) {
                    let text = format!("credit stays away from service {service}: {withheld}");
                    self.context.oracle.fail(text);
                }
            }
        }
    }

    /// Where services think users are, beside where they are.
    fn examine_directories(&mut self) {
        for (index, service) in self.services.iter().enumerate() {
            for user in 0..self.users {
                let Some(told) = service.whereis(user) else {
                    continue;
                };
                let mut truth: BTreeMap<usize, u32> = BTreeMap::new();
                for (_, conn) in self.context.oracle.down.conns() {
                    if conn.user == Some(user) && conn.is_open() {
                        *truth.entry(conn.place).or_default() += 1;
                    }
                }
                if told != truth {
                    let text = format!(
                        "service {index} thinks that user {user} has connections {told:?}, not {truth:?}"
                    );
                    self.context.oracle.fail(text);
                }
            }
        }
    }
}
