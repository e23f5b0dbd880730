//! Sets a client going.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::client::LogicClient;
use crate::core::mesh::Mesh;
use crate::core::queue::{Ending, Queue};
use crate::driver::{Clock, resolve, seek};
use crate::error::{ConnectError, GatewayError};
use crate::resolver::Resolver;
use crate::stats::StreamState;

/// Starts looking for gateways, and waits until all streams are open, or for `patience`.
pub(crate) async fn connect(
    mesh: Arc<Mesh>,
    resolver: Option<Box<dyn Resolver>>,
    patience: Duration,
) -> Result<LogicClient, ConnectError> {
    let clock = Clock::start();
    // From here on the client ends the streams when it is dropped.
    let client = LogicClient::new(Arc::clone(&mesh), clock);
    let changes = mesh.start(clock.now());
    seek::spawn(clock, &mesh, changes);
    if let Some(resolver) = resolver {
        resolve::spawn(clock, &mesh, resolver);
    }
    let opened = timeout(patience, async {
        found(&mesh).await?;
        let mut queues = mesh.queues();
        while !queues.is_empty() {
            open_all(&queues).await?;
            // A stream that has retired meanwhile has successors.
            let mut all = mesh.queues();
            all.retain(|queue| !queues.iter().any(|known| Arc::ptr_eq(known, queue)));
            queues = all;
        }
        Ok(())
    });
    opened.await.unwrap_or_else(|_| Err(last_error(&mesh)))?;
    Ok(client)
}

/// Waits until every gateway has answered or failed to.
async fn found(mesh: &Mesh) -> Result<(), ConnectError> {
    loop {
        let changes = mesh.outlook_changes().notified();
        if let Some(outlook) = mesh.outlook() {
            return outlook;
        }
        changes.await;
    }
}

/// Waits until every stream is open; a load balancer on the way is an error at once.
async fn open_all(queues: &[Arc<Queue>]) -> Result<(), ConnectError> {
    for queue in queues {
        loop {
            let progress = queue.progress().notified();
            {
                let state = queue.lock();
                if let Some(error @ GatewayError::LoadBalanced { .. }) = &state.report.error {
                    return Err(error.clone().into());
                }
                let open = matches!(
                    state.report.state,
                    StreamState::Open | StreamState::Draining | StreamState::Ended
                );
                // Retired: the gateway has changed, and new streams were made.
                if open || state.ending >= Ending::Retire {
                    break;
                }
            }
            progress.await;
        }
    }
    Ok(())
}

/// Why not all streams are open: a load balancer first of all.
fn last_error(mesh: &Mesh) -> ConnectError {
    let queues = mesh.queues();
    let errors = queues
        .iter()
        .filter_map(|queue| queue.lock().report.error.clone());
    let weight = |error: &GatewayError| matches!(error, GatewayError::LoadBalanced { .. });
    if let Some(error) = errors.max_by_key(weight) {
        return error.into();
    }
    let silent = |queue: &Arc<Queue>| {
        ConnectError::Gateway(GatewayError::Silent {
            address: queue.address.to_string(),
            waiting_for: "open streams to all shards",
        })
    };
    let silent = queues.first().map(silent);
    silent
        .or_else(|| mesh.last_failure())
        .unwrap_or(ConnectError::NoGateway)
}
