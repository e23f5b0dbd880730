//! What a stream has sent and its gateway has not acknowledged.

use std::collections::VecDeque;
use std::time::Duration;

use gateway_proto::v1::logic_frame::Body;

use crate::core::buffer::{Item, Load};

/// Commands by number, the oldest first. Their memory counts in the bounds of the buffer they came
/// from. One whose content is gone has no size; its number stays.
#[derive(Debug, Default)]
pub(super) struct Retained {
    kept: VecDeque<Item>,
    /// So many have a number; those behind have just come out of the buffer.
    numbered: usize,
    /// Of those with a number.
    bytes: usize,
    /// So many of those with a number, at their end, are to be sent again.
    unsent: usize,
    released: Load,
}

impl Retained {
    /// Where the buffer puts what is to be sent: moved once, for each move costs.
    pub(super) fn inbox(&mut self) -> &mut VecDeque<Item> {
        &mut self.kept
    }

    /// The next command that has no number yet.
    pub(super) fn next_new(&self) -> Option<&Item> {
        self.kept.get(self.numbered)
    }

    /// Numbers the next command, which is about to be sent.
    pub(super) fn number(&mut self, now: Duration, sequence: u64) -> Option<&Item> {
        let item = self.kept.get_mut(self.numbered)?;
        self.numbered += 1;
        self.bytes += item.size();
        item.sequence = sequence;
        age(item, now);
        Some(item)
    }

    /// Takes the next command out, instead of numbering it.
    pub(super) fn pass_over(&mut self) -> Option<Item> {
        let item = self.kept.remove(self.numbered)?;
        self.released += item.load();
        Some(item)
    }

    /// Keeps no more than the number of the command that was numbered last.
    pub(super) fn forget_last(&mut self) {
        if let Some(at) = self.numbered.checked_sub(1) {
            let item = self.kept[at].take();
            self.bytes -= item.size();
            self.released.bytes += item.size();
        }
    }

    /// Drops what has a number up to `sequence`; says how many.
    pub(super) fn drop_acked(&mut self, sequence: u64) -> u64 {
        let numbered = self.kept.iter().take(self.numbered);
        let acked = numbered.take_while(|item| item.sequence <= sequence);
        let mut load = Load::default();
        acked.for_each(|item| load += item.load());
        // In place: most of the cost of an acknowledged command is to touch it once more.
        self.kept.drain(..load.items);
        self.numbered -= load.items;
        self.bytes -= load.bytes;
        self.released += load;
        self.unsent = self.unsent.min(self.numbered);
        load.items as u64
    }

    /// A new connection: everything is to be sent again but what has expired, which is taken out.
    pub(super) fn rewind(&mut self, now: Duration) -> Vec<Item> {
        let is_expired = |item: &Item| item.expires.is_some_and(|expires| expires <= now);
        let mut expired = Vec::new();
        if self.kept.iter().any(is_expired) {
            let all = std::mem::take(&mut self.kept);
            let (gone, kept) = all.into_iter().partition(is_expired);
            self.kept = kept;
            expired = self.release_all(gone);
        }
        self.numbered = self.kept.len();
        self.unsent = self.numbered;
        expired
    }

    /// Whether there are commands to be sent again.
    pub(super) fn has_unsent(&self) -> bool {
        self.unsent > 0
    }

    /// The next command to be sent again, with what is left of its time.
    pub(super) fn next_unsent(&mut self, now: Duration) -> Option<&Item> {
        if self.unsent == 0 {
            return None;
        }
        let at = self.numbered - self.unsent;
        self.unsent -= 1;
        let item = self.kept.get_mut(at)?;
        age(item, now);
        Some(item)
    }

    /// Takes the command with this number out, for the gateway has answered it; its number stays.
    pub(super) fn take_out(&mut self, sequence: u64) -> Option<Item> {
        let at = self.kept.partition_point(|item| item.sequence < sequence);
        let item = self.kept.get_mut(at)?;
        if item.sequence != sequence {
            return None;
        }
        item.answered = true;
        let item = Some(item.take()).filter(|item| item.size() > 0)?;
        self.bytes -= item.size();
        self.released.bytes += item.size();
        Some(item)
    }

    /// Takes everything out, by number. Says how many there were that are not answered, also those
    /// of which only the number was kept.
    pub(super) fn drain(&mut self) -> (u64, Vec<Item>) {
        (self.unsent, self.numbered) = (0, 0);
        let all = std::mem::take(&mut self.kept);
        let open = all.iter().filter(|item| !item.answered).count();
        (open as u64, self.release_all(all))
    }

    /// The lowest number.
    pub(super) fn first(&self) -> Option<u64> {
        self.kept.front().map(|item| item.sequence)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The place in the buffer of the oldest one.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.kept.front().map(Item::place)
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

    fn release_all(&mut self, gone: VecDeque<Item>) -> Vec<Item> {
        let mut load = Load::default();
        gone.iter().for_each(|item| load += item.load());
        self.released += load;
        self.bytes -= load.bytes;
        gone.into_iter().filter(|item| item.size() > 0).collect()
    }
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
