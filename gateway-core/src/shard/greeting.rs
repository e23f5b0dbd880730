//! How `Exchange` streams begin and end: sessions, and who gets the receipts that are still to come.

use std::{collections::HashMap, time::Duration};

use gateway_proto::v1;
use h2_stream::{Code, Status, StreamId};

use super::{Shard, outlets::Outgoer, sessions::Attached};
use crate::{
    identity::LinkId,
    lanes::StreamRef,
    link::{Claim, Ended, Events, Resumption},
};

/// The streams that wait for receipts. A stream that takes the place of another one gets those of the other.
#[derive(Debug, Default)]
pub struct Askers {
    streams: HashMap<Asker, StreamRef>,
    newest: u64,
}

/// One who waits for receipts, whatever stream that is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asker(u64);

impl Askers {
    /// A stream asks for its first receipt.
    pub fn enter(&mut self, stream: StreamRef) -> Asker {
        self.newest += 1;
        let asker = Asker(self.newest);
        self.streams.insert(asker, stream);
        asker
    }

    /// The stream that gets the receipts, if there still is one.
    pub fn stream_of(&self, asker: Asker) -> Option<StreamRef> {
        self.streams.get(&asker).copied()
    }
}

impl Shard {
    /// A stream says `Hello`: its session begins, goes on, or belongs to somebody else.
    pub(super) fn greet(
        &mut self,
        now: Duration,
        link: LinkId,
        stream: StreamId,
        hello: &v1::Hello,
    ) {
        let epoch = self.gateway.epoch;
        let at = stream_ref(link, stream);
        let attached = match Claim::of(hello, epoch) {
            Some(claim) => self.attach(now, &claim, at),
            None => {
                let named = !hello.session_id.is_empty();
                let resumption = Resumption::impossible(named && hello.gateway_epoch == epoch);
                Attached::Begins {
                    resumption,
                    replaced: None,
                }
            }
        };
        match attached {
            Attached::Begins {
                resumption,
                replaced,
            } => {
                let carried = replaced.and_then(|old| self.replace(now, old, at));
                let Some(state) = self.links.get_mut(link) else {
                    return;
                };
                state.bearer.is_of(&hello.service);
                state.link.welcome(stream, hello, &resumption);
                if let Some(events) = carried {
                    state.link.carry_on(stream, events, hello.last_event);
                } else if let Some(wanted) = state.link.wanted(stream)
                    && !self.receive(now, at, wanted)
                {
                    self.refuse_receiver(link, stream);
                }
            }
            Attached::Clash => {
                self.metrics.session_clashes.add(1);
                let detail = "two clients use one session: another one has resumed it since; \
                              take a new session_id";
                let status = Status::new(Code::AlreadyExists, detail);
                if let Some(state) = self.links.get_mut(link) {
                    state.link.end(stream, status);
                }
            }
        }
    }

    /// A stream has ended by itself; what it was waiting for is waited for no more.
    pub(super) fn stream_gone(
        &mut self,
        now: Duration,
        link: LinkId,
        stream: StreamId,
        ended: Option<Box<Ended>>,
    ) {
        if let Some(gone) = self.forget_stream(now, link, stream, ended) {
            self.give_back(now, gone);
        }
    }

    /// A stream has ended. What it had of clients' events is to be given to others.
    pub(super) fn forget_stream(
        &mut self,
        now: Duration,
        link: LinkId,
        stream: StreamId,
        ended: Option<Box<Ended>>,
    ) -> Option<Outgoer> {
        let state = self.links.get_mut(link);
        let asker = state.and_then(|state| state.askers.remove(&stream));
        if let Some(asker) = asker {
            self.askers.streams.remove(&asker);
        }
        self.directory_gone(self.receiver(link, stream));
        self.queries.forget(link, stream);
        let ended = *ended?;
        if let Some(key) = ended.key {
            let at = stream_ref(link, stream);
            self.sessions.detach(now, &key, at, ended.progress);
        }
        self.receiver_gone(link, stream, ended.unacknowledged)
    }

    /// Forgets sessions whose time is over.
    pub(super) fn expire_sessions(&mut self, now: Duration) {
        if self.sessions.next_expiry().is_some_and(|at| at <= now) {
            self.sessions.expire(now);
            self.metrics.sessions.set(self.sessions.len() as u64);
        }
    }

    fn attach(&mut self, now: Duration, claim: &Claim, at: StreamRef) -> Attached {
        if let Some(old) = self.sessions.stream_of(&claim.key)
            && let Some(state) = self.links.get(old.link)
            && let Some(progress) = state.link.progress(StreamId(old.stream))
        {
            self.sessions.note(&claim.key, progress);
        }
        let token = self.random().max(1);
        let attached = self.sessions.attach(now, claim, token, at);
        self.metrics.sessions.set(self.sessions.len() as u64);
        let evicted = self.sessions.take_evicted();
        self.metrics.sessions_evicted.add(evicted);
        attached
    }

    /// Ends a stream whose session goes on at `new`: nothing of it takes effect any more, and what it was waiting for
    /// comes there, client events too if they are wanted there: these are returned.
    fn replace(&mut self, now: Duration, old: StreamRef, new: StreamRef) -> Option<Events> {
        self.metrics.takeovers.add(1);
        let stream = StreamId(old.stream);
        let carried = self.pass_on_events(old, new);
        let state = self.links.get_mut(old.link)?;
        let held = state.held.take_if(|(ticket, ..)| ticket.stream == stream);
        let batch = state.batch.take_if(|of| of.0 == stream);
        let asker = state.askers.remove(&stream);
        let detail = "replaced by a newer stream of its session";
        let status = Status::new(Code::Aborted, detail);
        let ended = state.link.end(stream, status);
        let jobs = [held.and_then(|of| of.2), batch.map(|of| of.2)];
        for job in jobs.into_iter().flatten() {
            self.ledger.jobs.cancel(job);
        }
        if let (Some(asker), Some(state)) = (asker, self.links.get_mut(new.link)) {
            self.askers.streams.insert(asker, new);
            state.askers.insert(StreamId(new.stream), asker);
        }
        self.queries.hand_over(old, new);
        self.mark_link_ready(old.link);
        self.directory_gone(self.receiver(old.link, stream));
        if carried.is_none()
            && let Some(ended) = ended
            && let Some(gone) = self.receiver_gone(old.link, stream, ended.unacknowledged)
        {
            self.give_back(now, gone);
        }
        carried
    }
}

/// A stream of a link, as it is named across the shard.
pub fn stream_ref(link: LinkId, stream: StreamId) -> StreamRef {
    StreamRef {
        link,
        stream: stream.0,
    }
}
