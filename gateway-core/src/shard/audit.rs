//! Looks at a shard from outside its rules: whether every bound holds, and where every delivery is. For simulators and
//! tests; it costs a look at every connection.

use super::{
    Shard,
    conn::{Conn, Phase},
};

/// Where the deliveries of a shard are. Those that are in none of these were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// All there ever were.
    pub tried: u64,
    /// Dropped, and counted by reason.
    pub dropped: u64,
    /// In outboxes, and in what the kernel has not taken whole.
    pub waiting: u64,
}

/// Something that is held, how much of it, and how much may be.
type Held = (&'static str, usize, usize);

impl Shard {
    /// Where all deliveries are, as the shard counts them.
    #[must_use]
    pub fn account(&self) -> Account {
        let drops = self.metrics.drops.iter();
        let of_deliveries = drops.filter(|(label, _)| DELIVERY_DROPS.contains(label));
        let conns = self.conns.ids().filter_map(|id| self.conns.get(id));
        Account {
            tried: self.metrics.deliveries.get(),
            dropped: of_deliveries.map(|(_, count)| count).sum(),
            waiting: conns.map(|conn| conn.outbox.load().0 as u64).sum(),
        }
    }

    /// Credit of HTTP/2 that was not given back to logic services: 0 once everything they sent is handled.
    #[must_use]
    pub fn unreleased(&self) -> usize {
        let links = self.links.ids();
        let links = links.iter().filter_map(|id| self.links.get(*id));
        links.map(|state| state.link.unreleased()).sum()
    }

    /// The first queue or table that holds more than its limit. There never should be one.
    #[must_use]
    pub fn over_limit(&self) -> Option<String> {
        let tables = self.tables().into_iter().chain(self.lane_queues());
        let conns = self.conns.ids().filter_map(|id| self.conns.get(id));
        let of_conns = conns.flat_map(|conn| self.held_by(conn));
        let users = (0..self.users.slots()).filter_map(|at| self.users.at(at));
        let limits = &self.gateway.config.limits;
        let of_users = users.flat_map(|user| {
            let (conns, topics) = (user.conns.len(), user.topics.len());
            [
                (
                    "connections of a user",
                    conns,
                    limits.max_connections_per_user,
                ),
                ("topics of a user", topics, limits.max_topics_per_user),
            ]
        });
        let mut all = tables.chain(of_conns).chain(of_users);
        let over = all.find(|(_, held, most)| held > most);
        let over = over.map(|(what, held, most)| format!("{held} {what}, {most} are allowed"));
        over.or_else(|| self.outbox_over_limit())
            .or_else(|| self.miscounted())
    }

    fn tables(&self) -> Vec<Held> {
        let config = &self.gateway.config;
        let limits = &config.limits;
        let queued = self.metrics.directory_queue_bytes.get() as usize;
        let open = self.directory.open_connections as usize;
        let mut tables = vec![
            ("fan-outs", self.fanouts.len(), limits.max_fanouts),
            ("topics", self.topics.len(), limits.max_topics),
            ("sessions", self.sessions.len(), config.sessions.max),
            ("directory bytes", queued, config.directory.max_queue_bytes),
            ("links", self.links.len(), config.grpc.max_links),
            ("connections", open, limits.max_connections),
            (
                "offline users",
                self.users.offline(),
                limits.max_offline_users,
            ),
            (
                "receipts awaited",
                self.ledger.jobs.receipts(),
                limits.max_jobs,
            ),
        ];
        tables.extend(self.queries.held());
        tables.extend(self.upstream.held());
        tables
    }

    /// What waits for other shards, and for this one.
    fn lane_queues(&self) -> Vec<Held> {
        let lanes = &self.gateway.config.lanes;
        let largest = self.gateway.config.limits.max_payload_bytes;
        let mut held = vec![("batches in a lane", self.lanes.depth(), lanes.batches)];
        for outgoing in &self.outgoing {
            let bytes = outgoing.command_bytes.saturating_sub(largest);
            held.push((
                "messages for another shard",
                outgoing.command_messages,
                lanes.batch_messages,
            ));
            held.push(("bytes for another shard", bytes, lanes.batch_bytes));
        }
        held
    }

    /// What a connection holds beside its outbox.
    fn held_by(&self, conn: &Conn) -> [Held; 3] {
        let config = &self.gateway.config;
        let request = match &conn.phase {
            Phase::Handshaking(handshake) => handshake.bytes.len(),
            _ => 0,
        };
        let own = conn.memberships.iter().filter(|of| of.own).count();
        // Memory, not bytes: a buffer that grows doubles.
        let message = 2 * config.ws.max_message_bytes + BESIDE_MESSAGE;
        [
            (
                "bytes of a request",
                request,
                self.gateway.upgrade.max_header_bytes,
            ),
            ("bytes of a message in part", conn.session.holds(), message),
            (
                "topics of a connection",
                own,
                config.limits.max_topics_per_user,
            ),
        ]
    }

    fn outbox_over_limit(&self) -> Option<String> {
        let limits = &self.gateway.config.outbox;
        self.conns.ids().find_map(|id| {
            // The last words of a connection that ends are exempt.
            let conn = self.conns.get(id).filter(|conn| conn.is_open())?;
            let (messages, bytes) = conn.outbox.load();
            // A message alone always fits: its size was checked against the payload limit.
            let fits =
                messages <= 1 || (messages <= limits.max_messages && bytes <= limits.max_bytes);
            (!fits).then(|| format!("{id:?} has {messages} messages, {bytes} bytes in its outbox"))
        })
    }

    /// A sum that new connections are refused by (`limits.max_memory_bytes`), and that is not what there is.
    fn miscounted(&self) -> Option<String> {
        let conns = || self.conns.ids().filter_map(|id| self.conns.get(id));
        let outboxes: usize = conns().map(|conn| conn.outbox.bytes()).sum();
        let partial: usize = conns().map(|conn| conn.session.holds()).sum();
        let links = self.links.ids();
        let links = links.iter().filter_map(|id| self.links.get(*id));
        let unacked: usize = links.map(|state| state.link.unacked_bytes()).sum();
        let sums = [
            ("bytes in outboxes", self.pool.bytes(), outboxes),
            ("bytes of messages in part", self.held_bytes, partial),
            (
                "bytes without acknowledgement",
                self.metrics.unacked_bytes.get() as usize,
                unacked,
            ),
        ];
        let mut sums = sums.into_iter();
        let wrong = sums.find(|(_, counted, held)| counted != held);
        wrong.map(|(what, counted, held)| format!("{counted} {what} are counted, {held} there"))
    }
}

/// Why a delivery to a connection may be dropped: [`crate::metrics::DROPS`] without those of client events, and without
/// pushes for nobody.
const DELIVERY_DROPS: [&str; 5] = ["conflated", "expired", "slow", "priority", "closed"];

/// What a message in part comes with: its state, and a control frame that came between (RFC 6455, section 5.5).
const BESIDE_MESSAGE: usize = 512;
