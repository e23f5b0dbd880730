//! Those who have left while events of theirs are not acknowledged: their stream is remembered, so that they find it again
//! when they come back, and so that what is sent again goes to one stream.

use std::collections::HashMap;

use super::upstream::Assignments;
use crate::identity::ConnId;

/// Bounded by the unacknowledged events: each has at least one.
#[derive(Debug, Default)]
pub struct Leavers {
    conns: HashMap<ConnId, Leaver>,
    /// The last connection of each user among them.
    users: HashMap<Box<str>, ConnId>,
}

#[derive(Debug)]
struct Leaver {
    user: Option<Box<str>>,
    assignments: Assignments,
    /// Services that have still to acknowledge its last event.
    awaits: u32,
}

impl Leavers {
    /// The last connection of a user, or an anonymous one, has ended; `awaits` services have still to acknowledge that.
    pub fn leave(
        &mut self,
        conn: ConnId,
        user: Option<Box<str>>,
        assignments: Assignments,
        awaits: u32,
    ) {
        if let Some(user) = &user {
            self.users.insert(user.clone(), conn);
        }
        let leaver = Leaver {
            user,
            assignments,
            awaits,
        };
        self.conns.insert(conn, leaver);
    }

    /// A user has come back: its streams.
    pub fn come_back(&mut self, user: &str) -> Option<Assignments> {
        let conn = self.users.remove(user)?;
        self.conns.remove(&conn).map(|leaver| leaver.assignments)
    }

    /// The streams of somebody who has left.
    pub fn assignments(&mut self, conn: ConnId, user: Option<&str>) -> Option<&mut Assignments> {
        let conn = match user {
            Some(user) => *self.users.get(user)?,
            None => conn,
        };
        self.conns
            .get_mut(&conn)
            .map(|leaver| &mut leaver.assignments)
    }

    /// A service has acknowledged the last event of a connection, or will never do so.
    pub fn acknowledged(&mut self, conn: ConnId) {
        let Some(leaver) = self.conns.get_mut(&conn) else {
            return;
        };
        leaver.awaits = leaver.awaits.saturating_sub(1);
        if leaver.awaits == 0
            && let Some(Leaver {
                user: Some(user), ..
            }) = self.conns.remove(&conn)
            && self.users.get(&user) == Some(&conn)
        {
            self.users.remove(&user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_remembered_until_every_service_knows_that_it_left() {
        let mut leavers = Leavers::default();
        let conn = ConnId::new(0, 1, 1);
        leavers.leave(conn, Some("alice".into()), Assignments::new(), 2);
        leavers.acknowledged(conn);
        assert!(leavers.assignments(conn, Some("alice")).is_some());
        leavers.acknowledged(conn);
        assert!(leavers.assignments(conn, Some("alice")).is_none());
        assert!(leavers.conns.is_empty() && leavers.users.is_empty());
    }

    #[test]
    fn a_user_that_comes_back_takes_its_streams_along() {
        let mut leavers = Leavers::default();
        let (old, new) = (ConnId::new(0, 1, 1), ConnId::new(0, 1, 2));
        leavers.leave(old, Some("alice".into()), Assignments::new(), 1);
        assert!(leavers.come_back("alice").is_some());
        assert!(leavers.come_back("alice").is_none());
        leavers.leave(new, Some("alice".into()), Assignments::new(), 1);
        leavers.acknowledged(old);
        assert!(leavers.assignments(old, Some("alice")).is_some());
    }

    #[test]
    fn anonymous_connections_are_told_apart() {
        let mut leavers = Leavers::default();
        let (a, b) = (ConnId::new(0, 1, 1), ConnId::new(0, 2, 1));
        leavers.leave(a, None, Assignments::new(), 1);
        assert!(leavers.assignments(a, None).is_some());
        assert!(leavers.assignments(b, None).is_none());
    }
}
