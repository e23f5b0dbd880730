//! Reading links: in fair parts of one budget.

use std::time::Duration;

use rustix::{
    event::PollFlags,
    io::Errno,
    net::{RecvFlags, Shutdown, recv, shutdown},
};

use super::{
    run::Reactor,
    table::{Link, Reading, Sending},
    token::{Key, Token},
};
use crate::{
    driver::failures::ended,
    identity::{LinkId, SocketId},
    shard::Closed,
};

/// Bytes read from a link by one call: more would only leave the caches before the shard looks at them.
pub(super) const LINK_READ: usize = 256 << 10;
/// Least bytes of the budget that a link gets in its turn: less is not worth a system call.
const LEAST: usize = 4 << 10;

impl Link {
    /// Closes it. A pending poll holds the socket open until it completes: this makes it complete.
    pub(super) fn hang_up(self) {
        if self.reading == Reading::Polled || self.sending == Sending::AwaitsRoom {
            // The only error is that the peer has ended it already.
            let _ = shutdown(&self.fd, Shutdown::Both);
        }
    }
}

impl Reactor {
    /// A link has bytes.
    pub(super) fn link_readable(&mut self, key: Key) {
        let id = link_of(key);
        if let Some(link) = self.table.link(id) {
            link.reading = Reading::Ready;
            self.links.push_back(id);
        }
    }

    /// A link that was full has room again.
    pub(super) fn link_has_room(&mut self, key: Key) {
        let id = link_of(key);
        if let Some(link) = self.table.link(id) {
            link.sending = Sending::Idle;
            self.roomy.push(SocketId::Link(id));
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
        let socket = SocketId::Link(id);
        let Some(link) = self.table.link(id) else {
            return 0;
        };
        link.reading = Reading::Idle;
        // Not wanted: it waits for nothing until the shard says Resume.
        if !self.shard.wants_bytes(socket) {
            return 0;
        }
        let wanted = part.min(LINK_READ);
        let buffer = &mut self.buffer[..wanted];
        let read = self
            .sheet
            .kernel(|| recv(&link.fd, &mut *buffer, RecvFlags::DONTWAIT));
        match read {
            Ok((_, 0)) => self.lost(now, socket, Closed::Eof),
            Ok((_, n)) => {
                if n == wanted {
                    // There may be more: it stays in line instead of being polled.
                    link.reading = Reading::Ready;
                    self.links.push_back(id);
                } else {
                    self.rearm.push(socket);
                }
                self.metrics.received_bytes_logic.add(n as u64);
                self.shard.bytes(now, socket, &mut buffer[..n]);
                return n;
            }
            Err(Errno::AGAIN | Errno::INTR) => self.rearm.push(socket),
            Err(error) => self.lost(now, socket, ended(error)),
        }
        0
    }

    /// Waits for more from a link, if it is wanted.
    pub(super) fn rearm_link(&mut self, id: LinkId) {
        if let Some(link) = self.table.link(id)
            && link.reading == Reading::Idle
            && self.shard.wants_bytes(SocketId::Link(id))
        {
            link.reading = Reading::Polled;
            let token = Token::LinkReadable(link.key());
            self.rings
                .first()
                .poll(&link.fd, PollFlags::IN, false, token);
        }
    }
}

fn link_of(key: Key) -> LinkId {
    LinkId {
        slot: key.place,
        generation: key.generation,
    }
}
