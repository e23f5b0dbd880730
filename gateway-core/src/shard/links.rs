//! The links of a shard, and what it does with what they hand out.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use gateway_proto::v1::gateway_frame::Body as Event;
use h2_stream::StreamId;
use slab::Slab;

use super::{Shard, busy::Bearer, greeting::Asker, jobs::JobId};
use crate::{
    command::Command,
    identity::{ConnId, LinkId, SocketId},
    lanes::{ReceiverRef, StreamRef},
    link::{Link, Load, Ticket},
    metrics::LinkLoad,
    timesheet::Phase,
};

/// One link and what is on its way to it.
pub struct LinkState {
    generation: u32,
    /// The protocol.
    pub link: Link,
    /// A command for which there was no room. While there is one, the link is not read.
    pub(super) held: Option<(Ticket, Command, Option<JobId>)>,
    /// Counting calls.
    pub(super) calls: BTreeMap<StreamId, JobId>,
    /// Streams that have asked for receipts.
    pub(super) askers: BTreeMap<StreamId, Asker>,
    /// The receipt of a batch that has not been handed out whole.
    pub(super) batch: Option<(StreamId, u64, JobId)>,
    /// Bytes in flight, and how many of them were sent.
    flight: Vec<u8>,
    flown: usize,
    ready: bool,
    dirty: bool,
    paused: bool,
    /// It has handed out more than a few commands together: none of its sends is urgent.
    pub(super) floods: bool,
    /// It is looked at when its acks are due.
    owing: bool,
    /// Who it is, and what it brought.
    pub(super) bearer: Bearer,
    /// We have said all we will say; so long the peer may take to end it too.
    lingers_until: Option<Duration>,
}

/// The links of a shard.
#[derive(Default)]
pub struct Links {
    slab: Slab<LinkState>,
    generation: u32,
    /// Those that may hand something out.
    ready: Vec<LinkId>,
    /// When deadlines of links are looked at next.
    pub sweep: Option<Duration>,
    /// Those whose acks wait for company, and until when: the first one first, since all wait equally long.
    owing: VecDeque<(Duration, LinkId)>,
}

/// How often deadlines of links are looked at: keepalive and call deadlines need no more.
const SWEEP: Duration = Duration::from_millis(100);

/// How long a peer may take to end a link that we have ended. To close at once would cost it what it has not read, if it
/// is just sending.
const LINGER: Duration = Duration::from_secs(1);

/// Most bytes given to the kernel in one send of a link.
const MOST_FLIGHT: usize = 256 << 10;

/// A window below this would stop a link from sending messages of the usual sizes at speed.
const SMALLEST_WINDOW: u32 = 256 << 10;

/// A window above this brings nothing (measured: 1 MiB costs 0.48 µs a message, 16 MiB 0.45).
const LARGEST_WINDOW: u32 = 16 << 20;

impl Links {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// The link, if it is still there.
    pub fn get(&self, id: LinkId) -> Option<&LinkState> {
        let state = self.slab.get(id.slot as usize)?;
        (state.generation == id.generation).then_some(state)
    }

    /// The link, if it is still there.
    pub fn get_mut(&mut self, id: LinkId) -> Option<&mut LinkState> {
        let state = self.slab.get_mut(id.slot as usize)?;
        (state.generation == id.generation).then_some(state)
    }

    /// The ids of all.
    pub fn ids(&self) -> Vec<LinkId> {
        let id = |(slot, state): (usize, &LinkState)| LinkId {
            slot: slot as u32,
            generation: state.generation,
        };
        self.slab.iter().map(id).collect()
    }

    /// What each brought in the window that ends now, those that brought nothing left out.
    pub(super) fn loads(&mut self) -> Vec<LinkLoad> {
        let loads = self
            .slab
            .iter_mut()
            .map(|(_, state)| state.bearer.take_load());
        loads.filter(|load| load.bytes > 0).collect()
    }

    /// When a link has to be looked at, whatever comes.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let owing = self.owing.front().map(|(due, _)| *due);
        self.sweep.into_iter().chain(owing).min()
    }

    fn insert(&mut self, link: Link, peer: SocketAddr) -> LinkId {
        self.generation = self.generation.wrapping_add(1);
        let slot = self.slab.insert(LinkState {
            generation: self.generation,
            link,
            held: None,
            calls: BTreeMap::new(),
            askers: BTreeMap::new(),
            batch: None,
            flight: Vec::new(),
            flown: 0,
            ready: false,
            dirty: false,
            floods: false,
            paused: false,
            owing: false,
            bearer: Bearer::new(peer),
            lingers_until: None,
        });
        LinkId {
            slot: slot as u32,
            generation: self.generation,
        }
    }
}

impl LinkState {
    /// Whether its socket may be read.
    pub fn wants_bytes(&self) -> bool {
        self.lingers_until.is_some() || self.held.is_none() && self.link.wants_bytes()
    }

    /// Whether a command has been done in part only.
    pub fn is_mid_command(&self) -> bool {
        self.held.is_some() || self.link.is_mid_batch()
    }

    /// Whether the peer had its time to end the link too.
    pub fn has_lingered(&self, now: Duration) -> bool {
        self.lingers_until.is_some_and(|until| now >= until)
    }

    /// The bytes to be sent next; they stay put until all of them are sent.
    pub fn freeze(&mut self) -> &[u8] {
        if self.flown >= self.flight.len() {
            self.flight.clear();
            self.flown = 0;
            self.link.write_output(&mut self.flight, MOST_FLIGHT);
        }
        self.dirty = false;
        &self.flight[self.flown..]
    }

    fn is_flying(&self) -> bool {
        self.flown < self.flight.len()
    }
}

impl Shard {
    /// A link was accepted. `None`: there are too many.
    pub(super) fn new_link(&mut self, now: Duration, peer: SocketAddr) -> Option<LinkId> {
        if self.links.len() >= self.gateway.config.grpc.max_links {
            self.metrics.stream_errors.count("too_many_links");
            return None;
        }
        let window = self.window_for(self.links.len() + 1);
        let (gateway, metrics) = (self.gateway.clone(), self.metrics.clone());
        let link = Link::new(gateway, metrics, self.index, window, now);
        let id = self.links.insert(link, peer);
        self.share_credit();
        self.metrics.links.set(self.links.len() as u64);
        self.links.sweep.get_or_insert(now + SWEEP);
        if let Some(remaining) = self.drain_remaining(now)
            && let Some(state) = self.links.get_mut(id)
        {
            state.link.drain(now, remaining);
        }
        self.mark_link_ready(id);
        Some(id)
    }

    /// The socket of a link is gone, and with it the streams that were open.
    pub(super) fn link_gone(&mut self, now: Duration, id: LinkId) {
        let Some(state) = self.links.get_mut(id) else {
            return;
        };
        let streams = state.link.take_streams();
        let errors = &self.metrics.stream_errors;
        errors.add("link_lost", streams.len() as u64);
        // None of them gets what another one had.
        let gone: Vec<_> = streams
            .into_iter()
            .filter_map(|(stream, ended)| self.forget_stream(now, id, stream, ended))
            .collect();
        for gone in gone {
            self.give_back(now, gone);
        }
        let state = self.links.slab.remove(id.slot as usize);
        let batch = state.batch.map(|(_, _, job)| job);
        for job in state.calls.into_values().chain(batch) {
            self.ledger.jobs.cancel(job);
        }
        self.share_credit();
        self.metrics.links.set(self.links.len() as u64);
    }

    pub(super) fn link_bytes(&mut self, now: Duration, id: LinkId, bytes: &[u8]) {
        if let Some(state) = self.links.get_mut(id) {
            state.bearer.bytes += bytes.len() as u64;
            state.link.receive(now, bytes);
            self.mark_link_ready(id);
        }
    }

    pub(super) fn link_sent(&mut self, id: LinkId, n: usize) {
        if let Some(state) = self.links.get_mut(id) {
            state.flown += n;
            if !state.is_flying() {
                self.mark_link_ready(id);
            }
        }
    }

    pub(super) fn mark_link_ready(&mut self, id: LinkId) {
        if let Some(state) = self.links.get_mut(id)
            && !std::mem::replace(&mut state.ready, true)
        {
            self.links.ready.push(id);
        }
    }

    /// Whether a link has something to hand out, or to send.
    pub(super) fn links_ready(&self) -> bool {
        !self.links.ready.is_empty()
    }

    /// Does what links hand out, then passes on what they have to send.
    pub(super) fn run_links(&mut self, now: Duration) {
        self.sheet.enter(Phase::Timers);
        if self.links.sweep.is_some_and(|at| at <= now) {
            for id in self.links.ids() {
                if let Some(state) = self.links.get_mut(id) {
                    state.link.handle_timeout(now);
                }
                self.mark_link_ready(id);
            }
            self.links.sweep = (self.links.len() > 0).then_some(now + SWEEP);
        }
        while let Some((_, id)) = self.links.owing.pop_front_if(|(due, _)| *due <= now) {
            if let Some(state) = self.links.get_mut(id) {
                state.owing = false;
                self.mark_link_ready(id);
            }
        }
        for id in std::mem::take(&mut self.links.ready) {
            if let Some(state) = self.links.get_mut(id) {
                state.ready = false;
                self.run_link(now, id);
                self.sheet.enter(Phase::Egress);
                self.after_link(now, id);
            }
        }
    }

    pub(super) fn forget_call(&mut self, id: LinkId, stream: StreamId) -> Option<JobId> {
        self.links.get_mut(id)?.calls.remove(&stream)
    }

    pub(super) fn receiver(&self, link: LinkId, stream: StreamId) -> ReceiverRef {
        ReceiverRef {
            shard: self.index,
            stream: StreamRef {
                link,
                stream: stream.0,
            },
        }
    }

    /// After a link has run: what it has to send, whether it may be read again, whether it is over.
    fn after_link(&mut self, now: Duration, id: LinkId) {
        let Some(state) = self.links.get_mut(id) else {
            return;
        };
        let socket = SocketId::Link(id);
        if state.link.is_silent() {
            // Not after what is in flight: a peer that is gone takes none of it.
            self.actions.push_back(super::Action::Close { socket });
            self.link_gone(now, id);
            return;
        }
        if !state.dirty && (state.is_flying() || state.link.has_output()) {
            if !state.is_flying() {
                state.dirty = true;
                self.dirty_links.push_back(id);
            }
        } else if !state.dirty && state.link.is_closed() && !state.link.is_ended() {
            self.actions.push_back(super::Action::Close { socket });
            self.link_gone(now, id);
            return;
        } else if !state.dirty && state.link.is_closed() && state.lingers_until.is_none() {
            state.lingers_until = Some(self.now + LINGER);
            state.paused = true;
            self.actions.push_back(super::Action::Finish { socket });
        }
        let wants = state.wants_bytes();
        if state.paused && wants {
            self.actions.push_back(super::Action::Resume { socket });
        }
        state.paused = !wants;
        // Acks that are due already leave now, or when what is in flight has landed.
        if !state.owing
            && let Some(due) = state.link.acks_due().filter(|due| *due > now)
        {
            state.owing = true;
            self.links.owing.push_back((due, id));
        }
    }

    /// Divides the credit of the shard among its links.
    fn share_credit(&mut self) {
        let window = self.window_for(self.links.len().max(1));
        if std::mem::replace(&mut self.window, window) == window {
            return;
        }
        let stream = self.gateway.config.grpc.stream_window_bytes.min(window);
        for (_, state) in &mut self.links.slab {
            state.link.set_windows(stream, window);
        }
    }

    /// The window of each of `links` links, in steps, so that not every new link changes those of all others.
    fn window_for(&self, links: usize) -> u32 {
        let share = self.gateway.config.grpc.shard_window_bytes / links.next_power_of_two() as u32;
        share.clamp(SMALLEST_WINDOW, LARGEST_WINDOW)
    }

    /// Sends an event to a stream of this shard. Gives it back if there is no such stream.
    pub(super) fn send_event(
        &mut self,
        to: StreamRef,
        conn: ConnId,
        event: Event,
    ) -> Option<Event> {
        let Some(state) = self.links.get_mut(to.link) else {
            return Some(event);
        };
        let back = state.link.send_event(StreamId(to.stream), conn, event);
        self.mark_link_ready(to.link);
        back
    }

    /// Marks the place of `conn` behind the events of a stream of this shard; `true`: nothing to wait for.
    pub(super) fn settle_at(&mut self, to: StreamRef, conn: ConnId) -> bool {
        let state = self.links.get_mut(to.link);
        state.is_none_or(|state| state.link.settle(StreamId(to.stream), conn))
    }

    /// How much waits on a stream of this shard.
    pub(super) fn load_at(&self, to: StreamRef) -> Load {
        let state = self.links.get(to.link);
        state.map_or(Load::default(), |state| {
            state.link.load(StreamId(to.stream))
        })
    }
}
