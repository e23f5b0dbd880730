//! Which stream gets which client's events.
//!
//! Services are known by name from the first stream that receives for them. A user's events go to one stream of each
//! service, the same one until it ends; an anonymous connection counts as a user of its own. While a service has no
//! stream, its events wait within a bound; after a set time without one it is forgotten, if other services have theirs:
//! clients are not to suffer for a service that does not come back. While a stream of another shard has ended and what it had has not come back,
//! newer events of its users are held behind that.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use gateway_proto::v1::gateway_frame::Body as Event;
use thin_vec::ThinVec;

use super::kept::Kept;
use crate::{
    config,
    identity::ConnId,
    lanes::{ReceiverRef, Upward},
};

/// The stream of one service that gets the events of one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    service: u16,
    receiver: ReceiverRef,
}

/// The streams that get the events of one user: one for each service that has got any.
pub type Assignments = ThinVec<Assignment>;

/// The services that a shard knows.
#[derive(Debug)]
pub struct Upstream {
    /// Assignments name them by their place; one that was forgotten leaves its place to the next.
    services: Vec<Service>,
    /// Events from before the first service; it gets them.
    unclaimed: Kept,
    limits: config::Upstream,
}

#[derive(Debug)]
struct Service {
    /// `None`: forgotten.
    name: Option<Arc<str>>,
    /// Since when it has no stream, as far as anybody has looked.
    gone_since: Option<Duration>,
    receivers: Vec<Receiver>,
    /// Whose turn it is to get a new user.
    turn: usize,
    kept: Kept,
}

#[derive(Debug)]
struct Receiver {
    at: ReceiverRef,
    acks: bool,
    full: bool,
    /// It has ended, and what it had is on its way back.
    ended: bool,
    /// What comes behind that.
    held: VecDeque<Upward>,
}

/// Where an event goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// No stream is there.
    Nobody,
    /// To this stream.
    Stream {
        /// Which.
        receiver: ReceiverRef,
        /// It acknowledges what it has handled.
        acks: bool,
    },
    /// Behind what this stream had, which is on its way back.
    Behind(ReceiverRef),
}

/// There is no stream for an event, and no room to keep it.
#[derive(Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Upstream {
    /// No service is known yet.
    pub fn new(limits: config::Upstream) -> Self {
        Self {
            services: Vec::new(),
            unclaimed: Kept::default(),
            limits,
        }
    }

    /// The first service with this index or a higher one. Services are named by their index.
    pub fn service_from(&self, index: usize) -> Option<usize> {
        let mut rest = self.services.iter().skip(index);
        let ahead = rest.position(|service| service.name.is_some())?;
        Some(index + ahead)
    }

    /// Notes which services have no stream. Forgets one for which that is so for too long, if another one has: what was
    /// kept for it.
    pub fn forget_gone(&mut self, now: Duration) -> Option<Kept> {
        for service in &mut self.services {
            let gone = service.receivers.is_empty();
            service.gone_since = gone.then(|| service.gone_since.unwrap_or(now));
        }
        let (at, _) = self.next_forgotten().filter(|(_, due)| *due <= now)?;
        let service = &mut self.services[at];
        service.name = None;
        Some(std::mem::take(&mut service.kept))
    }

    /// When [`Upstream::forget_gone`] forgets the next one.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.next_forgotten().map(|(_, due)| due)
    }

    /// A stream wants the events of a service: what has waited for it, in order. `None`: there are too many services.
    pub fn receiver_up(
        &mut self,
        name: &Arc<str>,
        at: ReceiverRef,
        acks: bool,
    ) -> Option<(usize, Kept)> {
        let service = self.enter(name)?;
        let state = &mut self.services[service];
        state.gone_since = None;
        state.receivers.retain(|other| other.at != at);
        state.receivers.push(Receiver {
            at,
            acks,
            full: false,
            ended: false,
            held: VecDeque::new(),
        });
        Some((service, std::mem::take(&mut state.kept)))
    }

    /// The stream is gone, and what it had was given back: its service, and what was held behind that.
    pub fn receiver_down(&mut self, at: ReceiverRef) -> Option<(usize, VecDeque<Upward>)> {
        self.services
            .iter_mut()
            .enumerate()
            .find_map(|(index, service)| {
                let found = service.receivers.iter().position(|other| other.at == at)?;
                Some((index, service.receivers.remove(found).held))
            })
    }

    /// The stream has ended, and what it had is on its way back.
    pub fn receiver_ended(&mut self, at: ReceiverRef) {
        if let Some(receiver) = self.receiver(at) {
            receiver.ended = true;
        }
    }

    /// Puts something behind what a stream that has ended had.
    pub fn hold(&mut self, at: ReceiverRef, item: Upward) {
        if let Some(receiver) = self.receiver(at) {
            receiver.held.push_back(item);
        }
    }

    /// The stream has no room, or has room again.
    pub fn set_full(&mut self, at: ReceiverRef, full: bool) {
        if let Some(receiver) = self.receiver(at) {
            receiver.full = full;
        }
    }

    /// Whether the stream has no room, or has ended and is not forgotten.
    pub fn is_full(&self, at: ReceiverRef) -> bool {
        let mut receivers = self.services.iter().flat_map(|service| &service.receivers);
        receivers.any(|receiver| receiver.at == at && (receiver.full || receiver.ended))
    }

    /// The stream of a service that gets the events of whoever has these assignments.
    pub fn pick(&mut self, service: usize, assignments: &mut Assignments) -> Pick {
        let state = &mut self.services[service];
        let receivers = &state.receivers;
        let service = service as u16;
        let assigned = assignments.iter_mut().find(|of| of.service == service);
        let known = assigned.as_ref().and_then(|assigned| {
            let mut receivers = receivers.iter();
            receivers.find(|receiver| receiver.at == assigned.receiver)
        });
        match known {
            Some(known) if known.ended => return Pick::Behind(known.at),
            Some(known) => return known.pick(),
            None => {}
        }
        // A stream with room, if there is one.
        let turn = state.turn;
        let order = (0..receivers.len()).map(|step| &receivers[(turn + step) % receivers.len()]);
        let mut order = order.filter(|receiver| !receiver.ended).peekable();
        let first = order.peek().copied();
        let Some(chosen) = order.find(|receiver| !receiver.full).or(first) else {
            return Pick::Nobody;
        };
        let (receiver, pick) = (chosen.at, chosen.pick());
        state.turn = (turn + 1) % receivers.len();
        match assigned {
            Some(assigned) => assigned.receiver = receiver,
            None => assignments.push(Assignment { service, receiver }),
        }
        pick
    }

    /// The streams with these assignments that acknowledge what they have handled.
    pub fn acknowledging(&self, assignments: &[Assignment]) -> Vec<ReceiverRef> {
        let assigned = assignments.iter().map(|of| of.receiver);
        let acknowledges = |at: &ReceiverRef| {
            let mut receivers = self.services.iter().flat_map(|service| &service.receivers);
            receivers.any(|receiver| receiver.at == *at && receiver.acks && !receiver.ended)
        };
        assigned.filter(acknowledges).collect()
    }

    /// Keeps an event for a service without a stream; for the first service to come, if there is none yet. `again`: it was
    /// taken already, and was within the bounds of its stream.
    ///
    /// # Errors
    /// [`NoRoom`]: the bound was reached.
    pub fn keep(
        &mut self,
        service: Option<usize>,
        conn: ConnId,
        event: &Event,
        again: bool,
    ) -> Result<(), NoRoom> {
        let kept = match service {
            Some(service) => &mut self.services[service].kept,
            None => &mut self.unclaimed,
        };
        let limits = &self.limits;
        let bytes = kept.bytes() + event.encoded_len();
        let full = bytes > limits.buffer_bytes || kept.len() >= limits.buffer_events;
        if full && !again {
            return Err(NoRoom);
        }
        kept.push(conn, event, again);
        Ok(())
    }

    /// What is held, how much of it, and how much may be.
    pub fn held(&self) -> impl Iterator<Item = (&'static str, usize, usize)> + '_ {
        let limits = &self.limits;
        let all = self.services.iter().map(|service| &service.kept);
        let queues = all.chain([&self.unclaimed]).flat_map(|kept| {
            let (events, bytes) = kept.new_ones();
            [
                ("events kept for a service", events, limits.buffer_events),
                ("bytes kept for a service", bytes, limits.buffer_bytes),
            ]
        });
        let services = ("services", self.services.len(), limits.max_services);
        queues.chain([services])
    }

    /// Bytes of all kept events.
    pub fn kept_bytes(&self) -> usize {
        let services = self.services.iter().map(|service| service.kept.bytes());
        self.unclaimed.bytes() + services.sum::<usize>()
    }

    fn receiver(&mut self, at: ReceiverRef) -> Option<&mut Receiver> {
        let services = self.services.iter_mut();
        let mut receivers = services.flat_map(|service| &mut service.receivers);
        receivers.find(|receiver| receiver.at == at)
    }

    fn enter(&mut self, name: &Arc<str>) -> Option<usize> {
        let known = self
            .services
            .iter()
            .position(|service| service.name.as_ref() == Some(name));
        if known.is_some() {
            return known;
        }
        let mut services = self.services.iter();
        let free = services.position(|service| service.name.is_none());
        let at = free.unwrap_or(self.services.len());
        if at >= self.limits.max_services {
            return None;
        }
        let service = Service {
            name: Some(name.clone()),
            gone_since: None,
            receivers: Vec::new(),
            turn: 0,
            kept: std::mem::take(&mut self.unclaimed),
        };
        match self.services.get_mut(at) {
            Some(forgotten) => *forgotten = service,
            None => self.services.push(service),
        }
        Some(at)
    }

    /// The service that is forgotten next, and when. While none has a stream, none is: the first that comes back gets what
    /// was kept.
    fn next_forgotten(&self) -> Option<(usize, Duration)> {
        let mut known = self.services.iter();
        known.find(|service| !service.receivers.is_empty())?;
        let patience = Duration::from_millis(self.limits.forget_service_ms);
        let named = self.services.iter().enumerate();
        let named = named.filter(|(_, service)| service.name.is_some());
        let due = named.filter_map(|(at, service)| Some((at, service.gone_since? + patience)));
        due.min_by_key(|(_, due)| *due)
    }
}

impl Receiver {
    fn pick(&self) -> Pick {
        Pick::Stream {
            receiver: self.at,
            acks: self.acks,
        }
    }
}

#[cfg(test)]
#[path = "upstream_tests.rs"]
mod tests;
