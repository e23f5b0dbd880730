//! Keeping a record registered.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::backoff::Turns;
use super::rpc::LeaseKeepAliveRequest;
use super::session::Session;
use super::{Error, Registry};
use crate::Record;

/// How long withdrawing may take; after that the lease runs out by itself.
const WITHDRAWING: Duration = Duration::from_secs(2);

/// Keeps a record in the registry, under a lease: when this ends or is cut off, the record goes with
/// the lease.
#[derive(Clone, Debug)]
pub struct Registration {
    registry: Registry,
    ttl: u32,
}

/// How a registration fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The record is there.
    Registered {
        /// Which member has it.
        endpoint: String,
    },
    /// It may not be there, or not for long. It is tried again.
    Lost(Error),
    /// It was taken away, as wished.
    Withdrawn,
}

impl Registration {
    /// A registration in this registry, under a lease of `ttl_s` seconds: so long after the
    /// gateway's death the record stays.
    #[must_use]
    pub fn new(registry: Registry, ttl_s: u32) -> Self {
        Self {
            registry,
            ttl: ttl_s.max(1),
        }
    }

    /// Keeps what is in `record` registered, also as it changes, and tells how that fares. When its
    /// sender is dropped, the record is withdrawn, and this returns, within 2 s.
    pub async fn run(self, mut record: watch::Receiver<Record>, mut tell: impl FnMut(Status)) {
        let mut turns = Turns::new(self.registry.endpoints.clone());
        loop {
            let endpoint = turns.endpoint();
            let opened = tokio::select! {
                opened = self.open(endpoint.clone()) => opened,
                () = gone(&record) => return,
            };
            let error = match opened {
                Ok((session, lease)) => {
                    let registered = || {
                        turns.worked();
                        tell(Status::Registered { endpoint });
                    };
                    match self.keep(&session, lease, &mut record, registered).await {
                        Ok(()) => match timeout(WITHDRAWING, session.revoke(lease)).await {
                            Ok(Ok(())) => return tell(Status::Withdrawn),
                            Ok(Err(error)) => return tell(Status::Lost(error)),
                            // The lease runs out by itself.
                            Err(_) => return,
                        },
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            tell(Status::Lost(error));
            tokio::select! {
                () = sleep(turns.failed()) => {}
                () = gone(&record) => return,
            }
        }
    }

    /// A session, and always a new lease: whatever became of the last one, putting the record under
    /// this one is right.
    async fn open(&self, endpoint: String) -> Result<(Session, i64), Error> {
        let session = Session::open(&self.registry, endpoint).await?;
        let lease = session.grant(self.ttl).await?;
        Ok((session, lease))
    }

    /// Registers, renews the lease, follows the record. `Ok`: it is to be withdrawn.
    async fn keep(
        &self,
        session: &Session,
        lease: i64,
        record: &mut watch::Receiver<Record>,
        registered: impl FnOnce(),
    ) -> Result<(), Error> {
        let (key, value) = self.entry(record);
        tokio::select! {
            put = session.put(&key, value, lease) => put?,
            () = gone(record) => return Ok(()),
        }
        registered();
        let mut renewal = session.keep_alive(lease).await?;
        let mut renew = interval(Duration::from_secs(self.ttl.into()) / 3);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        renew.reset();
        let mut answered = Instant::now();
        loop {
            tokio::select! {
                answer = renewal.next() => {
                    if answer?.ttl <= 0 {
                        return Err(renewal.failed(&"the lease has run out"));
                    }
                    answered = Instant::now();
                }
                _ = renew.tick() => {
                    if answered.elapsed() >= renew.period() * 2 {
                        return Err(renewal.failed(&"no answer in time"));
                    }
                    renewal.send(LeaseKeepAliveRequest { id: lease });
                }
                changed = record.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let (key, value) = self.entry(record);
                    session.put(&key, value, lease).await?;
                }
            }
        }
    }

    /// Key and value as they are now.
    fn entry(&self, record: &mut watch::Receiver<Record>) -> (String, String) {
        let record = record.borrow_and_update();
        (record.key(&self.registry.prefix), record.to_json())
    }
}

/// Waits until the record's sender is dropped.
async fn gone(record: &watch::Receiver<Record>) {
    let mut record = record.clone();
    while record.changed().await.is_ok() {}
}
