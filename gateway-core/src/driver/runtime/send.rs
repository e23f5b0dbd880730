//! Sending, and what else the shard wants done with its sockets.

use std::time::Duration;

use rustix::{io::Errno, net::Shutdown};

use crate::{
    driver::{failures::ended, mailbox::Moved},
    identity::{ShardIndex, SocketId},
    shard::{Action, Handshake},
};

use super::{
    Runtime, Stream, Watched,
    accept::Peers,
    ready::{Slot, Token},
    run::Reactor,
    table::slot,
};

impl<R: Runtime> Reactor<R> {
    /// One send for each socket with something to send, as far as the shard's slice goes.
    pub(super) fn flush(&mut self) {
        while let Some(id) = self.shard.next_dirty() {
            self.send(id);
        }
    }

    /// A socket that was full has room again.
    pub(super) fn writable(&mut self, slot: Slot, token: Token) {
        if let Some(socket) = self.table.at(slot)
            && socket.write.take_ready(token)
        {
            let id = socket.id;
            self.send(id);
        }
    }

    /// Hands the kernel what it takes now; waits for room for the rest.
    fn send(&mut self, id: SocketId) {
        let Some(socket) = self.table.get(id) else {
            return;
        };
        if !socket.write.is_idle() {
            return;
        }
        let bytes = self.shard.to_send(self.clock.now(), id);
        if bytes.is_empty() {
            return;
        }
        let wanted = bytes.len();
        let waker = Token::Write(slot(id)).waker();
        match self.sheet.kernel(|| socket.fd.send(bytes, &waker)) {
            Ok(n) => {
                if n < wanted {
                    socket.await_writable();
                }
                self.count_sent(id, n);
                self.shard.sent(self.clock.now(), id, n);
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                socket.await_writable();
                self.count_sent(id, 0);
            }
            Err(error) => self.lost(self.clock.now(), id, ended(error)),
        }
    }

    fn count_sent(&self, id: SocketId, n: usize) {
        match id {
            SocketId::Conn(_) => {
                self.metrics.sends.add(1);
                self.metrics.sent_bytes_client.add(n as u64);
            }
            SocketId::Link(_) => self.metrics.sent_bytes_logic.add(n as u64),
        }
    }

    /// Does what the shard wants done.
    pub(super) fn act(&mut self) {
        while let Some(action) = self.shard.next_action() {
            match action {
                Action::Finish { socket } => {
                    if let Some(socket) = self.table.get(socket) {
                        socket.fd.shut_down(Shutdown::Write);
                    }
                }
                Action::Close { socket } => {
                    if let Some(socket) = self.table.remove(socket) {
                        socket.hang_up();
                    }
                }
                Action::Move {
                    socket,
                    to,
                    handshake,
                } => self.move_away(socket, to, handshake),
                Action::Resume { socket } => self.rearm.push(socket),
                Action::StopAccepting => {
                    for listener in self.listeners.iter_mut().flatten() {
                        listener.stop(Peers::Clients);
                    }
                }
            }
        }
    }

    fn move_away(&mut self, id: SocketId, to: ShardIndex, handshake: Handshake) {
        let Some(socket) = self.table.remove(id) else {
            return;
        };
        let port = &self.ports[usize::from(to)];
        let sent = match socket.fd.detach() {
            Ok(fd) => port.send_socket(Moved { fd, handshake }).is_ok(),
            Err(_) => false,
        };
        if sent {
            self.metrics.crossings.count("socket");
            port.ring();
        } else {
            self.shard.move_refused();
        }
    }

    /// Wakes the shards that have got something in this tick.
    pub(super) fn ring_others(&mut self) {
        for shard in self.shard.take_wakes() {
            self.ports[usize::from(shard)].ring();
        }
    }

    /// The time since the start.
    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }
}
