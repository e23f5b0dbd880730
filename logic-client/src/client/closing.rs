//! Waiting for streams, and what is left of them.

use std::sync::Arc;
use std::time::Duration;

use crate::client::Leftovers;
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
    let unsent: Vec<Item> = queues.iter().flat_map(|queue| queue.drain()).collect();
    for ticket in unsent.iter().filter_map(|item| item.ticket) {
        mesh.settle(ticket, Err(PushError::Closed));
    }
    let (pushes, commands) = wholes(now, unsent);
    let (unknown_pushes, _) = wholes(now, mesh.take_unknown());
    Leftovers {
        pushes,
        commands,
        unknown,
        unknown_pushes,
    }
}

/// Pushes in the order of the calls, and how many other commands. The parts of one push become
/// one again.
fn wholes(now: Duration, mut items: Vec<Item>) -> (Vec<Push>, u64) {
    items.sort_by_key(|item| item.stamp.order);
    let mut wholes: Vec<Item> = Vec::new();
    for item in items {
        match wholes.last_mut() {
            Some(whole) if whole.stamp.order == item.stamp.order => join(whole, item),
            _ => wholes.push(item),
        }
    }
    let total = wholes.len();
    let pushes: Vec<_> = wholes
        .into_iter()
        .filter_map(|item| item.into_push(now))
        .collect();
    let others = (total - pushes.len()) as u64;
    (pushes, others)
}
