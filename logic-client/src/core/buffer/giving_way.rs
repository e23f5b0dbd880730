//! Which commands give way to others, and when.

use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::RangeInclusive;
use std::time::Duration;

use gateway_proto::v1::message_request::Target;

use crate::core::buffer::{Buffer, GaveWay, Item, Load};
use crate::core::returned::ReturnReason;
use crate::push::Priority;

/// Expired commands are looked for at most this often: it means to look at all of them.
const EXPIRY_GRAIN: Duration = Duration::from_millis(10);

impl Buffer {
    /// Whether there were room if everything gave way that may for these parts.
    pub(super) fn would_have_room(&self, parts: &[Item], load: Load) -> bool {
        let Some(part) = parts.first() else {
            return true;
        };
        let mut waiting = self.waiting;
        for priority in self.gives_way(part) {
            waiting -= self.ranks[priority as usize].load;
        }
        if let [part] = parts
            && let Some(older) = self
                .same(part, self.key(part))
                .and_then(|slot| self.at(slot))
            && older
                .priority()
                .is_none_or(|older| self.gives_way(part).all(|priority| priority != older))
        {
            waiting -= older.load();
        }
        self.has_room(waiting, load)
    }

    /// The priorities that give way for a command, the lowest first.
    fn gives_way(&self, item: &Item) -> impl Iterator<Item = Priority> + use<> {
        let priority = item.priority().unwrap_or_default();
        let equal = self.bounds.drop_oldest;
        [Priority::Low, Priority::Normal, Priority::High]
            .into_iter()
            .filter(move |other| *other < priority || equal && *other == priority)
    }

    pub(super) fn make_room(&mut self, item: &Item, gave_way: &mut GaveWay) {
        let priority = item.priority().unwrap_or_default();
        let lower = [Priority::Low, Priority::Normal].into_iter();
        for lower in lower.take_while(|lower| *lower < priority) {
            self.displace(item, lower..=lower, gave_way);
        }
        if self.bounds.drop_oldest {
            self.displace(item, Priority::Low..=priority, gave_way);
        }
    }

    /// Drops the oldest of these priorities until there is room for `item`.
    fn displace(
        &mut self,
        item: &Item,
        priorities: RangeInclusive<Priority>,
        gave_way: &mut GaveWay,
    ) {
        let all = [Priority::Low, Priority::Normal, Priority::High];
        while !self.has_room(self.waiting, item.load()) {
            let among = all.into_iter().filter(|one| priorities.contains(one));
            let Some(slot) = among.filter_map(|one| self.oldest_of(one)).min() else {
                return;
            };
            let dropped = self.kill(slot);
            gave_way.extend(dropped.map(|item| (item, ReturnReason::Displaced)));
        }
    }

    /// The slot of the oldest push of a priority.
    fn oldest_of(&mut self, priority: Priority) -> Option<u64> {
        let rank = self.ranks[priority as usize];
        if rank.load.items == 0 {
            return None;
        }
        let end = self.first + self.slots.len() as u64;
        let mut slots = rank.oldest.max(self.first)..end;
        let found = slots.find(|slot| {
            let item = self.at(*slot);
            item.is_some_and(|item| item.priority() == Some(priority))
        })?;
        self.ranks[priority as usize].oldest = found;
        Some(found)
    }

    pub(super) fn drop_expired(&mut self, now: Duration, gave_way: &mut GaveWay) {
        let mut next = Duration::MAX;
        for slot in self.first..self.first + self.slots.len() as u64 {
            match self.at(slot).and_then(|item| item.expires) {
                Some(expires) if expires <= now => {
                    let expired = self.kill(slot);
                    gave_way.extend(expired.map(|item| (item, ReturnReason::Expired)));
                }
                Some(expires) => next = next.min(expires),
                None => {}
            }
        }
        self.expiry = next.max(now.saturating_add(EXPIRY_GRAIN));
    }

    /// The slot of a push with the same target and conflation key, which hash to `key`.
    pub(super) fn same(&self, item: &Item, key: Option<u64>) -> Option<u64> {
        let slot = *self.conflating.get(&key?)?;
        let same = self.at(slot)?.conflation() == item.conflation();
        same.then_some(slot)
    }

    pub(super) fn key(&self, item: &Item) -> Option<u64> {
        let (target, key) = item.conflation()?;
        let mut hasher = self.hasher.build_hasher();
        key.hash(&mut hasher);
        match target {
            Target::UserId(name) => (0, name).hash(&mut hasher),
            Target::Topic(name) => (1, name).hash(&mut hasher),
            Target::Connection(connection) => {
                (2, connection.epoch, connection.id).hash(&mut hasher);
            }
            Target::Users(users) => (3, &users.user_ids).hash(&mut hasher),
            Target::Everyone(_) => 4.hash(&mut hasher),
        }
        Some(hasher.finish())
    }
}
