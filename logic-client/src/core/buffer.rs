//! What one stream has not sent yet.

use std::collections::VecDeque;
use std::time::Duration;

use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::message_request::Target;
use gateway_proto::v1::{MessageRequest, subscribe};

use crate::core::receipts::Ticket;
use crate::push::Push;

/// Bytes a command is counted with beyond its names and payload: what it takes in memory.
const ITEM_OVERHEAD: usize = 128;

/// One command on its way to one stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    /// Numbers the commands of the client in the order of their calls; the parts of one command
    /// on several streams share it.
    pub(crate) stamp: u64,
    /// A push, subscribe, unsubscribe or disconnect.
    pub(crate) body: Body,
    /// When it is not worth sending any more.
    pub(crate) expires: Option<Duration>,
    /// Who waits for the receipt.
    pub(crate) ticket: Option<Ticket>,
    size: usize,
}

impl Item {
    pub(crate) fn new(stamp: u64, body: Body, expires: Option<Duration>) -> Self {
        Self {
            size: size(&body),
            stamp,
            body,
            expires,
            ticket: None,
        }
    }

    pub(crate) fn with_ticket(mut self, ticket: Ticket) -> Self {
        self.ticket = Some(ticket);
        self
    }

    /// The same command with another body, for one of several streams.
    pub(crate) fn part(&self, body: Body) -> Self {
        Self {
            ticket: self.ticket,
            ..Self::new(self.stamp, body, self.expires)
        }
    }

    /// The push, to hand it back; `None` for another command.
    pub(crate) fn into_push(self, now: Duration) -> Option<Push> {
        let Body::Push(request) = self.body else {
            return None;
        };
        let ttl = self.expires.map(|expires| expires.saturating_sub(now));
        Some(Push { request, ttl })
    }

    /// About how many bytes the command takes, in memory and on the wire.
    pub(crate) fn size(&self) -> usize {
        self.size
    }
}

/// How much a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

/// Commands in the order they are to be sent, bounded by number and bytes.
#[derive(Debug)]
pub(crate) struct Buffer {
    items: VecDeque<Item>,
    bytes: usize,
    bounds: Bounds,
    /// Commands ever put in; with this a caller can tell when "all so far" have left.
    pushed: u64,
}

/// What a stream took out of its buffer at once.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// To be sent.
    pub(crate) items: Vec<Item>,
    /// Too old to be sent.
    pub(crate) expired: Vec<Item>,
    /// The place of the last of them among all the buffer ever held.
    pub(crate) position: u64,
}

impl Buffer {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            items: VecDeque::new(),
            bytes: 0,
            bounds,
            pushed: 0,
        }
    }

    /// Whether `size` more bytes may come. An empty buffer takes any one command.
    pub(crate) fn has_room(&self, size: usize) -> bool {
        self.items.is_empty()
            || self.items.len() < self.bounds.items && self.bytes + size <= self.bounds.bytes
    }

    /// Puts a command at the end. The caller has asked for room, or moves commands of another
    /// buffer here that must not be lost.
    pub(crate) fn push(&mut self, item: Item) {
        self.bytes += item.size;
        self.pushed += 1;
        self.items.push_back(item);
    }

    /// Moves commands of together about `bytes` to `batch`: at least one, if there is any.
    pub(crate) fn take(&mut self, now: Duration, mut bytes: usize, batch: &mut Batch) {
        while let Some(item) = self.items.pop_front() {
            self.bytes -= item.size;
            if item.expires.is_some_and(|expires| expires <= now) {
                batch.expired.push(item);
                continue;
            }
            let size = item.size;
            batch.items.push(item);
            if size >= bytes {
                break;
            }
            bytes -= size;
        }
        batch.position = self.pushed - self.items.len() as u64;
    }

    /// Takes out everything.
    pub(crate) fn drain(&mut self) -> Vec<Item> {
        self.bytes = 0;
        std::mem::take(&mut self.items).into()
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Commands ever put in.
    pub(crate) fn pushed(&self) -> u64 {
        self.pushed
    }
}

fn size(body: &Body) -> usize {
    let variable = match body {
        Body::Push(push) => push.payload.len() + target_size(push),
        Body::Subscribe(subscribe) => {
            let user = match &subscribe.target {
                Some(subscribe::Target::UserId(user)) => user.len(),
                _ => 0,
            };
            user + subscribe.topic.len()
        }
        Body::Unsubscribe(unsubscribe) => unsubscribe.topic.len(),
        Body::Disconnect(disconnect) => disconnect.reason.len(),
        _ => 0,
    };
    variable + ITEM_OVERHEAD
}

fn target_size(push: &MessageRequest) -> usize {
    match &push.target {
        Some(Target::UserId(name) | Target::Topic(name)) => name.len(),
        Some(Target::Users(users)) => users.user_ids.iter().map(|user| user.len() + 24).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        items: 3,
        bytes: 1000,
    };

    fn item(stamp: u64, payload: usize, expires: Option<Duration>) -> Item {
        let push = Push::user("u").binary(vec![0; payload]);
        Item::new(stamp, Body::Push(push.request), expires)
    }

    fn take(buffer: &mut Buffer, now: Duration, bytes: usize) -> Batch {
        let mut batch = Batch::default();
        buffer.take(now, bytes, &mut batch);
        batch
    }

    #[test]
    fn is_full_by_number_and_by_bytes() {
        let mut buffer = Buffer::new(BOUNDS);
        for stamp in 0..3 {
            assert!(buffer.has_room(129));
            buffer.push(item(stamp, 0, None));
        }
        assert!(!buffer.has_room(129), "full by number");

        let mut buffer = Buffer::new(BOUNDS);
        buffer.push(item(0, 700, None));
        assert!(
            buffer.has_room(171) && !buffer.has_room(172),
            "full by bytes"
        );
    }

    #[test]
    fn an_empty_buffer_takes_a_command_larger_than_its_bound() {
        let mut buffer = Buffer::new(BOUNDS);
        assert!(buffer.has_room(5000), "otherwise it could never be sent");
        buffer.push(item(0, 5000, None));
        assert!(!buffer.has_room(1));
    }

    #[test]
    fn takes_in_order_up_to_the_bytes_asked_for() {
        let mut buffer = Buffer::new(BOUNDS);
        for stamp in 0..3 {
            buffer.push(item(stamp, 100, None));
        }
        let batch = take(&mut buffer, Duration::ZERO, 300);
        let stamps: Vec<_> = batch.items.iter().map(|item| item.stamp).collect();
        assert_eq!(stamps, [0, 1]);
        assert_eq!((batch.position, buffer.len()), (2, 1));
        assert_eq!(buffer.bytes(), 229);
    }

    #[test]
    fn what_is_too_old_is_set_apart() {
        let mut buffer = Buffer::new(BOUNDS);
        let second = Duration::from_secs(1);
        buffer.push(item(0, 0, Some(second)));
        buffer.push(item(1, 0, Some(second * 3)));
        let batch = take(&mut buffer, second * 2, 1000);
        assert_eq!((batch.expired.len(), batch.items.len()), (1, 1));
        assert_eq!((batch.position, buffer.bytes()), (2, 0));
    }
}
