//! Pushes: each takes effect once and in order, and ends in exactly one way.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    conn::Conn,
    issued::{Answer, Fate, Issued, Target},
    members::Members,
    number,
};

/// The life of pushes and connections.
#[derive(Debug, Default)]
pub struct Down {
    pub(super) failure: Option<String>,
    conns: BTreeMap<u32, Conn>,
    pushes: Vec<Push>,
    members: Members,
    /// Deliveries to members of topics that had to come.
    topics_checked: u64,
    /// Pushes that came twice to a client without a name, which had come to another shard meanwhile.
    anonymous_twice: u64,
    ended_epochs: BTreeSet<u64>,
    lossy: BTreeSet<usize>,
    /// By epoch and id.
    names: BTreeMap<(u64, u64), u32>,
    sources: u64,
    /// Sources whose process has died.
    orphaned: BTreeSet<u64>,
    /// Sources that have given up waiting for what a place has taken of theirs.
    doubting: BTreeSet<(u64, usize)>,
}

#[derive(Debug)]
struct Push {
    issued: Issued,
    /// Connections whose kernel took it.
    written: BTreeSet<u32>,
    /// How long the last of them took to get it.
    longest: Duration,
    /// What its sender was told.
    fates: Vec<Told>,
    answer: Option<Answer>,
}

/// What the sender of a push was told about a part of it.
#[derive(Debug)]
struct Told {
    place: usize,
    /// `None`: all shards there.
    shard: Option<u32>,
    /// `None`: all users.
    users: Option<BTreeSet<u32>>,
    fate: Fate,
}

impl Told {
    fn is_about(&self, conn: &Conn) -> bool {
        let users = self.users.as_ref();
        conn.place == self.place
            && self.shard.is_none_or(|shard| shard == conn.shard())
            && users.is_none_or(|users| conn.user.is_some_and(|user| users.contains(&user)))
    }
}

impl Down {
    /// The connection of a number.
    #[must_use]
    pub fn conn(&self, connection: u32) -> Option<&Conn> {
        self.conns.get(&connection)
    }

    /// All connections.
    pub fn conns(&self) -> impl Iterator<Item = (u32, &Conn)> {
        self.conns
            .iter()
            .map(|(connection, conn)| (*connection, conn))
    }

    /// Outboxes of the gateway at this place may drop what is pending.
    pub fn set_lossy(&mut self, place: usize, lossy: bool) {
        if lossy {
            self.lossy.insert(place);
        }
    }

    /// A client dials: the one of this index, in the name of a user or of nobody.
    pub fn dialled(&mut self, connection: u32, client: usize, user: Option<u32>, place: usize) {
        let conn = Conn::new(client, user, place);
        self.conns.insert(connection, conn);
    }

    /// A shard has it now.
    pub fn seated(&mut self, connection: u32, epoch: u64, id: u64) {
        if let Some(conn) = self.conns.get_mut(&connection) {
            (conn.epoch, conn.id) = (epoch, id);
            self.names.insert((epoch, id), connection);
        }
    }

    /// The connection that a gateway calls so.
    #[must_use]
    pub fn named(&self, epoch: u64, id: u64) -> Option<u32> {
        self.names.get(&(epoch, id)).copied()
    }

    /// Its request has come whole: from now on pushes may reach it.
    pub fn registered(&mut self, now: Duration, connection: u32) {
        if let Some(conn) = self.conns.get_mut(&connection) {
            conn.registered = Some(now);
        }
    }

    /// Its request was granted: from now on pushes must reach it.
    pub fn opened(&mut self, now: Duration, connection: u32) {
        if let Some(conn) = self.conns.get_mut(&connection) {
            conn.opened = Some(now);
        }
    }

    /// The gateway has written Close.
    pub fn closing(&mut self, now: Duration, connection: u32, code: u16) {
        if let Some(conn) = self.conns.get_mut(&connection) {
            conn.closing.get_or_insert((now, code));
        }
    }

    /// The gateway has let go of it. (It may learn late that the client has.)
    pub fn ended(&mut self, now: Duration, connection: u32) {
        if let Some(conn) = self.conns.get_mut(&connection) {
            conn.ended.get_or_insert(now);
        }
    }

    /// A process begins.
    pub fn process_began(&mut self, now: Duration, epoch: u64) {
        self.members.process_began(now, epoch);
    }

    /// A process is no more.
    pub fn process_ended(&mut self, epoch: u64) {
        self.ended_epochs.insert(epoch);
    }

    /// Whether a process is still there.
    #[must_use]
    pub fn runs(&self, epoch: u64) -> bool {
        !self.ended_epochs.contains(&epoch)
    }

    /// A user may be in a topic from now on.
    pub fn subscribed(&mut self, topic: u32, user: u32) {
        self.members.add_possible(topic, user);
    }

    /// A source was told that its subscription is taken: what it pushes to the topic from now on comes to the user at these
    /// places, unless [`Down::doubt_members`] follows.
    pub fn is_subscribed(
        &mut self,
        now: Duration,
        source: u64,
        topic: u32,
        user: u32,
        places: Vec<usize>,
    ) {
        self.members.add_certain(now, source, topic, user, places);
    }

    /// Subscriptions of a source may not have taken effect.
    pub fn doubt_members(&mut self, source: u64) {
        self.members.doubt(source);
    }

    /// How many deliveries to members of topics had to come.
    #[must_use]
    pub fn topics_checked(&self) -> u64 {
        self.topics_checked
    }

    /// How many pushes came twice to a client without a name: to one connection on each of two shards.
    #[must_use]
    pub fn anonymous_twice(&self) -> u64 {
        self.anonymous_twice
    }

    /// A service pushes; the number is what the payload must begin with.
    pub fn issue(&mut self, issued: Issued) -> usize {
        self.pushes.push(Push {
            issued,
            written: BTreeSet::new(),
            longest: Duration::ZERO,
            fates: Vec::new(),
            answer: None,
        });
        self.pushes.len() - 1
    }

    /// For each push that was written: for whom, and how long it took.
    pub fn delays(&self) -> impl Iterator<Item = (&Target, Duration)> {
        let written = self.pushes.iter().filter(|push| !push.written.is_empty());
        written.map(|push| (&push.issued.target, push.longest))
    }

    /// A gateway's kernel has taken a message for a connection.
    pub fn written(&mut self, now: Duration, connection: u32, payload: &[u8]) {
        let (Some(id), Some(conn)) = (number(payload), self.conns.get(&connection)) else {
            return self.fail(format!(
                "connection {connection} is written what nobody sent"
            ));
        };
        let Some(push) = self.pushes.get(id) else {
            return self.fail(format!(
                "connection {connection} is written push {id}, which is none"
            ));
        };
        let found = self.check(now, id, push, connection, conn);
        if let Some(found) = found {
            return self.fail(format!(
                "push {id} ({:?} of source {}) on connection {connection} of {:?}: {found}",
                push.issued.target, push.issued.source, conn.user
            ));
        }
        let nameless = conn.user.is_none() && !push.issued.may_repeat;
        let mut others = push.written.iter().map(|other| &self.conns[other]);
        let again = nameless && others.any(|other| other.client == conn.client);
        self.anonymous_twice += u64::from(again);
        let key = (push.issued.source, push.issued.target.clone());
        let push = &mut self.pushes[id];
        push.written.insert(connection);
        push.longest = push.longest.max(now.saturating_sub(push.issued.at));
        if let Some(conn) = self.conns.get_mut(&connection) {
            conn.newest.insert(key, id);
            conn.written.push(id);
        }
    }

    /// A client has got a message.
    pub fn received(&mut self, connection: u32, payload: &[u8]) {
        let Some(conn) = self.conns.get_mut(&connection) else {
            return;
        };
        let expected = conn.written.get(conn.received).copied();
        conn.received += 1;
        if number(payload) != expected {
            self.fail(format!(
                "connection {connection} got {:?}, not push {expected:?}",
                number(payload)
            ));
        }
    }

    /// Another source of pushes.
    pub fn new_source(&mut self) -> u64 {
        self.sources += 1;
        self.sources
    }

    /// A source is gone: nobody will be told what becomes of its pushes.
    pub fn orphan(&mut self, source: u64) {
        self.orphaned.insert(source);
    }

    /// A source does not know what a place has taken of what it has sent so far. Whoever wants that sent again has it arrive
    /// twice, also on one connection, if the place is there all the time.
    pub fn doubt(&mut self, source: u64, place: usize) {
        self.doubting.insert((source, place));
    }

    /// The sender was told what became of a push at a place: on one shard or all, for some of its users or all.
    pub fn fate(
        &mut self,
        id: usize,
        place: usize,
        shard: Option<u32>,
        users: Option<BTreeSet<u32>>,
        fate: Fate,
    ) {
        let Some(push) = self.pushes.get_mut(id) else {
            return;
        };
        let same = |known: &&Told| {
            let whole = known.users.is_none() && users.is_none();
            let shards = known.shard == shard || known.shard.is_none() || shard.is_none();
            whole && known.place == place && shards
        };
        if let Some(known) = push.fates.iter().find(same) {
            let text = format!(
                "push {id} ended twice at g{place}: {:?}, {fate:?}",
                known.fate
            );
            return self.fail(text);
        }
        let told = Told {
            place,
            shard,
            users,
            fate,
        };
        let mut written = push.written.iter();
        let both = written.find(|connection| told.is_about(&self.conns[*connection]));
        // One that is sent again when its fate is unknown may end as unsent then.
        let repeats = push.issued.may_repeat;
        let both = both.copied().filter(|_| fate == Fate::Returned && !repeats);
        push.fates.push(told);
        if let Some(connection) = both {
            self.fail(format!(
                "push {id} was handed back by g{place}, but connection {connection} has it"
            ));
        }
    }

    /// The sender has got the answer to a push that was confirmed.
    pub fn answered(&mut self, id: usize, answer: Answer) {
        let Some(push) = self.pushes.get_mut(id) else {
            return;
        };
        if let Some(known) = push.answer.replace(answer) {
            return self.fail(format!("push {id} was answered {known:?}, then {answer:?}"));
        }
        let seen = push.written.len() as u64;
        match answer {
            // What was sent again is not counted together with what was sent first.
            Answer::Receipt { .. } if push.issued.may_repeat => {}
            // What the kernel took of a send that broke off counts as lost.
            Answer::Receipt { written, lost } if written > seen || seen > written + lost => {
                self.fail(format!(
                    "the receipt of push {id} says {written} written, {lost} lost; {seen} were written"
                ));
            }
            Answer::Failed if seen > 0 && push.issued.is_whole() => self.fail(format!(
                "push {id} was refused, but {seen} connections have it"
            )),
            _ => {}
        }
    }

    /// Nothing is on its way any more: whatever must have come has come.
    pub fn finish(&mut self) {
        let mut found = None;
        let mut topics_checked = 0;
        for (id, push) in self.pushes.iter().enumerate() {
            let orphaned = self.orphaned.contains(&push.issued.source);
            if push.issued.confirmed && push.answer.is_none() && !orphaned {
                found = Some(format!("push {id} was never answered"));
            }
            for (connection, conn) in &self.conns {
                if !self.must_come(push, conn) {
                    continue;
                }
                topics_checked += u64::from(matches!(push.issued.target, Target::Topic(_)));
                if self.is_lost(id, push, conn) {
                    found = Some(format!(
                        "push {id} ({:?} of source {} at {:?}) never came to connection {connection} of {:?} at g{}, \
                         and nobody was told; answer {:?}, fates {:?}",
                        push.issued.target,
                        push.issued.source,
                        push.issued.at,
                        conn.user,
                        conn.place,
                        push.answer,
                        push.fates
                    ));
                }
            }
        }
        self.topics_checked = topics_checked;
        if let Some(found) = found {
            self.fail(found);
        }
    }

    fn fail(&mut self, what: String) {
        self.failure.get_or_insert(what);
    }

    /// What is wrong with a push on a connection.
    fn check(
        &self,
        now: Duration,
        id: usize,
        push: &Push,
        connection: u32,
        conn: &Conn,
    ) -> Option<String> {
        let issued = &push.issued;
        if !self.is_meant(&issued.target, connection, conn) {
            return Some("it is for somebody else".into());
        }
        if push.written.contains(&connection) {
            let doubts = self.doubting.contains(&(issued.source, conn.place));
            return (!issued.may_repeat || !doubts).then(|| format!("again at {now:?}"));
        }
        let key = (issued.source, issued.target.clone());
        if let Some(newest) = conn.newest.get(&key).filter(|newest| **newest > id) {
            return Some(format!("behind push {newest}, which is newer"));
        }
        let mut fates = push.fates.iter();
        if fates.any(|told| told.fate == Fate::Returned && told.is_about(conn))
            && !issued.may_repeat
        {
            return Some("it was handed back".into());
        }
        if push.answer == Some(Answer::Failed) && issued.is_whole() {
            return Some("it was refused".into());
        }
        if issued.may_repeat {
            return None;
        }
        let others = push.written.iter().map(|other| (other, &self.conns[other]));
        for (other, theirs) in others.filter(|(_, theirs)| theirs.place == conn.place) {
            // A push for several users has a part for each.
            let stranger = theirs.user != conn.user;
            if matches!(issued.target, Target::Users(_)) && stranger {
                continue;
            }
            let other_part = theirs.shard() != conn.shard();
            if theirs.epoch != conn.epoch {
                // A wide push has a part for each shard, and one that a shard had not got by then goes to the shard of the
                // next epoch. Named users come back to the same shard, unless there is another number of them; who has no
                // name may come to any.
                let wide = matches!(issued.target, Target::Topic(_) | Target::Everyone);
                if wide && other_part && (stranger || conn.user.is_none()) {
                    continue;
                }
                return Some("the gateway did it in an earlier epoch".into());
            }
            // Each shard does its part of a wide push on its own.
            if other_part {
                continue;
            }
            let apart = |one: &Conn, two: &Conn| one.registered.is_none_or(|at| at > two.gone_by());
            if apart(conn, theirs) || apart(theirs, conn) {
                return Some(format!("connection {other} had it, and the two never met"));
            }
        }
        None
    }

    fn is_meant(&self, target: &Target, connection: u32, conn: &Conn) -> bool {
        let user = |user: &u32| conn.user == Some(*user);
        match target {
            Target::User(one) => user(one),
            Target::Users(several) => several.iter().any(user),
            Target::Topic(topic) => {
                let user = conn.user;
                user.is_some_and(|user| self.members.may_be_in(*topic, user))
            }
            Target::Everyone => true,
            Target::Connection(one) => *one == connection,
        }
    }

    /// Whether a push has to come to a connection, unless its sender is told.
    fn must_come(&self, push: &Push, conn: &Conn) -> bool {
        let issued = &push.issued;
        let meant = match &issued.target {
            Target::User(user) => conn.user == Some(*user),
            Target::Users(users) => conn.user.is_some_and(|user| users.contains(&user)),
            Target::Everyone => true,
            Target::Topic(topic) => conn.user.is_some_and(|user| {
                let run = (conn.place, conn.epoch);
                let (source, at) = (issued.source, issued.at);
                self.members.is_in((*topic, user), source, at, run)
            }),
            Target::Connection(_) => false,
        };
        meant
            && issued.plain
            && conn.is_open()
            && conn.opened.is_some_and(|opened| opened < issued.at)
            && issued.places.contains(&conn.place)
            && !self.lossy.contains(&conn.place)
            && !self.orphaned.contains(&issued.source)
    }

    /// Whether a push that had to come to a connection did not, and nobody was told.
    fn is_lost(&self, id: usize, push: &Push, conn: &Conn) -> bool {
        // The shard that a part was for may have had another number before the gateway came back.
        let told = push
            .fates
            .iter()
            .any(|told| told.is_about(conn) || (told.shard.is_some() && told.place == conn.place));
        let answered = match push.answer {
            // The counts were compared when it came.
            Some(Answer::Receipt { lost, .. }) => lost > 0,
            Some(Answer::Unknown | Answer::Failed) => true,
            None => false,
        };
        !told && !answered && !conn.written.contains(&id)
    }
}
