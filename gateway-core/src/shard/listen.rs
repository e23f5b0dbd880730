//! Streams that listen to the directory: of this shard, and of others through lanes.

use gateway_proto::v1::gateway_frame::Body;
use h2_stream::StreamId;

use super::{Shard, links::Links};
use crate::{
    identity::{LinkId, ShardIndex},
    lanes::{Notice, ReceiverRef, StreamRef, Work},
};

/// A stream with less than this waiting takes more of the directory: acks and receipts queue behind it.
const ROOM: usize = 128 << 10;

impl Shard {
    /// A stream of this shard wants to know who is online.
    pub(super) fn directory_wanted(&mut self, id: LinkId, stream: StreamId, whole_gateway: bool) {
        if self.directory.is_full(self.index) {
            if let Some(state) = self.links.get_mut(id) {
                state.link.refuse_directory(stream);
            }
            return;
        }
        let receiver = self.receiver(id, stream);
        self.listen(receiver);
        if whole_gateway && self.lanes.shards() > 1 {
            self.directory.announced.push(receiver);
            for shard in self.lanes.others() {
                self.notify(shard, Notice::DirectoryUp(receiver));
            }
        }
    }

    /// A stream of this shard is gone.
    pub(super) fn directory_gone(&mut self, receiver: ReceiverRef) {
        self.unlisten(receiver);
        let announced = &mut self.directory.announced;
        if let Some(at) = announced.iter().position(|other| *other == receiver) {
            announced.swap_remove(at);
            let owed = &mut self.directory.owed;
            owed.retain(|(_, to)| *to != receiver.stream);
            for shard in self.lanes.others() {
                self.notify(shard, Notice::DirectoryDown(receiver));
            }
        }
    }

    /// A stream of whatever shard is to be told of this shard's users.
    pub(super) fn listen(&mut self, receiver: ReceiverRef) {
        self.directory.add(receiver);
        let listeners = self.directory.listeners() as u64;
        self.metrics.directory_streams.set(listeners);
    }

    pub(super) fn unlisten(&mut self, receiver: ReceiverRef) {
        self.directory.remove(receiver);
        let listeners = self.directory.listeners() as u64;
        self.metrics.directory_streams.set(listeners);
    }

    /// Tells listeners what is new; those on other shards once they have taken what came before.
    pub(super) fn run_directory(&mut self) {
        self.grant_room();
        if self.directory.listeners() == 0 {
            return;
        }
        let (index, room) = (self.index, self.directory_room());
        self.directory.note_changes(&self.users, &self.metrics);
        let mut reached = Vec::new();
        let (lanes, metrics) = (&mut self.lanes, &self.metrics);
        let links = std::cell::RefCell::new(&mut self.links);
        self.directory.tell(
            index,
            &self.users,
            metrics,
            |to| to.shard != index || queued(&links.borrow(), to.stream) < room,
            |to, frames| {
                if to.shard == index {
                    reached.push(to.stream.link);
                    send_here(&mut links.borrow_mut(), to.stream, frames);
                    return true;
                }
                let part = Work::Directory {
                    from: index,
                    to: to.stream,
                    frames,
                };
                let sent = lanes.send_work(to.shard, part).is_ok();
                metrics.crossings.add("directory", u64::from(sent));
                sent
            },
        );
        self.directory.tidy();
        for link in reached {
            self.mark_link_ready(link);
        }
        let bytes = self.directory.queued() as u64;
        self.metrics.directory_queue_bytes.set(bytes);
    }

    /// A part of another shard's directory, for a stream of this one.
    pub(super) fn take_directory(&mut self, from: ShardIndex, to: StreamRef, frames: Vec<Body>) {
        send_here(&mut self.links, to, frames);
        self.mark_link_ready(to.link);
        self.directory.owed.push((from, to));
    }

    /// Lets other shards send more to the streams that have room.
    fn grant_room(&mut self) {
        let room = self.directory_room();
        for (from, stream) in std::mem::take(&mut self.directory.owed) {
            if queued(&self.links, stream) < room {
                let shard = self.index;
                self.notify(from, Notice::DirectoryRoom(ReceiverRef { shard, stream }));
            } else {
                self.directory.owed.push((from, stream));
            }
        }
    }

    fn directory_room(&self) -> usize {
        self.gateway.config.grpc.send_buffer_bytes.min(ROOM)
    }
}

fn queued(links: &Links, stream: StreamRef) -> usize {
    let state = links.get(stream.link);
    state.map_or(0, |state| state.link.queued(StreamId(stream.stream)))
}

/// A stream that has ended meanwhile gets nothing: the notice of that is on its way.
fn send_here(links: &mut Links, to: StreamRef, frames: Vec<Body>) {
    if let Some(state) = links.get_mut(to.link) {
        for frame in frames {
            state.link.send_directory(StreamId(to.stream), frame);
        }
    }
}
