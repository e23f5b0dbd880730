//! Many pushes at once: each stream is locked once for all of its own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::core::buffer::{GaveWay, Item};
use crate::core::check::check;
use crate::core::mesh::{GoneFrom, Mesh, Refusal, any, from};
use crate::core::queue::Queue;
use crate::core::router::Paths;
use crate::error::PushError;

/// Commands on their way into buffers, in the order of the calls.
pub(crate) struct Many {
    /// Not taken yet.
    pub(crate) waiting: Vec<Item>,
    /// Never to be taken.
    pub(crate) refused: Vec<(Item, PushError)>,
    /// Whether there may be room later; otherwise what does not fit is refused.
    waits: bool,
    /// Streams, by index, that have refused one: they refuse all behind it.
    full: HashSet<u32>,
}

impl Many {
    pub(crate) fn new(waiting: Vec<Item>, waits: bool) -> Self {
        Self {
            waiting,
            refused: Vec::new(),
            waits,
            full: HashSet::new(),
        }
    }
}

impl Mesh {
    /// Puts as many as there is room for into the buffers. The order of each stream is kept: behind
    /// one that does not fit nothing goes there. Says whose buffers are full: room in any of them lets
    /// some more go.
    pub(crate) fn offer_many(&self, now: Duration, many: &mut Many) -> Vec<Arc<Queue>> {
        let mut items = std::mem::take(&mut many.waiting).into_iter();
        loop {
            let mut gave_way = Vec::new();
            let stuck = self.place_run(&mut items, many, &mut gave_way);
            for (queue, item, reason) in gave_way {
                self.hand_back(now, &queue, item, reason);
            }
            let offered = match stuck {
                Ok(None) => return Vec::new(),
                Ok(Some(item)) => self.offer(|| now, item),
                Err(full) => {
                    many.waiting.extend(items);
                    return full;
                }
            };
            match offered {
                Ok(()) => {}
                Err(Refusal::Full(item, full)) if !many.waits => {
                    many.full.extend(full.iter().map(|queue| queue.index));
                    many.refused.push((item, PushError::Full));
                }
                Err(Refusal::Full(item, full)) => {
                    many.waiting.push(item);
                    many.waiting.extend(items);
                    return full;
                }
                Err(Refusal::Closed(item)) => many.refused.push((item, PushError::Closed)),
                Err(Refusal::Invalid(item, invalid)) => {
                    many.refused.push((item, PushError::Invalid(invalid)));
                }
                Err(Refusal::Gone(item, reason)) => {
                    many.refused.push((item, PushError::NotSent(reason)));
                }
            }
        }
    }

    /// [`Mesh::offer_many`] until all are taken or refused.
    pub(crate) async fn send_many(&self, now: impl Fn() -> Duration, many: &mut Many) {
        loop {
            let full = self.offer_many(now(), many);
            if full.is_empty() {
                return;
            }
            let rooms = full.iter().map(|queue| Box::pin(queue.room().notified()));
            let rooms: Vec<_> = rooms.collect();
            // Room made between the two looks is seen by the second.
            let still = self.offer_many(now(), many);
            let mut pairs = full.iter().zip(&still);
            let same = |(one, other): (&Arc<Queue>, &Arc<Queue>)| Arc::ptr_eq(one, other);
            if full.len() == still.len() && pairs.all(same) {
                any(rooms).await;
            }
        }
    }

    /// Places commands up to the first that does not go to exactly one stream, and gives that. An
    /// error are the streams whose buffers are full.
    fn place_run(
        &self,
        items: &mut impl Iterator<Item = Item>,
        many: &mut Many,
        gave_way: &mut GoneFrom,
    ) -> Result<Option<Item>, Vec<Arc<Queue>>> {
        // Held to the end: no stream may retire between its choice and its filling.
        let routes = self.routes();
        let mut shares: Vec<(&Arc<Queue>, Vec<Item>)> = Vec::new();
        let mut places: HashMap<u32, usize> = HashMap::new();
        let mut next = None;
        for mut item in items {
            if routes.closed {
                many.refused.push((item, PushError::Closed));
                continue;
            }
            if let Err(invalid) = check(&item.body, routes.router.limits()) {
                many.refused.push((item, PushError::Invalid(invalid)));
                continue;
            }
            let aimed = self.aim(&routes, &mut item).map(|located| located.paths);
            let Ok(Paths::One(queue)) = aimed else {
                next = Some(item);
                break;
            };
            if many.full.contains(&queue.index) {
                many.refused.push((item, PushError::Full));
                continue;
            }
            let place = *places.entry(queue.index).or_insert_with(|| {
                shares.push((queue, Vec::new()));
                shares.len() - 1
            });
            shares[place].1.push(item);
        }
        let mut full = Vec::new();
        for (queue, share) in shares {
            let mut gone = GaveWay::new();
            let rest = queue.offer_all(share, &mut gone);
            gave_way.extend(from(queue, gone));
            if rest.is_empty() {
                continue;
            }
            if many.waits {
                many.waiting.extend(rest);
                full.push(Arc::clone(queue));
            } else {
                many.full.insert(queue.index);
                let refused = rest.into_iter().map(|item| (item, PushError::Full));
                many.refused.extend(refused);
            }
        }
        if full.is_empty() {
            return Ok(next);
        }
        many.waiting.extend(next);
        Err(full)
    }
}

#[cfg(test)]
mod tests {
    use gateway_proto::v1::logic_frame::Body;

    use super::*;
    use crate::core::world::World;
    use crate::push::Push;

    #[test]
    fn room_in_any_stream_lets_some_more_go() {
        let mut world = World::new(|builder| builder.buffer(5, 1 << 20));
        world.boot("a", 1, 2);
        world.resolve(&["a"]);
        world.gateways.get_mut("a").unwrap().frozen = true;
        let users: Vec<_> = (0..40).map(|user| format!("user-{user}")).collect();
        let items = users.iter().map(|user| {
            let push = Push::user(user.as_str()).text(user.as_str());
            world.mesh.item(world.now, Body::Push(push.request), None)
        });
        let mut many = Many::new(items.collect(), true);
        let full = world.mesh.offer_many(world.now, &mut many);
        let shards: Vec<_> = full.iter().map(|queue| queue.shard).collect();
        assert_eq!(shards.len(), 2, "whichever has room first is to be noticed");
        assert!(many.waiting.len() >= 30);
        world.gateways.get_mut("a").unwrap().frozen = false;
        while !world.mesh.offer_many(world.now, &mut many).is_empty() {
            world.run(Duration::from_millis(10));
        }
        world.run(Duration::from_secs(1));
        for shard in 0..2 {
            let done = &world.gateways["a"].done;
            let texts = done.iter().filter(|done| done.shard == shard);
            let texts: Vec<_> = texts.map(|done| done.text.as_str()).collect();
            let of_shard = |user: &&String| gateway_proto::shard_of(user.as_bytes(), 2) == shard;
            let expected: Vec<_> = users.iter().filter(of_shard).collect();
            assert_eq!(texts, expected, "in the order of the calls");
        }
    }
}
