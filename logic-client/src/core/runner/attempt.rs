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
    /// To see whether a shard answers at its own port, beside the open connection through the common
    /// one.
    Looking {
        id: ConnectionId,
        description: Arc<Description>,
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
        let until = now + self.mesh.settings.attempt_timeout;
        let description = match answer {
            Ok(description) if self.looks() => {
                // Any will do.
                let address = description.addresses[0].clone();
                let id = self.dial(address);
                self.attempt = Attempt::Looking {
                    id,
                    description,
                    until,
                };
                return;
            }
            other => other,
        };
        match description.and_then(|description| self.adopt(now, &description)) {
            Ok(expected) => {
                let id = self.dial(expected.address.clone());
                self.attempt = Attempt::Dialling {
                    id,
                    expected,
                    until,
                };
            }
            Err(error) => self.failed_attempt(now, error),
        }
    }

    fn dial(&mut self, address: String) -> ConnectionId {
        self.dialled += 1;
        let connection = ConnectionId(self.dialled);
        self.wishes.push_back(Wish::Dial {
            connection,
            address,
        });
        connection
    }

    /// Whether there is a connection through the common port, and a better one is looked for.
    fn looks(&self) -> bool {
        self.queue.common && self.stream.is_open() && !self.replacement.doubt
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
            Attempt::Looking {
                id, description, ..
            } if *id == connection => {
                let description = Arc::clone(description);
                self.looked(now, &description, answer);
                return;
            }
            _ => return,
        };
        match &answer {
            Ok(()) => self.doubts.reached(),
            Err(_) => self.doubts.failed(),
        }
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

    /// The answer of a shard that was looked for at its own port.
    fn looked(
        &mut self,
        now: Duration,
        description: &Description,
        answer: Result<(), GatewayError>,
    ) {
        if let Err(error) = answer {
            self.failed_attempt(now, error);
            return;
        }
        self.stop_dialling();
        self.mesh.within_reach(self.queue.gateway);
        match self.mesh.adopt(now, self.queue.gateway, description) {
            Ok(queues) => self.successors.extend(queues),
            Err(error) => tracing::debug!(%error, "a gateway cannot be used at its shards' ports"),
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
                self.doubts.failed();
                self.failed_attempt(now, error);
            }
            Attempt::Looking { description, .. } => {
                let error = silent(&description.addresses[0], "a connection");
                self.failed_attempt(now, error);
            }
        }
        true
    }

    /// When [`Runner::attempt`] has something to do.
    pub(super) fn next_attempt(&self) -> Option<Duration> {
        match &self.attempt {
            Attempt::Describing { until }
            | Attempt::Dialling { until, .. }
            | Attempt::Looking { until, .. } => Some(*until),
            Attempt::None if self.is_greeting() => None,
            Attempt::None if self.stream.is_open() => {
                // Without a token, what is on its way would become unknown.
                let possible = self.stream.resumes() || self.replacement.doubt || self.queue.common;
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
        if let Attempt::Dialling { id: connection, .. } | Attempt::Looking { id: connection, .. } =
            self.attempt
        {
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
            match self.queue.common {
                true => self.replacement.opened(now),
                false => self.replacement.failed(now),
            }
            return;
        }
        self.stream.failed(now, error);
        self.pass_on(now);
        self.queue.publish(&mut self.stream);
        self.is_out_of_reach(now);
    }

    /// There is no way to the shard now.
    pub(super) fn is_out_of_reach(&self, now: Duration) {
        self.queue.set_reachable(false);
        self.mesh.let_go(now, self.queue.gateway);
    }

    /// Follows what the gateway has become.
    fn adopt(
        &mut self,
        now: Duration,
        description: &Description,
    ) -> Result<Expected, GatewayError> {
        let gateway = self.queue.gateway;
        let common = description.common.as_ref();
        if self.doubts.are_enough() && common.is_some() && self.mesh.out_of_reach(gateway) {
            tracing::debug!(
                gateway = self.gateway(),
                "its shards' ports are out of reach"
            );
        }
        let adopted = self.mesh.adopt(now, gateway, description);
        let queues = adopted.map_err(|error| match error {
            ConnectError::Gateway(error) => error,
            other => unreachable(self.gateway(), &other),
        })?;
        let started = queues.into_iter().map(|queue| Wish::Start { queue });
        self.wishes.extend(started);
        let address = match self.queue.common {
            true => common,
            false => description.addresses.get(self.queue.shard as usize),
        };
        let Some(address) = address.filter(|_| self.queue.ending() < Ending::Retire) else {
            // Adopting has retired this stream.
            return Err(unreachable(self.gateway(), &"there are other streams now"));
        };
        Ok(Expected {
            address: address.clone(),
            gateway_id: description.gateway.gateway_id.clone(),
            epoch: description.gateway.epoch,
            shards: description.gateway.shards,
        })
    }
}
