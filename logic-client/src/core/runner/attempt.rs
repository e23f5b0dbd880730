//! How a runner comes to a connection: the first, the next after one broke, and one to replace a
//! connection that has grown old.

use std::sync::Arc;
use std::time::Duration;

use crate::core::backoff::SplitMix;
use crate::core::description::Description;
use crate::core::link::Link;
use crate::core::queue::Ending;
use crate::core::runner::{Connection, ConnectionId, Runner, Wish, silent, unreachable};
use crate::core::stream::Expected;
use crate::error::{ConnectError, GatewayError};
use crate::stats::StreamState;

/// How long to wait after a connection could not be replaced.
const RETRY: Duration = Duration::from_secs(10);

/// The way to the next connection, until Hello is said.
pub(super) enum Attempt {
    None,
    Describing {
        until: Duration,
    },
    Dialling {
        id: ConnectionId,
        expected: Expected,
        until: Duration,
    },
}

/// When the open connection is to be replaced by another.
pub(super) struct Replacement {
    age: Duration,
    random: SplitMix,
    at: Duration,
    /// The gateway may be another than the one the stream is open to.
    doubt: bool,
}

impl Replacement {
    pub(super) fn new(age: Duration, seed: u64) -> Self {
        Self {
            age,
            random: SplitMix::new(seed),
            at: Duration::MAX,
            doubt: false,
        }
    }

    /// A connection was opened: its time is the maximum age, or up to a fifth more or less.
    pub(super) fn opened(&mut self, now: Duration) {
        let least = self.age / 5 * 4;
        let spread = self.random.up_to(self.age / 5 * 2);
        self.at = now.saturating_add(least).saturating_add(spread);
        self.doubt = false;
    }

    pub(super) fn doubt(&mut self, now: Duration) {
        self.at = now;
        self.doubt = true;
    }

    pub(super) fn failed(&mut self, now: Duration) {
        self.at = self.at.max(now + RETRY);
    }
}

impl Runner {
    /// The answer to [`Wish::Describe`].
    pub fn described(&mut self, now: Duration, answer: Result<Arc<Description>, GatewayError>) {
        if !matches!(self.attempt, Attempt::Describing { .. }) {
            return;
        }
        match answer.and_then(|description| self.adopt(now, &description)) {
            Ok(expected) => {
                self.dialled += 1;
                let id = ConnectionId(self.dialled);
                self.wishes.push_back(Wish::Dial {
                    connection: id,
                    address: expected.address.clone(),
                });
                let until = now + self.mesh.settings.attempt_timeout;
                self.attempt = Attempt::Dialling {
                    id,
                    expected,
                    until,
                };
            }
            Err(error) => self.failed_attempt(now, error),
        }
    }

    /// The answer to [`Wish::Dial`].
    pub fn dialled(
        &mut self,
        now: Duration,
        connection: ConnectionId,
        answer: Result<(), GatewayError>,
    ) {
        let expected = match &self.attempt {
            Attempt::Dialling { id, expected, .. } if *id == connection => expected.clone(),
            _ => return,
        };
        let address = expected.address.clone();
        let wire = self.mesh.settings.wire;
        match answer.and_then(|()| Link::open(&mut self.stream, now, expected, wire)) {
            Ok(link) => {
                self.attempt = Attempt::None;
                self.connections.push(Connection {
                    id: connection,
                    link,
                    address,
                    heard: false,
                    failure: None,
                    until: None,
                });
            }
            Err(error) => self.failed_attempt(now, error),
        }
    }

    /// Goes on with the attempt there is, or begins one; says whether anything happened.
    pub(super) fn attempt(&mut self, now: Duration) -> bool {
        if self.next_attempt().is_none_or(|at| now < at) {
            return false;
        }
        match &self.attempt {
            Attempt::None => {
                if !self.stream.is_open() {
                    self.stream.connect();
                }
                self.wishes.push_back(Wish::Describe { since: self.since });
                let until = now + self.mesh.settings.attempt_timeout;
                self.attempt = Attempt::Describing { until };
            }
            Attempt::Describing { .. } => {
                let error = silent(self.gateway(), "Describe");
                self.failed_attempt(now, error);
            }
            Attempt::Dialling { expected, .. } => {
                let error = silent(&expected.address, "a connection");
                self.failed_attempt(now, error);
            }
        }
        true
    }

    /// When [`Runner::attempt`] has something to do.
    pub(super) fn next_attempt(&self) -> Option<Duration> {
        match &self.attempt {
            Attempt::Describing { until } | Attempt::Dialling { until, .. } => Some(*until),
            Attempt::None if self.is_greeting() => None,
            Attempt::None if self.stream.is_open() => {
                // Without a token, what is on its way would become unknown.
                let possible = self.stream.resumes() || self.replacement.doubt;
                let wise =
                    self.stream.state() == StreamState::Open && self.queue.ending() == Ending::No;
                (possible && wise).then_some(self.replacement.at)
            }
            Attempt::None => {
                let wise = self.queue.ending() < Ending::Retire;
                wise.then(|| self.stream.next_attempt())
            }
        }
    }

    /// No longer dials.
    pub(super) fn stop_dialling(&mut self) {
        if let Attempt::Dialling { id: connection, .. } = self.attempt {
            self.wishes.push_back(Wish::Close { connection });
        }
        self.attempt = Attempt::None;
    }

    /// Whether a connection has said Hello, and Welcome has not come.
    fn is_greeting(&self) -> bool {
        let open = self.stream.open_run();
        let mut connections = self.connections.iter();
        connections.any(|known| known.until.is_none() && Some(known.link.run()) != open)
    }

    fn failed_attempt(&mut self, now: Duration, error: GatewayError) {
        self.stop_dialling();
        self.since = now;
        self.queue.publish_error(error.clone());
        if self.stream.is_open() {
            tracing::debug!(%error, "a connection cannot be replaced yet");
            self.replacement.failed(now);
            return;
        }
        self.stream.failed(now, error);
        self.pass_on(now);
        self.queue.publish(&mut self.stream);
    }

    /// Follows what the gateway has become.
    fn adopt(
        &mut self,
        now: Duration,
        description: &Description,
    ) -> Result<Expected, GatewayError> {
        let adopted = self.mesh.adopt(now, self.queue.gateway, description);
        let queues = adopted.map_err(|error| match error {
            ConnectError::Gateway(error) => error,
            other => unreachable(self.gateway(), &other),
        })?;
        let started = queues.into_iter().map(|queue| Wish::Start { queue });
        self.wishes.extend(started);
        let Some(address) = description.addresses.get(self.queue.shard as usize) else {
            // Adopting has retired this stream.
            return Err(unreachable(self.gateway(), &"the shard is no more"));
        };
        Ok(Expected {
            address: address.clone(),
            gateway_id: description.gateway.gateway_id.clone(),
            epoch: description.gateway.epoch,
            shards: description.gateway.shards,
        })
    }
}
