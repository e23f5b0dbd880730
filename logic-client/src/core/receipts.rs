//! Puts the receipts of one push from several streams together.

use std::collections::HashMap;

use gateway_proto::v1;

use crate::error::ConfirmError;
use crate::push::Connection;

/// What became of a push, counted in deliveries over all shards it went to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The kernel of the gateway took the bytes. Not: the browser saw them.
    pub written: u64,
    /// A newer message with the same conflation key took its place.
    pub conflated: u64,
    /// Its time to live ran out.
    pub expired: u64,
    /// The outbox was full of messages that were not less important.
    pub dropped_slow: u64,
    /// It gave way to a more important message.
    pub dropped_priority: u64,
    /// Targets not found. For a user, connection or topic 1 when it was found nowhere; for a list
    /// of users the number not found, once per gateway.
    pub no_target: u64,
    /// The connection ended before the message was written.
    pub closed: u64,
    /// What became of the push on each connection, if that was asked for
    /// ([`push_confirmed_targets`](crate::LogicClient::push_confirmed_targets)): of each outcome at
    /// most 1,000 for each shard.
    pub targets: Vec<(Outcome, Connection)>,
}

/// What became of a push on one connection; see the fields of [`Receipt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The kernel of the gateway took the bytes.
    Written,
    /// A newer message with the same conflation key took its place.
    Conflated,
    /// Its time to live ran out.
    Expired,
    /// The outbox was full.
    DroppedSlow,
    /// It gave way to a more important message.
    DroppedPriority,
    /// The connection ended before the message was written.
    Closed,
}

impl Receipt {
    /// Deliveries of which the push was not written.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.conflated + self.expired + self.dropped_slow + self.dropped_priority + self.closed
    }

    pub(crate) fn from_wire(receipt: &v1::Receipt) -> Self {
        let mut sum = Self::default();
        for entry in &receipt.outcomes {
            let (count, outcome) = match entry.outcome() {
                v1::Outcome::Written => (&mut sum.written, Outcome::Written),
                v1::Outcome::Conflated => (&mut sum.conflated, Outcome::Conflated),
                v1::Outcome::Expired => (&mut sum.expired, Outcome::Expired),
                v1::Outcome::DroppedSlow => (&mut sum.dropped_slow, Outcome::DroppedSlow),
                v1::Outcome::DroppedPriority => {
                    (&mut sum.dropped_priority, Outcome::DroppedPriority)
                }
                v1::Outcome::NoTarget => {
                    sum.no_target += u64::from(entry.count);
                    continue;
                }
                v1::Outcome::Closed | v1::Outcome::Unspecified => {
                    (&mut sum.closed, Outcome::Closed)
                }
            };
            *count += u64::from(entry.count);
            let connections = entry.connections.iter().copied();
            sum.targets
                .extend(connections.map(|connection| (outcome, connection.into())));
        }
        sum
    }

    fn add(&mut self, other: Self) {
        self.targets.extend(other.targets);
        self.written += other.written;
        self.conflated += other.conflated;
        self.expired += other.expired;
        self.dropped_slow += other.dropped_slow;
        self.dropped_priority += other.dropped_priority;
        self.no_target += other.no_target;
        self.closed += other.closed;
    }
}

/// Names a push whose receipt is awaited, or what a stream is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// Set in tickets of queries.
const OF_QUERY: u64 = 1 << 63;

impl Ticket {
    /// The ticket of one stream's answer to a query.
    pub(crate) fn of_query(number: u64) -> Self {
        Self(number | OF_QUERY)
    }

    /// Whether what is awaited is no receipt.
    pub(crate) fn is_of_query(self) -> bool {
        self.0 & OF_QUERY != 0
    }
}

/// The answer of one stream.
pub(crate) type Answer = Result<Receipt, ConfirmError>;

/// The pushes whose receipts are awaited. `T` is who waits. Bounded by its callers: each waits
/// for one, and takes it back ([`Receipts::cancel`]) when it stops waiting.
#[derive(Debug)]
pub(crate) struct Receipts<T> {
    next: u64,
    open: HashMap<Ticket, Open<T>>,
}

#[derive(Debug)]
struct Open<T> {
    waiter: T,
    /// Streams that have not answered.
    parts: usize,
    /// A list of users, of whom some may be found and some not.
    list: bool,
    sum: Receipt,
    error: Option<ConfirmError>,
}

impl<T> Receipts<T> {
    /// How many pushes wait for theirs.
    #[cfg(feature = "simulation")]
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    pub(crate) fn new() -> Self {
        Self {
            next: 0,
            open: HashMap::new(),
        }
    }

    /// A push that was not handed to its streams yet.
    pub(crate) fn open(&mut self, waiter: T, list: bool) -> Ticket {
        self.next += 1;
        let ticket = Ticket(self.next);
        let open = Open {
            waiter,
            parts: 0,
            list,
            sum: Receipt::default(),
            error: None,
        };
        self.open.insert(ticket, open);
        ticket
    }

    /// `come` more streams will answer, `gone` of those expected will not.
    pub(crate) fn expect(&mut self, ticket: Ticket, come: usize, gone: usize) {
        if let Some(open) = self.open.get_mut(&ticket) {
            open.parts = (open.parts + come).saturating_sub(gone);
        }
    }

    /// One stream has answered. With the last answer the result is handed out: if one has failed, with
    /// what the others have done beside the error.
    pub(crate) fn settle(&mut self, ticket: Ticket, answer: Answer) -> Option<(T, Answer)> {
        let open = self.open.get_mut(&ticket)?;
        match answer {
            Ok(receipt) => open.sum.add(receipt),
            Err(error) => match &mut open.error {
                Some(known) => known.add(error),
                None => open.error = Some(error),
            },
        }
        open.parts = open.parts.saturating_sub(1);
        if open.parts > 0 {
            return None;
        }
        let open = self.open.remove(&ticket)?;
        let delivered = result(open.sum, open.list);
        let answer = match open.error {
            None => Ok(delivered),
            Some(mut error) => {
                error.delivered = Box::new(delivered);
                Err(error)
            }
        };
        Some((open.waiter, answer))
    }

    /// Who waits for it.
    #[cfg(test)]
    pub(crate) fn waiter(&self, ticket: Ticket) -> Option<&T> {
        self.open.get(&ticket).map(|open| &open.waiter)
    }

    /// Nobody waits any more.
    pub(crate) fn cancel(&mut self, ticket: Ticket) {
        self.open.remove(&ticket);
    }
}

/// A single target that one shard has found is found.
fn result(mut sum: Receipt, list: bool) -> Receipt {
    if !list {
        let found = sum.written + sum.lost() > 0;
        sum.no_target = u64::from(!found && sum.no_target > 0);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::PushError;

    fn receipt(written: u64, no_target: u64) -> Answer {
        Ok(Receipt {
            written,
            no_target,
            ..Receipt::default()
        })
    }

    #[test]
    fn the_last_stream_completes_the_sum() {
        let mut receipts = Receipts::new();
        let ticket = receipts.open("waiter", false);
        receipts.expect(ticket, 3, 0);
        assert_eq!(receipts.settle(ticket, receipt(2, 0)), None);
        assert_eq!(receipts.settle(ticket, receipt(0, 1)), None);
        // Found on one shard: found.
        assert_eq!(
            receipts.settle(ticket, receipt(5, 0)),
            Some(("waiter", receipt(7, 0)))
        );
        assert_eq!(
            receipts.settle(ticket, receipt(1, 0)),
            None,
            "no one waits any more"
        );
    }

    #[test]
    fn a_target_found_nowhere_counts_once_and_users_of_a_list_each() {
        let mut receipts = Receipts::new();
        for (list, expected) in [(false, 1), (true, 3)] {
            let ticket = receipts.open((), list);
            receipts.expect(ticket, 2, 0);
            receipts.settle(ticket, receipt(0, 2));
            let done = receipts.settle(ticket, receipt(0, 1));
            assert_eq!(done, Some(((), receipt(0, expected))));
        }
    }

    #[test]
    fn a_part_that_failed_fails_the_push_at_the_end_and_hides_nothing_that_was_delivered() {
        let failed = |error: PushError| Err(ConfirmError::from(error));
        let (full, unknown) = (PushError::Full, PushError::Unknown);
        for (errors, told) in [
            ([&full, &full], &full),
            ([&full, &unknown], &unknown),
            ([&unknown, &full], &unknown),
        ] {
            let mut receipts = Receipts::new();
            let ticket = receipts.open((), false);
            receipts.expect(ticket, 4, 0);
            let [first, second] = errors;
            assert_eq!(receipts.settle(ticket, failed(first.clone())), None);
            assert_eq!(receipts.settle(ticket, receipt(3, 0)), None);
            assert_eq!(receipts.settle(ticket, failed(second.clone())), None);
            let ((), answer) = receipts.settle(ticket, receipt(2, 1)).unwrap();
            let error = answer.unwrap_err();
            assert_eq!(&error.error, told);
            assert_eq!(Ok(*error.delivered), receipt(5, 0));
        }
    }

    #[test]
    fn a_cancelled_ticket_is_forgotten() {
        let mut receipts = Receipts::new();
        let ticket = receipts.open((), false);
        receipts.expect(ticket, 1, 0);
        receipts.cancel(ticket);
        assert_eq!(receipts.settle(ticket, receipt(1, 0)), None);
        assert!(receipts.open.is_empty());
    }
}
