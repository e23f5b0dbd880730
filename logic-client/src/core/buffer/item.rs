//! One command on its way to one stream.

use std::ops::{AddAssign, SubAssign};
use std::time::Duration;

use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::message_request::Target;
use gateway_proto::v1::{self, Delivery, MessageRequest, ReceiptMode, subscribe};

use crate::core::again::Again;
use crate::core::receipts::Ticket;
use crate::push::{Priority, Push};

/// Bytes a command is counted with beyond its names and payload: what it takes in memory.
const ITEM_OVERHEAD: usize = 128;

/// Tells commands apart, and what each was split into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Numbers the commands of the client in the order of their calls; the parts of one command
    /// on several streams share it.
    pub(crate) order: u64,
    /// Into how many parts the command was split.
    pub(crate) parts: u32,
    /// How many of them went to this gateway.
    pub(crate) here: u32,
}

impl From<u64> for Stamp {
    /// A command that is whole.
    fn from(order: u64) -> Self {
        Self {
            order,
            parts: 1,
            here: 1,
        }
    }
}

/// One command on its way to one stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) stamp: Stamp,
    /// A push, subscribe, unsubscribe or disconnect.
    pub(crate) body: Body,
    /// When it is not worth sending any more.
    pub(crate) expires: Option<Duration>,
    /// Who waits for the receipt.
    pub(crate) ticket: Option<Ticket>,
    /// It was handed back before.
    pub(crate) again: Option<Box<Again>>,
    /// It was sent before, and what became of it is not known.
    pub(crate) doubtful: bool,
    size: usize,
    /// Its number on the wire; 0: none yet.
    pub(crate) sequence: u64,
    /// Its place among all commands the buffer ever took.
    pub(super) place: u64,
    /// Stands for target and conflation key, in the buffer it is in.
    pub(super) conflates: Option<u64>,
}

/// What is to be known of an [`Item`] when the command itself is kept elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Label {
    stamp: Stamp,
    pub(crate) expires: Option<Duration>,
    ticket: Option<Ticket>,
    again: Option<Box<Again>>,
    doubtful: bool,
    pub(crate) size: usize,
    pub(crate) sequence: u64,
    place: u64,
}

/// How much room commands take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Self) {
        self.items += other.items;
        self.bytes += other.bytes;
    }
}

impl SubAssign for Load {
    fn sub_assign(&mut self, other: Self) {
        self.items -= other.items;
        self.bytes -= other.bytes;
    }
}

impl Item {
    pub(crate) fn new(stamp: impl Into<Stamp>, body: Body, expires: Option<Duration>) -> Self {
        Self {
            size: size(&body),
            stamp: stamp.into(),
            body,
            expires,
            ticket: None,
            again: None,
            doubtful: false,
            sequence: 0,
            place: 0,
            conflates: None,
        }
    }

    /// Somebody waits for the receipt, with counts if nothing else was asked for.
    pub(crate) fn with_ticket(mut self, ticket: Ticket) -> Self {
        self.ticket = Some(ticket);
        if let Body::Push(push) = &mut self.body {
            let delivery = push.delivery.get_or_insert_default();
            if delivery.receipt() == ReceiptMode::Unspecified {
                delivery.set_receipt(ReceiptMode::Counts);
            }
        }
        self
    }

    /// Parts that other gateways had of it when it was pushed before.
    pub(crate) fn elsewhere(&self) -> u32 {
        let only = self.again.as_ref().and_then(|again| again.only.as_ref());
        only.map_or(0, |only| only.elsewhere)
    }

    /// The same command with another body, for one of several streams.
    pub(crate) fn part(&self, body: Body) -> Self {
        Self {
            ticket: self.ticket,
            again: self.again.clone(),
            doubtful: self.doubtful,
            ..Self::new(self.stamp, body, self.expires)
        }
    }

    /// The push as it was given; `None` for another command.
    pub(crate) fn into_push(self, now: Duration) -> Option<Push> {
        let Body::Push(mut request) = self.body else {
            return None;
        };
        if let Some(mut delivery) = request.delivery.take() {
            (delivery.ttl_ms, delivery.receipt) = (0, 0);
            request.delivery = Some(delivery).filter(|delivery| *delivery != Delivery::default());
        }
        let ttl = self.expires.map(|expires| expires.saturating_sub(now));
        let again = self.again;
        Some(Push {
            request,
            ttl,
            again,
        })
    }

    /// The push, with what it is to know when it is pushed again.
    pub(crate) fn into_returned(self, now: Duration, again: Again) -> Option<Push> {
        let again = Some(Box::new(again));
        Some(Push {
            again,
            ..self.into_push(now)?
        })
    }

    /// All of it but the command itself.
    pub(crate) fn label(&self) -> Label {
        Label {
            stamp: self.stamp,
            expires: self.expires,
            ticket: self.ticket,
            again: self.again.clone(),
            doubtful: self.doubtful,
            size: self.size,
            sequence: self.sequence,
            place: self.place,
        }
    }

    pub(crate) fn place(&self) -> u64 {
        self.place
    }

    pub(crate) fn load(&self) -> Load {
        Load {
            items: 1,
            bytes: self.size,
        }
    }

    /// How soon it gives way in a full buffer; `None`, for commands that are no pushes: never.
    pub(super) fn priority(&self) -> Option<Priority> {
        let Body::Push(push) = &self.body else {
            return None;
        };
        let delivery = push.delivery.as_ref();
        Some(match delivery.map(Delivery::priority) {
            Some(v1::Priority::Low) => Priority::Low,
            Some(v1::Priority::High) => Priority::High,
            _ => Priority::Normal,
        })
    }

    /// What it is sent to and its conflation key, if it has one.
    pub(super) fn conflation(&self) -> Option<(&Target, &str)> {
        let Body::Push(push) = &self.body else {
            return None;
        };
        let key = push.delivery.as_ref()?.conflation_key.as_str();
        let key = Some(key).filter(|key| !key.is_empty())?;
        Some((push.target.as_ref()?, key))
    }

    /// Whether what came before it must not be left out in favour of what comes after it, for
    /// other clients may get that.
    pub(super) fn parts_pushes(&self) -> bool {
        matches!(self.body, Body::Unsubscribe(_) | Body::Disconnect(_))
    }
}

impl Label {
    /// The item again.
    pub(crate) fn with(self, body: Body) -> Item {
        Item {
            stamp: self.stamp,
            body,
            expires: self.expires,
            ticket: self.ticket,
            again: self.again,
            doubtful: self.doubtful,
            size: self.size,
            sequence: self.sequence,
            place: self.place,
            conflates: None,
        }
    }

    pub(crate) fn place(&self) -> u64 {
        self.place
    }
}

/// A command that is no push, for people.
pub(crate) fn name(body: &Body) -> String {
    match body {
        Body::Subscribe(command) => format!("subscribe to {:?}", command.topic),
        Body::Unsubscribe(command) => format!("unsubscribe from {:?}", command.topic),
        Body::Disconnect(command) => format!("disconnect with {}", command.code),
        _ => "a command".to_owned(),
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
