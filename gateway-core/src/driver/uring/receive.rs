//! What comes from clients.

use std::time::Duration;

use rustix::io::Errno;

use super::{
    ring::Completion,
    run::Reactor,
    table::Receiving,
    token::{Key, Token},
};
use crate::{
    driver::failures::ended,
    identity::{ConnId, SocketId},
    shard::Closed,
};

/// What came from a client after the shard wanted no more: until the kernel was told to stop, in the same tick. So it is at
/// most what the ring's buffers hold.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: Vec<u8>,
    /// The end, if it came too.
    end: Option<Closed>,
}

impl Reactor {
    /// A receive has brought something, or ended.
    pub(super) fn received(&mut self, now: Duration, ring: usize, key: Key, done: Completion) {
        let id = key.conn(self.shard.index());
        // Otherwise it is late, and its socket gone.
        if let Some(conn) = self.table.conn(id) {
            if !done.more {
                conn.receiving = Receiving::Idle;
                match done.result {
                    Err(Errno::NOBUFS) => self.starved.push_back(id),
                    _ => self.rearm.push(SocketId::Conn(id)),
                }
            }
            match (done.result, done.buffer) {
                (Ok(n), Some(buffer)) if n > 0 => self.bytes(now, id, ring, buffer, n as usize),
                (Ok(_), _) => self.ended(now, id, Closed::Eof),
                // All buffers were taken: it is asked for again in its turn.
                (Err(Errno::NOBUFS), _) => self.metrics.buffer_shortages.add(1),
                (Err(Errno::CANCELED | Errno::AGAIN | Errno::INTR), _) => {}
                (Err(error), _) => self.ended(now, id, ended(error)),
            }
        }
        if let Some(buffer) = done.buffer {
            self.rings.at(ring).give_buffer(buffer);
        }
    }

    fn bytes(&mut self, now: Duration, id: ConnId, ring: usize, buffer: u16, n: usize) {
        let socket = SocketId::Conn(id);
        let bytes = self.rings.at(ring).filled(buffer, n);
        self.metrics.received_bytes_client.add(n as u64);
        if self.shard.wants_bytes(socket) && !self.held.contains_key(&id) {
            self.shard.bytes(now, socket, bytes);
        } else {
            let held = self.held.entry(id).or_default();
            held.bytes.extend_from_slice(bytes);
        }
        if !self.shard.wants_bytes(socket) {
            self.stop_receiving(id);
        }
    }

    /// Tells the kernel that nothing more is wanted.
    fn stop_receiving(&mut self, id: ConnId) {
        if let Some(conn) = self.table.conn(id)
            && conn.receiving == Receiving::Armed
        {
            conn.receiving = Receiving::Stopping;
            let token = Token::Receive(Key::of(id));
            self.rings.of(conn.place).cancel(token);
        }
    }

    fn ended(&mut self, now: Duration, id: ConnId, why: Closed) {
        match self.held.get_mut(&id) {
            // What came before goes first.
            Some(held) => held.end = Some(why),
            None => self.lost(now, SocketId::Conn(id), why),
        }
    }

    /// The shard wants a client's bytes again: those that were held, then more.
    pub(super) fn resume(&mut self, now: Duration, id: ConnId) {
        let socket = SocketId::Conn(id);
        self.rearm.push(socket);
        let Some(mut held) = self.held.remove(&id) else {
            return;
        };
        let mut taken = 0;
        while taken < held.bytes.len() && self.shard.wants_bytes(socket) {
            let part = self.conn_bytes.min(held.bytes.len() - taken);
            let bytes = &mut held.bytes[taken..taken + part];
            self.shard.bytes(now, socket, bytes);
            taken += part;
        }
        if taken < held.bytes.len() {
            held.bytes.drain(..taken);
            self.held.insert(id, held);
        } else if let Some(why) = held.end {
            self.lost(now, socket, why);
        }
    }

    /// Asks for more from every socket that gives nothing any more and is wanted. After the actions, so that nothing is
    /// pending for a connection that moves away.
    pub(super) fn rearm(&mut self) {
        // No more at once than there are buffers: the others would only find them taken again.
        for _ in 0..self.starved.len().min(self.buffers) {
            if let Some(id) = self.starved.pop_front() {
                self.rearm_conn(id);
            }
        }
        self.again |= !self.starved.is_empty();
        let mut sockets = std::mem::take(&mut self.rearm);
        for socket in sockets.drain(..) {
            match socket {
                SocketId::Conn(id) => self.rearm_conn(id),
                SocketId::Link(id) => self.rearm_link(id),
            }
        }
        self.rearm = sockets;
    }

    fn rearm_conn(&mut self, id: ConnId) {
        let socket = SocketId::Conn(id);
        if let Some(conn) = self.table.conn(id)
            && conn.receiving == Receiving::Idle
            && self.shard.wants_bytes(socket)
            && !self.held.contains_key(&id)
        {
            conn.receiving = Receiving::Armed;
            let token = Token::Receive(Key::of(id));
            let ring = self.rings.of(conn.place);
            ring.receive(conn.place.number(), self.shard.stays(socket), token);
        }
    }
}
