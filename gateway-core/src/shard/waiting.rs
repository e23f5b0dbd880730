//! Connections whose messages wait for a stream of a service, and since when.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::identity::ConnId;

/// Bounded by the messages that wait.
#[derive(Debug)]
pub struct Waiting {
    conns: HashMap<ConnId, Wait>,
    /// When to look at whom again, in order of time; also at some who wait no more.
    due: VecDeque<(Duration, ConnId)>,
    patience: Duration,
}

#[derive(Debug)]
struct Wait {
    messages: usize,
    until: Duration,
}

impl Waiting {
    /// Nobody waits.
    pub fn new(patience: Duration) -> Self {
        Self {
            conns: HashMap::new(),
            due: VecDeque::new(),
            patience,
        }
    }

    /// A message of the connection waits.
    pub fn add(&mut self, now: Duration, conn: ConnId) {
        let until = now + self.patience;
        let wait = self.conns.entry(conn).or_insert_with(|| {
            self.due.push_back((until, conn));
            Wait { messages: 0, until }
        });
        wait.messages += 1;
    }

    /// A message of the connection waits no more.
    pub fn remove(&mut self, conn: ConnId) {
        if let Some(wait) = self.conns.get_mut(&conn) {
            wait.messages -= 1;
            if wait.messages == 0 {
                self.conns.remove(&conn);
            }
        }
    }

    /// A connection that has waited long enough. It is told once.
    pub fn next_due(&mut self, now: Duration) -> Option<ConnId> {
        while let Some((_, conn)) = self.due.pop_front_if(|(until, _)| *until <= now) {
            if self.conns.get(&conn).is_some_and(|wait| wait.until <= now) {
                return Some(conn);
            }
        }
        None
    }

    /// When to look again.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.due.front().map(|(until, _)| *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn time_runs_from_the_first_message_that_waits() {
        let mut waiting = Waiting::new(ms(100));
        let (a, b) = (ConnId::new(0, 1, 1), ConnId::new(0, 2, 1));
        waiting.add(ms(0), a);
        waiting.add(ms(50), a);
        waiting.add(ms(50), b);
        assert_eq!(waiting.next_due(ms(99)), None);
        assert_eq!(waiting.next_due(ms(100)), Some(a));
        assert_eq!(waiting.next_due(ms(149)), None);
        assert_eq!(waiting.next_due(ms(150)), Some(b));
    }

    #[test]
    fn who_was_served_begins_anew() {
        let mut waiting = Waiting::new(ms(100));
        let a = ConnId::new(0, 1, 1);
        waiting.add(ms(0), a);
        waiting.remove(a);
        waiting.add(ms(60), a);
        assert_eq!(waiting.next_due(ms(100)), None);
        assert_eq!(waiting.next_deadline(), Some(ms(160)));
        assert_eq!(waiting.next_due(ms(160)), Some(a));
    }
}
