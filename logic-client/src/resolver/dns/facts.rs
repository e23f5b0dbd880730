//! What is known of names, until when, and what was known before a failure.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::{Name, RData};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Bounds;
use super::lookup::{Asker, Found, Kind};
use crate::core::backoff::{Backoff, Pace};

/// Names asked for at once.
const CONCURRENT: usize = 8;

/// A name and what is asked about it.
pub(super) type Question = (Name, Kind);

/// What is known of names.
pub(super) struct Facts {
    bounds: Bounds,
    known: HashMap<Question, Fact>,
}

/// What is known of one name.
struct Fact {
    /// The latest answer to each type of the question. `None`: there was none yet.
    records: Vec<Option<Vec<RData>>>,
    /// When to ask again.
    due: Instant,
    backoff: Backoff,
}

impl Facts {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            known: HashMap::new(),
        }
    }

    /// Asks those of `wanted` that are due; says what went wrong.
    pub(super) async fn refresh(&mut self, asker: &Arc<Asker>, wanted: &[Question]) -> Vec<String> {
        let now = Instant::now();
        let is_due = |question: &&Question| {
            let fact = self.known.get(*question);
            fact.is_none_or(|fact| fact.due <= now)
        };
        let mut due = wanted.iter().filter(is_due).cloned().collect::<Vec<_>>();
        let mut asked = JoinSet::new();
        let mut troubles = Vec::new();
        loop {
            while asked.len() < CONCURRENT
                && let Some((name, kind)) = due.pop()
            {
                let asker = Arc::clone(asker);
                asked.spawn(async move {
                    let answers = asker.ask(&name, kind).await;
                    ((name, kind), answers)
                });
            }
            match asked.join_next().await {
                Some(Ok((question, answers))) => troubles.extend(self.learn(question, answers)),
                // The runtime shuts down.
                Some(Err(_)) => {}
                None => return troubles,
            }
        }
    }

    /// The addresses behind a name. `None`: no answer yet.
    pub(super) fn addresses(&self, name: &Name) -> Option<Vec<IpAddr>> {
        let records = self.records(name, Kind::Addresses)?;
        let ips = records.filter_map(RData::ip_addr);
        Some(ips.collect())
    }

    /// Targets and ports of a name's services. `None`: no answer yet.
    pub(super) fn services(&self, name: &Name) -> Option<Vec<(Name, u16)>> {
        let records = self.records(name, Kind::Services)?;
        let targets = records.filter_map(|record| match record {
            // The root as the target: there is decidedly no such service.
            RData::SRV(srv) if !srv.target.is_root() => Some((srv.target.clone(), srv.port)),
            _ => None,
        });
        Some(targets.collect())
    }

    /// Forgets everything else.
    pub(super) fn keep_only(&mut self, wanted: &[Question]) {
        self.known.retain(|question, _| wanted.contains(question));
    }

    /// When the next question is to be put.
    pub(super) fn due(&self) -> Instant {
        let due = self.known.values().map(|fact| fact.due).min();
        due.unwrap_or_else(|| Instant::now() + self.bounds.max)
    }

    fn records(&self, name: &Name, kind: Kind) -> Option<impl Iterator<Item = &RData>> {
        let fact = self.known.get(&(name.clone(), kind))?;
        let any = fact.records.iter().any(Option::is_some);
        any.then(|| fact.records.iter().flatten().flatten())
    }

    /// Takes in the answers: what failed stays as it was. Says what failed.
    fn learn(&mut self, question: Question, answers: Vec<Result<Found, String>>) -> Vec<String> {
        let Bounds { min, max } = self.bounds;
        let types = question.1.types();
        let fact = self.known.entry(question).or_insert_with(|| Fact {
            records: vec![None; types],
            due: Instant::now(),
            backoff: backoff(self.bounds),
        });
        let mut troubles = Vec::new();
        let mut ttl = max;
        for (records, answer) in fact.records.iter_mut().zip(answers) {
            match answer {
                Ok(found) => {
                    *records = Some(found.records);
                    ttl = ttl.min(found.ttl);
                }
                Err(trouble) => troubles.push(trouble),
            }
        }
        let wait = match troubles.is_empty() {
            true => {
                fact.backoff = backoff(self.bounds);
                ttl.max(min)
            }
            false => min / 2 + fact.backoff.next(),
        };
        fact.due = Instant::now() + wait;
        troubles
    }
}

/// Clients that lost the same name server must not come back together.
fn backoff(bounds: Bounds) -> Backoff {
    let pace = Pace {
        base: bounds.min,
        cap: bounds.max,
        stable: Duration::ZERO,
    };
    // Without randomness the waits are merely the same everywhere.
    Backoff::new(pace, getrandom::u64().unwrap_or_default())
}
