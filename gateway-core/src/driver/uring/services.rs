//! Logic services come in: few, so their sockets are accepted one by one as ordinary descriptors.

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::{
    event::PollFlags,
    io::Errno,
    net::{SocketFlags, acceptfrom_with},
};

use super::{run::Reactor, table::Link, token::Token};
use crate::{
    driver::failures::{ABORTED, Rest, accept_reason},
    identity::SocketId,
};

/// Most links accepted from one listener in a tick.
const ACCEPTS: usize = 64;

/// A listener for services.
pub(super) struct Services {
    listener: TcpListener,
    state: State,
    rest: Rest,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The ring will say when somebody comes.
    Polled,
    /// Somebody has come.
    Ready,
    /// Failed; tried again at this time.
    Resting(Duration),
}

impl Services {
    /// A listener that is tried at once.
    pub(super) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            state: State::Ready,
            rest: Rest::default(),
        }
    }

    /// Its poll has completed.
    pub(super) fn ready(&mut self) {
        self.state = State::Ready;
    }

    /// When it wants to be tried again without being polled.
    pub(super) fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Polled => None,
            State::Ready => Some(Duration::ZERO),
            State::Resting(until) => Some(until),
        }
    }
}

impl Reactor {
    /// Accepts from all listeners for services that have connections.
    pub(super) fn accept_services(&mut self, now: Duration) {
        for at in 0..self.services.len() {
            let deadline = self.services[at].deadline();
            if deadline.is_some_and(|deadline| deadline <= now) {
                self.services[at].state = self.accept_from(now, at);
            }
            if deadline.is_some() && self.services[at].state == State::Polled {
                let listener = &self.services[at].listener;
                let token = Token::Listener(at as u32);
                self.rings
                    .first()
                    .poll(listener, PollFlags::IN, false, token);
            }
        }
    }

    fn accept_from(&mut self, now: Duration, at: usize) -> State {
        for _ in 0..ACCEPTS {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let listener = &self.services[at].listener;
            match self.sheet.kernel(|| acceptfrom_with(listener, flags)) {
                Ok((fd, peer)) => {
                    self.services[at].rest.is_over();
                    match peer.and_then(|peer| SocketAddr::try_from(peer).ok()) {
                        Some(peer) => self.link_opened(now, fd, peer),
                        None => self.metrics.accept_errors.count("other"),
                    }
                }
                Err(Errno::AGAIN) => return State::Polled,
                Err(Errno::INTR) => (),
                Err(error) => {
                    let reason = accept_reason(error);
                    self.metrics.accept_errors.count(reason);
                    if reason != ABORTED {
                        let rest = self.services[at].rest.after(self.metrics.shard, error);
                        return State::Resting(now + rest);
                    }
                }
            }
        }
        State::Ready
    }

    fn link_opened(&mut self, now: Duration, fd: OwnedFd, peer: SocketAddr) {
        // At a limit the shard has counted it, and dropping closes it.
        let Some(id) = self.shard.link_opened(now, peer) else {
            return;
        };
        // A link that was given up by the shard in this very tick may still stand in the slot.
        if let Some(stale) = self.table.insert_link(Link::new(id, fd)) {
            stale.hang_up();
        }
        self.rearm.push(SocketId::Link(id));
    }
}
