//! Looks for a gateway that was never reached.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::core::backoff::Backoff;
use crate::core::description::Description;
use crate::core::gateways::Gateway;
use crate::core::mesh::Mesh;
use crate::core::router::GatewayId;
use crate::core::runner::{Wish, silent};
use crate::error::GatewayError;

/// Has a gateway described, again and again until it answers or the client is closed; then there are
/// streams to it, and they take over. Polled like a [`Runner`](crate::core::runner::Runner).
pub struct Seeker {
    mesh: Arc<Mesh>,
    gateway: GatewayId,
    address: Arc<str>,
    wake: Arc<Notify>,
    backoff: Backoff,
    phase: Phase,
    wishes: Vec<Wish>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting { until: Duration },
    Describing { until: Duration },
    Over,
}

impl Seeker {
    pub(crate) fn new(mesh: &Arc<Mesh>, gateway: &Gateway) -> Self {
        let seed = mesh.seed(u64::from(gateway.id.0) << 32);
        Self {
            gateway: gateway.id,
            address: Arc::clone(&gateway.address),
            wake: Arc::clone(gateway.wake()),
            backoff: Backoff::new(mesh.settings.pace, seed),
            mesh: Arc::clone(mesh),
            phase: Phase::Waiting {
                until: Duration::ZERO,
            },
            wishes: Vec::new(),
        }
    }

    /// The address to be asked what it is.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Does everything that can be done now; says whether that was anything.
    pub fn poll(&mut self, now: Duration) -> bool {
        match self.phase {
            Phase::Over => return false,
            _ if !self.mesh.knows(self.gateway) => self.end(),
            Phase::Waiting { until } if until <= now => {
                let until = now + self.mesh.settings.attempt_timeout;
                self.phase = Phase::Describing { until };
                self.wishes.push(Wish::Describe { since: now });
            }
            Phase::Describing { until } if until <= now => {
                let silent = silent(self.address(), "Describe");
                self.described(now, Err(silent));
            }
            _ => return false,
        }
        true
    }

    /// What is to be done next.
    pub fn next_wish(&mut self) -> Option<Wish> {
        (!self.wishes.is_empty()).then(|| self.wishes.remove(0))
    }

    /// The answer to [`Wish::Describe`].
    pub fn described(&mut self, now: Duration, answer: Result<Arc<Description>, GatewayError>) {
        if !matches!(self.phase, Phase::Describing { .. }) {
            return;
        }
        let adopted = match answer {
            Ok(description) => self.mesh.adopt(now, self.gateway, &description),
            Err(error) => Err(error.into()),
        };
        match adopted {
            Ok(queues) => {
                let started = queues.into_iter().map(|queue| Wish::Start { queue });
                self.wishes.extend(started);
                self.end();
            }
            Err(error) => {
                tracing::warn!(%error, "a gateway cannot be used yet");
                let until = now + self.backoff.next();
                self.phase = Phase::Waiting { until };
                self.mesh.failed(now, self.gateway, error);
            }
        }
    }

    /// When to call [`Seeker::poll`] at the latest.
    pub fn next_deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::Waiting { until } | Phase::Describing { until } => Some(until),
            Phase::Over => None,
        }
    }

    /// For the driver: waits until there may be something to do.
    pub(crate) async fn sleep(&self) {
        self.wake.notified().await;
    }

    fn end(&mut self) {
        self.phase = Phase::Over;
        self.wishes.push(Wish::End);
    }
}
