//! Following what is registered.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::backoff::Turns;
use super::rpc::{WatchRequest, WatchResponse};
use super::session::{Duplex, Session};
use super::set::Set;
use super::{Error, Registry};
use crate::Record;

/// Follows which gateways are registered.
#[derive(Clone, Debug)]
pub struct Watcher {
    registry: Registry,
    settle: Duration,
}

/// A watcher at work.
struct Work<T> {
    watcher: Watcher,
    set: Set,
    turns: Turns,
    began: Instant,
    tell: T,
}

impl Watcher {
    /// A watcher of this registry.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        Self {
            registry,
            settle: Duration::from_secs(15),
        }
    }

    /// How long a gateway that was registered before etcd was out of reach, and is not when it is
    /// back, may take to register again before it counts as gone. Must be longer than gateways
    /// take to notice: with leases of 10 s the default, 15 s.
    #[must_use]
    pub fn settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    /// Tells the records whenever they change, the newest last, and what is wrong beside them.
    /// `None` for records: they cannot be found out now, and what was told last holds. Goes on until it is dropped.
    pub async fn run(self, tell: impl FnMut(Option<Vec<Record>>, Option<String>)) -> Infallible {
        let turns = Turns::new(self.registry.endpoints.clone());
        let work = Work {
            watcher: self,
            set: Set::default(),
            turns,
            began: Instant::now(),
            tell,
        };
        work.run().await
    }
}

impl<T: FnMut(Option<Vec<Record>>, Option<String>)> Work<T> {
    async fn run(mut self) -> Infallible {
        loop {
            let Err(error) = self.follow().await;
            (self.tell)(None, Some(error.to_string()));
            let wait = self.turns.failed();
            sleep(wait).await;
        }
    }

    /// Follows the registry at one member, until that fails. Always begins by reading all of it: that
    /// is right whatever happened meanwhile, history compacted or data lost.
    async fn follow(&mut self) -> Result<Infallible, Error> {
        let endpoint = self.turns.endpoint();
        let session = Session::open(&self.watcher.registry, endpoint).await?;
        let prefix = self.watcher.registry.prefix.clone();
        loop {
            let (found, revision) = session.range(&prefix).await?;
            let now = self.began.elapsed();
            self.set.replace(found, now, self.watcher.settle);
            self.tell_set();
            let watch = session.watch(&prefix, revision + 1).await?;
            self.until_compacted(watch).await?;
        }
    }

    /// Takes in what happens. Returns when it missed something because etcd has compacted its history.
    async fn until_compacted(
        &mut self,
        mut watch: Duplex<WatchRequest, WatchResponse>,
    ) -> Result<(), Error> {
        loop {
            let deadline = self.set.next_deadline();
            let expiry = async {
                match deadline {
                    Some(deadline) => sleep_until(self.began + deadline).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                answer = watch.next() => {
                    let answer = answer?;
                    if answer.canceled && answer.compact_revision > 0 {
                        return Ok(());
                    }
                    if answer.canceled {
                        return Err(watch.failed(&answer.cancel_reason));
                    }
                    self.turns.worked();
                    let any = !answer.events.is_empty();
                    answer.events.into_iter().for_each(|event| self.set.apply(event));
                    if any {
                        self.tell_set();
                    }
                }
                () = expiry => {
                    if self.set.expire(self.began.elapsed()) {
                        self.tell_set();
                    }
                }
            }
        }
    }

    fn tell_set(&mut self) {
        (self.tell)(Some(self.set.records()), self.set.trouble());
    }
}
