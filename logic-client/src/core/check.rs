//! Finds what a gateway would refuse, before it costs a buffer's room or a stream.

use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::message_request::Target;
use gateway_proto::v1::{Limits, MessageRequest, disconnect, query, subscribe, unsubscribe};
use gateway_proto::{names, v1};

use crate::error::Invalid;

/// Longest close reason, in bytes (RFC 6455, section 5.5: 125 with the code).
const MAX_REASON_BYTES: usize = 123;

/// Room in a gRPC message beside payload and users: names, keys and field headers.
pub(crate) const ENVELOPE_BYTES: usize = 1024;

/// What all of several gateways take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Common {
    /// Longest gRPC message, in bytes.
    pub(crate) message: usize,
    /// Longest payload, in bytes.
    pub(crate) payload: usize,
    /// Most users in one push.
    pub(crate) users: usize,
}

impl Common {
    /// No limit but gRPC's usual 4 MiB.
    pub(crate) const NONE: Self = Self {
        message: 4 << 20,
        payload: (4 << 20) - ENVELOPE_BYTES,
        users: usize::MAX,
    };

    /// Narrows these limits to what one more gateway takes; an absent limit narrows nothing.
    pub(crate) fn narrow(&mut self, limits: &Limits) {
        let given = |limit: u32| (limit > 0).then_some(limit as usize);
        if let Some(message) = given(limits.max_message_bytes) {
            self.message = self.message.min(message);
        }
        if let Some(payload) = given(limits.max_payload_bytes) {
            self.payload = self.payload.min(payload);
        }
        if let Some(users) = given(limits.max_users_per_push) {
            self.users = self.users.min(users);
        }
        let room = self.message.saturating_sub(ENVELOPE_BYTES);
        self.payload = self.payload.min(room);
    }
}

pub(crate) fn check(body: &Body, limits: &Common) -> Result<(), Invalid> {
    match body {
        Body::Push(push) => check_push(push, limits),
        Body::Subscribe(v1::Subscribe { target, topic }) => {
            if let Some(subscribe::Target::UserId(user)) = target {
                name("a user", user)?;
            }
            name("a topic", topic)
        }
        Body::Unsubscribe(v1::Unsubscribe { target, topic }) => {
            if let Some(unsubscribe::Target::UserId(user)) = target {
                name("a user", user)?;
            }
            name("a topic", topic)
        }
        Body::Disconnect(v1::Disconnect { target, reason, .. }) => {
            if let Some(disconnect::Target::UserId(user)) = target {
                name("a user", user)?;
            }
            let bytes = reason.len();
            if bytes > MAX_REASON_BYTES {
                return Err(Invalid::ReasonTooLong { bytes });
            }
            Ok(())
        }
        Body::Query(v1::Query { question }) => match question {
            Some(query::Question::UserId(user)) => name("a user", user),
            Some(query::Question::Topic(topic)) => name("a topic", topic),
            Some(query::Question::Totals(_)) | None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn check_push(push: &MessageRequest, limits: &Common) -> Result<(), Invalid> {
    match &push.target {
        Some(Target::UserId(user)) => name("a user", user)?,
        Some(Target::Topic(topic)) => name("a topic", topic)?,
        Some(Target::Users(users)) => {
            if users.user_ids.is_empty() {
                return Err(Invalid::NoUsers);
            }
            for user in &users.user_ids {
                name("a user", user)?;
            }
        }
        _ => {}
    }
    if let Some(delivery) = &push.delivery
        && !delivery.conflation_key.is_empty()
    {
        name("a conflation key", &delivery.conflation_key)?;
    }
    let bytes = push.payload.len();
    if bytes > limits.payload {
        let max = limits.payload;
        return Err(Invalid::PayloadTooLarge { bytes, max });
    }
    Ok(())
}

fn name(what: &'static str, name: &str) -> Result<(), Invalid> {
    if names::is_valid_name(name) {
        return Ok(());
    }
    let bytes = name.len();
    Err(Invalid::Name { what, bytes })
}
