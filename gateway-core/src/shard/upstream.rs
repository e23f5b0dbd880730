//! Which stream gets which client's events.
//!
//! Services are known by name from the first stream that receives for them. A user's events go to one stream of each
//! service, the same one until it ends; an anonymous connection counts as a user of its own. While a service has no
//! stream, its events wait within a bound.

use std::{collections::VecDeque, sync::Arc};

use gateway_proto::v1::gateway_frame::Body as Event;

use crate::{config, identity::ConnId, lanes::ReceiverRef};

/// The stream of one service that gets the events of one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    service: u16,
    receiver: ReceiverRef,
}

/// The services that a shard knows.
#[derive(Debug)]
pub struct Upstream {
    services: Vec<Service>,
    /// Events from before the first service; it gets them.
    unclaimed: Queue,
    limits: config::Upstream,
}

#[derive(Debug)]
struct Service {
    name: Arc<str>,
    receivers: Vec<Receiver>,
    /// Whose turn it is to get a new user.
    turn: usize,
    queue: Queue,
}

#[derive(Debug)]
struct Receiver {
    at: ReceiverRef,
    acks: bool,
    full: bool,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<(ConnId, Event)>,
    bytes: usize,
}

/// There is no stream for an event, and no room to keep it.
#[derive(Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Upstream {
    /// No service is known yet.
    pub fn new(limits: config::Upstream) -> Self {
        Self {
            services: Vec::new(),
            unclaimed: Queue::default(),
            limits,
        }
    }

    /// How many services there are. They are named by their index; new ones come at the end.
    pub fn services(&self) -> usize {
        self.services.len()
    }

    /// A stream wants the events of a service: what has waited for it, in order. `None`: there are too many services.
    pub fn receiver_up(
        &mut self,
        name: &Arc<str>,
        at: ReceiverRef,
        acks: bool,
    ) -> Option<(usize, VecDeque<(ConnId, Event)>)> {
        let service = self.enter(name)?;
        let state = &mut self.services[service];
        state.receivers.retain(|other| other.at != at);
        state.receivers.push(Receiver {
            at,
            acks,
            full: false,
        });
        Some((service, std::mem::take(&mut state.queue).events))
    }

    /// The stream is gone.
    pub fn receiver_down(&mut self, at: ReceiverRef) {
        for service in &mut self.services {
            service.receivers.retain(|other| other.at != at);
        }
    }

    /// The stream has no room, or has room again.
    pub fn set_full(&mut self, at: ReceiverRef, full: bool) {
        let services = self.services.iter_mut();
        for receiver in services.flat_map(|service| &mut service.receivers) {
            if receiver.at == at {
                receiver.full = full;
            }
        }
    }

    /// Whether the stream is there and has no room.
    pub fn is_full(&self, at: ReceiverRef) -> bool {
        let mut receivers = self.services.iter().flat_map(|service| &service.receivers);
        receivers.any(|receiver| receiver.at == at && receiver.full)
    }

    /// The stream of a service that gets the events of whoever has these assignments.
    pub fn pick(
        &mut self,
        service: usize,
        assignments: &mut Vec<Assignment>,
    ) -> Option<ReceiverRef> {
        let state = &mut self.services[service];
        let receivers = &state.receivers;
        let service = service as u16;
        let assigned = assignments.iter_mut().find(|of| of.service == service);
        if let Some(assigned) = &assigned
            && receivers.iter().any(|other| other.at == assigned.receiver)
        {
            return Some(assigned.receiver);
        }
        if receivers.is_empty() {
            return None;
        }
        // A stream with room, if there is one.
        let turn = state.turn;
        let order = (0..receivers.len()).map(|step| &receivers[(turn + step) % receivers.len()]);
        let chosen = order.clone().find(|receiver| !receiver.full);
        let receiver = chosen.or(order.clone().next())?.at;
        state.turn = (turn + 1) % receivers.len();
        match assigned {
            Some(assigned) => assigned.receiver = receiver,
            None => assignments.push(Assignment { service, receiver }),
        }
        Some(receiver)
    }

    /// The streams with these assignments that acknowledge what they have handled.
    pub fn acknowledging(&self, assignments: &[Assignment]) -> Vec<ReceiverRef> {
        let assigned = assignments.iter().map(|of| of.receiver);
        let acknowledges = |at: &ReceiverRef| {
            let mut receivers = self.services.iter().flat_map(|service| &service.receivers);
            receivers.any(|receiver| receiver.at == *at && receiver.acks)
        };
        assigned.filter(acknowledges).collect()
    }

    /// Keeps an event for a service without a stream; for the first service to come, if there is none yet.
    ///
    /// # Errors
    /// [`NoRoom`]: the bound was reached.
    pub fn keep(
        &mut self,
        service: Option<usize>,
        conn: ConnId,
        event: Event,
    ) -> Result<(), NoRoom> {
        let queue = match service {
            Some(service) => &mut self.services[service].queue,
            None => &mut self.unclaimed,
        };
        let bytes = queue.bytes + event.encoded_len();
        if bytes > self.limits.buffer_bytes || queue.events.len() >= self.limits.buffer_events {
            return Err(NoRoom);
        }
        queue.bytes = bytes;
        queue.events.push_back((conn, event));
        Ok(())
    }

    /// Bytes of all kept events.
    pub fn kept_bytes(&self) -> usize {
        let services = self.services.iter().map(|service| service.queue.bytes);
        self.unclaimed.bytes + services.sum::<usize>()
    }

    fn enter(&mut self, name: &Arc<str>) -> Option<usize> {
        let known = self
            .services
            .iter()
            .position(|service| service.name == *name);
        if known.is_some() {
            return known;
        }
        if self.services.len() >= self.limits.max_services {
            return None;
        }
        self.services.push(Service {
            name: name.clone(),
            receivers: Vec::new(),
            turn: 0,
            queue: std::mem::take(&mut self.unclaimed),
        });
        Some(self.services.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity::LinkId, lanes::StreamRef};
    use gateway_proto::v1::ClientMessage;

    fn receiver(stream: u32) -> ReceiverRef {
        let link = LinkId {
            slot: 0,
            generation: 0,
        };
        ReceiverRef {
            shard: 0,
            stream: StreamRef { link, stream },
        }
    }

    fn event() -> (ConnId, Event) {
        let message = ClientMessage {
            payload: vec![0; 100].into(),
            ..Default::default()
        };
        (ConnId::new(0, 1, 1), Event::Message(message))
    }

    fn upstream() -> Upstream {
        Upstream::new(config::Upstream {
            buffer_events: 3,
            max_services: 2,
            ..Default::default()
        })
    }

    #[test]
    fn a_user_keeps_its_stream_until_that_ends() {
        let mut upstream = upstream();
        let name: Arc<str> = "chat".into();
        let (service, _) = upstream.receiver_up(&name, receiver(1), false).unwrap();
        let mut assignments = Vec::new();
        assert_eq!(upstream.pick(service, &mut assignments), Some(receiver(1)));
        upstream.receiver_up(&name, receiver(3), false).unwrap();
        assert_eq!(upstream.pick(service, &mut assignments), Some(receiver(1)));
        upstream.receiver_down(receiver(1));
        assert_eq!(upstream.pick(service, &mut assignments), Some(receiver(3)));
        assert_eq!(assignments.len(), 1);
        upstream.receiver_down(receiver(3));
        assert_eq!(upstream.pick(service, &mut assignments), None);
    }

    #[test]
    fn new_users_are_spread_over_the_streams() {
        let mut upstream = upstream();
        let name: Arc<str> = "chat".into();
        for stream in [1, 3] {
            upstream
                .receiver_up(&name, receiver(stream), false)
                .unwrap();
        }
        let mut counts = [0, 0];
        for _ in 0..10 {
            let at = upstream.pick(0, &mut Vec::new()).unwrap();
            counts[usize::from(at == receiver(3))] += 1;
        }
        assert_eq!(counts, [5, 5]);
    }

    #[test]
    fn events_wait_for_the_first_service_within_a_bound() {
        let mut upstream = upstream();
        for _ in 0..3 {
            let (conn, event) = event();
            upstream.keep(None, conn, event).unwrap();
        }
        let (conn, one_more) = event();
        assert_eq!(upstream.keep(None, conn, one_more), Err(NoRoom));
        let up = upstream.receiver_up(&"chat".into(), receiver(1), false);
        assert_eq!(up.unwrap().1.len(), 3);
        assert_eq!(upstream.kept_bytes(), 0);
    }

    #[test]
    fn there_is_a_bound_on_services() {
        let mut upstream = upstream();
        for (name, expected) in [("a", true), ("b", true), ("c", false), ("a", true)] {
            let up = upstream.receiver_up(&name.into(), receiver(1), false);
            assert_eq!(up.is_some(), expected, "{name}");
        }
    }
}
