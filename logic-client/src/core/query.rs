//! Puts the answers of several streams to one query together.

use std::collections::HashMap;

use gateway_proto::v1::QueryResult;

use crate::core::receipts::Ticket;
use crate::push::Connection;
use crate::query::{Answers, GatewayAnswer};

/// Queries whose answers are awaited. `T` is who waits. Bounded by its callers: each waits for one,
/// and ends it ([`Queries::end`]) when it stops waiting.
#[derive(Debug)]
pub(crate) struct Queries<T> {
    newest: u64,
    open: HashMap<QueryId, Open<T>>,
    /// The query that a stream is asked for, and the place of its gateway.
    tickets: HashMap<Ticket, (QueryId, usize)>,
}

/// Names a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct QueryId(u64);

/// A gateway that is asked.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) name: String,
    pub(crate) address: String,
    /// One for each stream.
    pub(crate) tickets: Vec<Ticket>,
}

#[derive(Debug)]
struct Open<T> {
    waiter: T,
    gateways: Vec<Part>,
    /// Addresses of gateways that cannot be asked.
    missing: Vec<String>,
}

#[derive(Debug)]
struct Part {
    asked: Asked,
    /// Tickets without an answer.
    left: usize,
    failed: bool,
    answer: GatewayAnswer,
}

/// Most connections named of one gateway.
const MOST_CONNECTIONS: usize = 10_000;

impl<T> Default for Queries<T> {
    fn default() -> Self {
        Self {
            newest: 0,
            open: HashMap::new(),
            tickets: HashMap::new(),
        }
    }
}

impl<T> Queries<T> {
    /// Names what one stream will be asked.
    pub(crate) fn ticket(&mut self) -> Ticket {
        self.newest += 1;
        Ticket::of_query(self.newest)
    }

    /// A query that is about to be sent.
    pub(crate) fn open(&mut self, waiter: T, asked: Vec<Asked>, missing: Vec<String>) -> QueryId {
        self.newest += 1;
        let id = QueryId(self.newest);
        for (at, asked) in asked.iter().enumerate() {
            let tickets = asked.tickets.iter().map(|ticket| (*ticket, (id, at)));
            self.tickets.extend(tickets);
        }
        let part = |asked: Asked| Part {
            left: asked.tickets.len(),
            failed: false,
            answer: GatewayAnswer {
                gateway: asked.name.clone(),
                ..GatewayAnswer::default()
            },
            asked,
        };
        let gateways = asked.into_iter().map(part).collect();
        let open = Open {
            waiter,
            gateways,
            missing,
        };
        self.open.insert(id, open);
        id
    }

    /// A stream has answered, or will not (`None`). With the last answer the result is handed out.
    pub(crate) fn answered(
        &mut self,
        ticket: Ticket,
        result: Option<QueryResult>,
    ) -> Option<(T, Answers)> {
        let (id, at) = self.tickets.remove(&ticket)?;
        let open = self.open.get_mut(&id)?;
        let part = open.gateways.get_mut(at)?;
        part.left -= 1;
        match result {
            Some(result) => part.answer.merge(result),
            None => part.failed = true,
        }
        let over = open.gateways.iter().all(|part| part.left == 0);
        over.then(|| self.end(id))?
    }

    /// Gives what is known by now. Nothing more is waited for.
    pub(crate) fn end(&mut self, id: QueryId) -> Option<(T, Answers)> {
        let open = self.open.remove(&id)?;
        let mut answers = Answers {
            missing: open.missing,
            ..Answers::default()
        };
        for part in open.gateways {
            for ticket in &part.asked.tickets {
                self.tickets.remove(ticket);
            }
            if part.left == 0 && !part.failed {
                answers.gateways.push(part.answer);
            } else {
                answers.missing.push(part.asked.address);
            }
        }
        Some((open.waiter, answers))
    }
}

impl GatewayAnswer {
    /// Takes in what a shard says.
    fn merge(&mut self, result: QueryResult) {
        self.users += result.users;
        self.connection_count += result.connection_count;
        let room = MOST_CONNECTIONS - self.connections.len();
        self.truncated |= result.truncated || result.connections.len() > room;
        let named = result.connections.into_iter().take(room);
        self.connections.extend(named.map(Connection::from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked<T>(queries: &mut Queries<T>, name: &str, streams: usize) -> Asked {
        Asked {
            name: name.to_owned(),
            address: format!("{name}:9000"),
            tickets: (0..streams).map(|_| queries.ticket()).collect(),
        }
    }

    fn result(users: u64, connections: usize) -> Option<QueryResult> {
        Some(QueryResult {
            users,
            connection_count: connections as u64,
            connections: vec![gateway_proto::v1::Connection::default(); connections],
            ..QueryResult::default()
        })
    }

    #[test]
    fn the_last_answer_completes_the_result() {
        let mut queries = Queries::default();
        let (one, two) = (asked(&mut queries, "one", 2), asked(&mut queries, "two", 1));
        let tickets = [one.tickets[0], one.tickets[1], two.tickets[0]];
        queries.open("waiter", vec![one, two], Vec::new());
        assert_eq!(queries.answered(tickets[2], result(1, 1)), None);
        assert_eq!(queries.answered(tickets[0], result(2, 3)), None);
        assert_eq!(queries.answered(tickets[0], result(9, 9)), None, "twice");
        let (waiter, answers) = queries.answered(tickets[1], result(1, 1)).unwrap();
        assert_eq!((waiter, answers.is_complete()), ("waiter", true));
        assert_eq!((answers.users(), answers.connections()), (4, 5));
        let [one, two] = &answers.gateways[..] else {
            panic!("{answers:?}");
        };
        assert_eq!((one.gateway.as_str(), one.connections.len()), ("one", 4));
        assert_eq!((two.gateway.as_str(), two.users), ("two", 1));
    }

    #[test]
    fn a_gateway_that_answers_in_part_is_missing() {
        let mut queries = Queries::default();
        let (one, two) = (asked(&mut queries, "one", 2), asked(&mut queries, "two", 1));
        let tickets = [one.tickets[0], one.tickets[1], two.tickets[0]];
        let id = queries.open((), vec![one, two], vec!["gone:9000".to_owned()]);
        queries.answered(tickets[0], result(1, 1));
        queries.answered(tickets[2], None);
        let ((), answers) = queries.end(id).unwrap();
        assert_eq!(answers.gateways, []);
        assert_eq!(answers.missing, ["gone:9000", "one:9000", "two:9000"]);
        assert!(queries.end(id).is_none());
        assert_eq!(queries.answered(tickets[1], result(1, 1)), None, "late");
        assert!(queries.tickets.is_empty());
    }

    #[test]
    fn an_answer_names_a_bounded_number_of_connections() {
        let mut queries = Queries::default();
        let one = asked(&mut queries, "one", 2);
        let tickets = one.tickets.clone();
        queries.open((), vec![one], Vec::new());
        queries.answered(tickets[0], result(1, 9_000));
        let ((), answers) = queries.answered(tickets[1], result(1, 9_000)).unwrap();
        let answer = &answers.gateways[0];
        assert_eq!((answer.connections.len(), answer.truncated), (10_000, true));
        assert_eq!(answer.connection_count, 18_000);
    }
}
