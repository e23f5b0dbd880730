//! Which users are on which gateways, as the gateways tell it.
//!
//! Each shard of each gateway is a *source*: it tells a snapshot, then changes. Entries of a source
//! stay while its stream is down, and are cleared up when the next snapshot ends: whoever was not
//! in it is gone. A new epoch of a gateway throws all of its entries away.
//!
//! Of two entries for a user on a source the one with the higher version is true, so the order in
//! which a snapshot and changes come does not matter; that somebody went offline is remembered
//! until the snapshot ends.
//!
//! There is room for so many entries. A source of which one finds none is *cut* until its next
//! snapshot: whoever is not known there may be there all the same.

use std::collections::HashMap;
use std::hash::BuildHasher;

use gateway_proto::shard_of;
use gateway_proto::v1::gateway_frame::Body as Up;
use gateway_proto::v1::snapshot::Stage;
use gateway_proto::v1::{Snapshot, UserOffline, UserOnline};
use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;

use crate::mutation::{self, Rule};

/// Which users are on which gateways. Gateways have the names the mesh gives them.
#[derive(Debug)]
pub(crate) struct Directory {
    /// Most entries there may be, those included that are remembered as gone.
    most: usize,
    /// How many are remembered as gone.
    gone: usize,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    users: Slab<User>,
    sources: Slab<Source>,
    gateways: HashMap<u32, Gateway>,
    figures: Figures,
}

/// A user somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) gateway: u32,
    /// How many the user has there.
    pub(crate) connections: u32,
    /// The gateway's shard tells every change at present; otherwise this is what was known last.
    pub(crate) complete: bool,
}

/// Figures of a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) users: usize,
    /// A user on two gateways is two.
    pub(crate) entries: usize,
    pub(crate) snapshots: u64,
    pub(crate) changes: u64,
    /// Entries that found no room.
    pub(crate) refused: u64,
    /// Shards of which one did not.
    pub(crate) cut: usize,
    /// Shards that tell every change at present.
    pub(crate) complete: usize,
    /// All shards of gateways in use.
    pub(crate) sources: usize,
}

#[derive(Debug)]
struct User {
    name: Box<str>,
    /// The usual case: one.
    place: Place,
    #[expect(clippy::box_collection, reason = "eight bytes for nearly everybody")]
    more: Option<Box<Vec<Place>>>,
}

/// A user on one source.
#[derive(Clone, Copy, Debug)]
struct Place {
    source: u32,
    /// It was told of since the newest snapshot began.
    seen: bool,
    /// Where the source lists it.
    member: u32,
    connections: u32,
    version: u64,
}

#[derive(Debug)]
struct Gateway {
    epoch: u64,
    /// One for each shard.
    sources: Vec<u32>,
}

/// A shard of a gateway.
#[derive(Debug)]
struct Source {
    gateway: u32,
    /// The connection it tells on: what comes on an older one is late.
    run: u64,
    phase: Phase,
    /// There was no room for one of its users.
    cut: bool,
    members: Vec<u32>,
    /// Who went offline during the snapshot, and in which version.
    gone: HashMap<Box<str>, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It tells nothing: it has not begun, or its stream is down.
    Silent,
    Snapshot,
    Complete,
}

impl Directory {
    /// With room for `most` entries.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            gone: 0,
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            users: Slab::new(),
            sources: Slab::new(),
            gateways: HashMap::new(),
            figures: Figures::default(),
        }
    }

    /// What a gateway is from now on. Another epoch is another process: nobody is there yet.
    pub(crate) fn adopt(&mut self, gateway: u32, epoch: u64, shards: u32) {
        let known = self.gateways.get(&gateway);
        if known.is_some_and(|known| known.epoch == epoch && known.sources.len() == shards as usize)
        {
            return;
        }
        self.forget(gateway);
        let source = |_| self.sources.insert(Source::new(gateway)) as u32;
        let sources = (0..shards).map(source).collect();
        self.gateways.insert(gateway, Gateway { epoch, sources });
    }

    /// A gateway is not used any more.
    pub(crate) fn forget(&mut self, gateway: u32) {
        let Some(known) = self.gateways.remove(&gateway) else {
            return;
        };
        for source in known.sources {
            self.turn(source, Phase::Silent);
            self.forget_gone(source);
            self.set_cut(source, false);
            self.sweep(source, |_| true);
            self.sources.remove(source as usize);
        }
        if self.users.is_empty() {
            self.users.shrink_to_fit();
            self.table = HashTable::new();
        }
    }

    /// The stream of a shard is down, or that of all (`None`): what is known of it stays, but may be
    /// out of date.
    pub(crate) fn lost(&mut self, gateway: u32, shard: Option<u32>) {
        let known = self.gateways.get(&gateway);
        let sources = known.map_or(Vec::new(), |known| known.sources.clone());
        let lost = |(at, _): &(u32, u32)| shard.is_none_or(|shard| shard == *at);
        for (_, source) in (0..).zip(sources).filter(lost) {
            self.forget_gone(source);
            self.turn(source, Phase::Silent);
        }
    }

    /// A gateway has told something on its connection `run`, in its epoch `epoch`.
    pub(crate) fn apply(&mut self, gateway: u32, epoch: u64, run: u64, frame: Up) {
        let Some(known) = self.gateways.get(&gateway).filter(|of| of.epoch == epoch) else {
            return;
        };
        let shards = known.sources.len().max(1) as u32;
        let shard = match &frame {
            Up::Snapshot(snapshot) => snapshot.shard,
            Up::Online(online) => shard_of(online.user_id.as_bytes(), shards),
            Up::Offline(offline) => shard_of(offline.user_id.as_bytes(), shards),
            _ => return,
        };
        let Some(source) = self.source(gateway, shard) else {
            return;
        };
        match frame {
            Up::Snapshot(snapshot) => self.snapshot(source, run, snapshot),
            Up::Online(online) if self.listens(source, run) => {
                self.figures.changes += 1;
                self.online(source, &online);
            }
            Up::Offline(offline) if self.listens(source, run) => {
                self.figures.changes += 1;
                self.offline(source, offline);
            }
            _ => {}
        }
    }

    /// Where a user is.
    pub(crate) fn find(&self, user: &str) -> impl Iterator<Item = Found> + '_ {
        let user = self.index(user).map(|at| &self.users[at as usize]);
        user.into_iter().flat_map(User::places).map(|place| {
            let source = &self.sources[place.source as usize];
            Found {
                gateway: source.gateway,
                connections: place.connections,
                complete: source.phase == Phase::Complete,
            }
        })
    }

    /// Whether a gateway tells who is there, but there was no room for all of those who live where `user`
    /// does.
    pub(crate) fn is_cut(&self, gateway: u32, user: &str) -> bool {
        let source = self.source_of(gateway, user);
        self.any_cut() && source.is_some_and(|source| source.cut)
    }

    /// Whether there was no room for somebody somewhere.
    pub(crate) fn any_cut(&self) -> bool {
        self.figures.cut > 0
    }

    /// Whether a gateway tells at present whether a user is there.
    pub(crate) fn knows(&self, gateway: u32, user: &str) -> bool {
        let source = self.source_of(gateway, user);
        source.is_some_and(|source| source.phase == Phase::Complete && !source.cut)
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures {
            users: self.users.len(),
            sources: self.sources.len(),
            ..self.figures
        }
    }

    fn snapshot(&mut self, source: u32, run: u64, snapshot: Snapshot) {
        let state = &mut self.sources[source as usize];
        let tells = state.run == run && state.phase == Phase::Snapshot;
        match snapshot.stage {
            Some(Stage::Begin(_)) if run >= state.run => {
                state.run = run;
                self.forget_gone(source);
                self.set_cut(source, false);
                self.turn(source, Phase::Snapshot);
                self.forget_seen(source);
            }
            Some(Stage::Chunk(chunk)) if tells => {
                for online in &chunk.users {
                    self.online(source, online);
                }
            }
            Some(Stage::End(_)) if tells => {
                self.forget_gone(source);
                if !mutation::is_off(Rule::DirectoryReconciliation) {
                    self.sweep(source, |place| !place.seen);
                }
                self.turn(source, Phase::Complete);
                self.figures.snapshots += 1;
            }
            _ => {}
        }
    }

    fn online(&mut self, source: u32, online: &UserOnline) {
        let (name, version) = (online.user_id.as_str(), online.version);
        let state = &mut self.sources[source as usize];
        if state.gone.get(name).is_some_and(|gone| *gone > version) {
            return;
        }
        let member = state.members.len() as u32;
        let at = self.index(name);
        if let Some(place) = at.and_then(|at| self.users[at as usize].on(source)) {
            place.seen = true;
            if version >= place.version {
                (place.version, place.connections) = (version, online.connections);
            }
            return;
        }
        if !self.has_room() {
            self.figures.refused += 1;
            self.set_cut(source, true);
            return;
        }
        let place = Place {
            source,
            seen: true,
            member,
            connections: online.connections,
            version,
        };
        let at = self.enter(at, name, place);
        self.sources[source as usize].members.push(at);
        self.figures.entries += 1;
    }

    fn offline(&mut self, source: u32, offline: UserOffline) {
        let at = self.index(&offline.user_id);
        if let Some(at) = at
            && let Some(place) = self.users[at as usize].on(source)
            && place.version <= offline.version
        {
            let member = place.member;
            self.remove(source, member);
        }
        if self.sources[source as usize].phase != Phase::Snapshot {
            return;
        }
        if !self.has_room() {
            // The snapshot may still name this user, who is gone.
            return self.set_cut(source, true);
        }
        let gone = &mut self.sources[source as usize].gone;
        let new = gone.insert(offline.user_id.into(), offline.version);
        self.gone += usize::from(new.is_none());
    }

    fn has_room(&self) -> bool {
        self.figures.entries + self.gone < self.most
    }

    fn set_cut(&mut self, source: u32, cut: bool) {
        let state = &mut self.sources[source as usize];
        let before = std::mem::replace(&mut state.cut, cut);
        self.figures.cut += usize::from(cut);
        self.figures.cut -= usize::from(before);
    }

    fn forget_gone(&mut self, source: u32) {
        let gone = std::mem::take(&mut self.sources[source as usize].gone);
        self.gone -= gone.len();
    }

    /// Whether changes that come on this connection count.
    fn listens(&self, source: u32, run: u64) -> bool {
        let state = &self.sources[source as usize];
        state.run == run && state.phase != Phase::Silent
    }

    fn source(&self, gateway: u32, shard: u32) -> Option<u32> {
        let known = self.gateways.get(&gateway)?;
        known.sources.get(shard as usize).copied()
    }

    /// Where a user would be on a gateway.
    fn source_of(&self, gateway: u32, user: &str) -> Option<&Source> {
        let known = self.gateways.get(&gateway)?;
        let shard = shard_of(user.as_bytes(), known.sources.len().max(1) as u32);
        let source = known.sources.get(shard as usize)?;
        self.sources.get(*source as usize)
    }

    fn turn(&mut self, source: u32, phase: Phase) {
        let state = &mut self.sources[source as usize];
        let before = std::mem::replace(&mut state.phase, phase);
        self.figures.complete += usize::from(phase == Phase::Complete);
        self.figures.complete -= usize::from(before == Phase::Complete);
    }

    fn forget_seen(&mut self, source: u32) {
        for at in &self.sources[source as usize].members {
            if let Some(place) = self.users[*at as usize].on(source) {
                place.seen = false;
            }
        }
    }

    /// Takes out the entries of a source that are `stale`.
    fn sweep(&mut self, source: u32, stale: impl Fn(&Place) -> bool) {
        // From the end: the last one takes the place of one that is taken out.
        for member in (0..self.sources[source as usize].members.len()).rev() {
            let at = self.sources[source as usize].members[member];
            let place = self.users[at as usize].on(source);
            if place.is_some_and(|place| stale(place)) {
                self.remove(source, member as u32);
            }
        }
        self.sources[source as usize].members.shrink_to_fit();
    }

    fn remove(&mut self, source: u32, member: u32) {
        let members = &mut self.sources[source as usize].members;
        let at = members.swap_remove(member as usize);
        if let Some(moved) = members.get(member as usize).copied()
            && let Some(place) = self.users[moved as usize].on(source)
        {
            place.member = member;
        }
        self.figures.entries -= 1;
        if !self.users[at as usize].leave(source) {
            let hash = self.hasher.hash_one(&*self.users[at as usize].name);
            if let Ok(entry) = self.table.find_entry(hash, |other| *other == at) {
                entry.remove();
            }
            self.users.remove(at as usize);
        }
    }

    fn index(&self, name: &str) -> Option<u32> {
        let same = |at: &u32| *self.users[*at as usize].name == *name;
        self.table.find(self.hasher.hash_one(name), same).copied()
    }

    fn enter(&mut self, known: Option<u32>, name: &str, place: Place) -> u32 {
        if let Some(at) = known {
            let more = &mut self.users[at as usize].more;
            let more = more.get_or_insert_default();
            more.reserve_exact(1);
            more.push(place);
            return at;
        }
        let user = User {
            name: name.into(),
            place,
            more: None,
        };
        let at = self.users.insert(user) as u32;
        let (users, hasher) = (&self.users, &self.hasher);
        let rehash = |at: &u32| hasher.hash_one(&*users[*at as usize].name);
        self.table.insert_unique(hasher.hash_one(name), at, rehash);
        at
    }
}

impl User {
    fn places(&self) -> impl Iterator<Item = &Place> {
        let more = self.more.iter().flat_map(|more| more.iter());
        std::iter::once(&self.place).chain(more)
    }

    fn on(&mut self, source: u32) -> Option<&mut Place> {
        let more = self.more.iter_mut().flat_map(|more| more.iter_mut());
        let mut places = std::iter::once(&mut self.place).chain(more);
        places.find(|place| place.source == source)
    }

    /// Takes out a place; says whether one is left.
    fn leave(&mut self, source: u32) -> bool {
        let Some(more) = &mut self.more else {
            return false;
        };
        more.retain(|place| place.source != source);
        if self.place.source == source
            && let Some(next) = more.pop()
        {
            self.place = next;
        }
        if more.is_empty() {
            self.more = None;
        }
        true
    }
}

impl Source {
    fn new(gateway: u32) -> Self {
        Self {
            gateway,
            run: 0,
            phase: Phase::Silent,
            cut: false,
            members: Vec::new(),
            gone: HashMap::new(),
        }
    }
}

#[cfg(test)]
mod tests;
