//! Who is in which topic: perhaps, and for certain.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Members of topics.
#[derive(Debug, Default)]
pub(super) struct Members {
    possible: BTreeSet<(u32, u32)>,
    certain: Vec<Member>,
    /// When each run of a gateway began.
    epochs: BTreeMap<u64, Duration>,
}

/// A user whose subscription was taken, and about which nothing else was heard.
#[derive(Debug)]
struct Member {
    /// Who has subscribed it: in order with its own pushes.
    source: u64,
    topic: u32,
    user: u32,
    at: Duration,
    /// The gateways there were then.
    places: Vec<usize>,
}

impl Members {
    pub(super) fn process_began(&mut self, now: Duration, epoch: u64) {
        self.epochs.insert(epoch, now);
    }

    pub(super) fn add_possible(&mut self, topic: u32, user: u32) {
        self.possible.insert((topic, user));
    }

    pub(super) fn add_certain(
        &mut self,
        now: Duration,
        source: u64,
        topic: u32,
        user: u32,
        places: Vec<usize>,
    ) {
        self.certain.push(Member {
            source,
            topic,
            user,
            at: now,
            places,
        });
    }

    /// A subscription of this source may not have taken effect.
    pub(super) fn doubt(&mut self, source: u64) {
        self.certain.retain(|member| member.source != source);
    }

    /// Whether a user may be in a topic.
    pub(super) fn may_be_in(&self, topic: u32, user: u32) -> bool {
        self.possible.contains(&(topic, user))
    }

    /// Whether a push that `source` made at `at` finds the user in the topic, in this run of the gateway at `place`.
    pub(super) fn is_in(
        &self,
        (topic, user): (u32, u32),
        source: u64,
        at: Duration,
        (place, epoch): (usize, u64),
    ) -> bool {
        let began = self.epochs.get(&epoch);
        self.certain.iter().any(|member| {
            (member.source, member.topic, member.user) == (source, topic, user)
                && member.at < at
                && member.places.contains(&place)
                // Members are forgotten with the epoch.
                && began.is_some_and(|began| *began < member.at)
        })
    }
}
