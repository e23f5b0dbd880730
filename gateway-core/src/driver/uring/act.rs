//! What else the shard wants done with its sockets.

use std::{
    os::fd::{FromRawFd, OwnedFd, RawFd},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{Shutdown, shutdown},
};
use slab::Slab;

use super::{
    rings::Place,
    run::Reactor,
    table::Receiving,
    token::{Key, Token},
};
use crate::{
    driver::{
        failures::{Rest, accept_reason},
        mailbox::Moved,
    },
    identity::{ShardIndex, SocketId},
    shard::{Action, Closed, Handshake},
};

/// Connections on their way to other shards. To move, a direct descriptor becomes an ordinary one for a moment; when there is
/// none left, it waits.
#[derive(Debug, Default)]
pub(super) struct Leavers {
    all: Slab<Leaver>,
    /// Those that have found no descriptor.
    stuck: Vec<usize>,
    /// When they are tried again.
    until: Duration,
    rest: Rest,
}

#[derive(Debug)]
struct Leaver {
    place: Place,
    to: ShardIndex,
    handshake: Handshake,
}

impl Leavers {
    /// When those that are stuck are tried again.
    pub(super) fn deadline(&self) -> Option<Duration> {
        (!self.stuck.is_empty()).then_some(self.until)
    }
}

impl Reactor {
    /// Does what the shard wants done.
    pub(super) fn act(&mut self, now: Duration) {
        while let Some(action) = self.shard.next_action() {
            match action {
                Action::Finish { socket } => self.finish(socket),
                Action::Close { socket } => self.forget(socket),
                Action::Move {
                    socket: SocketId::Conn(id),
                    to,
                    handshake,
                } => {
                    if let Some(conn) = self.table.remove_conn(id) {
                        debug_assert_eq!(conn.receiving, Receiving::Idle, "{id:?} moves");
                        self.move_away(conn.place, to, handshake);
                    }
                }
                Action::Move { .. } => debug_assert!(false, "links do not move"),
                Action::Resume {
                    socket: SocketId::Conn(id),
                } => self.resume(now, id),
                Action::Resume { socket } => self.rearm.push(socket),
                Action::StopAccepting => self.close_door(),
            }
        }
    }

    /// A socket is gone, or at its end: tells the shard, and forgets it.
    pub(super) fn lost(&mut self, now: Duration, socket: SocketId, why: Closed) {
        self.shard.closed(now, socket, why);
        self.forget(socket);
    }

    fn forget(&mut self, socket: SocketId) {
        match socket {
            SocketId::Conn(id) => {
                if !self.held.is_empty() {
                    self.held.remove(&id);
                }
                if let Some(conn) = self.table.remove_conn(id) {
                    self.hang_up(Key::of(id), conn);
                }
            }
            SocketId::Link(id) => {
                if let Some(link) = self.table.remove_link(id) {
                    link.hang_up();
                }
            }
        }
    }

    fn finish(&mut self, socket: SocketId) {
        match socket {
            SocketId::Conn(id) => {
                if let Some(conn) = self.table.conn(id) {
                    self.rings.of(conn.place).finish(conn.place.number());
                }
            }
            SocketId::Link(id) => {
                if let Some(link) = self.table.link(id) {
                    // The only error is that the peer has ended it already.
                    let _ = shutdown(&link.fd, Shutdown::Write);
                }
            }
        }
    }

    fn move_away(&mut self, place: Place, to: ShardIndex, handshake: Handshake) {
        let at = self.leavers.all.insert(Leaver {
            place,
            to,
            handshake,
        });
        self.ask_for_descriptor(at);
    }

    fn ask_for_descriptor(&mut self, at: usize) {
        let place = self.leavers.all[at].place;
        let ring = self.rings.of(place);
        ring.install(place.number(), Token::Leave(at as u32));
    }

    /// Tries again to move connections for which there was no descriptor.
    pub(super) fn move_stuck(&mut self, now: Duration) {
        if self.leavers.deadline().is_some_and(|until| until <= now) {
            for at in std::mem::take(&mut self.leavers.stuck) {
                self.ask_for_descriptor(at);
            }
        }
    }

    /// A connection that moves has its ordinary descriptor, or finds none.
    pub(super) fn left(&mut self, now: Duration, at: usize, result: Result<u32, Errno>) {
        match result {
            Ok(fd) => {
                // SAFETY: the kernel has just made this descriptor for us (FIXED_FD_INSTALL), and nobody else knows it.
                #[allow(unsafe_code)]
                let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
                self.leavers.rest.is_over();
                let Leaver {
                    place,
                    to,
                    handshake,
                } = self.leavers.all.remove(at);
                self.rings.of(place).close(place.number());
                let port = &self.ports[usize::from(to)];
                if port.send_socket(Moved { fd, handshake }).is_ok() {
                    self.metrics.crossings.count("socket");
                    port.ring();
                } else {
                    self.shard.move_refused();
                }
            }
            Err(error) => {
                self.metrics.accept_errors.count(accept_reason(error));
                let over = Duration::from_millis(self.leavers.all[at].handshake.until_ms) <= now;
                let passes = matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOMEM);
                if over || !passes {
                    let Leaver { place, .. } = self.leavers.all.remove(at);
                    self.rings.of(place).close(place.number());
                    return self.shard.move_refused();
                }
                self.wait_for_descriptor(now, at, error);
            }
        }
    }

    /// Nobody else is let in meanwhile: clients wait better in the backlog.
    fn wait_for_descriptor(&mut self, now: Duration, at: usize, error: Errno) {
        let leavers = &mut self.leavers;
        if leavers.stuck.is_empty() {
            let rest = leavers.rest.after(self.metrics.shard, error);
            leavers.until = now + rest;
            if let Some(door) = &mut self.door {
                door.rest_until(leavers.until);
            }
        }
        leavers.stuck.push(at);
    }
}
