//! Topics: named sets of connections.
//!
//! A connection belongs to a topic on its own account, on its user's, or on both; it leaves when neither holds.

use hashbrown::HashTable;
use slab::Slab;

use super::registry::{Conns, Names, UserIndex, Users};
use crate::identity::ConnId;

/// The topics of a shard.
#[derive(Debug)]
pub struct Topics {
    slab: Slab<Topic>,
    table: HashTable<u32>,
    names: Names,
    most: usize,
    most_per_user: usize,
}

#[derive(Debug)]
struct Topic {
    name: Box<str>,
    members: Vec<ConnId>,
    /// Users that belong to it, connected or not.
    users: u32,
}

/// A connection's place in a topic.
#[derive(Clone, Copy, Debug)]
pub struct Membership {
    topic: u32,
    position: u32,
    /// The connection was added by itself.
    pub own: bool,
    of_user: bool,
}

/// A bound on topics was reached.
#[derive(Debug, PartialEq, Eq)]
pub struct TooMany;

impl Topics {
    /// None yet; at most `most`, and at most `most_per_user` for a user or a connection.
    pub fn new(names: Names, most: usize, most_per_user: usize) -> Self {
        Self {
            slab: Slab::new(),
            table: HashTable::new(),
            names,
            most,
            most_per_user,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// The members of a topic; none if nobody knows it.
    pub fn members(&self, name: &str) -> &[ConnId] {
        self.find(name)
            .map_or(&[], |at| &self.slab[at as usize].members)
    }

    /// Adds a user, with all present and coming connections.
    ///
    /// # Errors
    /// [`TooMany`]: there is no room for another topic, or for another one of this user.
    pub fn add_user(
        &mut self,
        users: &mut Users,
        conns: &mut Conns,
        user: UserIndex,
        name: &str,
    ) -> Result<(), TooMany> {
        let known = self.find(name);
        let of_user = &users.get(user).topics;
        if known.is_some_and(|topic| of_user.contains(&topic)) {
            return Ok(());
        }
        if of_user.len() >= self.most_per_user {
            return Err(TooMany);
        }
        let topic = self.enter(known, name)?;
        self.slab[topic as usize].users += 1;
        users.get_mut(user).topics.push(topic);
        for &conn in &users.get(user).conns {
            self.join(conns, conn, topic, false);
        }
        Ok(())
    }

    /// Takes a user out; connections that were added by themselves stay.
    pub fn remove_user(
        &mut self,
        users: &mut Users,
        conns: &mut Conns,
        user: UserIndex,
        name: &str,
    ) {
        let Some(topic) = self.find(name) else {
            return;
        };
        let of_user = &mut users.get_mut(user).topics;
        let Some(at) = of_user.iter().position(|other| *other == topic) else {
            return;
        };
        of_user.swap_remove(at);
        for &conn in &users.get(user).conns {
            self.leave(conns, conn, topic, false);
        }
        self.slab[topic as usize].users -= 1;
        self.tidy(topic);
    }

    /// Takes a user without connections out of all topics.
    pub fn user_goes(&mut self, users: &mut Users, user: UserIndex) {
        while let Some(topic) = users.get_mut(user).topics.pop() {
            self.slab[topic as usize].users -= 1;
            self.tidy(topic);
        }
    }

    /// Adds one connection.
    ///
    /// # Errors
    /// [`TooMany`]: there is no room for another topic, or for another one of this connection.
    pub fn add_conn(&mut self, conns: &mut Conns, conn: ConnId, name: &str) -> Result<(), TooMany> {
        let known = self.find(name);
        let Some(state) = conns.get(conn) else {
            return Ok(());
        };
        let own = state.memberships.iter().filter(|of| of.own).count();
        if own >= self.most_per_user {
            return Err(TooMany);
        }
        let topic = self.enter(known, name)?;
        self.join(conns, conn, topic, true);
        Ok(())
    }

    /// Takes one connection out; it stays if its user belongs to the topic.
    pub fn remove_conn(&mut self, conns: &mut Conns, conn: ConnId, name: &str) {
        if let Some(topic) = self.find(name) {
            self.leave(conns, conn, topic, true);
            self.tidy(topic);
        }
    }

    /// A connection of a user has come: it joins the user's topics.
    pub fn conn_came(&mut self, users: &Users, conns: &mut Conns, user: UserIndex, conn: ConnId) {
        for &topic in &users.get(user).topics {
            self.join(conns, conn, topic, false);
        }
    }

    /// A connection is going: it leaves everything.
    pub fn conn_goes(&mut self, conns: &mut Conns, conn: ConnId) {
        while let Some(of) = conns
            .get(conn)
            .and_then(|conn| conn.memberships.last().copied())
        {
            self.leave(conns, conn, of.topic, true);
            self.leave(conns, conn, of.topic, false);
            self.tidy(of.topic);
        }
    }

    fn find(&self, name: &str) -> Option<u32> {
        let same = |at: &u32| *self.slab[*at as usize].name == *name;
        self.table
            .find(self.names.hash(name.as_bytes()), same)
            .copied()
    }

    fn enter(&mut self, known: Option<u32>, name: &str) -> Result<u32, TooMany> {
        if let Some(topic) = known {
            return Ok(topic);
        }
        if self.slab.len() >= self.most {
            return Err(TooMany);
        }
        let topic = self.slab.insert(Topic {
            name: name.into(),
            members: Vec::new(),
            users: 0,
        }) as u32;
        let (slab, names) = (&self.slab, self.names);
        let rehash = |at: &u32| names.hash(slab[*at as usize].name.as_bytes());
        self.table
            .insert_unique(names.hash(name.as_bytes()), topic, rehash);
        Ok(topic)
    }

    fn join(&mut self, conns: &mut Conns, id: ConnId, topic: u32, own: bool) {
        let Some(conn) = conns.get_mut(id) else {
            return;
        };
        if let Some(of) = conn.memberships.iter_mut().find(|of| of.topic == topic) {
            of.own |= own;
            of.of_user |= !own;
            return;
        }
        let members = &mut self.slab[topic as usize].members;
        conn.memberships.push(Membership {
            topic,
            position: members.len() as u32,
            own,
            of_user: !own,
        });
        members.push(id);
    }

    fn leave(&mut self, conns: &mut Conns, id: ConnId, topic: u32, own: bool) {
        let Some(conn) = conns.get_mut(id) else {
            return;
        };
        let Some(at) = conn.memberships.iter().position(|of| of.topic == topic) else {
            return;
        };
        let of = &mut conn.memberships[at];
        if own {
            of.own = false;
        } else {
            of.of_user = false;
        }
        if of.own || of.of_user {
            return;
        }
        let of = conn.memberships.swap_remove(at);
        let members = &mut self.slab[topic as usize].members;
        members.swap_remove(of.position as usize);
        // The last member has taken the place.
        if let Some(&moved) = members.get(of.position as usize)
            && let Some(moved) = conns.get_mut(moved)
            && let Some(place) = moved.memberships.iter_mut().find(|of| of.topic == topic)
        {
            place.position = of.position;
        }
    }

    fn tidy(&mut self, topic: u32) {
        let Some(state) = self.slab.get(topic as usize) else {
            return;
        };
        if state.users == 0 && state.members.is_empty() {
            let hash = self.names.hash(state.name.as_bytes());
            if let Ok(entry) = self.table.find_entry(hash, |other| *other == topic) {
                entry.remove();
            }
            self.slab.remove(topic as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::conn::Conn;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn user_and_connection_subscriptions_are_kept_apart() {
        let (mut users, mut conns) = (Users::default(), Conns::new(0, 10, 1));
        let mut topics = Topics::new(Names::default(), 10, 10);
        let (user, conn) = (users.enter("u"), conns.insert(Conn::for_tests()).unwrap());
        users.add_conn(user, conn);
        topics.add_user(&mut users, &mut conns, user, "t").unwrap();
        topics.add_conn(&mut conns, conn, "t").unwrap();
        assert_eq!(topics.members("t"), [conn]);
        topics.remove_user(&mut users, &mut conns, user, "t");
        assert_eq!(topics.members("t"), [conn]);
        topics.remove_conn(&mut conns, conn, "t");
        assert_eq!((topics.members("t").len(), topics.len()), (0, 0));
    }

    #[test]
    fn a_users_later_connections_join_too() {
        let (mut users, mut conns) = (Users::default(), Conns::new(0, 10, 1));
        let mut topics = Topics::new(Names::default(), 10, 10);
        let user = users.enter("u");
        topics.add_user(&mut users, &mut conns, user, "t").unwrap();
        let conn = conns.insert(Conn::for_tests()).unwrap();
        users.add_conn(user, conn);
        topics.conn_came(&users, &mut conns, user, conn);
        assert_eq!(topics.members("t"), [conn]);
        topics.conn_goes(&mut conns, conn);
        assert_eq!((topics.members("t").len(), topics.len()), (0, 1));
    }

    #[test]
    fn bounds_refuse_one_more() {
        let mut conns = Conns::new(0, 10, 1);
        let conn = conns.insert(Conn::for_tests()).unwrap();
        let mut topics = Topics::new(Names::default(), 2, 1);
        topics.add_conn(&mut conns, conn, "a").unwrap();
        assert_eq!(topics.add_conn(&mut conns, conn, "b"), Err(TooMany));
        assert_eq!(topics.len(), 1);
    }

    proptest! {
        /// Any joining and leaving gives the same members as plain sets do.
        #[test]
        fn members_are_those_of_a_plain_set(steps in prop::collection::vec((any::<bool>(), 0_usize..6, 0_usize..4), 0..200)) {
            let mut conns = Conns::new(0, 10, 1);
            let ids: Vec<_> = (0..6).map(|_| conns.insert(Conn::for_tests()).unwrap()).collect();
            let (mut topics, mut model) = (Topics::new(Names::default(), 10, 10), vec![BTreeSet::new(); 4]);
            for (join, conn, topic) in steps {
                let name = format!("topic {topic}");
                if join {
                    topics.add_conn(&mut conns, ids[conn], &name).unwrap();
                    model[topic].insert(ids[conn]);
                } else {
                    topics.remove_conn(&mut conns, ids[conn], &name);
                    model[topic].remove(&ids[conn]);
                }
                for (topic, expected) in model.iter().enumerate() {
                    let members = topics.members(&format!("topic {topic}"));
                    prop_assert_eq!(&members.iter().copied().collect::<BTreeSet<_>>(), expected);
                    prop_assert_eq!(members.len(), expected.len());
                }
            }
        }
    }
}
