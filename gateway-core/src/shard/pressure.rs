//! Streams that have too much waiting, and the sockets that are not read meanwhile.

use super::Shard;
use crate::{
    identity::{ConnId, SocketId},
    lanes::{Notice, ReceiverRef, StreamRef},
};

impl Shard {
    /// Reads on from connections whose stream has room again, or is gone.
    pub(super) fn resume_paused(&mut self) {
        self.relieve_streams();
        if self.paused.is_empty() {
            return;
        }
        let soft = self.gateway.config.lanes.batch_messages;
        for (receiver, id) in std::mem::take(&mut self.paused) {
            let elsewhere = receiver.shard != self.index;
            let waiting = self.outgoing[usize::from(receiver.shard)].events.len();
            if self.upstream.is_full(receiver) || (elsewhere && waiting >= soft) {
                self.paused.push((receiver, id));
            } else if let Some(conn) = self.conns.get_mut(id) {
                conn.paused = false;
                let socket = SocketId::Conn(id);
                self.actions.push_back(super::Action::Resume { socket });
            }
        }
    }

    pub(super) fn pause(&mut self, receiver: ReceiverRef, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && !std::mem::replace(&mut conn.paused, true)
        {
            self.paused.push((receiver, id));
        }
    }

    /// A stream of this shard has more waiting than it should.
    pub(super) fn stream_full(&mut self, receiver: ReceiverRef) {
        if !self.full_streams.contains(&receiver) {
            self.full_streams.push(receiver);
            self.tell_full(receiver, true);
        }
    }

    /// Whether a stream has more waiting than it should.
    pub(super) fn is_over(&self, at: StreamRef) -> bool {
        self.is_loaded(at, 1)
    }

    /// Whether a stream has more waiting than a part of what it may.
    fn is_loaded(&self, at: StreamRef, part: usize) -> bool {
        let config = &self.gateway.config;
        let load = self.load_at(at);
        let unacked = load.messages && load.unacked > config.upstream.unacked_bytes / part;
        unacked || load.queued > config.grpc.send_buffer_bytes / part
    }

    fn relieve_streams(&mut self) {
        if self.full_streams.is_empty() {
            return;
        }
        for receiver in std::mem::take(&mut self.full_streams) {
            let at = self.outlets.stream_of(receiver.stream);
            if self.is_loaded(at, 2) {
                self.full_streams.push(receiver);
            } else {
                self.tell_full(receiver, false);
            }
        }
    }

    fn tell_full(&mut self, receiver: ReceiverRef, full: bool) {
        self.upstream.set_full(receiver, full);
        if self.outlets.is_announced(receiver) {
            for shard in self.lanes.others() {
                self.notify(shard, Notice::ReceiverFull { receiver, full });
            }
        }
    }
}
