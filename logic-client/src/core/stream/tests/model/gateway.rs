//! The gateway's half: sessions as the protocol has them.

use std::collections::BTreeMap;

use gateway_proto::v1::message_request::Target;
use gateway_proto::v1::{Hello, Rejected, Resume};

use super::*;

/// What a gateway remembers of sessions, and what it has done.
#[derive(Default)]
pub(super) struct Gateway {
    pub(super) epoch: u64,
    pub(super) tokens: u64,
    pub(super) sessions: BTreeMap<Vec<u8>, Session>,
    /// Pushes that had their effect, in order.
    pub(super) effects: Vec<u64>,
    pub(super) events: u64,
}

#[derive(Default)]
pub(super) struct Session {
    pub(super) token: u64,
    pub(super) previous: u64,
    pub(super) used: bool,
    /// How the session began; told again as long as the client may not have heard it.
    pub(super) began: Option<Resume>,
    pub(super) taken: u64,
    pub(super) attached: Option<usize>,
    /// Receipts to come.
    pub(super) jobs: Vec<u64>,
    /// Events on their way: number on the stream, and which event it is.
    pub(super) unacked: VecDeque<(u64, u64)>,
    pub(super) numbered: u64,
}

impl World {
    /// Something reaches the gateway.
    pub(super) fn down(&mut self, at: usize) {
        let Some(frame) = self.connections[at].down.pop_front() else {
            return;
        };
        if let Some(Body::Hello(hello)) = frame.body {
            self.hello(at, &hello);
            return;
        }
        let Some(session) = self.attached(at) else {
            return;
        };
        session.used = true;
        if let Some(Body::ClientAck(ack)) = frame.body {
            session.unacked.retain(|(number, _)| *number > ack.id);
            return;
        }
        assert!(
            frame.sequence > session.taken,
            "sent again though it was taken"
        );
        session.taken = frame.sequence;
        let Some(Body::Push(push)) = frame.body else {
            panic!("{:?}", frame.body);
        };
        let Some(Target::UserId(user)) = push.target else {
            panic!("{:?}", push.target);
        };
        let stamp: u64 = user.parse().unwrap();
        let receipt = push.delivery.is_some_and(|delivery| delivery.receipt != 0);
        if stamp % 7 == 6 {
            let rejected = Rejected {
                sequence: frame.sequence,
                ..Rejected::default()
            };
            self.tell(at, Up::Rejected(rejected));
            return;
        }
        if receipt {
            session.jobs.push(frame.sequence);
        }
        self.gateway.effects.push(stamp);
    }

    pub(super) fn attached(&mut self, at: usize) -> Option<&mut Session> {
        let session = &self.connections[at].session;
        let session = self.gateway.sessions.get_mut(session);
        session.filter(|session| session.attached == Some(at))
    }

    fn tell(&mut self, at: usize, frame: Up) {
        self.connections[at].up.push_back(Going::Frame(frame));
    }

    fn hello(&mut self, at: usize, hello: &Hello) {
        let gateway = &mut self.gateway;
        gateway.tokens += 1;
        let mut answer = Welcome {
            epoch: gateway.epoch,
            resume_token: gateway.tokens,
            ..welcome()
        };
        let known = hello.resume_token != 0 && hello.gateway_epoch == gateway.epoch;
        let session = gateway.sessions.get(&hello.session_id[..]);
        let resume = match (session, known) {
            (Some(session), _) => session.began.unwrap_or(Resume::Resumed),
            (None, true) => Resume::Unknown,
            (None, false) => Resume::New,
        };
        let fresh = session.is_none();
        answer.set_resume(resume);
        let key = hello.session_id.to_vec();
        self.connections[at].session.clone_from(&key);
        let session = gateway.sessions.entry(key).or_default();
        let lost = hello.resume_token == session.previous && !session.used;
        if !fresh && !lost && hello.resume_token != session.token {
            // The Hello of a connection that was given up has come too late.
            let refused = Going::End(Ending::Refused);
            self.connections[at].up.push_back(refused);
            return;
        }
        if fresh || hello.resume_token == session.token {
            session.began = fresh.then_some(resume);
            answer.set_resume(session.began.unwrap_or(Resume::Resumed));
        }
        session.previous = hello.resume_token;
        session.token = gateway.tokens;
        session.used = false;
        answer.last_sequence = session.taken;
        let replaced = session.attached.replace(at);
        let again: Vec<_> = session.unacked.iter().copied().collect();
        self.tell(at, Up::Welcome(answer));
        if let Some(old) = replaced {
            self.connections[old]
                .up
                .push_back(Going::End(Ending::Replaced));
            for (number, event) in again.into_iter().filter(|one| one.0 > hello.last_event) {
                self.tell(at, message(number, event));
            }
        }
    }

    /// The gateway loses a stream, or ends it.
    pub(super) fn drop_at_gateway(&mut self, at: usize, ending: Ending) {
        let epoch = self.gateway.epoch;
        let Some(session) = self.attached(at) else {
            return;
        };
        session.attached = None;
        // Events go to another stream of the service; receipts are not told any more.
        session.unacked.clear();
        session.numbered = 0;
        session.jobs.clear();
        let (taken, used) = (session.taken, session.used);
        if ending == Ending::Clean && used && epoch == self.gateway.epoch {
            self.tell(at, Up::Ack(Ack { sequence: taken }));
        }
        self.connections[at].up.push_back(Going::End(ending));
    }

    pub(super) fn gateway_acks(&mut self) {
        let Some((at, sequence)) = self.serving().map(|(at, one)| (at, one.taken)) else {
            return;
        };
        self.tell(at, Up::Ack(Ack { sequence }));
    }

    pub(super) fn gateway_answers(&mut self) {
        let Some((at, session)) = self.serving().filter(|(_, one)| !one.jobs.is_empty()) else {
            return;
        };
        let sequence = session.jobs.remove(0);
        let receipt = WireReceipt {
            sequence,
            ..WireReceipt::default()
        };
        self.tell(at, Up::Receipt(receipt));
    }

    pub(super) fn client_speaks(&mut self) {
        let event = self.gateway.events;
        let Some((at, session)) = self.serving() else {
            return;
        };
        session.numbered += 1;
        let number = session.numbered;
        session.unacked.push_back((number, event));
        self.gateway.events += 1;
        self.tell(at, message(number, event));
    }

    pub(super) fn serving(&mut self) -> Option<(usize, &mut Session)> {
        let all = 0..self.connections.len();
        let at = all.rev().find(|at| self.attached(*at).is_some())?;
        Some((at, self.attached(at)?))
    }
}

fn message(id: u64, event: u64) -> Up {
    Up::Message(ClientMessage {
        id,
        connection: Some(gateway_proto::v1::Connection {
            epoch: 1,
            id: event,
        }),
        ..ClientMessage::default()
    })
}
