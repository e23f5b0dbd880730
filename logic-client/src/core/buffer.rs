//! What one stream has not sent yet.

use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;
use std::time::Duration;

use crate::core::returned::ReturnReason;

use ages::Ages;
pub(crate) use item::{Item, Label, Load, Stamp, name};

/// Gaps that are worth closing.
const MANY_GAPS: usize = 64;

/// How much a buffer holds, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
    pub(crate) age: Duration,
    /// The oldest give way when it is full.
    pub(crate) drop_oldest: bool,
}

/// What a buffer does not keep, and why.
pub(crate) type GaveWay = Vec<(Item, ReturnReason)>;

/// Commands in the order they are to be sent, bounded by number, bytes and age. What was taken out
/// counts in the bounds until it is released.
///
/// What gives way is chosen as in a gateway's outbox: a newer push takes the place of an older
/// one with the same target and conflation key, and goes to the end; in a full buffer expired pushes
/// go first, then less important ones, then, with [`Bounds::drop_oldest`], the oldest that are not
/// more important. The order among what stays is kept.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// The first one, if any, is not a gap.
    slots: VecDeque<Option<Item>>,
    /// The number of the first slot.
    first: u64,
    waiting: Load,
    taken: Load,
    /// Of those, what came whether there was room or not, since it was looked whether the bounds hold.
    moved_in: Load,
    bounds: Bounds,
    /// Commands ever put in; with this a caller can tell when "all so far" have left.
    pushed: u64,
    /// The first place that was moved to other buffers.
    moved: Option<u64>,
    ages: Ages,
    /// No command expires before.
    expiry: Duration,
    /// What [`Buffer::next_deadline`] said last.
    alarm: Option<Duration>,
    ranks: [Rank; 3],
    /// The slot of the newest push for a target and key.
    conflating: HashMap<u64, u64>,
    hasher: RandomState,
}

/// The pushes of one priority.
#[derive(Clone, Copy, Debug, Default)]
struct Rank {
    load: Load,
    /// There is none in a slot before this one.
    oldest: u64,
}

impl Buffer {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            slots: VecDeque::new(),
            // Slots are put in front, too.
            first: 1 << 63,
            waiting: Load::default(),
            taken: Load::default(),
            moved_in: Load::default(),
            bounds,
            pushed: 0,
            moved: None,
            ages: Ages::new(bounds.age),
            expiry: Duration::MAX,
            alarm: None,
            ranks: [Rank::default(); 3],
            conflating: HashMap::new(),
            hasher: RandomState::new(),
        }
    }

    /// Whether there is room for these parts of one command, perhaps because others give way. An
    /// empty buffer takes any one command.
    pub(crate) fn fits(&self, parts: &[Item]) -> bool {
        let mut load = Load::default();
        parts.iter().for_each(|part| load += part.load());
        self.has_room(self.waiting, load) || self.would_have_room(parts, load)
    }

    /// Puts a command at the end; what gives way goes to `gave_way`. The caller has asked whether it
    /// fits. Says whether the runner's alarm is set too late.
    #[inline]
    #[must_use]
    pub(crate) fn push(&mut self, mut item: Item, gave_way: &mut GaveWay) -> bool {
        let key = self.key(&item);
        if let Some(slot) = self.same(&item, key) {
            let older = self.kill(slot);
            gave_way.extend(older.map(|older| (older, ReturnReason::Conflated)));
        }
        if !self.has_room(self.waiting, item.load()) {
            self.make_room(&item, gave_way);
        }
        item.conflates = key;
        self.put(item)
    }

    /// [`Buffer::push`] of a command that was in another buffer, and must not be lost: nothing gives
    /// way.
    #[must_use]
    pub(crate) fn append(&mut self, mut item: Item) -> bool {
        item.conflates = self.key(&item);
        self.moved_in += item.load();
        self.put(item)
    }

    #[inline]
    fn put(&mut self, mut item: Item) -> bool {
        self.pushed += 1;
        item.place = self.pushed;
        let early = self.alarm.is_none_or(|alarm| {
            let expires = item.expires;
            alarm > Duration::ZERO && expires.is_some_and(|expires| expires < alarm)
        });
        if early {
            // Said once is enough.
            self.alarm = Some(Duration::ZERO);
        }
        let slot = self.first + self.slots.len() as u64;
        self.enter(&item);
        if let Some(key) = item.conflates {
            self.conflating.insert(key, slot);
        } else if item.parts_pushes() {
            self.conflating.clear();
        }
        self.slots.push_back(Some(item));
        early
    }

    /// Moves commands of together about `bytes` to `inbox`: at least one, if there is any. What is
    /// not worth sending any more goes to `gave_way`.
    pub(crate) fn take(
        &mut self,
        now: Duration,
        mut bytes: usize,
        inbox: &mut VecDeque<Item>,
        gave_way: &mut GaveWay,
    ) {
        self.ages.look(now, self.pushed);
        while let Some(item) = self.pop() {
            if item.place <= self.ages.too_old() {
                gave_way.push((item, ReturnReason::TooOld));
                continue;
            }
            if item.expires.is_some_and(|expires| expires <= now) {
                gave_way.push((item, ReturnReason::Expired));
                continue;
            }
            let load = item.load();
            self.taken += load;
            inbox.push_back(item);
            if load.bytes >= bytes {
                break;
            }
            bytes -= load.bytes;
        }
    }

    /// Gives out what has waited for too long. To be called at [`Buffer::next_deadline`].
    pub(crate) fn expire(&mut self, now: Duration, gave_way: &mut GaveWay) {
        if self.is_empty() {
            return;
        }
        self.ages.look(now, self.pushed);
        while let Some(Some(item)) = self.slots.front()
            && item.place <= self.ages.too_old()
        {
            let item = self.pop();
            gave_way.extend(item.map(|item| (item, ReturnReason::TooOld)));
        }
        if self.expiry <= now {
            self.drop_expired(now, gave_way);
        }
    }

    /// When to call [`Buffer::expire`].
    pub(crate) fn next_deadline(&mut self) -> Option<Duration> {
        let look = self.ages.next_look(self.pushed).min(self.expiry);
        self.alarm = (!self.is_empty()).then_some(look);
        self.alarm
    }

    /// Commands that were taken have left for good: acknowledged, or handed back.
    pub(crate) fn release(&mut self, load: Load) {
        self.taken -= load;
    }

    /// Commands that were taken and released are to be sent after all, before all others.
    pub(crate) fn put_back(&mut self, items: Vec<Item>) {
        for mut item in items.into_iter().rev() {
            item.sequence = 0;
            self.first -= 1;
            self.moved_in += item.load();
            self.enter(&item);
            self.slots.push_front(Some(item));
        }
        for rank in &mut self.ranks {
            rank.oldest = self.first;
        }
    }

    /// Takes out everything: it goes elsewhere.
    pub(crate) fn drain(&mut self) -> Vec<Item> {
        let mut items = Vec::with_capacity(self.waiting.items);
        items.extend(std::iter::from_fn(|| self.pop()));
        let first = items.first().map(|item| item.place);
        self.moved = self.moved.or(first);
        items
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.items
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.items == 0
    }

    pub(crate) fn bytes(&self) -> usize {
        self.waiting.bytes
    }

    /// What is held, if that is more than the bounds allow and than was moved here.
    #[cfg(feature = "simulation")]
    pub(crate) fn over_bounds(&mut self) -> Option<Load> {
        let mut held = self.waiting;
        held += self.taken;
        let bounds = self.bounds;
        let within = |load: Load| load.items <= bounds.items && load.bytes <= bounds.bytes;
        // One command is taken, however large it is.
        if held.items <= 1 || within(held) {
            self.moved_in = Load::default();
            return None;
        }
        let moved = self.moved_in;
        let own = Load {
            items: held.items.saturating_sub(moved.items),
            bytes: held.bytes.saturating_sub(moved.bytes),
        };
        (!within(own)).then_some(held)
    }

    /// Commands ever put in.
    pub(crate) fn pushed(&self) -> u64 {
        self.pushed
    }

    /// The place of the oldest command that waits here, or does in the buffers it was moved to.
    pub(crate) fn oldest(&self) -> Option<u64> {
        let waiting = self.slots.front().and_then(Option::as_ref);
        let waiting = waiting.map(|item| item.place);
        self.moved.into_iter().chain(waiting).min()
    }

    /// About what time it is.
    pub(crate) fn about_now(&self) -> Duration {
        self.ages.looked()
    }
}

impl Buffer {
    fn has_room(&self, waiting: Load, load: Load) -> bool {
        let items = waiting.items + self.taken.items;
        let bytes = waiting.bytes + self.taken.bytes;
        items == 0
            || items + load.items <= self.bounds.items && bytes + load.bytes <= self.bounds.bytes
    }

    /// Counts a command in.
    fn enter(&mut self, item: &Item) {
        self.waiting += item.load();
        if let Some(priority) = item.priority() {
            self.ranks[priority as usize].load += item.load();
        }
        if let Some(expires) = item.expires {
            self.expiry = self.expiry.min(expires);
        }
    }

    /// Counts a command out that was in this slot.
    fn leave(&mut self, item: &Item, slot: u64) {
        self.waiting -= item.load();
        if let Some(priority) = item.priority() {
            self.ranks[priority as usize].load -= item.load();
        }
        if let Some(key) = item.conflates
            && self.conflating.get(&key) == Some(&slot)
        {
            self.conflating.remove(&key);
        }
        if self.is_empty() {
            self.ages.clear();
            self.expiry = Duration::MAX;
        }
    }

    /// Takes out the first command.
    #[inline]
    fn pop(&mut self) -> Option<Item> {
        let item = self.slots.pop_front()??;
        self.leave(&item, self.first);
        self.first += 1;
        self.skip_gaps();
        Some(item)
    }

    /// Takes a command out of the middle.
    fn kill(&mut self, slot: u64) -> Option<Item> {
        let at = usize::try_from(slot.checked_sub(self.first)?).ok()?;
        let item = self.slots.get_mut(at)?.take()?;
        self.leave(&item, slot);
        self.skip_gaps();
        if self.slots.len() > 2 * self.waiting.items + MANY_GAPS {
            self.close_gaps();
        }
        Some(item)
    }

    fn skip_gaps(&mut self) {
        while self.slots.pop_front_if(|slot| slot.is_none()).is_some() {
            self.first += 1;
        }
    }

    fn close_gaps(&mut self) {
        self.slots.retain(Option::is_some);
        self.conflating.clear();
        for (slot, item) in (self.first..).zip(self.slots.iter().flatten()) {
            if let Some(key) = item.conflates {
                self.conflating.insert(key, slot);
            }
            if item.parts_pushes() {
                self.conflating.clear();
            }
        }
        for rank in &mut self.ranks {
            rank.oldest = self.first;
        }
    }

    fn at(&self, slot: u64) -> Option<&Item> {
        let at = usize::try_from(slot.checked_sub(self.first)?).ok()?;
        self.slots.get(at)?.as_ref()
    }
}

mod ages;
mod giving_way;
mod item;
#[cfg(test)]
mod tests;
