//! Reading: clients as they come, links in fair parts of one budget.

use std::time::Duration;

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};

use crate::{driver::failures::ended, identity::SocketId, shard::Closed};

use super::{
    ready::{self, Slot, Token},
    run::Reactor,
    socket::Interest,
};

/// Most tokens taken from the ready list in a tick, so that a tick stays short: at 1-2 µs a read, about a millisecond.
const TOKENS: usize = 512;
/// Bytes read from a link by one call: more would only leave the caches before the shard looks at them.
pub(super) const LINK_READ: usize = 256 << 10;
/// Least bytes of the budget that a link gets in its turn: less is not worth a system call.
const LEAST: usize = 4 << 10;

impl Reactor {
    /// Goes through the ready list: reads clients, queues links, notes the rest.
    pub(super) fn take_ready(&mut self, now: Duration) {
        for _ in 0..TOKENS {
            let Some(token) = ready::pop() else { return };
            self.taken += 1;
            match token {
                Token::Bell => self.bell_rang(),
                Token::Listener(at) => self.listener_ready(at),
                Token::Read(slot) => self.readable(now, slot, token),
                Token::Write(slot) => self.writable(slot, token),
            }
        }
    }

    fn readable(&mut self, now: Duration, slot: Slot, token: Token) {
        let Some(socket) = self.table.at(slot) else {
            return;
        };
        if !socket.read.take_ready(token) {
            return;
        }
        match socket.id {
            SocketId::Conn(_) => {
                let id = socket.id;
                self.read(now, id, self.conn_bytes);
            }
            SocketId::Link(_) => {
                socket.read = Interest::Ready;
                self.links.push_back(socket.id);
            }
        }
    }

    /// Reads links with data, round after round, until the tick's budget is used or nothing is left.
    ///
    /// In every round each link gets an equal part of what is left. (Bytes can be cut anywhere, so no link is owed anything
    /// from one round to the next, and there are no deficits to keep.) Who has not had its turn is first in the next tick. Says how
    /// many bytes that were.
    pub(super) fn read_links(&mut self, now: Duration) -> usize {
        let mut left = self.budget.bytes();
        while left > 0 && !self.links.is_empty() {
            let part = (left / self.links.len()).max(LEAST);
            for _ in 0..self.links.len() {
                if left == 0 {
                    break;
                }
                left -= self.read_link(now, part.min(left));
            }
        }
        let taken = self.budget.bytes() - left;
        if taken > 0 {
            self.metrics.tick_bytes.record(taken as u64);
        }
        taken
    }

    /// Reads at most `part` bytes from the link whose turn it is.
    fn read_link(&mut self, now: Duration, part: usize) -> usize {
        let Some(id) = self.links.pop_front() else {
            return 0;
        };
        match self.table.get(id) {
            Some(socket) if socket.read.is_ready() => socket.read = Interest::Idle,
            _ => return 0,
        }
        let wanted = part.min(LINK_READ);
        let taken = self.read(now, id, wanted);
        if taken == wanted
            && let Some(socket) = self.table.get(id)
        {
            // There may be more: it stays in line instead of waiting. (It also stands in `rearm`, which leaves it alone.)
            socket.read = Interest::Ready;
            self.links.push_back(id);
        }
        taken
    }

    /// Reads once, at most `limit` bytes, and gives the shard what came.
    fn read(&mut self, now: Duration, id: SocketId, limit: usize) -> usize {
        // Not wanted: the socket waits for nothing until the shard says Resume.
        if !self.shard.wants_bytes(id) {
            return 0;
        }
        let Some(socket) = self.table.get(id) else {
            return 0;
        };
        let buffer = &mut self.buffer[..limit];
        let received = self
            .sheet
            .kernel(|| recv(&socket.fd, &mut *buffer, RecvFlags::DONTWAIT));
        match received {
            Ok((_, 0)) => self.lost(now, id, Closed::Eof),
            Ok((_, n)) => {
                let received = match id {
                    SocketId::Conn(_) => &self.metrics.received_bytes_client,
                    SocketId::Link(_) => &self.metrics.received_bytes_logic,
                };
                received.add(n as u64);
                self.shard.bytes(now, id, &mut buffer[..n]);
                self.rearm.push(id);
                return n;
            }
            Err(Errno::AGAIN | Errno::INTR) => self.rearm.push(id),
            Err(error) => self.lost(now, id, ended(error)),
        }
        0
    }

    /// Waits for more from every socket that was read and is still wanted. After the actions, so that a socket which moves to
    /// another shard has no poll pending here.
    pub(super) fn rearm(&mut self) {
        for id in self.rearm.drain(..) {
            if let Some(socket) = self.table.get(id)
                && self.shard.wants_bytes(id)
            {
                socket.await_readable();
            }
        }
    }

    /// A socket is gone, or at its end: tells the shard, and forgets it.
    pub(super) fn lost(&mut self, now: Duration, id: SocketId, why: Closed) {
        self.shard.closed(now, id, why);
        if let Some(socket) = self.table.remove(id) {
            socket.hang_up();
        }
    }
}
