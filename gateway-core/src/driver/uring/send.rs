//! Sending: one request for each dirty socket, all of them handed over at the end of the tick.

use std::{os::fd::AsRawFd, time::Duration};

use rustix::{event::PollFlags, io::Errno};

use super::{
    ring::Target,
    run::Reactor,
    table::Sending,
    token::{Key, Token},
};
use crate::{
    driver::failures::ended,
    identity::{ConnId, SocketId},
};

/// A send of this tick.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    socket: SocketId,
    /// Bytes that were to be sent.
    wanted: usize,
    /// What became of it: all was sent, unless the ring says otherwise.
    result: Result<usize, Errno>,
}

impl Reactor {
    /// Makes a send for each socket with something to send, as far as the shard's slice goes.
    ///
    /// Nothing may come between this and the entering of the rings that makes the shard free what is sent: it is the last
    /// thing that the tick does with the shard, and in here only [`next_dirty`] and [`to_send`] are called, which move no
    /// other socket's bytes.
    ///
    /// [`next_dirty`]: crate::shard::Shard::next_dirty
    /// [`to_send`]: crate::shard::Shard::to_send
    pub(super) fn flush(&mut self) {
        let mut roomy = std::mem::take(&mut self.roomy);
        for socket in roomy.drain(..) {
            self.send(socket);
        }
        self.roomy = roomy;
        while self.rings.have_room() {
            let Some(socket) = self.shard.next_dirty() else {
                return;
            };
            self.send(socket);
        }
        self.again = true;
    }

    fn send(&mut self, socket: SocketId) {
        let number = self.flights.len() as u32;
        let (ring, target, sending) = match socket {
            SocketId::Conn(id) => {
                let Some(conn) = self.table.conn(id) else {
                    return;
                };
                let target = Target::Direct(conn.place.number());
                (self.rings.of(conn.place), target, &mut conn.sending)
            }
            SocketId::Link(id) => {
                let Some(link) = self.table.link(id) else {
                    return;
                };
                let target = Target::Fd(link.fd.as_raw_fd());
                (self.rings.first(), target, &mut link.sending)
            }
        };
        // Flying: its bytes are on their way in this very tick.
        if *sending != Sending::Idle {
            return;
        }
        let bytes = self.shard.to_send(self.clock.now(), socket);
        if bytes.is_empty() {
            return;
        }
        *sending = Sending::Flying;
        self.flights.push(Flight {
            socket,
            wanted: bytes.len(),
            result: Ok(bytes.len()),
        });
        // SAFETY: the shard leaves these bytes where they are until it is told something, or ticks; the rings are entered
        // before either (see `flush`). Should that fail, the reactor goes, and its rings before its shard.
        #[allow(unsafe_code)]
        unsafe {
            ring.send(target, bytes, number);
        }
    }

    /// Tells the shard what became of the sends. The rings were entered, so the kernel is done with their bytes.
    pub(super) fn land(&mut self) {
        for (number, result) in self.rings.take_short() {
            let result = match usize::try_from(result) {
                Ok(sent) => Ok(sent),
                Err(_) => Err(Errno::from_raw_os_error(-result)),
            };
            self.flights[number as usize].result = result;
        }
        let mut flights = std::mem::take(&mut self.flights);
        let now = self.now();
        for flight in flights.drain(..) {
            self.landed(now, flight);
        }
        self.flights = flights;
    }

    fn landed(&mut self, now: Duration, flight: Flight) {
        let Flight { socket, wanted, .. } = flight;
        let sent = match flight.result {
            Ok(sent) => sent,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) => return self.lost(now, socket, ended(error)),
        };
        self.set_sending(socket, Sending::Idle);
        if sent < wanted {
            self.await_room(socket);
        }
        match socket {
            SocketId::Conn(_) => {
                self.metrics.sends.add(1);
                self.metrics.sent_bytes_client.add(sent as u64);
            }
            SocketId::Link(_) => self.metrics.sent_bytes_logic.add(sent as u64),
        }
        if sent > 0 {
            self.shard.sent(now, socket, sent);
        }
    }

    /// A client's socket that was full has room again.
    pub(super) fn has_room(&mut self, key: Key) {
        let id = key.conn(self.shard.index());
        if let Some(conn) = self.table.conn(id) {
            conn.sending = Sending::Idle;
            self.roomy.push(SocketId::Conn(id));
        }
    }

    fn set_sending(&mut self, socket: SocketId, state: Sending) {
        match socket {
            SocketId::Conn(id) => self.table.conn(id).map(|conn| conn.sending = state),
            SocketId::Link(id) => self.table.link(id).map(|link| link.sending = state),
        };
    }

    fn await_room(&mut self, socket: SocketId) {
        self.set_sending(socket, Sending::AwaitsRoom);
        match socket {
            SocketId::Conn(id) => self.await_room_of_conn(id),
            SocketId::Link(id) => {
                if let Some(link) = self.table.link(id) {
                    let token = Token::LinkRoom(link.key());
                    let first = self.rings.first();
                    first.poll(&link.fd, PollFlags::OUT, false, token);
                }
            }
        }
    }

    fn await_room_of_conn(&mut self, id: ConnId) {
        if let Some(conn) = self.table.conn(id) {
            let token = Token::Room(Key::of(id));
            let ring = self.rings.of(conn.place);
            ring.await_room(conn.place.number(), token);
        }
    }
}
