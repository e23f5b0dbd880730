//! What a logic service sends, checked and put into our own terms.

use std::borrow::Cow;

use gateway_proto::{
    UserId,
    names::MAX_NAME_BYTES,
    v1::{
        self, Priority as WirePriority, ReceiptMode, RejectReason, message_request::Target as Wire,
    },
};

use crate::{
    command::{Command, Delivery, PlainPush, Priority, Push, Question, Receipt, Target, Who},
    gateway::Gateway,
    identity::{ConnId, is_valid_name},
};

/// Why a command had no effect; the peer must act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// For programs.
    pub reason: RejectReason,
    /// For people.
    pub detail: Cow<'static, str>,
}

impl Rejection {
    /// A reason with what is allowed.
    pub fn new(reason: RejectReason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }

    /// The label in `ringway_rejected_total`.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self.reason {
            RejectReason::UnknownTarget => "unknown_target",
            RejectReason::InvalidName => "invalid_name",
            RejectReason::InvalidText => "invalid_text",
            RejectReason::TooLarge => "too_large",
            RejectReason::WrongShard => "wrong_shard",
            RejectReason::BadSequence => "bad_sequence",
            RejectReason::BadClose => "bad_close",
            RejectReason::UnknownFrame => "unknown_frame",
            RejectReason::Unsupported => "unsupported",
            RejectReason::Overloaded | RejectReason::Unspecified => "overloaded",
        }
    }
}

/// The rules of one gateway.
pub(super) struct Checks<'a> {
    gateway: &'a Gateway,
}

impl<'a> Checks<'a> {
    pub(super) fn new(gateway: &'a Gateway) -> Self {
        Self { gateway }
    }

    /// `counting`: the call has no receipts, whatever the message asks for.
    pub(super) fn push(
        &self,
        message: v1::MessageRequest,
        counting: bool,
    ) -> Result<Push, Rejection> {
        let text = message.kind != v1::PayloadKind::Binary as i32;
        self.payload(&message.payload, text)?;
        Ok(Push {
            target: self.target(message.target)?,
            payload: message.payload,
            text,
            delivery: delivery(message.delivery, counting)?,
        })
    }

    /// The same rules for what was not copied.
    pub(super) fn plain(&self, push: &PlainPush) -> Result<(), Rejection> {
        self.payload(push.payload(), push.is_text())?;
        match push.user().len() {
            1..=MAX_NAME_BYTES => Ok(()),
            len => Err(bad_name(len, "user_id")),
        }
    }

    /// A batch of `len` messages.
    pub(super) fn batch(&self, len: usize) -> Result<(), Rejection> {
        match self.gateway.config.limits.max_batch {
            max if len <= max => Ok(()),
            max => Err(too_large(format!(
                "batch of {len} messages, at most {max} allowed"
            ))),
        }
    }

    fn payload(&self, payload: &[u8], text: bool) -> Result<(), Rejection> {
        let (len, max) = (payload.len(), self.gateway.config.limits.max_payload_bytes);
        if len > max {
            return Err(too_large(format!(
                "payload of {len} bytes, at most {max} allowed"
            )));
        }
        if text && simdutf8::basic::from_utf8(payload).is_err() {
            let detail = "a TEXT payload must be UTF-8; send it as BINARY";
            return Err(Rejection::new(RejectReason::InvalidText, detail));
        }
        Ok(())
    }

    pub(super) fn subscribe(&self, message: v1::Subscribe) -> Result<Command, Rejection> {
        use v1::subscribe::Target;
        Ok(Command::Subscribe {
            who: match message.target {
                Some(Target::UserId(user)) => Who::User(name(user, "user_id")?),
                Some(Target::Connection(connection)) => self.connection(connection),
                None => return Err(no_target()),
            },
            topic: name(message.topic, "topic")?,
        })
    }

    pub(super) fn unsubscribe(&self, message: v1::Unsubscribe) -> Result<Command, Rejection> {
        use v1::unsubscribe::Target;
        Ok(Command::Unsubscribe {
            who: match message.target {
                Some(Target::UserId(user)) => Who::User(name(user, "user_id")?),
                Some(Target::Connection(connection)) => self.connection(connection),
                None => return Err(no_target()),
            },
            topic: name(message.topic, "topic")?,
        })
    }

    pub(super) fn disconnect(&self, message: v1::Disconnect) -> Result<Command, Rejection> {
        use v1::disconnect::Target;
        let who = match message.target {
            Some(Target::UserId(user)) => Who::User(name(user, "user_id")?),
            Some(Target::Connection(connection)) => self.connection(connection),
            None => return Err(no_target()),
        };
        let code = match message.code {
            0 => 1000,
            code @ (1000 | 1008 | 1011..=1013 | 3000..=4999) => code as u16,
            code => {
                let detail =
                    format!("close code {code}; allowed: 1000, 1008, 1011 to 1013, 3000 to 4999");
                return Err(Rejection::new(RejectReason::BadClose, detail));
            }
        };
        if message.reason.len() > MAX_CLOSE_REASON {
            let len = message.reason.len();
            let detail = format!("close reason of {len} bytes, at most {MAX_CLOSE_REASON} allowed");
            return Err(Rejection::new(RejectReason::BadClose, detail));
        }
        Ok(Command::Disconnect {
            who,
            code,
            reason: message.reason.into(),
        })
    }

    pub(super) fn query(&self, message: v1::Query) -> Result<Command, Rejection> {
        use v1::query::Question as Wire;
        let question = match message.question {
            Some(Wire::UserId(user)) => Question::User(name(user, "user_id")?),
            Some(Wire::Totals(_)) => Question::Totals,
            Some(Wire::Topic(topic)) => Question::Topic(name(topic, "topic")?),
            None => return Err(no_target()),
        };
        Ok(Command::Query { question, of: None })
    }

    fn target(&self, target: Option<Wire>) -> Result<Target, Rejection> {
        Ok(match target.ok_or_else(no_target)? {
            Wire::UserId(user) => Target::One(Who::User(name(user, "user_id")?)),
            Wire::Connection(connection) => Target::One(self.connection(connection)),
            Wire::Topic(topic) => Target::Topic(name(topic, "topic")?),
            Wire::Users(users) => Target::Users(self.users(users.user_ids)?),
            Wire::Everyone(_) => Target::Everyone,
        })
    }

    fn users(&self, mut users: Vec<UserId>) -> Result<Vec<UserId>, Rejection> {
        let max = self.gateway.config.limits.max_users_per_push;
        if users.len() > max {
            let len = users.len();
            return Err(too_large(format!("{len} users, at most {max} allowed")));
        }
        if users.is_empty() || !users.iter().all(|user| is_valid_name(user)) {
            let detail = "users: at least one, each a user id of 1 to 256 bytes";
            return Err(Rejection::new(RejectReason::InvalidName, detail));
        }
        // Whoever is named twice gets the message once.
        users.sort_unstable();
        users.dedup();
        Ok(users)
    }

    fn connection(&self, connection: v1::Connection) -> Who {
        if connection.epoch == self.gateway.epoch {
            Who::Conn(ConnId::from_wire(connection.id))
        } else {
            Who::Gone
        }
    }
}

/// RFC 6455, section 5.5: a control frame carries at most 125 bytes, two of them the code.
const MAX_CLOSE_REASON: usize = 123;

fn delivery(delivery: Option<v1::Delivery>, counting: bool) -> Result<Delivery, Rejection> {
    let Some(wire) = delivery else {
        return Ok(Delivery::default());
    };
    let receipt = match wire.receipt() {
        _ if counting => Receipt::None,
        ReceiptMode::Unspecified | ReceiptMode::None => Receipt::None,
        ReceiptMode::Counts => Receipt::Counts,
        ReceiptMode::Targets => Receipt::Targets,
    };
    let priority = match wire.priority() {
        WirePriority::Low => Priority::Low,
        WirePriority::Unspecified | WirePriority::Normal => Priority::Normal,
        WirePriority::High => Priority::High,
    };
    let conflation = match wire.conflation_key {
        key if key.is_empty() => None,
        key => Some(name(key, "conflation_key")?.into()),
    };
    Ok(Delivery {
        ttl_ms: wire.ttl_ms,
        priority,
        conflation,
        receipt,
    })
}

fn name(name: String, field: &str) -> Result<Box<str>, Rejection> {
    if is_valid_name(&name) {
        return Ok(name.into());
    }
    Err(bad_name(name.len(), field))
}

fn bad_name(len: usize, field: &str) -> Rejection {
    let detail = format!("{field} of {len} bytes; allowed: 1 to 256 bytes of UTF-8");
    Rejection::new(RejectReason::InvalidName, detail)
}

fn no_target() -> Rejection {
    let detail = "no target, or one that this gateway does not know";
    Rejection::new(RejectReason::UnknownTarget, detail)
}

fn too_large(detail: String) -> Rejection {
    Rejection::new(RejectReason::TooLarge, detail)
}
