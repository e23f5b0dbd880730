//! Who is connected: connections by slot, users by name.

use compact_str::CompactString;
use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;
use thin_vec::ThinVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{conn::Conn, upstream::Assignments};
use crate::{
    identity::{ConnId, MAX_SLOTS, ShardIndex},
    mutation::{self, Rule},
};

/// The connections of a shard.
#[derive(Debug)]
pub struct Conns {
    shard: ShardIndex,
    slab: Slab<Conn>,
    /// Of each slot, also of free ones: a stale id misses. Outside the slab, because looking at one must not cost a
    /// cache line of a connection.
    generations: Vec<u32>,
    /// Where the generations of new slots begin: random in each epoch.
    first_generation: u32,
    most: usize,
}

impl Conns {
    /// None yet; at most `most` at once.
    pub fn new(shard: ShardIndex, most: usize, seed: u64) -> Self {
        Self {
            shard,
            slab: Slab::new(),
            generations: Vec::new(),
            first_generation: seed as u32,
            most: most.min(MAX_SLOTS as usize),
        }
    }

    /// Takes a connection in, unless the shard is full.
    pub fn insert(&mut self, conn: Conn) -> Option<ConnId> {
        if self.slab.len() >= self.most {
            return None;
        }
        let slot = self.slab.insert(conn);
        if slot >= self.generations.len() {
            let spread = (slot as u32).wrapping_mul(0x9e37_79b9);
            self.generations
                .push(self.first_generation.wrapping_add(spread));
        }
        Some(self.id(slot))
    }

    /// Takes a connection out; its id finds nobody from now on.
    pub fn remove(&mut self, id: ConnId) -> Option<Conn> {
        self.contains(id).then(|| {
            let generation = &mut self.generations[id.slot()];
            *generation = generation.wrapping_add(1);
            self.slab.remove(id.slot())
        })
    }

    /// Whether the id is that of a connection of this shard that is still there.
    pub fn contains(&self, id: ConnId) -> bool {
        self.is_current(id) && self.slab.contains(id.slot())
    }

    /// Whether the id is the newest of its slot. This touches no connection.
    fn is_current(&self, id: ConnId) -> bool {
        id.shard() == self.shard
            && (self.generations.get(id.slot()) == Some(&id.generation())
                || mutation::is_off(Rule::GenerationCheck))
    }

    /// The connection, if it is still there.
    pub fn get(&self, id: ConnId) -> Option<&Conn> {
        let here = self.is_current(id);
        here.then(|| self.slab.get(id.slot())).flatten()
    }

    /// The connection, if it is still there.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        let here = self.is_current(id);
        here.then(|| self.slab.get_mut(id.slot())).flatten()
    }

    /// The connection that has a slot now.
    pub fn at(&self, slot: usize) -> Option<(ConnId, &Conn)> {
        self.slab.get(slot).map(|conn| (self.id(slot), conn))
    }

    /// Slots that may be filled are below this.
    pub fn slots(&self) -> usize {
        self.generations.len()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// The ids of all.
    pub fn ids(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.slab.iter().map(|(slot, _)| self.id(slot))
    }

    fn id(&self, slot: usize) -> ConnId {
        ConnId::new(self.shard, slot as u32, self.generations[slot])
    }
}

/// Hashes names for the tables of a shard. Seeded by itself: the top bits of `shard_of`'s hash are all alike on a shard,
/// and nobody outside may know which names fall together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names {
    seed: u64,
}

impl Names {
    /// `seed` is random in each epoch.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The hash of a name.
    pub fn hash(self, name: &[u8]) -> u64 {
        xxh3_64_with_seed(name, self.seed)
    }
}

/// A user's place in the table.
pub type UserIndex = u32;

/// Somebody with connections or subscriptions: a cache line, with up to 24 bytes of the name and two connections in it.
#[derive(Debug)]
#[repr(align(64))]
pub struct User {
    /// 1 to 256 bytes.
    pub id: CompactString,
    /// All of them, oldest first.
    pub conns: SmallVec<[ConnId; 2]>,
    /// Topics that all of them belong to.
    pub topics: ThinVec<u32>,
    /// The streams that get this user's events.
    pub assignments: Assignments,
}

/// The users of a shard.
#[derive(Debug, Default)]
pub struct Users {
    slab: Slab<User>,
    table: HashTable<UserIndex>,
    names: Names,
    online: usize,
    /// Indices that may be somebody's are below this.
    slots: usize,
}

impl Users {
    /// None yet.
    pub fn new(names: Names) -> Self {
        Self {
            names,
            ..Self::default()
        }
    }

    /// Finds a user.
    pub fn find(&self, id: &str) -> Option<UserIndex> {
        self.find_bytes(id.as_bytes())
    }

    /// Finds a user by the bytes of its name. What is no UTF-8 is nobody's name.
    pub fn find_bytes(&self, id: &[u8]) -> Option<UserIndex> {
        let same = |at: &UserIndex| self.slab[*at as usize].id.as_bytes() == id;
        self.table.find(self.names.hash(id), same).copied()
    }

    /// Finds or makes a user.
    pub fn enter(&mut self, id: &str) -> UserIndex {
        if let Some(found) = self.find(id) {
            return found;
        }
        let at = self.slab.insert(User {
            id: id.into(),
            conns: SmallVec::new(),
            topics: ThinVec::new(),
            assignments: Assignments::new(),
        }) as UserIndex;
        self.slots = self.slots.max(at as usize + 1);
        let (slab, names) = (&self.slab, self.names);
        let rehash = |at: &UserIndex| names.hash(slab[*at as usize].id.as_bytes());
        self.table
            .insert_unique(names.hash(id.as_bytes()), at, rehash);
        at
    }

    /// The user at an index that [`Users::find`] or [`Users::enter`] gave and that has not been left since.
    pub fn get(&self, at: UserIndex) -> &User {
        &self.slab[at as usize]
    }

    /// As [`Users::get`].
    pub fn get_mut(&mut self, at: UserIndex) -> &mut User {
        &mut self.slab[at as usize]
    }

    /// A connection of the user has come.
    pub fn add_conn(&mut self, at: UserIndex, conn: ConnId) {
        let user = &mut self.slab[at as usize];
        self.online += usize::from(user.conns.is_empty());
        user.conns.push(conn);
    }

    /// A connection of the user has gone.
    pub fn remove_conn(&mut self, at: UserIndex, conn: ConnId) {
        let user = &mut self.slab[at as usize];
        user.conns.retain(|other| *other != conn);
        self.online -= usize::from(user.conns.is_empty());
        self.tidy(at);
    }

    /// Forgets the user if nothing is left to remember.
    pub fn tidy(&mut self, at: UserIndex) {
        let user = &self.slab[at as usize];
        if user.conns.is_empty() && user.topics.is_empty() {
            let hash = self.names.hash(user.id.as_bytes());
            if let Ok(entry) = self.table.find_entry(hash, |other| *other == at) {
                entry.remove();
            }
            self.slab.remove(at as usize);
        }
    }

    /// Whoever has an index now.
    pub fn at(&self, index: usize) -> Option<&User> {
        self.slab.get(index)
    }

    /// Indices that may be somebody's are below this. It never falls.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Users with a connection.
    pub fn online(&self) -> usize {
        self.online
    }

    /// Users with subscriptions but without a connection.
    pub fn offline(&self) -> usize {
        self.slab.len() - self.online
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_id_misses_instead_of_hitting_a_stranger() {
        let mut conns = Conns::new(3, 10, 42);
        let old = conns.insert(Conn::for_tests()).unwrap();
        conns.remove(old).unwrap();
        let new = conns.insert(Conn::for_tests()).unwrap();
        assert_eq!(old.slot(), new.slot());
        assert!(conns.get(old).is_none());
        assert!(conns.remove(old).is_none());
        assert!(conns.get(new).is_some());
        let elsewhere = ConnId::new(4, new.slot() as u32, new.generation());
        assert!(conns.get(elsewhere).is_none());
    }

    #[test]
    fn a_user_is_a_cache_line() {
        assert_eq!(size_of::<User>(), 64);
        assert_eq!(size_of::<Option<User>>(), 64);
    }

    #[test]
    fn a_full_shard_takes_nobody() {
        let mut conns = Conns::new(0, 1, 0);
        assert!(conns.insert(Conn::for_tests()).is_some());
        assert!(conns.insert(Conn::for_tests()).is_none());
    }

    #[test]
    fn a_user_is_remembered_while_connected_or_subscribed() {
        let mut users = Users::default();
        let at = users.enter("alice");
        assert_eq!(users.enter("alice"), at);
        let conn = ConnId::new(0, 1, 1);
        users.add_conn(at, conn);
        users.get_mut(at).topics.push(7);
        users.remove_conn(at, conn);
        assert_eq!((users.find("alice"), users.offline()), (Some(at), 1));
        users.get_mut(at).topics.clear();
        users.tidy(at);
        assert_eq!((users.find("alice"), users.offline()), (None, 0));
    }
}
