//! What a push that is handed back knows of its past, so that it goes only where it did not go when
//! it is pushed again.

use std::sync::Arc;

use gateway_proto::v1::logic_frame::Body;

use crate::core::buffer::{Item, Stamp};
use crate::core::locate::Located;
use crate::core::mesh::{Mesh, Routes};
use crate::core::queue::Queue;
use crate::core::reroute::is_list;
use crate::core::returned::ReturnReason;
use crate::core::router::{Paths, Router};

/// The past of a push that was handed back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Again {
    /// How often it was handed back.
    pub(crate) times: u32,
    /// It is for this part of the mesh, for others have got theirs, or will.
    pub(crate) only: Option<Only>,
}

/// A part of the mesh: a gateway, or one of its shards.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Only {
    gateway: Arc<str>,
    shard: Option<Shard>,
    /// How many parts other gateways had.
    pub(crate) elsewhere: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Shard {
    number: u32,
    of: u32,
}

impl Only {
    /// The part of the mesh that an item was for; `None`: all that it is for.
    fn of(item: &Item, from: &Queue) -> Option<Self> {
        let stamp = item.stamp;
        let elsewhere = stamp.parts - stamp.here;
        // Each user of a list has one shard.
        let one_of_several = stamp.here > 1 && !is_list(&item.body);
        let shard = one_of_several.then_some(Shard {
            number: from.shard,
            of: stamp.here,
        });
        (elsewhere > 0 || one_of_several).then(|| Self {
            gateway: Arc::clone(&from.address),
            shard,
            elsewhere,
        })
    }

    /// Whether it is for one shard of several.
    pub(crate) fn is_of_shard(&self) -> bool {
        self.shard.is_some()
    }

    fn paths<'a>(
        &self,
        routes: &'a Routes,
        body: &Body,
    ) -> Result<Paths<'a, Arc<Queue>>, ReturnReason> {
        let router: &Router<Arc<Queue>> = &routes.router;
        let at = routes.position(&self.gateway);
        let route = at.and_then(|at| router.route(routes.gateways[at].id));
        let route = route.ok_or(ReturnReason::GatewayRemoved)?;
        let Some(Shard { number, of }) = self.shard else {
            return Ok(route.paths(body, router.limits()));
        };
        // With another number of them, nobody knows who is where.
        let same = route.shards.len() == of as usize;
        let shard = route.shards.get(number as usize).filter(|_| same);
        shard.map(Paths::One).ok_or(ReturnReason::ShardsChanged)
    }

    /// What stands on an item that goes to one stream.
    fn stamp(&self, order: u64) -> Stamp {
        let here = self.shard.map_or(1, |shard| shard.of);
        Stamp {
            order,
            parts: here + self.elsewhere,
            here,
        }
    }
}

impl Again {
    /// What an item that `from` hands back is to know.
    pub(crate) fn after(item: &Item, from: &Queue) -> Self {
        let before = item.again.as_ref().map_or(0, |again| again.times);
        Self {
            times: before.saturating_add(1),
            only: Only::of(item, from),
        }
    }
}

impl Mesh {
    /// Where a command goes: where it was not yet, if it has come back.
    ///
    /// # Errors
    /// There is no such place any more.
    #[inline]
    pub(super) fn aim<'a>(
        &self,
        routes: &'a Routes,
        item: &mut Item,
    ) -> Result<Located<'a, Arc<Queue>>, ReturnReason> {
        let Some(only) = item.again.as_ref().and_then(|again| again.only.as_ref()) else {
            return Ok(self.locate(routes, &item.body, None));
        };
        let paths = only.paths(routes, &item.body)?;
        let nowhere = u64::from(matches!(paths, Paths::None));
        item.stamp = only.stamp(item.stamp.order);
        Ok(Located { paths, nowhere })
    }
}

#[cfg(test)]
mod tests;
