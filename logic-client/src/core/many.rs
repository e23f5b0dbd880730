//! Many pushes at once: each stream is locked once for all of its own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::core::buffer::{GaveWay, Item};
use crate::core::check::check;
use crate::core::mesh::{GoneFrom, Mesh, Refusal, from};
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
    /// one that does not fit nothing goes there. Says whose buffer is full, if any is.
    pub(crate) fn offer_many(&self, now: Duration, many: &mut Many) -> Option<Arc<Queue>> {
        let mut items = std::mem::take(&mut many.waiting).into_iter();
        loop {
            let mut gave_way = Vec::new();
            let stuck = self.place_run(&mut items, many, &mut gave_way);
            for (queue, item, reason) in gave_way {
                self.hand_back(now, &queue, item, reason);
            }
            let offered = match stuck {
                Ok(None) => return None,
                Ok(Some(item)) => self.offer(|| now, item),
                Err(full) => {
                    many.waiting.extend(items);
                    return Some(full);
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
                    return full.into_iter().next();
                }
                Err(Refusal::Closed(item)) => many.refused.push((item, PushError::Closed)),
                Err(Refusal::Invalid(item, invalid)) => {
                    many.refused.push((item, PushError::Invalid(invalid)));
                }
            }
        }
    }

    /// Places commands up to the first that does not go to exactly one stream, and gives that. An
    /// error is a stream whose buffer is full.
    fn place_run(
        &self,
        items: &mut impl Iterator<Item = Item>,
        many: &mut Many,
        gave_way: &mut GoneFrom,
    ) -> Result<Option<Item>, Arc<Queue>> {
        // Held to the end: no stream may retire between its choice and its filling.
        let routes = self.routes();
        let mut shares: Vec<(&Arc<Queue>, Vec<Item>)> = Vec::new();
        let mut places: HashMap<u32, usize> = HashMap::new();
        let mut next = None;
        for item in items {
            if routes.closed {
                many.refused.push((item, PushError::Closed));
                continue;
            }
            if let Err(invalid) = check(&item.body, routes.router.limits()) {
                many.refused.push((item, PushError::Invalid(invalid)));
                continue;
            }
            let Paths::One(queue) = self.locate(&routes, &item.body).paths else {
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
        let mut full = None;
        for (queue, share) in shares {
            let mut gone = GaveWay::new();
            let rest = queue.offer_all(share, &mut gone);
            gave_way.extend(from(queue, gone));
            if rest.is_empty() {
                continue;
            }
            if many.waits {
                many.waiting.extend(rest);
                full = Some(Arc::clone(queue));
            } else {
                many.full.insert(queue.index);
                let refused = rest.into_iter().map(|item| (item, PushError::Full));
                many.refused.extend(refused);
            }
        }
        match full {
            Some(full) => {
                many.waiting.extend(next);
                Err(full)
            }
            None => Ok(next),
        }
    }
}
