//! What a push has for clients: its frame, made once.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::outbox::Frame;
use crate::{
    command::{PlainPush, Priority, Push},
    ws::{Opcode, frames::Head},
};

/// A push, framed once for however many connections. Its payload stays where it is until it is copied into outboxes.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub(super) frame: Frame<'a>,
    pub(super) priority: Priority,
    pub(super) expires_ms: u64,
    pub(super) conflation: Option<&'a Arc<str>>,
}

impl<'a> Message<'a> {
    /// What a push has for clients.
    pub fn of(now: Duration, push: &'a Push) -> Self {
        let expires_ms = match push.delivery.ttl_ms {
            0 => u64::MAX,
            ttl => now.as_millis() as u64 + u64::from(ttl),
        };
        Self {
            frame: frame(push.text, &push.payload),
            priority: push.delivery.priority,
            expires_ms,
            conflation: push.delivery.conflation.as_ref(),
        }
    }

    /// The same, where the frame is shared by those who get it.
    pub fn of_shared(now: Duration, push: &'a Push, whole: Option<&'a Bytes>) -> Self {
        let mut message = Self::of(now, push);
        message.frame.whole = whole;
        message
    }

    /// The same of a plain one.
    pub fn of_plain(push: &'a PlainPush) -> Self {
        Self {
            frame: frame(push.is_text(), push.payload()),
            priority: Priority::Normal,
            expires_ms: u64::MAX,
            conflation: None,
        }
    }
}

fn frame(text: bool, payload: &[u8]) -> Frame<'_> {
    let opcode = if text { Opcode::Text } else { Opcode::Binary };
    Frame {
        head: Head::new(opcode, payload.len()),
        payload,
        whole: None,
    }
}

/// The frame of a push for `many` connections or users, if it is long enough to be shared by them: from `share_from` bytes of
/// payload on.
pub(super) fn shared_frame(push: &Push, many: usize, share_from: usize) -> Option<Bytes> {
    (many > 1 && push.payload.len() >= share_from).then(|| {
        let Frame { head, payload, .. } = frame(push.text, &push.payload);
        [head.bytes(), payload].concat().into()
    })
}
