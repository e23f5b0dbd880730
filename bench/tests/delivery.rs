//! A million pushes to ten thousand users on four shards, through a client that knows the shards, and through one that
//! does not.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{alone, connect, generic::Call, ringway};
use gateway_bench::{
    clients::{Clients, Event},
    metrics::Metrics,
    setup::{Setup, Subject},
    unicast::{self, user},
    verify::Ledger,
};
use gateway_proto::{
    names,
    v1::{self, logic_frame, message_request::Target},
};

const USERS: usize = 10_000;
const PUSHES: u64 = 1_000_000;
const SHARDS: u32 = 4;
/// Most messages in flight: more would only fill sockets that nobody reads meanwhile.
const WINDOW: u64 = 16_384;

#[test]
fn million_pushes_arrive_in_order_per_user_and_cross_nothing() {
    // logic-client has a stream to each shard and knows every user's shard; a push that took another way would cross.
    let _alone = alone();
    let options = unicast::Options {
        setup: Setup {
            connections: USERS,
            subject: Subject {
                shards: SHARDS,
                ..Subject::default()
            },
            ..Setup::default()
        },
        window: WINDOW,
        // The first push to each user is the warm-up's.
        messages: Some(PUSHES - USERS as u64),
        ..unicast::Options::default()
    };
    let findings = unicast::run(&options, &ringway()).unwrap();
    assert!(findings.is_faultless(), "{findings}");
    let figures = &findings.sides[0].median;
    let pushes = (PUSHES - USERS as u64) as f64;
    assert_eq!(figures.get("messages"), Some(pushes));
    assert_eq!(figures.get("crossings"), Some(0.0), "{findings}");
}

#[test]
fn million_pushes_of_a_generic_client_arrive_too_and_are_counted_where_they_cross() {
    // Half of them by PushStream, half by an Exchange of GATEWAY scope; each call lands on some shard, so that about
    // three of four pushes are for another one.
    let _alone = alone();
    let gateway = ringway().shards(SHARDS).start().unwrap();
    let users: Vec<_> = (0..USERS).map(user).collect();
    let mut receiver = Receiver {
        clients: connect(&gateway, &users),
        ledger: Ledger::new(USERS, 128),
    };

    let mut call = Call::open(gateway.grpc, names::PUSH_STREAM);
    let half = PUSHES / 2;
    push(&mut call, &mut receiver, &users, 0..half, |_, push| push);
    call.half_close();
    let answer = receiver.until("PushStream's answer", |_| {
        call.turn();
        call.answer()
    });
    let right = v1::MessageResponse {
        accepted: half,
        delivered: half,
        ..Default::default()
    };
    assert_eq!(answer, right);

    let mut call = Call::open(gateway.grpc, names::EXCHANGE);
    let scope = v1::Scope::Gateway.into();
    call.send(&frame(
        0,
        logic_frame::Body::Hello(v1::Hello {
            scope,
            ..Default::default()
        }),
    ));
    push(
        &mut call,
        &mut receiver,
        &users,
        half..PUSHES,
        |sequence, push| frame(sequence, logic_frame::Body::Push(push)),
    );
    receiver.until("the last ack", |_| {
        call.turn();
        (call.acknowledged() == PUSHES).then_some(())
    });
    receiver.until("the last push", |ledger| {
        (ledger.delivered() == PUSHES).then_some(())
    });

    assert!(
        receiver.ledger.faults().is_none(),
        "{:?}",
        receiver.ledger.faults()
    );
    let crossed = Metrics::read(gateway.admin)
        .unwrap()
        .sum("ringway_crossings_total", &["kind=\"push\""]);
    let expected = PUSHES as f64 * f64::from(SHARDS - 1) / f64::from(SHARDS);
    assert!(
        (crossed - expected).abs() < 0.05 * expected,
        "{crossed} of {expected} crossed"
    );
}

/// The clients, and what they have received.
struct Receiver {
    clients: Clients,
    ledger: Ledger,
}

impl Receiver {
    fn turn(&mut self) {
        let ledger = &mut self.ledger;
        let take = |client, event: Event<'_>| match event {
            Event::Message { text, payload } => drop(ledger.check(client, text, payload)),
            closed @ Event::Closed { .. } => panic!("{}: {closed:?}", user(client)),
        };
        self.clients.receive(Duration::ZERO, take).unwrap();
    }

    /// Goes on receiving until `answer` is there.
    fn until<T>(&mut self, what: &str, mut answer: impl FnMut(&Ledger) -> Option<T>) -> T {
        let deadline = Instant::now() + common::PATIENCE;
        loop {
            self.turn();
            if let Some(answer) = answer(&self.ledger) {
                return answer;
            }
            let delivered = self.ledger.delivered();
            assert!(
                Instant::now() < deadline,
                "waited in vain for {what}; {delivered} have arrived"
            );
        }
    }
}

/// Pushes number `range`, numbered from 1, to one user after the other.
fn push<M: prost::Message>(
    call: &mut Call,
    receiver: &mut Receiver,
    users: &[String],
    range: std::ops::Range<u64>,
    message: impl Fn(u64, v1::MessageRequest) -> M,
) {
    for at in range {
        if at % 64 == 0 || !call.has_room() {
            receiver.until("room", |ledger| {
                call.turn();
                assert!(call.finished.is_none(), "{:?}", call.finished);
                (call.has_room() && at - ledger.delivered() < WINDOW).then_some(())
            });
        }
        let to = (at % users.len() as u64) as usize;
        let push = v1::MessageRequest {
            target: Some(Target::UserId(users[to].clone())),
            payload: receiver.ledger.issue(to, 0).into(),
            kind: v1::PayloadKind::Binary.into(),
            delivery: None,
        };
        call.send(&message(at + 1, push));
    }
}

fn frame(sequence: u64, body: logic_frame::Body) -> v1::LogicFrame {
    v1::LogicFrame {
        sequence,
        body: Some(body),
    }
}
