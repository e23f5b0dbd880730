//! Subscriptions: who belongs to which topic.

use gateway_proto::v1::RejectReason;

use super::{Shard, registry::UserIndex, route::Done, topics::TooMany};
use crate::{command::Who, link::Rejection};

impl Shard {
    pub(super) fn subscribe(&mut self, who: &Who, topic: &str) -> Done {
        let added = match who {
            Who::User(user) => {
                let limit = self.gateway.config.limits.max_offline_users;
                let known = self.users.find(user);
                if known.is_none() && self.users.offline() >= limit {
                    Err(TooMany)
                } else {
                    let user = self.users.enter(user);
                    let added = self
                        .topics
                        .add_user(&mut self.users, &mut self.conns, user, topic);
                    self.users.tidy(user);
                    added
                }
            }
            Who::Conn(conn) => self.topics.add_conn(&mut self.conns, *conn, topic),
            Who::Gone => Ok(()),
        };
        self.metrics.topics.set(self.topics.len() as u64);
        match added {
            Ok(()) => Done::Taken,
            Err(TooMany) => {
                let detail = "a bound on topics was reached: limits.max_topics, limits.max_topics_per_user or limits.max_offline_users";
                Done::Refused(Rejection::new(RejectReason::Overloaded, detail))
            }
        }
    }

    /// A connection of the user has gone. If it was the last one, and too many are remembered already, the user loses its
    /// subscriptions: whoever comes back is subscribed again by its service, and memory stays bounded.
    pub(super) fn bound_offline_users(&mut self, user: UserIndex) {
        if self.users.offline() > self.gateway.config.limits.max_offline_users {
            self.topics.user_goes(&mut self.users, user);
            self.users.tidy(user);
            self.metrics.subscribers_forgotten.add(1);
        }
    }

    pub(super) fn unsubscribe(&mut self, who: &Who, topic: &str) {
        match who {
            Who::User(user) => {
                if let Some(user) = self.users.find(user) {
                    let (users, conns) = (&mut self.users, &mut self.conns);
                    self.topics.remove_user(users, conns, user, topic);
                    self.users.tidy(user);
                }
            }
            Who::Conn(conn) => self.topics.remove_conn(&mut self.conns, *conn, topic),
            Who::Gone => {}
        }
        self.metrics.topics.set(self.topics.len() as u64);
    }
}
