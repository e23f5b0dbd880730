//! What services want, as gateways and meshes are told.

use std::time::Duration;

use gateway_proto::v1::{self, logic_frame::Body as Down, message_request as target};
use logic_client::{Kind, Priority, Push};

use super::Wanted;
use crate::simulate::{context::Context, oracle::Target};

/// A user joins a topic.
pub fn subscribe(user: u32, topic: u32) -> Down {
    Down::Subscribe(v1::Subscribe {
        target: Some(v1::subscribe::Target::UserId(crate::simulate::user(user))),
        topic: crate::simulate::topic(topic),
    })
}

/// A push on the wire.
pub fn request(context: &Context, wanted: &Wanted, id: usize) -> v1::MessageRequest {
    let target = match &wanted.target {
        Target::User(user) => target::Target::UserId(crate::simulate::user(*user)),
        Target::Users(users) => target::Target::Users(v1::Users {
            user_ids: users
                .iter()
                .map(|user| crate::simulate::user(*user).into())
                .collect(),
        }),
        Target::Topic(topic) => target::Target::Topic(crate::simulate::topic(*topic)),
        Target::Everyone => target::Target::Everyone(v1::Everyone {}),
        Target::Connection(connection) => target::Target::Connection(named(context, *connection)),
    };
    let mut delivery = v1::Delivery {
        ttl_ms: wanted.ttl_ms,
        conflation_key: wanted.key.map(|key| format!("k{key}")).unwrap_or_default(),
        ..Default::default()
    };
    if wanted.low {
        delivery.set_priority(v1::Priority::Low);
    }
    if wanted.confirmed {
        delivery.set_receipt(v1::ReceiptMode::Counts);
    }
    v1::MessageRequest {
        target: Some(target),
        payload: crate::simulate::payload(id, wanted.size).into(),
        delivery: Some(delivery),
        ..Default::default()
    }
}

impl Wanted {
    /// As `logic-client` takes it, with the number that its payload begins with; `named` tells what the gateway calls a
    /// connection.
    pub fn push(&self, id: usize, named: impl FnOnce(u32) -> v1::Connection) -> Push {
        let push = match &self.target {
            Target::User(user) => Push::user(crate::simulate::user(*user)),
            Target::Users(users) => Push::users(users.iter().copied().map(crate::simulate::user)),
            Target::Topic(topic) => Push::topic(crate::simulate::topic(*topic)),
            Target::Everyone => Push::everyone(),
            Target::Connection(connection) => Push::connection(named(*connection).into()),
        };
        let mut push = push.payload(Kind::Text, crate::simulate::payload(id, self.size));
        if self.ttl_ms > 0 {
            push = push.ttl(Duration::from_millis(self.ttl_ms.into()));
        }
        if let Some(key) = self.key {
            push = push.conflate(format!("k{key}"));
        }
        if self.low {
            push = push.priority(Priority::Low);
        }
        push
    }
}

/// What the gateway calls a connection that a service may have seen.
pub fn named(context: &Context, connection: u32) -> v1::Connection {
    let conn = context.oracle.down.conn(connection);
    let (epoch, id) = conn.map_or((1, 1), |conn| (conn.epoch, conn.id));
    v1::Connection { epoch, id }
}
