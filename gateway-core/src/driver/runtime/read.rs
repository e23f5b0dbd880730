//! Reading: clients as they come, links in fair parts of one budget.

use std::time::Duration;

use rustix::io::Errno;

use crate::{
    driver::{failures::ended, turns::Taking},
    identity::SocketId,
    shard::Closed,
};

use super::{
    Interest, Runtime, Stream,
    ready::{self, Slot, Token},
    run::Reactor,
    table::slot,
};

/// Most tokens taken from the ready list in a tick, so that a tick stays short: at 1-2 µs a read, about a millisecond.
const TOKENS: usize = 512;

impl<R: Runtime> Reactor<R> {
    /// Goes through the ready list: reads clients, queues links, notes the rest.
    pub(super) fn take_ready(&mut self, now: Duration) {
        for _ in 0..TOKENS {
            let Some(token) = ready::pop() else { return };
            self.taken += 1;
            match token {
                Token::Bell => self.runtime.bell_rang(self.mailbox.bell()),
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
                self.links.line_up(socket.id);
            }
        }
    }

    /// Reads links with data, in turns. Says what they have taken.
    pub(super) fn read_links(&mut self, now: Duration) -> Taking {
        let mut taking = self.links.begin();
        while let Some((id, most)) = self.links.next(&mut taking) {
            let bytes = self.read_link(now, id, most);
            taking.takes(bytes);
        }
        if taking.taken() > 0 {
            self.metrics.tick_bytes.record(taking.taken() as u64);
        }
        taking
    }

    /// Reads at most `most` bytes from the link whose turn it is.
    fn read_link(&mut self, now: Duration, id: SocketId, most: usize) -> usize {
        match self.table.get(id) {
            Some(socket) if socket.read.is_ready() => socket.read = Interest::Idle,
            _ => return 0,
        }
        let taken = self.read(now, id, most);
        if taken == most
            && let Some(socket) = self.table.get(id)
        {
            // There may be more: it stays in line instead of waiting. (It also stands in `rearm`, which leaves it alone.)
            socket.read = Interest::Ready;
            self.links.line_up(id);
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
        let waker = Token::Read(slot(id)).waker();
        let received = self.sheet.kernel(|| socket.fd.recv(buffer, &waker));
        match received {
            Ok(0) => self.lost(now, id, Closed::Eof),
            Ok(n) => {
                let received = match id {
                    SocketId::Conn(_) => &self.metrics.received_bytes_client,
                    SocketId::Link(_) => &self.metrics.received_bytes_logic,
                };
                received.add(n as u64);
                self.shard.bytes(now, id, &mut self.buffer[..n]);
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
