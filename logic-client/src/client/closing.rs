//! Waiting for streams, and what is left of them.

use std::sync::Arc;
use std::time::Duration;

use crate::client::Leftovers;
use crate::core::again::Again;
use crate::core::buffer::Item;
use crate::core::mesh::{Mesh, is_over};
use crate::core::queue::Queue;
use crate::core::reroute::join;
use crate::error::PushError;
use crate::push::Push;

/// How far a stream's buffer has to be settled for everything up to now to be.
pub(super) fn goal(queue: Arc<Queue>) -> (Arc<Queue>, u64) {
    let goal = queue.lock().buffer.pushed();
    (queue, goal)
}

/// Waits for that; false when the stream has ended before.
pub(super) async fn settled(queue: &Queue, goal: u64) -> bool {
    loop {
        let progress = queue.progress().notified();
        if queue.lock().settled() >= goal {
            return true;
        }
        if is_over(queue) {
            return false;
        }
        progress.await;
    }
}

pub(super) async fn over(queue: &Queue) {
    loop {
        let progress = queue.progress().notified();
        if is_over(queue) {
            return;
        }
        progress.await;
    }
}

/// Takes out what the streams have not sent, and what nobody knows of.
pub(super) fn leftovers(
    mesh: &Mesh,
    now: Duration,
    queues: &[Arc<Queue>],
    unknown: u64,
) -> Leftovers {
    let unsent = queues.iter().flat_map(|queue| {
        let part = |item: Item| (Again::after(&item, queue), item);
        queue.drain().into_iter().map(part)
    });
    let unsent: Vec<_> = unsent.collect();
    for ticket in unsent.iter().filter_map(|(_, item)| item.ticket) {
        mesh.settle(ticket, Err(PushError::Closed.into()));
    }
    let (pushes, commands) = joined(now, unsent);
    let (unknown_pushes, _) = joined(now, mesh.take_unknown());
    Leftovers {
        pushes,
        commands,
        unknown,
        unknown_pushes,
    }
}

/// Pushes in the order of the calls, and how many other commands. Parts become one again where all
/// are here.
fn joined(now: Duration, mut parts: Vec<(Again, Item)>) -> (Vec<Push>, u64) {
    parts.sort_by_key(|(_, item)| item.stamp.order);
    for of_push in parts.chunk_by_mut(|(_, one), (_, other)| one.stamp.order == other.stamp.order) {
        let count = of_push.len();
        if of_push
            .iter()
            .all(|(_, item)| item.stamp.parts as usize == count)
        {
            of_push.iter_mut().for_each(|(again, _)| again.only = None);
        }
    }
    let mut joined: Vec<(Again, Item)> = Vec::new();
    for (again, item) in parts {
        let whole = joined.last_mut().filter(|(known, whole)| {
            whole.stamp.order == item.stamp.order && known.only == again.only
        });
        match whole {
            Some((_, whole)) => join(whole, item),
            None => joined.push((again, item)),
        }
    }
    let total = joined.len();
    let pushes: Vec<_> = joined
        .into_iter()
        .filter_map(|(again, item)| match again.only {
            // As it was given.
            None => item.into_push(now),
            Some(_) => item.into_returned(now, again),
        })
        .collect();
    let others = (total - pushes.len()) as u64;
    (pushes, others)
}
