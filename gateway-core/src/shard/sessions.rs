//! What is remembered of a client's streams, so that the next one goes on where the last one broke.
//!
//! While a stream is there, it keeps its progress by itself; it is written back here when the stream ends.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use gateway_proto::v1::Resume;

use crate::{
    config,
    lanes::StreamRef,
    link::{Claim, Progress, Resumption, SessionKey},
    mutation::{self, Rule},
};

/// The sessions of a shard.
#[derive(Debug)]
pub struct Sessions {
    table: HashMap<SessionKey, Session>,
    /// Those without a stream, by the time it ended.
    detached: BTreeMap<Since, SessionKey>,
    /// Tells apart what ended at the same time.
    stamp: u64,
    keep: Duration,
    max: usize,
    /// Forgotten before their time, or not taken in at all.
    evicted: u64,
}

/// What became of a claim.
#[derive(Debug, PartialEq, Eq)]
pub enum Attached {
    /// The stream begins.
    Begins {
        /// How.
        resumption: Resumption,
        /// The stream whose place it takes.
        replaced: Option<StreamRef>,
    },
    /// Two clients use one session: the stream is refused, the other one stays.
    Clash,
}

type Since = (Duration, u64);

#[derive(Debug)]
struct Session {
    progress: Progress,
    /// Given to the newest stream, and what that one came with.
    token: u64,
    previous_token: u64,
    /// What the newest stream was answered: the same again when its Welcome was lost.
    answer: Resume,
    place: Place,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Attached(StreamRef),
    Detached(Since),
}

impl Sessions {
    /// None yet.
    pub fn new(config: &config::Sessions) -> Self {
        Self {
            table: HashMap::new(),
            detached: BTreeMap::new(),
            stamp: 0,
            keep: Duration::from_millis(config.keep_ms),
            max: config.max,
            evicted: 0,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// How many were forgotten before their time, or not taken in, since the last call.
    pub fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    /// The stream that a session has.
    pub fn stream_of(&self, key: &SessionKey) -> Option<StreamRef> {
        match self.table.get(key)?.place {
            Place::Attached(stream) => Some(stream),
            Place::Detached(_) => None,
        }
    }

    /// A new stream claims a session. The progress of the stream it may replace must be noted before; `token` is random,
    /// not 0.
    pub fn attach(
        &mut self,
        now: Duration,
        claim: &Claim,
        token: u64,
        stream: StreamRef,
    ) -> Attached {
        self.expire(now);
        let Some(session) = self.table.get_mut(&claim.key) else {
            let resumption = self.begin(claim, token, stream);
            return Attached::Begins {
                resumption,
                replaced: None,
            };
        };
        let welcome_was_lost = claim.token == session.previous_token && !session.progress.used;
        if claim.token != session.token && !welcome_was_lost {
            return Attached::Clash;
        }
        if !welcome_was_lost {
            session.answer = Resume::Resumed;
        }
        session.previous_token = claim.token;
        session.token = token;
        session.progress.used = false;
        let replaced = match std::mem::replace(&mut session.place, Place::Attached(stream)) {
            Place::Attached(old) => Some(old),
            Place::Detached(since) => {
                self.detached.remove(&since);
                None
            }
        };
        if mutation::is_off(Rule::Dedupe) {
            session.progress = Progress::default();
        }
        let resumption = Resumption {
            key: Some(claim.key),
            resume: session.answer,
            token,
            progress: session.progress,
        };
        Attached::Begins {
            resumption,
            replaced,
        }
    }

    /// Writes back how far a stream has come.
    pub fn note(&mut self, key: &SessionKey, progress: Progress) {
        if let Some(session) = self.table.get_mut(key) {
            session.progress = progress;
        }
    }

    /// A stream has ended. Does nothing if another one has taken its place.
    pub fn detach(
        &mut self,
        now: Duration,
        key: &SessionKey,
        stream: StreamRef,
        progress: Progress,
    ) {
        if self.stream_of(key) != Some(stream) {
            return;
        }
        self.note(key, progress);
        self.stamp += 1;
        let since = (now, self.stamp);
        if let Some(session) = self.table.get_mut(key) {
            session.place = Place::Detached(since);
            self.detached.insert(since, *key);
        }
    }

    /// Forgets those whose time is over.
    pub fn expire(&mut self, now: Duration) {
        while let Some(entry) = self.detached.first_entry()
            && entry.key().0 + self.keep <= now
        {
            self.table.remove(&entry.remove());
        }
    }

    /// When the next one is to be forgotten.
    pub fn next_expiry(&self) -> Option<Duration> {
        let (since, _) = self.detached.first_key_value()?;
        Some(since.0 + self.keep)
    }

    fn begin(&mut self, claim: &Claim, token: u64, stream: StreamRef) -> Resumption {
        let forgotten = claim.token != 0 && claim.knows_epoch;
        if self.table.len() >= self.max {
            self.evicted += 1;
            let Some((_, oldest)) = self.detached.pop_first() else {
                return Resumption::impossible(forgotten);
            };
            self.table.remove(&oldest);
        }
        let resumption = Resumption {
            key: Some(claim.key),
            token,
            ..Resumption::impossible(forgotten)
        };
        let session = Session {
            progress: Progress::default(),
            token,
            previous_token: claim.token,
            answer: resumption.resume,
            place: Place::Attached(stream),
        };
        self.table.insert(claim.key, session);
        resumption
    }
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
