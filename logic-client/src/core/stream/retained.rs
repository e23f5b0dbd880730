//! What a stream has sent and its gateway has not acknowledged.

use std::collections::VecDeque;
use std::time::Duration;

use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::{ClientAck, LogicFrame};
use h2_stream::PREFIX;
use prost::Message as _;

use crate::core::buffer::{Item, Label, Load};
use crate::core::stream::frames::{Frames, Place};
use crate::core::stream::outgoing::{Numbered, Outgoing};

/// Commands by number, the oldest first. Their memory counts in the bounds of the buffer they came
/// from. One whose content is gone has no size; its number stays.
#[derive(Debug, Default)]
pub(super) struct Retained {
    kept: VecDeque<Kept>,
    frames: Frames,
    /// Of all that is kept.
    bytes: usize,
    /// So many, at the end, are to be sent again.
    unsent: usize,
    released: Load,
}

#[derive(Debug)]
struct Kept {
    label: Label,
    content: Content,
    /// The gateway has dealt with it, as its answer shows.
    answered: bool,
}

/// What is kept of a command.
#[derive(Debug)]
enum Content {
    /// Only its number.
    Gone,
    /// What went on the wire. The memory of the command itself is free for the next one, while it is
    /// still warm: that makes what is kept cheap.
    Frame(Place),
    /// The command, for a copy of it would cost more: a large payload may be shared by many streams.
    Whole(Box<Body>),
}

impl Retained {
    /// Sends a command that has just got its number. `keeps`: and keeps it, to send it again or to
    /// hand it back. [`Retained::flush`] must follow.
    pub(super) fn send(
        &mut self,
        now: Duration,
        item: &mut Item,
        keeps: bool,
        send: &mut impl FnMut(Outgoing<'_>),
    ) {
        age(item, now);
        let numbered = Numbered::from(&*item);
        let room = numbered.encoded_len() + PREFIX;
        let mut label = item.label();
        if !keeps && !self.frames.has_room(room) {
            self.flush(keeps, send);
        }
        let content = if room <= Frames::LONGEST {
            Content::Frame(self.frames.push(&numbered, room))
        } else {
            self.frames.run(|bytes| send(Outgoing::Frames(bytes)));
            send(Outgoing::Large(&numbered));
            Content::Whole(Box::new(std::mem::replace(&mut item.body, nothing())))
        };
        let content = if keeps {
            self.bytes += label.size;
            content
        } else {
            self.released.bytes += label.size;
            label.size = 0;
            Content::Gone
        };
        self.kept.push_back(Kept {
            label,
            content,
            answered: false,
        });
    }

    /// Sends what was encoded.
    pub(super) fn flush(&mut self, keeps: bool, send: &mut impl FnMut(Outgoing<'_>)) {
        self.frames.run(|bytes| send(Outgoing::Frames(bytes)));
        if !keeps {
            self.frames.keep_from(None);
        }
    }

    /// A command gets no number after all.
    pub(super) fn pass_over(&mut self, item: &Item) {
        self.released += item.load();
    }

    /// Drops what has a number up to `sequence`; says how many.
    pub(super) fn drop_acked(&mut self, sequence: u64) -> u64 {
        let acked = self.kept.iter();
        let acked = acked.take_while(|kept| kept.label.sequence <= sequence);
        let mut load = Load::default();
        acked.for_each(|kept| load += kept.load());
        self.kept.drain(..load.items);
        self.bytes -= load.bytes;
        self.released += load;
        self.unsent = self.unsent.min(self.kept.len());
        self.free_frames();
        load.items as u64
    }

    /// A new connection: everything is to be sent again but what has expired, which is taken out.
    pub(super) fn rewind(&mut self, now: Duration) -> Vec<Item> {
        let is_expired = |kept: &Kept| kept.label.expires.is_some_and(|expires| expires <= now);
        let mut expired = Vec::new();
        if self.kept.iter().any(is_expired) {
            let all = std::mem::take(&mut self.kept);
            let (gone, kept) = all.into_iter().partition(is_expired);
            self.kept = kept;
            expired = self.release_all(gone);
            self.free_frames();
        }
        self.unsent = self.kept.len();
        expired
    }

    /// Whether there are commands to be sent again.
    pub(super) fn has_unsent(&self) -> bool {
        self.unsent > 0
    }

    /// Sends the next command that is to be sent again, with what is left of its time; gives its size.
    pub(super) fn send_again(
        &mut self,
        now: Duration,
        send: &mut impl FnMut(Outgoing<'_>),
    ) -> Option<usize> {
        let at = self.kept.len().checked_sub(self.unsent)?;
        let kept = self.kept.get(at)?;
        self.unsent -= 1;
        match &kept.content {
            Content::Frame(place) if kept.label.expires.is_none() => {
                send(Outgoing::Frames(self.frames.get(*place)));
            }
            content => {
                let body = self.body(content).unwrap_or_else(nothing);
                let mut item = kept.label.clone().with(body);
                age(&mut item, now);
                send(Outgoing::Large(&Numbered::from(&item)));
            }
        }
        Some(kept.label.size)
    }

    /// The gateway has answered the command with this number, which stays.
    pub(super) fn answered(&mut self, sequence: u64) {
        self.take(sequence);
    }

    /// Takes the command with this number out, for the gateway has refused it; its number stays.
    pub(super) fn take_out(&mut self, sequence: u64) -> Option<Item> {
        let (label, content) = self.take(sequence)?;
        self.body(&content).map(|body| label.with(body))
    }

    /// Takes everything out, by number. Says how many there were that are not answered, also those
    /// of which only the number was kept.
    pub(super) fn drain(&mut self) -> (u64, Vec<Item>) {
        self.unsent = 0;
        let all = std::mem::take(&mut self.kept);
        let open = all.iter().filter(|kept| !kept.answered).count();
        let items = self.release_all(all);
        self.free_frames();
        (open as u64, items)
    }

    /// The lowest number.
    pub(super) fn first(&self) -> Option<u64> {
        self.kept.front().map(|kept| kept.label.sequence)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The place in the buffer of the oldest one.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.kept.front().map(|kept| kept.label.place())
    }

    pub(super) fn load(&self) -> Load {
        Load {
            items: self.kept.len(),
            bytes: self.bytes,
        }
    }

    pub(super) fn take_released(&mut self) -> Load {
        std::mem::take(&mut self.released)
    }

    /// The content of the command with this number, which is answered.
    fn take(&mut self, sequence: u64) -> Option<(Label, Content)> {
        let at = self
            .kept
            .partition_point(|kept| kept.label.sequence < sequence);
        let kept = self.kept.get_mut(at)?;
        if kept.label.sequence != sequence {
            return None;
        }
        kept.answered = true;
        let label = kept.label.clone();
        let content = std::mem::replace(&mut kept.content, Content::Gone);
        kept.label.size = 0;
        self.bytes -= label.size;
        self.released.bytes += label.size;
        Some((label, content))
    }

    fn release_all(&mut self, gone: VecDeque<Kept>) -> Vec<Item> {
        let mut load = Load::default();
        gone.iter().for_each(|kept| load += kept.load());
        self.released += load;
        self.bytes -= load.bytes;
        let item = |kept: Kept| Some(kept.label.with(self.body(&kept.content)?));
        gone.into_iter().filter_map(item).collect()
    }

    /// The command itself, if it is still known.
    fn body(&self, content: &Content) -> Option<Body> {
        match content {
            Content::Gone => None,
            Content::Whole(body) => Some((**body).clone()),
            // These are our own bytes.
            Content::Frame(place) => {
                let frame = self.frames.get(*place).get(PREFIX..)?;
                LogicFrame::decode(frame).ok()?.body
            }
        }
    }

    fn free_frames(&mut self) {
        // Where nothing is kept, all that is known would be looked at in vain.
        if self.frames.is_empty() {
            return;
        }
        let mut contents = self.kept.iter().map(|kept| &kept.content);
        let oldest = contents.find_map(|content| match content {
            Content::Frame(place) => Some(*place),
            _ => None,
        });
        self.frames.keep_from(oldest);
    }
}

impl Kept {
    fn load(&self) -> Load {
        Load {
            items: 1,
            bytes: self.label.size,
        }
    }
}

/// Stands for a command that is gone: a frame that asks for nothing.
fn nothing() -> Body {
    Body::ClientAck(ClientAck::default())
}

/// Sets what is left of the time to live.
fn age(item: &mut Item, now: Duration) {
    let (Some(expires), Body::Push(push)) = (item.expires, &mut item.body) else {
        return;
    };
    let left = expires.saturating_sub(now).as_micros();
    // Rounded up: 0 would mean that it never expires.
    let left = left.div_ceil(1000).max(1);
    push.delivery.get_or_insert_default().ttl_ms = u32::try_from(left).unwrap_or(u32::MAX);
}
