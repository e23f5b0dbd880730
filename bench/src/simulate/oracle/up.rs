//! Client messages: each reaches every service that acknowledges, at least once, and in the order of its user.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::number;

/// Whose order counts: a user's, or an anonymous connection's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// All connections of a user.
    User(u32),
    /// One connection.
    Connection(u32),
}

/// The life of client messages.
#[derive(Debug, Default)]
pub struct Up {
    pub(super) failure: Option<String>,
    messages: Vec<Message>,
    groups: Vec<Group>,
    /// How many messages a run of a gateway took from a source.
    taken: BTreeMap<(u64, Source), usize>,
}

#[derive(Debug)]
struct Message {
    source: Source,
    connection: u32,
    taken: Option<Taken>,
}

#[derive(Clone, Copy, Debug)]
struct Taken {
    at: Duration,
    epoch: u64,
    shard: u32,
    /// Its place among those of its source.
    place: usize,
}

/// Services of one name.
#[derive(Debug, Default)]
struct Group {
    name: String,
    /// All its streams acknowledge: nothing gets lost.
    acks: bool,
    /// Some do: what they have not acknowledged comes again.
    repeats: bool,
    got: BTreeSet<usize>,
    /// Since when a shard knows it.
    known: BTreeMap<(u64, u32), Duration>,
    /// The newest place that came for the first time.
    newest: BTreeMap<(u64, Source), usize>,
}

impl Up {
    /// A consumer group; `acks`: all its streams acknowledge.
    pub fn group(&mut self, name: &str, acks: bool) -> usize {
        if let Some(at) = self.groups.iter().position(|group| group.name == name) {
            self.groups[at].acks &= acks;
            self.groups[at].repeats |= acks;
            return at;
        }
        self.groups.push(Group {
            name: name.to_owned(),
            acks,
            repeats: acks,
            ..Group::default()
        });
        self.groups.len() - 1
    }

    /// How many groups there are.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// A shard has welcomed a stream of the group that receives.
    pub fn known(&mut self, now: Duration, group: usize, epoch: u64, shard: u32) {
        self.groups[group]
            .known
            .entry((epoch, shard))
            .or_insert(now);
    }

    /// A client sends; the number is what the payload must begin with.
    pub fn sent(&mut self, source: Source, connection: u32) -> usize {
        self.messages.push(Message {
            source,
            connection,
            taken: None,
        });
        self.messages.len() - 1
    }

    /// A shard took it.
    pub(super) fn taken(&mut self, at: Duration, epoch: u64, shard: u32, payload: &[u8]) {
        let message = number(payload).and_then(|id| self.messages.get_mut(id));
        let Some(message) = message else {
            return self.fail("a gateway took a message that nobody sent".into());
        };
        let before = self.taken.entry((epoch, message.source)).or_default();
        message.taken = Some(Taken {
            at,
            epoch,
            shard,
            place: *before,
        });
        *before += 1;
    }

    /// A service of the group got it.
    pub fn received(&mut self, group: usize, connection: Option<u32>, payload: &[u8]) {
        let id = number(payload).filter(|id| *id < self.messages.len());
        let Some(id) = id else {
            return self.fail("a service got a message that nobody sent".into());
        };
        let message = &self.messages[id];
        let Some(taken) = message.taken else {
            return self.fail(format!("a service got message {id}, which no gateway took"));
        };
        if connection != Some(message.connection) {
            return self.fail(format!("message {id} came as that of {connection:?}"));
        }
        let group = &mut self.groups[group];
        if !group.got.insert(id) {
            if !group.repeats {
                let name = group.name.clone();
                self.fail(format!("message {id} came to {name} twice"));
            }
            return;
        }
        let newest = group
            .newest
            .entry((taken.epoch, message.source))
            .or_default();
        if *newest > taken.place + 1 {
            let text = format!(
                "message {id}, number {} of {:?}, came to {} behind number {newest}",
                taken.place + 1,
                message.source,
                group.name
            );
            return self.fail(text);
        }
        *newest = taken.place + 1;
    }

    /// Every message that had to come has come. `alive`: whether an epoch still runs and a connection was not given up.
    pub(super) fn finish(&mut self, alive: impl Fn(u64, u32) -> bool) {
        let mut found = None;
        for group in self.groups.iter().filter(|group| group.acks) {
            for (id, message) in self.messages.iter().enumerate() {
                let Some(taken) = message.taken else {
                    continue;
                };
                let known = group.known.get(&(taken.epoch, taken.shard));
                if known.is_some_and(|since| *since < taken.at)
                    && alive(taken.epoch, message.connection)
                    && !group.got.contains(&id)
                {
                    found = Some(format!(
                        "message {id} of {:?}, taken at {:?}, never came to {}",
                        message.source, taken.at, group.name
                    ));
                }
            }
        }
        if let Some(found) = found {
            self.fail(found);
        }
    }

    fn fail(&mut self, what: String) {
        self.failure.get_or_insert(what);
    }
}
