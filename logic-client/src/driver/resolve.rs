//! The task that follows a resolver.

use std::sync::Arc;

use crate::core::mesh::Mesh;
use crate::driver::{Clock, seek};
use crate::event::{Notice, What};
use crate::resolver::{Known, Resolver, Updated, channel};

/// Runs the resolver, and follows what it tells, as long as the client lives.
pub(crate) fn spawn(clock: Clock, mesh: &Arc<Mesh>, resolver: Box<dyn Resolver>) {
    let mesh = Arc::clone(mesh);
    tokio::spawn(async move {
        let (updates, updated) = channel();
        let running = async {
            // Nothing more may come, but what is known stays.
            tokio::join!(resolver.run(updates), follow(clock, &mesh, updated));
        };
        tokio::select! {
            () = running => {}
            () = mesh.closing() => {}
        }
    });
}

async fn follow(clock: Clock, mesh: &Arc<Mesh>, mut updated: Updated) {
    let mut last = Known::default();
    while let Some(known) = updated.next().await {
        if let Some(endpoints) = &known.endpoints
            && known.endpoints != last.endpoints
        {
            let changes = mesh.set_gateways(clock.now(), endpoints.clone());
            seek::spawn(clock, mesh, changes);
        }
        if let Some(trouble) = &known.trouble
            && known.trouble != last.trouble
        {
            mesh.notify(&Notice {
                gateway: String::new(),
                shard: 0,
                what: What::Resolver {
                    trouble: trouble.clone(),
                },
            });
        }
        last = known;
    }
}
