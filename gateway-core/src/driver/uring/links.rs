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
    driver::{failures::ended, turns::Taking},
    identity::{LinkId, SocketId},
    shard::Closed,
};

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
            self.links.line_up(id);
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
    fn read_link(&mut self, now: Duration, id: LinkId, most: usize) -> usize {
        let socket = SocketId::Link(id);
        let Some(link) = self.table.link(id) else {
            return 0;
        };
        link.reading = Reading::Idle;
        // Not wanted: it waits for nothing until the shard says Resume.
        if !self.shard.wants_bytes(socket) {
            return 0;
        }
        let buffer = &mut self.buffer[..most];
        let read = self
            .sheet
            .kernel(|| recv(&link.fd, &mut *buffer, RecvFlags::DONTWAIT));
        match read {
            Ok((_, 0)) => self.lost(now, socket, Closed::Eof),
            Ok((_, n)) => {
                if n == most {
                    // There may be more: it stays in line instead of being polled.
                    link.reading = Reading::Ready;
                    self.links.line_up(id);
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
