//! The sockets of a shard, by the slots that the shard gave them.

use crate::identity::SocketId;

use super::{
    Interest, Stream,
    ready::{Slot, Token},
};

/// One socket.
pub(super) struct Socket<S: Stream> {
    /// What the shard calls it.
    pub(super) id: SocketId,
    /// Its descriptor.
    pub(super) fd: S,
    /// Whether it waits for bytes to come.
    pub(super) read: Interest<S::Wait>,
    /// Whether it waits for room.
    pub(super) write: Interest<S::Wait>,
}

/// All sockets, in slots as the shard's own tables.
pub(super) struct Table<S: Stream> {
    conns: Vec<Option<Socket<S>>>,
    links: Vec<Option<Socket<S>>>,
}

impl<S: Stream> Socket<S> {
    /// A socket that waits for nothing yet.
    pub(super) fn new(id: SocketId, fd: S) -> Self {
        Self {
            id,
            fd,
            read: Interest::Idle,
            write: Interest::Idle,
        }
    }

    /// Waits for bytes, unless it does already.
    pub(super) fn await_readable(&mut self) {
        let (fd, token) = (&mut self.fd, Token::Read(slot(self.id)));
        self.read.wait(token, |waker| fd.await_readable(waker));
    }

    /// Waits for room, unless it does already.
    pub(super) fn await_writable(&mut self) {
        let (fd, token) = (&mut self.fd, Token::Write(slot(self.id)));
        self.write.wait(token, |waker| fd.await_writable(waker));
    }

    /// Closes it.
    pub(super) fn hang_up(self) {
        self.fd
            .hang_up(self.read.is_waiting() || self.write.is_waiting());
    }
}

impl<S: Stream> Default for Table<S> {
    fn default() -> Self {
        Self {
            conns: Vec::new(),
            links: Vec::new(),
        }
    }
}

impl<S: Stream> Table<S> {
    /// Adds a socket. Its slot is free: the shard gives a slot anew only after it told us to close the one before.
    pub(super) fn insert(&mut self, socket: Socket<S>) {
        let slot = slot(socket.id);
        let (sockets, at) = self.sockets(slot);
        if at >= sockets.len() {
            sockets.resize_with(at + 1, || None);
        }
        debug_assert!(sockets[at].is_none(), "{slot:?} is taken");
        sockets[at] = Some(socket);
    }

    /// The socket that the shard means.
    pub(super) fn get(&mut self, id: SocketId) -> Option<&mut Socket<S>> {
        self.at(slot(id)).filter(|socket| socket.id == id)
    }

    /// The socket in a slot.
    pub(super) fn at(&mut self, slot: Slot) -> Option<&mut Socket<S>> {
        let (sockets, at) = self.sockets(slot);
        sockets.get_mut(at)?.as_mut()
    }

    /// Takes the socket out.
    pub(super) fn remove(&mut self, id: SocketId) -> Option<Socket<S>> {
        self.get(id)?;
        let (sockets, at) = self.sockets(slot(id));
        sockets.get_mut(at)?.take()
    }

    /// Takes out a socket that stands where `id` will stand.
    pub(super) fn remove_stale(&mut self, id: SocketId) -> Option<Socket<S>> {
        let (sockets, at) = self.sockets(slot(id));
        sockets.get_mut(at)?.take()
    }

    /// Takes out all sockets.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Socket<S>> {
        let all = self.conns.drain(..).chain(self.links.drain(..));
        all.flatten()
    }

    fn sockets(&mut self, slot: Slot) -> (&mut Vec<Option<Socket<S>>>, usize) {
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
