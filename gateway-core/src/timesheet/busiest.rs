//! Who brings a shard most to do, in the window of about a second that is running.

use std::time::Duration;

use super::{Audience, Board};
use crate::{
    identity::ShardIndex,
    metrics::{FanoutLoad, LaneLoad, LinkLoad},
};

/// What is counted while the window runs.
#[derive(Debug, Default)]
pub(super) struct Busiest {
    since: Duration,
    fanouts: Vec<FanoutLoad>,
    lanes: Vec<LaneLoad>,
}

/// How long a window is, at least.
const WINDOW: Duration = Duration::from_millis(900);

/// Fan-outs counted at a time. When there are more, a new one takes the place and the count of the smallest
/// (Metwally et al., "Efficient Computation of Frequent and Top-k Elements in Data Streams", 2005): whoever makes more
/// than one in this many of the deliveries is never missed.
const COUNTED: usize = 32;

impl Busiest {
    pub(super) fn is_due(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) >= WINDOW
    }

    pub(super) fn fanout(&mut self, audience: &Audience, members: u64, deliveries: u64) {
        let known = self.fanouts.iter_mut().find(|of| of.audience == *audience);
        if let Some(known) = known {
            known.deliveries += deliveries;
            known.members = known.members.max(members);
            return;
        }
        let load = FanoutLoad {
            audience: audience.clone(),
            members,
            deliveries,
        };
        if self.fanouts.len() < COUNTED {
            return self.fanouts.push(load);
        }
        let smallest = self.fanouts.iter_mut().min_by_key(|of| of.deliveries);
        if let Some(smallest) = smallest {
            let inherited = smallest.deliveries;
            *smallest = load;
            smallest.deliveries += inherited;
        }
    }

    pub(super) fn lane(&mut self, from: ShardIndex, commands: u64) {
        match self.lanes.iter_mut().find(|lane| lane.shard == from) {
            Some(lane) => lane.commands += commands,
            None => self.lanes.push(LaneLoad {
                shard: from,
                commands,
            }),
        }
    }

    /// Ends the window.
    pub(super) fn publish(&mut self, now: Duration, links: Vec<LinkLoad>, board: &mut Board) {
        board.window = now.saturating_sub(self.since);
        board.links = most(links, |link| (link.commands, link.bytes));
        board.fanouts = most(std::mem::take(&mut self.fanouts), |of| of.deliveries);
        board.lanes = most(std::mem::take(&mut self.lanes), |lane| lane.commands);
        self.since = now;
    }
}

/// The largest, in order.
fn most<T, K: Ord>(mut loads: Vec<T>, by: impl Fn(&T) -> K) -> Vec<T> {
    loads.sort_by_key(|load| std::cmp::Reverse(by(load)));
    loads.truncate(Board::MOST);
    loads
}
