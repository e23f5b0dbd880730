//! The task that looks for a gateway.

use std::sync::Arc;

use crate::core::gateways::Changes;
use crate::core::mesh::Mesh;
use crate::core::runner::Wish;
use crate::core::seeker::Seeker;
use crate::driver::Clock;
use crate::driver::describe::Gateway;
use crate::driver::socket::Alarm;
use crate::driver::task::{self, Pending, when};

/// Starts looking for the gateways that are new, until they are found.
pub(crate) fn spawn(clock: Clock, mesh: &Arc<Mesh>, changes: Changes) {
    for seeker in changes.started {
        tokio::spawn(run(clock, Arc::clone(mesh), seeker));
    }
}

async fn run(clock: Clock, mesh: Arc<Mesh>, mut seeker: Seeker) {
    let gateway = Gateway::new(seeker.address().to_owned());
    let mut asking: Pending<_> = None;
    let mut alarm = Alarm::new();
    loop {
        let mut busy = seeker.poll(clock.now());
        while let Some(wish) = seeker.next_wish() {
            busy = true;
            match wish {
                Wish::Describe { since } => {
                    let gateway = Arc::clone(&gateway);
                    asking = Some(Box::pin(
                        async move { gateway.describe(clock, since).await },
                    ));
                }
                Wish::Start { queue } => task::spawn(clock, &mesh, &gateway, queue),
                Wish::End => return,
                // A seeker has no connections.
                Wish::Dial { .. } | Wish::Close { .. } => {}
            }
        }
        if busy {
            continue;
        }
        let deadline = seeker
            .next_deadline()
            .map(|deadline| clock.instant(deadline));
        tokio::select! {
            answer = when(&mut asking) => seeker.described(clock.now(), answer),
            () = seeker.sleep() => {}
            () = alarm.ring(deadline) => {}
        }
    }
}
