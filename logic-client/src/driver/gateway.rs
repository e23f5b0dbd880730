//! One gateway: what it says it is, and taking over what it has become.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::core::backoff::Backoff;
use crate::core::reroute::reroute;
use crate::core::router::Route;
use crate::driver::describe::{Description, describe};
use crate::driver::mesh::{Mesh, Routes};
use crate::driver::queue::Queue;
use crate::driver::task;
use crate::error::{ConnectError, GatewayError};

/// A gateway that was named to the builder.
pub(crate) struct Gateway {
    pub(crate) address: String,
    /// What was learned last. The lock is held while the gateway is asked: all its streams that
    /// want to know share one answer.
    learned: tokio::sync::Mutex<Option<Learned>>,
}

/// What a gateway said, or why it said nothing.
struct Learned {
    at: Duration,
    answer: Result<Arc<Description>, GatewayError>,
}

impl Gateway {
    pub(crate) fn new(address: String) -> Self {
        Self {
            address,
            learned: tokio::sync::Mutex::new(None),
        }
    }
}

impl Mesh {
    /// What a gateway is, asked at `since` or later.
    pub(crate) async fn describe(
        &self,
        gateway: usize,
        since: Duration,
    ) -> Result<Arc<Description>, GatewayError> {
        let gateway = &self.gateways[gateway];
        let mut learned = gateway.learned.lock().await;
        if let Some(Learned { at, answer }) = &*learned
            && *at >= since
        {
            return answer.clone();
        }
        let patience = self.settings.attempt_timeout;
        let answer = describe(self.clock, &gateway.address, patience).await;
        let answer = answer.map(Arc::new);
        let at = self.clock.now();
        *learned = Some(Learned {
            at,
            answer: answer.clone(),
        });
        answer
    }

    /// Follows what a gateway has become: a new epoch, and with another number of shards
    /// new streams, to which goes what was not sent.
    pub(crate) fn adopt(
        self: &Arc<Self>,
        gateway: usize,
        description: &Description,
    ) -> Result<(), ConnectError> {
        let mut routes = self.routes_mut();
        if routes.closed {
            return Ok(());
        }
        let epoch = description.gateway.epoch;
        if let Some(twin) = routes.router.twin(gateway, epoch) {
            return Err(ConnectError::SameGateway {
                first: self.gateways[twin].address.clone(),
                second: self.gateways[gateway].address.clone(),
            });
        }
        let limits = description.gateway.limits.unwrap_or_default();
        let old = routes
            .router
            .route(gateway)
            .map(|route| route.shards.clone());
        let old = old.unwrap_or_default();
        if old.len() == description.gateway.shards as usize {
            let route = Route {
                epoch,
                shards: old,
                limits,
            };
            routes.router.set(gateway, route);
            return Ok(());
        }
        let bounds = self.settings.buffer;
        let queue = |shard| Arc::new(Queue::new(gateway, shard, bounds));
        let shards: Vec<_> = (0..description.gateway.shards).map(queue).collect();
        for queue in &shards {
            task::spawn(Arc::clone(self), Arc::clone(queue));
        }
        let route = Route {
            epoch,
            shards,
            limits,
        };
        routes.router.set(gateway, route);
        self.move_over(&routes, gateway, &old);
        drop(routes);
        self.retire(old);
        Ok(())
    }

    /// Keeps asking a gateway that could not be reached, until it answers or the client is closed.
    pub(crate) fn seek(self: &Arc<Self>, gateway: usize) {
        let mesh = Arc::clone(self);
        let mut backoff = Backoff::new(mesh.settings.pace, mesh.seed(gateway, 0));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = sleep(backoff.next()) => {}
                    () = mesh.closing() => return,
                }
                let found = match mesh.describe(gateway, mesh.clock.now()).await {
                    Ok(description) => mesh.adopt(gateway, &description),
                    Err(error) => Err(error.into()),
                };
                match found {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(%error, "a gateway cannot be used yet"),
                }
            }
        });
    }

    /// A seed for the jitter of a stream: different for each, and in each client.
    pub(crate) fn seed(&self, gateway: usize, shard: u32) -> u64 {
        let mut seed = [0; 8];
        seed.copy_from_slice(&self.session[..8]);
        u64::from_le_bytes(seed) ^ (gateway as u64) << 32 ^ u64::from(shard)
    }

    /// Moves what the old streams have not sent to the new ones, in the order of the calls. No
    /// command comes in meanwhile: the routes are locked.
    fn move_over(&self, routes: &Routes, gateway: usize, old: &[Arc<Queue>]) {
        let Some(route) = routes.router.route(gateway) else {
            return;
        };
        let unsent: Vec<_> = old.iter().flat_map(|queue| queue.drain()).collect();
        let moved = reroute(unsent, route, routes.router.limits());
        for replan in moved.replans {
            self.expect(Some(replan.ticket), replan.come, replan.gone);
        }
        for (queue, item) in moved.items {
            if queue.lock().put(item) {
                queue.wake();
            }
        }
        for item in moved.gone {
            self.no_target(item);
        }
    }
}
