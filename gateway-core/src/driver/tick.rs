//! What every tick has in common, whatever moves the bytes.

use std::time::Duration;

use super::mailbox::{Mailbox, Order};
use crate::{metrics::Metrics, shard::Shard};

/// The longest sleep: a shard that is alive shows it by ticking.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);

/// Follows orders. True: stop at once.
pub(super) fn follow_orders(mailbox: &Mailbox, shard: &mut Shard, now: Duration) -> bool {
    while let Some(order) = mailbox.next_order() {
        match order {
            Order::Drain(spread) => shard.drain(now, spread),
            Order::Stop => return true,
        }
    }
    false
}

/// Counts a tick that has lasted from `started` until `now`.
pub(super) fn count(metrics: &Metrics, started: Duration, now: Duration) {
    metrics.ticks.add(1);
    let nanos = now.saturating_sub(started).as_nanos();
    metrics.tick_nanos.record(nanos as u64);
    metrics.heartbeat_nanos.set(now.as_nanos() as u64);
}
