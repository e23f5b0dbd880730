//! Which connection is sent to next: single pushes before floods and wide fan-outs.

use std::collections::VecDeque;

use super::{conn::Conn, registry::Conns};
use crate::identity::ConnId;

/// Connections with something to send and nothing in flight. Each stands at most once in each queue, so both are bounded
/// by the connections.
#[derive(Debug, Default)]
pub struct Dirty {
    /// With a message that came alone, or with few.
    soon: VecDeque<ConnId>,
    /// All others; and some of `soon` that stood here already.
    later: VecDeque<ConnId>,
    /// Sends of this slice.
    flushed: usize,
}

impl Dirty {
    /// A connection has something to send, or has landed with more pending.
    #[inline]
    pub fn add(&mut self, id: ConnId, conn: &mut Conn, urgent: bool) {
        conn.urgent |= urgent;
        if conn.outbox.is_flying() {
            // Its turn comes when it lands.
            return;
        }
        if conn.urgent {
            if !std::mem::replace(&mut conn.queued.soon, true) {
                self.soon.push_back(id);
            }
        } else if !conn.queued.soon && !std::mem::replace(&mut conn.queued.later, true) {
            self.later.push_back(id);
        }
    }

    /// A new slice begins.
    pub fn begin(&mut self) {
        self.flushed = 0;
    }

    /// The next one of a slice of `slice` sends. Urgent ones go first; a quarter of the slice is for the others, so that
    /// they are not held up for ever.
    pub fn next(&mut self, conns: &mut Conns, slice: usize) -> Option<ConnId> {
        while self.flushed < slice {
            let urgent_first = self.flushed < slice - slice / 4 || self.later.is_empty();
            let soon = urgent_first.then(|| self.soon.pop_front()).flatten();
            let id = soon.or_else(|| self.later.pop_front());
            let conn = conns.get_mut(id?);
            if let Some((id, conn)) = id.zip(conn) {
                let queued = &mut conn.queued;
                *(if soon.is_some() {
                    &mut queued.soon
                } else {
                    &mut queued.later
                }) = false;
                if conn.outbox.is_ready() {
                    conn.urgent = false;
                    self.flushed += 1;
                    return Some(id);
                }
            }
        }
        None
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.soon.is_empty() && self.later.is_empty()
    }
}
