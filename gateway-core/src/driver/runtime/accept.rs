//! Accepting: a listener never dies, whatever an accept says.

use std::{net::SocketAddr, os::fd::OwnedFd, time::Duration};

use rustix::{
    io::Errno,
    net::{Shutdown, SocketFlags, acceptfrom_with},
};

use crate::{
    driver::failures::{ABORTED, Rest, accept_reason},
    identity::SocketId,
};

use super::{Interest, Runtime, Token, Watched, run::Reactor, table::Socket};

/// Most connections accepted from one listener in a tick: a storm of them must not hold up those who are in.
const ACCEPTS: usize = 64;

/// Who connects to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peers {
    /// WebSocket clients.
    Clients,
    /// Logic services.
    Services,
}

/// A listening socket. It is watched for readiness and accepted from in a loop, so there is never an accept pending whose
/// socket could get lost.
pub(super) struct Listener<L: Watched> {
    fd: L,
    peers: Peers,
    interest: Interest<L::Wait>,
    state: State,
    rest: Rest,
}

enum State {
    /// The runtime will say when a connection is there.
    Waiting,
    /// Connections are there.
    Ready,
    /// Failed; tried again at this time.
    Resting(Duration),
    /// Takes what has been waiting, then ends.
    Closing,
}

impl<L: Watched> Listener<L> {
    /// A listener that is tried at once.
    pub(super) fn new(fd: L, peers: Peers) -> Self {
        Self {
            fd,
            peers,
            interest: Interest::Idle,
            state: State::Ready,
            rest: Rest::default(),
        }
    }

    /// Its token was in the ready list.
    pub(super) fn ready(&mut self, token: Token) {
        if self.interest.take_ready(token) && matches!(self.state, State::Waiting) {
            self.state = State::Ready;
        }
    }

    /// Ends it in the next tick if it serves `peers`.
    pub(super) fn stop(&mut self, peers: Peers) {
        if self.peers == peers {
            self.state = State::Closing;
        }
    }

    /// Closes it. What still waits in the backlog is reset.
    pub(super) fn hang_up(self) {
        // A pending poll completes by that, and lets go of the descriptor.
        self.fd.shut_down(Shutdown::Both);
    }

    /// When it wants to be tried again without being ready.
    pub(super) fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Resting(until) => Some(until),
            State::Ready | State::Closing => Some(Duration::ZERO),
            State::Waiting => None,
        }
    }

    fn is_due(&self, now: Duration) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }
}

impl<R: Runtime> Reactor<R> {
    /// Accepts from all listeners that have connections.
    pub(super) fn accept(&mut self, now: Duration) {
        for at in 0..self.listeners.len() {
            let Some(mut listener) = self.listeners[at].take_if(|l| l.is_due(now)) else {
                continue;
            };
            let next = self.accept_from(&mut listener, now);
            if let State::Closing = listener.state {
                listener.hang_up();
                continue;
            }
            if let State::Waiting = next {
                let Listener { fd, interest, .. } = &mut listener;
                interest.wait(Token::Listener(at), |waker| fd.await_readable(waker));
            }
            listener.state = next;
            self.listeners[at] = Some(listener);
        }
    }

    fn accept_from(&mut self, listener: &mut Listener<R::Listener>, now: Duration) -> State {
        for _ in 0..ACCEPTS {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let accepted = self.sheet.kernel(|| acceptfrom_with(&listener.fd, flags));
            match accepted {
                Ok((fd, peer)) => {
                    listener.rest.is_over();
                    match peer.and_then(|peer| SocketAddr::try_from(peer).ok()) {
                        Some(peer) => self.opened(now, listener.peers, fd, peer),
                        None => self.metrics.accept_errors.count("other"),
                    }
                }
                Err(Errno::AGAIN) => return State::Waiting,
                Err(Errno::INTR) => (),
                Err(error) => {
                    let reason = accept_reason(error);
                    self.metrics.accept_errors.count(reason);
                    if reason != ABORTED {
                        let rest = listener.rest.after(self.metrics.shard, error);
                        return State::Resting(now + rest);
                    }
                }
            }
        }
        State::Ready
    }

    fn opened(&mut self, now: Duration, peers: Peers, fd: OwnedFd, peer: SocketAddr) {
        let Ok(fd) = Watched::new(fd) else {
            self.metrics.accept_errors.count("memory");
            return;
        };
        let id = match peers {
            Peers::Clients => self.shard.conn_opened(now, peer).map(SocketId::Conn),
            Peers::Services => self.shard.link_opened(now, peer).map(SocketId::Link),
        };
        // At a limit the shard has counted it, and dropping closes it.
        if let Some(id) = id {
            self.insert(Socket::new(id, fd));
        }
    }

    /// Takes in sockets that have moved here from other shards.
    pub(super) fn adopt(&mut self, now: Duration) {
        for _ in 0..ACCEPTS {
            let Some(moved) = self.mailbox.next_socket() else {
                return;
            };
            let Ok(fd) = Watched::new(moved.fd) else {
                self.metrics.accept_errors.count("memory");
                continue;
            };
            if let Some(conn) = self.shard.conn_adopted(now, moved.handshake) {
                self.insert(Socket::new(SocketId::Conn(conn), fd));
            }
            // It may have something to send already, and others may wait behind it.
            self.again = true;
        }
    }

    /// Notes that a listener has connections.
    pub(super) fn listener_ready(&mut self, at: usize) {
        if let Some(Some(listener)) = self.listeners.get_mut(at) {
            listener.ready(Token::Listener(at));
        }
    }

    fn insert(&mut self, mut socket: Socket<R::Stream>) {
        let id = socket.id;
        // A socket that was given up by the shard in this very tick may still stand in the slot.
        if let Some(forgotten) = self.table.remove_stale(id) {
            forgotten.hang_up();
        }
        if self.shard.wants_bytes(id) {
            socket.await_readable();
        }
        self.table.insert(socket);
        self.act();
    }
}
