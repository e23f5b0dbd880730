//! The client without sockets, clock and tasks, for a simulator that brings its own.
//!
//! [`mesh`] makes what the streams of a client share. [`Mesh::start`] and [`Mesh::set_gateways`] give a
//! [`Seeker`] for each new gateway, and [`Wish::Start`] asks for a [`Runner`] per stream. Both are to be polled whenever something may have
//! changed: bytes or answers came, the deadline is reached, or a push was made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gateway_proto::v1::MessageRequest;
use gateway_proto::v1::logic_frame::Body;
use tokio::sync::oneshot;

pub use crate::core::description::Description;
pub use crate::core::gateways::Changes;
pub use crate::core::mesh::Mesh;
pub use crate::core::queue::Queue;
pub use crate::core::runner::{ConnectionId, Runner, Wish};
pub use crate::core::seeker::Seeker;

use crate::builder::Builder;
use crate::core::inbox::Events;
use crate::core::lock;
use crate::core::mesh::{Refusal, is_over};
use crate::core::queue::Ending;
use crate::core::receipts::{Answer, Receipt};
use crate::error::{ConfirmError, ConnectError, PushError};
use crate::push::Push;
use crate::stats::StreamStats;

/// What the streams of a client with these settings share. All its randomness comes from `session`.
///
/// # Errors
/// A setting that cannot work.
pub fn mesh(builder: Builder, session: [u8; 16]) -> Result<Arc<Mesh>, ConnectError> {
    let mut seed = [0; 8];
    seed.copy_from_slice(&session[8..]);
    let drawn = AtomicU64::new(0);
    let entropy = move || {
        let mut bytes = [0; 16];
        let nth = drawn.fetch_add(1, Ordering::Relaxed) + 1;
        bytes[..8].copy_from_slice(&seed);
        bytes[8..].copy_from_slice(&nth.to_le_bytes());
        bytes
    };
    builder.entropy(Arc::new(entropy)).mesh(session)
}

/// A client, with everything that drives it, whose session is not its own: as if two processes came from one copy of memory.
pub fn with_session(builder: Builder, session: [u8; 16]) -> Builder {
    builder.session(session)
}

/// A receipt that is awaited.
#[derive(Debug)]
pub struct Awaited(oneshot::Receiver<Answer>);

impl Awaited {
    /// The receipt, once, when it is there.
    pub fn try_answer(&mut self) -> Option<Result<Receipt, ConfirmError>> {
        match self.0.try_recv() {
            Ok(answer) => Some(answer),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(PushError::Closed.into())),
        }
    }
}

impl Mesh {
    /// Seekers of the gateways the builder named.
    pub fn seekers(self: &Arc<Self>) -> Vec<Seeker> {
        self.start(Duration::ZERO).started
    }

    /// Pushes if there is room, and gives back what waits for the receipt; `None`: no room.
    ///
    /// # Errors
    /// Those of [`LogicClient::push_confirmed`](crate::LogicClient::push_confirmed).
    pub fn try_push_confirmed(
        &self,
        now: Duration,
        push: Push,
    ) -> Result<Option<Awaited>, PushError> {
        let (ticket, answer) = self.await_receipt(&push);
        let item = self.push_item(now, push);
        match self.offer(|| now, item.with_ticket(ticket)) {
            Ok(()) => Ok(Some(Awaited(answer))),
            Err(refusal) => {
                self.cancel_receipt(ticket);
                match refusal {
                    Refusal::Full(..) => Ok(None),
                    other => Err(other.into()),
                }
            }
        }
    }

    /// Gives a command (subscribe, unsubscribe, disconnect) if there is room; says whether there was.
    ///
    /// # Errors
    /// [`PushError::Closed`], [`PushError::Invalid`].
    pub fn try_command(&self, now: Duration, body: Body) -> Result<bool, PushError> {
        match self.offer(|| now, self.item(now, body, None)) {
            Ok(()) => Ok(true),
            Err(Refusal::Full(..)) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }

    /// What clients do; to be called once.
    pub fn events(&self) -> Events {
        Events::new(Arc::clone(&self.inbox))
    }

    /// Takes no more pushes, and lets every stream end once what it has is sent and answered.
    pub fn close(&self) {
        self.end(Ending::Close);
    }

    /// Ends every stream at once.
    pub fn abandon(&self) {
        self.end(Ending::Abandon);
        self.inbox.close();
    }

    /// The first buffer or table that holds more than its bound, for a caller that awaits so many receipts.
    #[must_use]
    pub fn over_limit(&self, awaited: usize) -> Option<String> {
        let known = lock(&self.receipts).len();
        if known > awaited {
            return Some(format!("{known} receipts are kept, {awaited} awaited"));
        }
        self.queues().iter().find_map(|queue| {
            let held = queue.lock().buffer.over_bounds()?;
            let (items, bytes) = (held.items, held.bytes);
            let (gateway, shard) = (&queue.address, queue.shard);
            Some(format!(
                "{items} commands, {bytes} bytes for {gateway} shard {shard}"
            ))
        })
    }

    /// Whether every stream has ended.
    pub fn is_over(&self) -> bool {
        self.queues().iter().all(|queue| is_over(queue))
    }
}

impl Runner {
    /// The receipts it awaits, if they are more than may be.
    #[must_use]
    pub fn over_limit(&self) -> Option<String> {
        let (held, most) = self.stream.receipts();
        (held > most).then(|| format!("{held} receipts, {most} are allowed"))
    }

    /// What callers and the runner share.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }
}

impl Queue {
    /// Figures of the stream.
    pub fn figures(&self) -> StreamStats {
        self.stats()
    }
}

impl Push {
    /// What goes on the wire.
    pub fn request(&self) -> &MessageRequest {
        &self.request
    }
}
