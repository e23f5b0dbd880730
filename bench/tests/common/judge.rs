//! What was promised to services and clients of one gateway, and whether it is kept: told what services push, what clients
//! get and say, and how each push ended.

use std::collections::{BTreeMap, BTreeSet};

use gateway_bench::{
    metrics::Metrics,
    simulate::{self, Target, Wanted, number},
};
use logic_client::{Connection, Event, Message, PushError, Receipt, ReturnReason};

/// Why a delivery that was tried was not written.
const LOST: [&str; 5] = ["conflated", "expired", "slow", "priority", "closed"];

/// Everything that was seen of one gateway. Nothing but what clients and plans allow goes wrong in its life.
#[derive(Debug, Default)]
pub struct Judge {
    /// The first promise that was broken.
    pub failure: Option<String>,
    /// Consumer groups: the messages that each has got, by connection.
    groups: BTreeMap<String, BTreeMap<usize, Vec<usize>>>,
    conns: Vec<Conn>,
    pushes: Vec<Push>,
    said: Vec<Said>,
    /// Service, topic, user.
    members: BTreeSet<(usize, u32, u32)>,
    frames: u64,
    left: bool,
}

#[derive(Debug)]
struct Conn {
    client: usize,
    user: Option<u32>,
    /// Its handshake is done, and its client has not begun to close.
    open: bool,
    /// What the gateway calls it.
    name: Option<Connection>,
    /// The newest push of each service for each target.
    newest: BTreeMap<(usize, Target), usize>,
}

#[derive(Debug)]
struct Push {
    /// What it was in the plan.
    act: String,
    service: usize,
    wanted: Wanted,
    /// Connections it must come to, if they stay.
    must: Vec<usize>,
    came: Vec<usize>,
    answer: Option<Result<Receipt, PushError>>,
}

/// A message of a client.
#[derive(Debug)]
struct Said {
    act: usize,
    conn: usize,
    payload: Vec<u8>,
}

impl Judge {
    pub fn of(groups: impl Iterator<Item = String>) -> Self {
        Self {
            groups: groups.map(|group| (group, BTreeMap::new())).collect(),
            ..Self::default()
        }
    }

    /// A client dials. Gives the number of the connection, which its query must tell as `conn`.
    pub fn dials(&mut self, client: usize, user: Option<u32>) -> usize {
        self.conns.push(Conn {
            client,
            user,
            open: false,
            name: None,
            newest: BTreeMap::new(),
        });
        self.conns.len() - 1
    }

    /// The handshake is done: pushes must come from now on.
    pub fn opened(&mut self, conn: usize) {
        self.conns[conn].open = true;
    }

    /// The client begins to close: pushes may come, and need not.
    pub fn leaves(&mut self, conn: usize) {
        self.conns[conn].open = false;
        self.left = true;
    }

    /// A connection is over.
    pub fn ended(&mut self, conn: usize, how: &str) {
        if self.conns[conn].open {
            self.fail(format!(
                "connection {conn} ends, and nobody wanted it: {how}"
            ));
        }
    }

    /// What the gateway calls a connection, once a service has heard of it.
    pub fn name(&self, conn: usize) -> Option<Connection> {
        self.conns.get(conn)?.name
    }

    /// One of the connections that services have heard of, which may be gone.
    pub fn known(&self, choice: usize) -> Option<usize> {
        let all = 0..self.conns.len();
        let named: Vec<_> = all.filter(|conn| self.name(*conn).is_some()).collect();
        named.get(choice % named.len().max(1)).copied()
    }

    /// A connection that no service has heard of.
    pub fn nameless(&self) -> Option<usize> {
        (0..self.conns.len()).find(|conn| self.name(*conn).is_none())
    }

    /// Users that are connected.
    pub fn users(&self) -> BTreeSet<u32> {
        let open = self.conns.iter().filter(|conn| conn.open);
        open.filter_map(|conn| conn.user).collect()
    }

    /// A service adds a user to a topic: before it pushes anything else.
    pub fn subscribes(&mut self, service: usize, topic: u32, user: u32) {
        self.members.insert((service, topic, user));
    }

    /// A service pushes, to users of which it `knows` that they are there. Gives the number that the payload must begin with.
    pub fn issue(
        &mut self,
        act: String,
        service: usize,
        wanted: &Wanted,
        knows: impl Fn(u32) -> bool,
    ) -> usize {
        let must = |(at, conn): &(usize, &Conn)| {
            let user = conn.user;
            let meant = match &wanted.target {
                Target::User(whose) => user == Some(*whose) && knows(*whose),
                Target::Users(all) => user.is_some_and(|user| all.contains(&user) && knows(user)),
                Target::Topic(topic) => {
                    user.is_some_and(|user| self.members.contains(&(service, *topic, user)))
                }
                Target::Everyone => true,
                Target::Connection(connection) => *connection as usize == *at,
            };
            meant && conn.open && wanted.is_plain()
        };
        let must = self.conns.iter().enumerate().filter(must);
        let must = must.map(|(conn, _)| conn).collect();
        self.pushes.push(Push {
            act,
            service,
            wanted: wanted.clone(),
            must,
            came: Vec::new(),
            answer: None,
        });
        self.pushes.len() - 1
    }

    /// A client has got a message.
    pub fn came(&mut self, conn: usize, payload: &[u8]) {
        self.frames += 1;
        let push = number(payload).and_then(|id| Some((id, self.pushes.get(id)?)));
        let Some((id, push)) = push else {
            return self.fail(format!("connection {conn} gets what nobody pushed"));
        };
        let found = self.what_is_wrong(id, push, conn, payload);
        let key = (push.service, push.wanted.target.clone());
        if let Some(found) = found {
            let text = format!("{} on connection {conn}: {found}", self.describe(id));
            return self.fail(text);
        }
        self.pushes[id].came.push(conn);
        self.conns[conn].newest.insert(key, id);
    }

    /// A confirmed push is answered.
    pub fn answered(&mut self, id: usize, answer: Result<Receipt, PushError>) {
        if self.pushes[id].answer.replace(answer).is_some() {
            self.fail(format!("{} is answered twice", self.describe(id)));
        }
    }

    /// A push comes back to its service.
    pub fn returned(&mut self, payload: &[u8], reason: &ReturnReason) {
        let id = number(payload).filter(|id| *id < self.pushes.len());
        match id {
            Some(id) if may_end(&self.pushes[id].wanted, reason) => {}
            Some(id) => self.fail(format!("{} comes back: {reason}", self.describe(id))),
            None => self.fail(format!("what nobody pushed comes back: {reason}")),
        }
    }

    /// A client says something of this size; gives the payload.
    pub fn says(&mut self, act: usize, conn: usize, size: usize) -> Vec<u8> {
        let payload = simulate::payload(self.said.len(), size);
        self.said.push(Said {
            act,
            conn,
            payload: payload.clone(),
        });
        payload
    }

    /// A process of a group gets an event.
    pub fn heard(&mut self, group: &str, event: Event) {
        match event {
            Event::Opened(opened) => {
                let mut query = opened.query.split('&');
                let conn = query.find_map(|part| part.strip_prefix("conn=")?.parse().ok());
                let conn = conn.filter(|conn: &usize| *conn < self.conns.len());
                match conn {
                    Some(conn) => self.conns[conn].name = Some(opened.connection),
                    None => self.fail(format!("{group} hears of a stranger: {opened:?}")),
                }
            }
            Event::Message(message) => {
                if let Some(wrong) = self.take(group, &message) {
                    self.fail(format!("{group} gets {:?}: {wrong}", message.text()));
                }
            }
            _ => {}
        }
    }

    /// What must come yet.
    pub fn missing(&self) -> Option<String> {
        for (id, push) in self.pushes.iter().enumerate() {
            if push.wanted.confirmed && push.answer.is_none() {
                return Some(format!("the answer to {}", self.describe(id)));
            }
            let mut must = push.must.iter().filter(|conn| self.conns[**conn].open);
            if let Some(conn) = must.find(|conn| !push.came.contains(conn)) {
                return Some(format!("{} on connection {conn}", self.describe(id)));
            }
        }
        for (group, heard) in &self.groups {
            for (id, said) in self.said.iter().enumerate() {
                if !heard.get(&said.conn).is_some_and(|ids| ids.contains(&id)) {
                    let Said { act, conn, .. } = said;
                    return Some(format!(
                        "message {id} (act {act}) of connection {conn} at {group}"
                    ));
                }
            }
        }
        None
    }

    /// What is wrong with the gateway's own account, if nothing waits any more; what it allows is that of the plan.
    pub fn imbalance(&self, metrics: &Metrics) -> Option<String> {
        let drops = |reason: &str| {
            let label = format!("reason=\"{reason}\"");
            metrics.sum("ringway_drops_total", &[label.as_str()])
        };
        let written = metrics.sum("ringway_messages_out_total", &["to=\"client\""]);
        let tried = metrics.sum("ringway_deliveries_total", &[]);
        let lost: f64 = LOST.map(drops).iter().sum();
        let waiting = metrics.sum("ringway_outbox_bytes", &[]);
        if waiting != 0.0 || written + lost != tried || written != self.frames as f64 {
            return Some(format!(
                "{tried} deliveries: {written} written, {lost} dropped, {waiting} bytes wait, {} came",
                self.frames
            ));
        }
        let any = |is_so: fn(&Wanted) -> bool| self.pushes.iter().any(|push| is_so(&push.wanted));
        let allowed = [
            ("conflated", any(|wanted| wanted.key.is_some())),
            ("expired", any(|wanted| wanted.ttl_ms > 0)),
            ("closed", self.left),
            ("no_target", true),
        ];
        let allowed = allowed.iter().filter(|(_, is_so)| *is_so);
        let allowed: f64 = allowed.map(|(reason, _)| drops(reason)).sum();
        let all = metrics.sum("ringway_drops_total", &[]);
        let rejected = metrics.sum("ringway_rejected_total", &[]);
        (all != allowed || rejected != 0.0).then(|| {
            format!("{all} drops, of which the plan allows {allowed}; {rejected} rejected")
        })
    }

    /// Nothing can come any more: do receipts tell what came?
    pub fn finish(&mut self) {
        let wrong = self.pushes.iter().enumerate().find_map(|(id, push)| {
            let seen = push.came.len() as u64;
            let wrong = match push.answer.as_ref()? {
                Ok(receipt) => !tells(receipt, &push.wanted, seen),
                Err(PushError::NotSent(reason)) => !may_end(&push.wanted, reason),
                Err(_) => true,
            };
            wrong.then(|| format!("{} came {seen} times: {:?}", self.describe(id), push.answer))
        });
        if let Some(wrong) = wrong {
            self.fail(wrong);
        }
    }

    /// Adds what was put to the test.
    pub fn count(&self, counts: &mut BTreeMap<&'static str, usize>) {
        for push in &self.pushes {
            let target = match push.wanted.target {
                Target::User(_) => "a user",
                Target::Users(_) => "users",
                Target::Topic(_) => "a topic",
                Target::Everyone => "everyone",
                Target::Connection(_) => "a connection",
            };
            *counts.entry(target).or_default() += push.must.len();
            *counts.entry("receipts").or_default() += usize::from(push.answer.is_some());
        }
        *counts.entry("messages of clients").or_default() += self.said.len();
        *counts.entry("worlds that somebody leaves").or_default() += usize::from(self.left);
    }

    pub fn fail(&mut self, what: String) {
        self.failure.get_or_insert(what);
    }

    fn describe(&self, id: usize) -> String {
        format!("push {id} ({})", self.pushes[id].act)
    }

    fn what_is_wrong(&self, id: usize, push: &Push, at: usize, payload: &[u8]) -> Option<String> {
        let conn = &self.conns[at];
        let Wanted { target, size, .. } = &push.wanted;
        let is_meant = match target {
            Target::User(user) => conn.user == Some(*user),
            Target::Users(users) => conn.user.is_some_and(|user| users.contains(&user)),
            Target::Topic(topic) => conn.user.is_some_and(|user| {
                let mut members = self.members.iter();
                members.any(|(_, named, member)| (named, *member) == (topic, user))
            }),
            Target::Everyone => true,
            Target::Connection(connection) => *connection as usize == at,
        };
        if !is_meant {
            return Some(format!("it is not for one of user {:?}", conn.user));
        }
        if payload != simulate::payload(id, *size) {
            return Some("it is not what was pushed".into());
        }
        // A named user comes to one shard, which does a push once; two connections of a client are never open together.
        let twice = |other: &usize| {
            let named = conn.user.is_some() && self.conns[*other].client == conn.client;
            *other == at || named
        };
        if let Some(other) = push.came.iter().find(|other| twice(other)) {
            return Some(format!("it came before, on connection {other}"));
        }
        let newest = conn.newest.get(&(push.service, target.clone()));
        let newer = newest.filter(|newest| **newest > id)?;
        Some(format!("it comes behind push {newer}"))
    }

    /// A message of a client has come to a group; what is wrong with it.
    fn take(&mut self, group: &str, message: &Message) -> Option<String> {
        let said = number(&message.payload).and_then(|id| Some((id, self.said.get(id)?)));
        let Some((id, said)) = said else {
            return Some("nobody said it".into());
        };
        let conn = &self.conns[said.conn];
        if message.payload != said.payload
            || message.user != conn.user.map(simulate::user)
            || Some(message.connection) != conn.name
        {
            return Some(format!("connection {} said something else", said.conn));
        }
        let heard = self.groups.get_mut(group)?.entry(said.conn).or_default();
        // At least once: what is repeated is not new.
        if heard.contains(&id) {
            return None;
        }
        let newer = heard.last().copied().filter(|newest| *newest > id);
        heard.push(id);
        newer.map(|newer| format!("it comes behind message {newer}"))
    }
}

/// Whether a push that is wanted so may end so before it is sent.
fn may_end(wanted: &Wanted, reason: &ReturnReason) -> bool {
    match reason {
        ReturnReason::Expired => wanted.ttl_ms > 0,
        ReturnReason::Conflated => wanted.key.is_some(),
        ReturnReason::NoTarget => true,
        _ => false,
    }
}

/// Whether a receipt agrees with what came: what the kernel took of a connection that ended may count as closed.
fn tells(receipt: &Receipt, wanted: &Wanted, seen: u64) -> bool {
    let written = receipt.written <= seen && seen <= receipt.written + receipt.closed;
    let conflated = receipt.conflated == 0 || wanted.key.is_some();
    let expired = receipt.expired == 0 || wanted.ttl_ms > 0;
    written && conflated && expired && receipt.dropped_slow + receipt.dropped_priority == 0
}
