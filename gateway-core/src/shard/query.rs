//! Questions of logic services: answered here, or summed up over all shards.

use std::collections::HashSet;

use gateway_proto::v1::{self, RejectReason};
use h2_stream::StreamId;

use super::{Shard, route::Done};
use crate::{
    command::{Command, Question, Who},
    identity::{ConnId, LinkId, ShardIndex},
    lanes::{Answer, Forward, MOST_CONNECTIONS, Notice, StreamRef},
    link::{Rejection, Ticket},
};

/// Queries whose answers have not come together.
#[derive(Debug, Default)]
pub struct Queries {
    open: Vec<Open>,
    /// The name of the newest one.
    newest: u64,
    /// Connections looked at in this tick.
    looked_at: usize,
}

#[derive(Debug)]
struct Open {
    link: LinkId,
    stream: StreamId,
    sequence: u64,
    /// Shards that have not answered.
    missing: usize,
    sum: Answer,
}

/// Most queries that wait for other shards; the next one waits on its link.
const MOST_OPEN: usize = 256;

/// Once this many connections were looked at in a tick, the next query waits for the next one.
const MOST_LOOKS: usize = 2000;

impl Queries {
    /// The bound of a tick begins anew.
    pub fn new_tick(&mut self) {
        self.looked_at = 0;
    }

    /// What is held, how much of it, and how much may be.
    pub fn held(&self) -> [(&'static str, usize, usize); 1] {
        [("open queries", self.open.len(), MOST_OPEN)]
    }

    /// Whether all answers have come.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The stream is gone, and nobody waits for its answers.
    pub fn forget(&mut self, link: LinkId, stream: StreamId) {
        self.open
            .retain(|open| (open.link, open.stream) != (link, stream));
    }

    /// A stream takes the place of another, and gets its answers.
    pub fn hand_over(&mut self, old: StreamRef, new: StreamRef) {
        for open in &mut self.open {
            if (open.link, open.stream.0) == (old.link, old.stream) {
                (open.link, open.stream) = (new.link, StreamId(new.stream));
            }
        }
    }

    fn is_busy(&self) -> bool {
        self.looked_at >= MOST_LOOKS
    }
}

impl Shard {
    /// A query of a stream of this shard. A stream that does not read its answers gets no more: it can't be made to
    /// wait, because a link with a waiting command is not read, and would not be told of room for answers either.
    pub(super) fn query(&mut self, id: LinkId, ticket: Ticket, question: Question) -> Done {
        let stream = ticket.stream;
        let unread = self.links.get(id).map(|state| state.link.queued(stream));
        let behind = unread.is_some_and(|bytes| bytes > self.gateway.config.grpc.send_buffer_bytes);
        if behind {
            let detail = "answers to earlier queries of this stream are not read";
            return Done::Refused(Rejection::new(RejectReason::Overloaded, detail));
        }
        if self.queries.is_busy() || self.queries.open.len() >= MOST_OPEN {
            return Done::Blocked(Command::Query { question, of: None });
        }
        let shards = match self.shards_asked(ticket.whole_gateway, &question) {
            Ok(shards) => shards,
            Err(owner) => return Done::Refused(self.wrong_shard(owner)),
        };
        let index = self.index;
        let others = shards.iter().copied().filter(|shard| *shard != index);
        let others: Vec<ShardIndex> = others.collect();
        if !others.iter().all(|shard| self.has_room(*shard)) {
            return Done::Blocked(Command::Query { question, of: None });
        }
        self.queries.newest += 1;
        let query = self.queries.newest;
        let sum = Answer {
            query,
            ..Answer::default()
        };
        for shard in &others {
            let of = Some((index, query));
            let question = question.clone();
            let command = Command::Query { question, of };
            self.metrics.crossings.count("command");
            let outgoing = &mut self.outgoing[usize::from(*shard)];
            outgoing.command_messages += 1;
            outgoing.commands.push(Forward { job: None, command });
        }
        self.queries.open.push(Open {
            link: id,
            stream,
            sequence: ticket.sequence,
            missing: shards.len(),
            sum,
        });
        if shards.contains(&index) {
            let answer = self.look_up(&question, query);
            self.take_answer(answer);
        }
        Done::Taken
    }

    /// A query that another shard sums up.
    pub(super) fn answer_elsewhere(&mut self, command: Command) -> Done {
        let Command::Query {
            question,
            of: Some((shard, query)),
        } = command
        else {
            debug_assert!(false, "queries of this shard's streams go another way");
            return Done::Taken;
        };
        if self.queries.is_busy() {
            let of = Some((shard, query));
            return Done::Blocked(Command::Query { question, of });
        }
        let answer = self.look_up(&question, query);
        self.notify(shard, Notice::Answer(Box::new(answer)));
        Done::Taken
    }

    /// A shard's part of an answer; with the last one the stream is told.
    pub(super) fn take_answer(&mut self, answer: Answer) {
        let mut open = self.queries.open.iter();
        let Some(at) = open.position(|open| open.sum.query == answer.query) else {
            return;
        };
        let open = &mut self.queries.open[at];
        open.sum.merge(answer);
        open.missing -= 1;
        if open.missing > 0 {
            return;
        }
        let Open {
            link,
            stream,
            sequence,
            sum,
            ..
        } = self.queries.open.swap_remove(at);
        let epoch = self.gateway.epoch;
        if let Some(state) = self.links.get_mut(link) {
            state.link.send_answer(stream, sum.result(sequence, epoch));
            self.mark_link_ready(link);
        }
    }

    /// The shards that a question goes to; the owner, if that is another one and the stream speaks to this shard only.
    fn shards_asked(
        &self,
        whole_gateway: bool,
        question: &Question,
    ) -> Result<Vec<ShardIndex>, ShardIndex> {
        let index = self.index;
        if let Question::User(user) = question {
            let owner = self.owner_of(&Who::User(user.clone())).unwrap_or(index);
            let reached = owner == index || whole_gateway;
            return if reached { Ok(vec![owner]) } else { Err(owner) };
        }
        Ok(if whole_gateway {
            (0..self.lanes.shards()).collect()
        } else {
            vec![index]
        })
    }

    fn look_up(&mut self, question: &Question, query: u64) -> Answer {
        self.metrics.queries.add(1);
        match question {
            Question::User(user) => {
                let user = self.users.find(user);
                let conns = user.map_or(&[][..], |user| &self.users.get(user).conns);
                self.queries.looked_at += conns.len().min(MOST_CONNECTIONS);
                let users = u64::from(!conns.is_empty());
                answer(query, conns, users)
            }
            Question::Totals => Answer {
                query,
                users: self.users.online() as u64,
                connection_count: self.directory.open_connections,
                ..Answer::default()
            },
            Question::Topic(topic) => {
                let members = self.topics.members(topic);
                let named = &members[..members.len().min(MOST_CONNECTIONS)];
                self.queries.looked_at += named.len();
                let of_user = |id: &ConnId| self.conns.get(*id)?.user;
                let users: HashSet<_> = named.iter().filter_map(of_user).collect();
                answer(query, members, users.len() as u64)
            }
        }
    }
}

impl Answer {
    fn merge(&mut self, part: Answer) {
        self.users += part.users;
        self.connection_count += part.connection_count;
        self.truncated |= part.truncated;
        let room = MOST_CONNECTIONS - self.connections.len();
        self.truncated |= part.connections.len() > room;
        self.connections
            .extend(part.connections.into_iter().take(room));
    }

    fn result(self, sequence: u64, epoch: u64) -> v1::QueryResult {
        let connection = |id: ConnId| v1::Connection {
            epoch,
            id: id.to_wire(),
        };
        v1::QueryResult {
            sequence,
            connections: self.connections.into_iter().map(connection).collect(),
            users: self.users,
            connection_count: self.connection_count,
            truncated: self.truncated,
        }
    }
}

fn answer(query: u64, conns: &[ConnId], users: u64) -> Answer {
    let named = conns.len().min(MOST_CONNECTIONS);
    Answer {
        query,
        connections: conns[..named].to_vec(),
        users,
        connection_count: conns.len() as u64,
        truncated: named < conns.len(),
    }
}
