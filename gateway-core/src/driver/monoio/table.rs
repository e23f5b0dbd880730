//! The sockets of a shard, by the slots that the shard gave them.

use rustix::net::Shutdown;

use crate::identity::SocketId;

use super::{
    ready::{Slot, Token},
    socket::{Fd, Interest},
};

/// One socket: a cache line.
#[derive(Debug)]
pub(super) struct Socket {
    /// What the shard calls it.
    pub(super) id: SocketId,
    /// Its descriptor.
    pub(super) fd: Fd,
    /// Whether it waits for bytes to come.
    pub(super) read: Interest,
    /// Whether it waits for room.
    pub(super) write: Interest,
}

/// All sockets, in slots as the shard's own tables.
#[derive(Debug, Default)]
pub(super) struct Table {
    conns: Vec<Option<Socket>>,
    links: Vec<Option<Socket>>,
}

impl Socket {
    /// A socket that waits for nothing yet.
    pub(super) fn new(id: SocketId, fd: Fd) -> Self {
        Self {
            id,
            fd,
            read: Interest::Idle,
            write: Interest::Idle,
        }
    }

    /// Waits for bytes, unless it does already.
    pub(super) fn await_readable(&mut self) {
        if self.read.is_idle() {
            self.fd
                .await_readable(&mut self.read, Token::Read(slot(self.id)));
        }
    }

    /// Waits for room, unless it does already.
    pub(super) fn await_writable(&mut self) {
        if self.write.is_idle() {
            self.fd
                .await_writable(&mut self.write, Token::Write(slot(self.id)));
        }
    }

    /// Closes it.
    pub(super) fn hang_up(self) {
        // A pending poll holds the descriptor open until it completes.
        if self.read.is_waiting() || self.write.is_waiting() {
            self.fd.shutdown(Shutdown::Both);
        }
    }
}

impl Table {
    /// Adds a socket. Its slot is free: the shard gives a slot anew only after it told us to close the one before.
    pub(super) fn insert(&mut self, socket: Socket) {
        let slot = slot(socket.id);
        let (sockets, at) = self.sockets(slot);
        if at >= sockets.len() {
            sockets.resize_with(at + 1, || None);
        }
        debug_assert!(sockets[at].is_none(), "{slot:?} is taken");
        sockets[at] = Some(socket);
    }

    /// The socket that the shard means.
    pub(super) fn get(&mut self, id: SocketId) -> Option<&mut Socket> {
        self.at(slot(id)).filter(|socket| socket.id == id)
    }

    /// The socket in a slot.
    pub(super) fn at(&mut self, slot: Slot) -> Option<&mut Socket> {
        let (sockets, at) = self.sockets(slot);
        sockets.get_mut(at)?.as_mut()
    }

    /// Takes the socket out.
    pub(super) fn remove(&mut self, id: SocketId) -> Option<Socket> {
        self.get(id)?;
        let (sockets, at) = self.sockets(slot(id));
        sockets.get_mut(at)?.take()
    }

    /// Takes out a socket that stands where `id` will stand.
    pub(super) fn remove_stale(&mut self, id: SocketId) -> Option<Socket> {
        let (sockets, at) = self.sockets(slot(id));
        sockets.get_mut(at)?.take()
    }

    /// Takes out all sockets.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Socket> {
        let all = self.conns.drain(..).chain(self.links.drain(..));
        all.flatten()
    }

    fn sockets(&mut self, slot: Slot) -> (&mut Vec<Option<Socket>>, usize) {
        match slot {
            Slot::Conn(at) => (&mut self.conns, at),
            Slot::Link(at) => (&mut self.links, at),
        }
    }
}

/// Where a socket stands.
pub(super) fn slot(id: SocketId) -> Slot {
    match id {
        SocketId::Conn(conn) => Slot::Conn(conn.slot()),
        SocketId::Link(link) => Slot::Link(link.slot as usize),
    }
}
