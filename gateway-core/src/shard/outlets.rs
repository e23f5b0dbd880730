//! The streams of this shard that receive clients' events: under which name, and what becomes of what they had when they
//! end.
//!
//! A stream that takes the place of another one keeps that one's name, so nobody else notices. When a stream ends, what
//! it had and was not acknowledged goes back to the shards it came from, each of which assigns it anew, in order and before
//! anything newer of the same users. Another shard may have sent more meanwhile: it gets everything back once it has said
//! that it sends no more.

use std::{collections::HashMap, sync::Arc, time::Duration};

use h2_stream::StreamId;

use super::{Shard, greeting::stream_ref};
use crate::{
    identity::{LinkId, ShardIndex},
    lanes::{Notice, ReceiverRef, RemoteEvent, StreamRef, Upward, Work},
    link::{Events, Wanted},
};

/// The receiving streams of a shard.
#[derive(Debug, Default)]
pub struct Outlets {
    /// Of those that took another one's place: the stream by its name, and the name by its stream.
    streams: HashMap<StreamRef, StreamRef>,
    names: HashMap<StreamRef, StreamRef>,
    /// Streams that have ended, by name, until every shard has said that it sends them no more.
    leaving: HashMap<StreamRef, Leaving>,
    /// Those that other shards were told of.
    announced: Vec<ReceiverRef>,
}

#[derive(Debug)]
struct Leaving {
    unacknowledged: HashMap<ShardIndex, Vec<Upward>>,
    /// Shards that have not said that they send no more.
    awaits: usize,
}

/// A receiving stream that has ended.
#[derive(Debug)]
pub struct Outgoer {
    receiver: ReceiverRef,
    service: usize,
    announced: bool,
    unacknowledged: Vec<Upward>,
}

impl Outlets {
    /// The stream that has a name now.
    pub fn stream_of(&self, name: StreamRef) -> StreamRef {
        if self.streams.is_empty() {
            return name;
        }
        self.streams.get(&name).copied().unwrap_or(name)
    }

    /// Whether other shards know of the stream.
    pub fn is_announced(&self, receiver: ReceiverRef) -> bool {
        self.announced.contains(&receiver)
    }

    /// `new` takes the place, and the name, of `old`.
    fn pass_on(&mut self, old: StreamRef, new: StreamRef) {
        let name = self.names.remove(&old).unwrap_or(old);
        self.streams.insert(name, new);
        self.names.insert(new, name);
    }

    /// The name of a stream that is gone.
    fn forget(&mut self, stream: StreamRef) -> StreamRef {
        let name = self.names.remove(&stream).unwrap_or(stream);
        self.streams.remove(&name);
        name
    }

    /// Keeps what comes late for a stream that has ended; otherwise gives it back.
    fn hold(&mut self, name: StreamRef, item: Upward) -> Option<Upward> {
        match self.leaving.get_mut(&name) {
            Some(leaving) => {
                let of_shard = leaving.unacknowledged.entry(item.conn().shard());
                of_shard.or_default().push(item);
                None
            }
            None => Some(item),
        }
    }

    /// A shard sends no more to a stream that has ended: what it gets back.
    fn sends_no_more(&mut self, name: StreamRef, from: ShardIndex) -> Vec<Upward> {
        let Some(leaving) = self.leaving.get_mut(&name) else {
            return Vec::new();
        };
        let returned = leaving.unacknowledged.remove(&from);
        leaving.awaits -= 1;
        if leaving.awaits == 0 {
            self.leaving.remove(&name);
        }
        returned.unwrap_or_default()
    }
}

impl Shard {
    /// A stream that has been welcomed wants clients' events. `false`: there are too many services.
    pub(super) fn receive(&mut self, now: Duration, at: StreamRef, wanted: Wanted) -> bool {
        let receiver = self.receiver(at.link, StreamId(at.stream));
        if !self.receiver_up(now, &wanted.service, receiver, wanted.acks) {
            return false;
        }
        if wanted.whole_gateway {
            self.outlets.announced.push(receiver);
            for shard in self.lanes.others() {
                let service: Arc<str> = wanted.service.clone();
                let acks = wanted.acks;
                self.notify(
                    shard,
                    Notice::ReceiverUp {
                        service,
                        receiver,
                        acks,
                    },
                );
            }
        }
        true
    }

    /// The events of a stream whose place `new` takes, if that one wants the same ones.
    pub(super) fn pass_on_events(&mut self, old: StreamRef, new: StreamRef) -> Option<Events> {
        let wanted = |at: StreamRef| {
            let state = self.links.get(at.link)?;
            state.link.wanted(StreamId(at.stream))
        };
        let wants_same = wanted(old).is_some() && wanted(old) == wanted(new);
        let state = self.links.get_mut(old.link).filter(|_| wants_same)?;
        let events = state.link.take_events(StreamId(old.stream));
        self.outlets.pass_on(old, new);
        Some(events)
    }

    /// A stream has ended. What was unacknowledged must be given to [`Shard::give_back`] once all streams that ended with
    /// it are told.
    pub(super) fn receiver_gone(
        &mut self,
        id: LinkId,
        stream: StreamId,
        unacknowledged: Vec<Upward>,
    ) -> Option<Outgoer> {
        let name = self.outlets.forget(stream_ref(id, stream));
        let receiver = ReceiverRef {
            shard: self.index,
            stream: name,
        };
        let (service, _) = self.upstream.receiver_down(receiver)?;
        let announced = &mut self.outlets.announced;
        let told = announced.iter().position(|other| *other == receiver);
        if let Some(at) = told {
            announced.swap_remove(at);
            for shard in self.lanes.others() {
                self.notify(shard, Notice::ReceiverDown(receiver));
            }
        }
        Some(Outgoer {
            receiver,
            service,
            announced: told.is_some(),
            unacknowledged,
        })
    }

    /// Gives what a stream had to other ones, as far as it is of this shard's clients; the rest waits for the others.
    pub(super) fn give_back(&mut self, now: Duration, gone: Outgoer) {
        let mut elsewhere: HashMap<ShardIndex, Vec<Upward>> = HashMap::new();
        let mut here = Vec::new();
        for item in gone.unacknowledged {
            match item.conn().shard() {
                shard if shard == self.index => here.push(item),
                shard => elsewhere.entry(shard).or_default().push(item),
            }
        }
        let awaits = self.lanes.others().count();
        if gone.announced && awaits > 0 {
            let leaving = Leaving {
                unacknowledged: elsewhere,
                awaits,
            };
            self.outlets.leaving.insert(gone.receiver.stream, leaving);
        }
        self.send_again(now, gone.service, here);
    }

    /// A stream of another shard has ended: nothing more is sent to it, and what it had will come back.
    pub(super) fn receiver_ended(&mut self, receiver: ReceiverRef) {
        self.upstream.receiver_ended(receiver);
        let outgoing = &mut self.outgoing[usize::from(receiver.shard)];
        outgoing.events.push(RemoteEvent {
            to: receiver.stream,
            item: Err(self.index),
        });
    }

    /// What a stream of another shard had of this shard's clients: behind it comes what was held back meanwhile.
    pub(super) fn take_returned(
        &mut self,
        now: Duration,
        receiver: ReceiverRef,
        items: Vec<Upward>,
    ) {
        if let Some((service, held)) = self.upstream.receiver_down(receiver) {
            self.send_again(now, service, items);
            for item in held {
                self.emit_again(now, service, item);
            }
        }
    }

    /// Events from another shard for streams of this one.
    pub(super) fn take_events(&mut self, now: Duration, events: Vec<RemoteEvent>) {
        for RemoteEvent { to, item } in events {
            let item = match item {
                Ok(item) => item,
                Err(from) => {
                    self.return_to(from, to);
                    continue;
                }
            };
            let Some(item) = self.outlets.hold(to, item) else {
                continue;
            };
            let at = self.outlets.stream_of(to);
            match item {
                Upward::Settle(conn) => {
                    if self.settle_at(at, conn) {
                        self.settle_elsewhere(now, conn);
                    }
                }
                Upward::Event(conn, event) => {
                    if self.send_event(at, conn, event).is_some() {
                        self.metrics.drops.count("no_service");
                    } else if self.is_over(at) {
                        let shard = self.index;
                        self.stream_full(ReceiverRef { shard, stream: to });
                    }
                }
            }
        }
    }

    fn return_to(&mut self, shard: ShardIndex, name: StreamRef) {
        let items = self.outlets.sends_no_more(name, shard);
        let receiver = ReceiverRef {
            shard: self.index,
            stream: name,
        };
        let outgoing = &mut self.outgoing[usize::from(shard)];
        outgoing.returned.push_back(Work::Returned(receiver, items));
    }

    fn send_again(&mut self, now: Duration, service: usize, items: Vec<Upward>) {
        for item in items {
            if matches!(item, Upward::Event(..)) {
                self.metrics.events_resent.add(1);
            }
            self.emit_again(now, service, item);
        }
    }
}
