//! When to look at which connection again.
//!
//! Each connection has at most one live entry; activity does not touch it. When the entry is due, the connection says
//! when it really is due, and the entry goes back. So a busy connection costs one heap operation per ping interval.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::identity::ConnId;

/// Times at which connections want to be looked at, in milliseconds of the shard's clock.
#[derive(Debug, Default)]
pub struct Deadlines {
    heap: BinaryHeap<Reverse<(u64, ConnId)>>,
}

impl Deadlines {
    /// Wakes `conn` at `at_ms`, unless its entry `armed` is as early. `armed`: the time of the live entry, 0 for none.
    pub fn arm(&mut self, conn: ConnId, armed: &mut u64, at_ms: u64) {
        if *armed == 0 || at_ms < *armed {
            *armed = at_ms;
            self.heap.push(Reverse((at_ms, conn)));
        }
    }

    /// The next entry that is due; stale ones included (their time is not the connection's `armed`).
    pub fn pop(&mut self, now_ms: u64) -> Option<(u64, ConnId)> {
        let Reverse((at, _)) = self.heap.peek()?;
        (*at <= now_ms).then(|| self.heap.pop().map(|Reverse(entry)| entry))?
    }

    /// When the next entry is due.
    pub fn next(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_deadlines_need_no_entry() {
        let mut deadlines = Deadlines::default();
        let (conn, mut armed) = (ConnId::new(0, 1, 1), 0);
        deadlines.arm(conn, &mut armed, 100);
        deadlines.arm(conn, &mut armed, 200);
        assert_eq!(deadlines.pop(99), None);
        assert_eq!(deadlines.pop(100), Some((100, conn)));
        assert_eq!(deadlines.pop(1000), None);
    }

    #[test]
    fn an_earlier_deadline_makes_the_older_entry_stale() {
        let mut deadlines = Deadlines::default();
        let (conn, mut armed) = (ConnId::new(0, 1, 1), 0);
        deadlines.arm(conn, &mut armed, 100);
        deadlines.arm(conn, &mut armed, 50);
        assert_eq!(deadlines.next(), Some(50));
        assert_eq!(deadlines.pop(100), Some((50, conn)));
        let stale = deadlines.pop(100).unwrap();
        assert_ne!(stale.0, armed);
    }
}
