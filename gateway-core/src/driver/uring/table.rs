//! The sockets of a shard, by the slots that the shard gave them.

use std::os::fd::OwnedFd;

use super::{rings::Place, token::Key};
use crate::identity::{ConnId, LinkId};

/// A client's socket: 12 bytes, which is all that an idle one has here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conn {
    generation: u32,
    /// Its direct descriptor.
    pub(super) place: Place,
    /// Whether it waits for bytes.
    pub(super) receiving: Receiving,
    /// Whether it waits for room.
    pub(super) sending: Sending,
}

/// A logic service's socket.
#[derive(Debug)]
pub(super) struct Link {
    /// What the shard calls it.
    pub(super) id: LinkId,
    /// Its descriptor, an ordinary one: there are few links, and they are read in large pieces.
    pub(super) fd: OwnedFd,
    /// Whether it waits for bytes.
    pub(super) reading: Reading,
    /// Whether it waits for room.
    pub(super) sending: Sending,
}

/// How far receiving has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    /// Nothing was asked for.
    Idle,
    /// The kernel gives what comes.
    Armed,
    /// It was told to stop, and has not answered.
    Stopping,
}

/// How far reading a link has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Nobody wants to know.
    Idle,
    /// The kernel will say when there are bytes.
    Polled,
    /// It stands in line.
    Ready,
}

/// How far sending has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// Nothing is on its way.
    Idle,
    /// A send is handed over in this tick.
    Flying,
    /// The socket is full.
    AwaitsRoom,
}

/// All sockets, in slots as the shard's own tables.
#[derive(Debug, Default)]
pub(super) struct Table {
    conns: Vec<Option<Conn>>,
    links: Vec<Option<Link>>,
}

impl Conn {
    /// A socket that waits for nothing yet.
    pub(super) fn new(id: ConnId, place: Place) -> Self {
        Self {
            generation: id.generation(),
            place,
            receiving: Receiving::Idle,
            sending: Sending::Idle,
        }
    }

    /// Its name in tokens; `id` is one that has, or had, the same slot.
    pub(super) fn key(&self, id: ConnId) -> Key {
        Key {
            place: id.slot() as u32,
            generation: self.generation,
        }
    }
}

impl Link {
    /// A socket that waits for nothing yet.
    pub(super) fn new(id: LinkId, fd: OwnedFd) -> Self {
        Self {
            id,
            fd,
            reading: Reading::Idle,
            sending: Sending::Idle,
        }
    }

    /// Its name in tokens.
    pub(super) fn key(&self) -> Key {
        Key {
            place: self.id.slot,
            generation: self.id.generation,
        }
    }
}

impl Table {
    /// Adds a client. Its slot is free, or holds one that the shard has forgotten: that one comes back.
    pub(super) fn insert_conn(&mut self, id: ConnId, conn: Conn) -> Option<Conn> {
        let at = id.slot();
        if at >= self.conns.len() {
            self.conns.resize_with(at + 1, || None);
        }
        self.conns[at].replace(conn)
    }

    /// The client's socket.
    pub(super) fn conn(&mut self, id: ConnId) -> Option<&mut Conn> {
        let conn = self.conns.get_mut(id.slot())?.as_mut()?;
        (conn.generation == id.generation()).then_some(conn)
    }

    /// Takes the client out.
    pub(super) fn remove_conn(&mut self, id: ConnId) -> Option<Conn> {
        self.conn(id)?;
        self.conns[id.slot()].take()
    }

    /// Adds a link. Its slot is free, or holds one that the shard has forgotten: that one comes back.
    pub(super) fn insert_link(&mut self, link: Link) -> Option<Link> {
        let at = link.id.slot as usize;
        if at >= self.links.len() {
            self.links.resize_with(at + 1, || None);
        }
        self.links[at].replace(link)
    }

    /// The link's socket.
    pub(super) fn link(&mut self, id: LinkId) -> Option<&mut Link> {
        let link = self.links.get_mut(id.slot as usize)?.as_mut()?;
        (link.id == id).then_some(link)
    }

    /// Takes the link out.
    pub(super) fn remove_link(&mut self, id: LinkId) -> Option<Link> {
        self.link(id)?;
        self.links[id.slot as usize].take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_client_takes_twelve_bytes() {
        assert_eq!(size_of::<Option<Conn>>(), 12);
    }
}
