//! Slow ticks: what a tick was about, and whose doing it was.

use std::cell::{Cell, RefCell};

use super::{Audience, Cause};
use crate::{
    identity::{LinkId, ShardIndex},
    metrics::SlowTick,
};

/// What there was to do in the running tick.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The link that brought most.
    link: Cell<Option<(LinkId, Brought)>>,
    /// The fan-out that made most deliveries.
    fanout: RefCell<Option<(Audience, u64, u64)>>,
    /// The shard that forwarded most.
    lane: Cell<Option<(ShardIndex, u64)>>,
    timers: Cell<u64>,
    clients: Cell<u64>,
}

/// What a link brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Brought {
    commands: u64,
    bytes: u64,
}

/// Whose doing a slow tick was.
#[derive(Clone, Debug)]
pub(super) enum Suspect {
    /// Another thread or process, on the shard's core.
    Thief,
    /// A fan-out, with its members and the deliveries of the tick.
    Fanout(Audience, u64, u64),
    /// A link.
    Link(LinkId, Brought),
    /// A shard that forwarded so many commands.
    Lane(ShardIndex, u64),
    /// Clients that came, sent something or left, so often.
    Clients(u64),
    /// So many deadlines.
    Timers(u64),
    /// So many sends of what earlier ticks had taken.
    Sends(u64),
    /// Nobody in particular.
    Nobody,
}

/// A slow tick whose culprit has no name yet.
#[derive(Debug)]
pub(super) struct Unresolved {
    pub(super) number: u64,
    pub(super) began: u64,
    pub(super) took: u64,
    pub(super) not_running: u64,
    pub(super) parts: [u64; 3],
    pub(super) suspect: Suspect,
}

/// Bytes of a link that are as much work as one command.
const BYTES_PER_COMMAND: u64 = 2048;

impl Tally {
    pub(super) fn reset(&self) {
        self.link.set(None);
        self.lane.set(None);
        self.timers.set(0);
        self.clients.set(0);
        *self.fanout.borrow_mut() = None;
    }

    #[inline]
    pub(super) fn link(&self, link: LinkId, commands: u64, bytes: u64) {
        let brought = Brought { commands, bytes };
        if self
            .link
            .get()
            .is_none_or(|of| of.1.work() < brought.work())
        {
            self.link.set(Some((link, brought)));
        }
    }

    pub(super) fn fanout(&self, audience: &Audience, members: u64, deliveries: u64) {
        let mut most = self.fanout.borrow_mut();
        match &mut *most {
            Some((same, _, sum)) if *same == *audience => *sum += deliveries,
            Some((_, _, most)) if *most >= deliveries => {}
            _ => *most = Some((audience.clone(), members, deliveries)),
        }
    }

    pub(super) fn lane(&self, from: ShardIndex, commands: u64) {
        match self.lane.get() {
            Some((same, sum)) if same == from => self.lane.set(Some((from, sum + commands))),
            Some((_, most)) if most >= commands => {}
            _ => self.lane.set(Some((from, commands))),
        }
    }

    pub(super) fn timers(&self, due: u64) {
        self.timers.set(self.timers.get() + due);
    }

    #[inline]
    pub(super) fn client(&self) {
        self.clients.set(self.clients.get() + 1);
    }

    /// Whose doing it was that the tick took so long. A command, a delivery, a deadline, a client that comes, sends or leaves and
    /// a send of what had `waited` count alike: each costs some microseconds, by its send if by nothing else.
    pub(super) fn suspect(&self, took: u64, not_running: u64, waited: u64) -> Suspect {
        if not_running * 2 >= took {
            return Suspect::Thief;
        }
        let fanout = self.fanout.borrow_mut().take();
        let fanout = fanout.map(|(who, members, n)| (n, Suspect::Fanout(who, members, n)));
        let link = self.link.get();
        let link = link.map(|(id, brought)| (brought.work(), Suspect::Link(id, brought)));
        let lane = self
            .lane
            .get()
            .map(|(shard, n)| (n, Suspect::Lane(shard, n)));
        let (clients, timers) = (self.clients.get(), self.timers.get());
        let all = [
            fanout,
            link,
            lane,
            Some((clients, Suspect::Clients(clients))),
            Some((timers, Suspect::Timers(timers))),
            Some((waited, Suspect::Sends(waited))),
        ];
        let most = all.into_iter().flatten().max_by_key(|(work, _)| *work);
        most.filter(|(work, _)| *work > 0)
            .map_or(Suspect::Nobody, |(_, suspect)| suspect)
    }
}

impl Brought {
    fn work(self) -> u64 {
        self.commands + self.bytes / BYTES_PER_COMMAND
    }
}

impl Suspect {
    /// What it comes under.
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Thief => Cause::CpuTaken,
            Self::Fanout(..) => Cause::Fanout,
            Self::Link(..) => Cause::Link,
            Self::Lane(..) => Cause::Lane,
            Self::Clients(_) => Cause::Clients,
            Self::Timers(_) => Cause::Timers,
            Self::Sends(_) => Cause::Sends,
            Self::Nobody => Cause::Unknown,
        }
    }

    fn in_words(&self, name: impl FnOnce(LinkId) -> Option<String>) -> String {
        match self {
            Self::Thief => "another thread or process on this core".to_owned(),
            Self::Fanout(audience, members, deliveries) => {
                format!("{audience} ({members} members): {deliveries} deliveries")
            }
            Self::Link(link, Brought { commands, bytes }) => {
                let name = name(*link).unwrap_or_else(|| "a link that is gone".to_owned());
                format!("{name}: {commands} commands, {bytes} bytes")
            }
            Self::Lane(shard, commands) => format!("shard {shard}: {commands} commands"),
            Self::Clients(turns) => format!("clients: {turns} times one came, sent or left"),
            Self::Timers(due) => format!("{due} deadlines"),
            Self::Sends(sends) => format!("{sends} sends of what had waited"),
            Self::Nobody => "nobody in particular".to_owned(),
        }
    }
}

impl Unresolved {
    pub(super) fn resolve(self, name: impl FnOnce(LinkId) -> Option<String>) -> SlowTick {
        SlowTick {
            number: self.number,
            at_ms: self.began / 1_000_000,
            took_us: self.took / 1_000,
            not_running_us: self.not_running / 1_000,
            parts_us: self.parts.map(|part| part / 1_000),
            cause: self.suspect.cause(),
            culprit: self.suspect.in_words(name),
        }
    }
}
