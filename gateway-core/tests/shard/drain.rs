//! Going away, without a kernel: the pace, the order, what clients and services still get, and who is not waited for.

use std::{collections::VecDeque, time::Duration};

use crate::world::{
    ClientId, World,
    logic::{Logic, pushing, receiving, to_user},
    user_of, world,
};
use gateway_core::identity::SocketId;
use gateway_proto::{
    health::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus},
    names,
    v1::{self, Outcome, Scope, gateway_frame::Body as Up},
};
use h2_stream::Code;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn drain(world: &mut World, spread: Duration) {
    let now = world.now;
    for shard in &mut world.shards {
        shard.drain(now, spread);
    }
}

fn is_drained(world: &World) -> bool {
    world.shards.iter().all(|shard| shard.is_drained())
}

/// Clients answer every Close, as browsers do.
fn answer_closes(world: &mut World) {
    let closing = |(id, client): (&ClientId, &crate::world::client::Client)| {
        (client.closed().is_some() && !client.gone).then_some(*id)
    };
    let ids: Vec<_> = world.clients.iter().filter_map(closing).collect();
    for id in ids {
        world.client(id).close(1012);
    }
}

/// Lets time pass, with clients that answer; who was closed, in that order, with the times since the beginning.
fn pass_and_note(world: &mut World, time: Duration) -> Vec<(ClientId, Duration)> {
    let (began, mut closed) = (world.now, Vec::<(ClientId, Duration)>::new());
    while world.now < began + time {
        world.pass(ms(5));
        for (id, client) in &world.clients {
            if client.closed().is_some() && closed.iter().all(|(known, _)| known != id) {
                closed.push((*id, world.now - began));
            }
        }
        answer_closes(world);
    }
    closed
}

/// A push whose outcomes are told.
fn counted(user: &str, text: &str) -> v1::MessageRequest {
    v1::MessageRequest {
        delivery: Some(v1::Delivery {
            receipt: v1::ReceiptMode::Counts.into(),
            ..v1::Delivery::default()
        }),
        ..to_user(user, text)
    }
}

fn retry_after(world: &World, id: ClientId) -> Duration {
    let (code, reason) = world.clients[&id].closed().expect("closed");
    assert_eq!(code, 1012);
    let retry = reason.strip_prefix("retry_after_ms=").expect(reason);
    ms(retry.parse().expect("a number"))
}

fn remaining(logic: &Logic) -> Vec<u32> {
    let draining = |frame: &Up| match frame {
        Up::Draining(draining) => Some(draining.remaining_ms),
        _ => None,
    };
    logic.frames.iter().filter_map(draining).collect()
}

#[test]
fn a_drain_closes_everybody_at_an_even_pace_in_random_order() {
    const CLIENTS: usize = 200;
    let mut world = world(1, |config| config.drain.spread_ms = 77);
    let clients: Vec<_> = (0..CLIENTS).map(|_| world.connect(0, "/ws")).collect();
    drain(&mut world, ms(1000));
    assert!(world.shards[0].is_draining());
    let closed = pass_and_note(&mut world, ms(1100));
    assert!(!world.accepting);
    assert_eq!(closed.len(), CLIENTS, "everybody");
    for quarter in 1..=4 {
        let by_then = closed.iter().filter(|(_, at)| *at <= ms(quarter * 250));
        let (by_then, expected) = (by_then.count(), quarter as usize * CLIENTS / 4);
        assert!(
            by_then.abs_diff(expected) <= 2,
            "{by_then} of {CLIENTS} after {quarter} quarters"
        );
    }
    let order: Vec<_> = closed.iter().map(|(id, _)| *id).collect();
    assert_ne!(order, clients, "in the order they came");
    // In random order the first half comes from all over, not from one end.
    let early = order[..CLIENTS / 2]
        .iter()
        .filter(|id| **id <= clients[CLIENTS / 2]);
    let early = early.count();
    assert!((30..=70).contains(&early), "{early} of 100 are early ones");
    assert!(is_drained(&world));
}

// They come back after the drain, and not all at once.
#[test]
fn clients_are_told_to_come_back_spread_beyond_the_drain() {
    const CLIENTS: usize = 400;
    let (spread, window) = (1000, 4000);
    let mut world = world(1, |config| config.drain.retry_after_ms = window);
    for _ in 0..CLIENTS {
        world.connect(0, "/ws");
    }
    drain(&mut world, ms(spread));
    let closed = pass_and_note(&mut world, ms(spread + 100));
    let mut per_quarter = [0; 4];
    for (id, at) in closed {
        let back = at + retry_after(&world, id);
        // The note was taken up to a step late, and the spread ends within one.
        assert!(back >= ms(spread - 10), "comes back at {back:?}, too early");
        let after = back.saturating_sub(ms(spread)).as_millis() as u64;
        assert!(
            after <= window + 10,
            "comes back {after} ms after the drain"
        );
        per_quarter[(after * 4 / (window + 11)) as usize] += 1;
    }
    assert_eq!(per_quarter.iter().sum::<usize>(), CLIENTS);
    for quarter in per_quarter {
        assert!((60..=140).contains(&quarter), "{per_quarter:?}");
    }
}

#[test]
fn a_slow_client_gets_what_is_pending_before_its_close() {
    const MESSAGES: usize = 8;
    // The outbox is full to the brim: even then the Close has its place, and nothing gives way to it.
    let mut world = world(1, |config| {
        (config.outbox.max_messages, config.drain.grace_ms) = (MESSAGES, 5_000);
        config.ws.close_timeout_ms = 1_000;
    });
    let client = world.connect(0, "/ws?user=alice");
    world.client(client).stalled = true;
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    let texts: Vec<_> = (0..MESSAGES).map(|n| format!("message {n}")).collect();
    let mut last = 0;
    for text in &texts {
        last = world.service(logic).push(counted("alice", text));
    }
    world.settle();
    drain(&mut world, ms(0));
    world.pass(ms(4_900));
    assert!(world.client(client).texts().is_empty());
    assert!(!is_drained(&world), "it has time until the grace is over");
    world.client(client).stalled = false;
    world.settle();
    assert_eq!(world.client(client).texts(), texts);
    assert_eq!(
        world.client(client).frames.last().unwrap().0,
        8,
        "its Close"
    );
    retry_after(&world, client);
    world.client(client).close(1012);
    world.pass(ms(100));
    assert!(is_drained(&world));
    let receipt = world.service(logic).receipt(last);
    assert_eq!(receipt, Some(vec![(Outcome::Written, 1)]));
}

#[test]
fn a_client_that_reads_nothing_is_cut_and_its_messages_are_accounted_for() {
    let mut world = world(1, |config| config.drain.grace_ms = 1_000);
    let client = world.connect(0, "/ws?user=alice");
    world.client(client).stalled = true;
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    let push = world.service(logic).push(counted("alice", "hi"));
    world.settle();
    drain(&mut world, ms(100));
    world.pass(ms(1_000));
    assert!(!is_drained(&world));
    world.pass(ms(300));
    assert!(is_drained(&world));
    let receipt = world.service(logic).receipt(push);
    assert_eq!(receipt, Some(vec![(Outcome::Closed, 1)]));
}

// Its kernel takes the Close, and that is all that ever happens: the grace, an hour here, is not for that.
#[test]
fn a_client_that_ignores_its_close_has_only_so_long() {
    let mut world = world(1, |config| {
        (config.drain.grace_ms, config.ws.close_timeout_ms) = (3_600_000, 2_000);
    });
    world.connect(0, "/ws");
    drain(&mut world, ms(0));
    world.pass(ms(1_900));
    assert!(!is_drained(&world));
    world.pass(ms(200));
    assert!(is_drained(&world));
}

// A peer that was cut off takes neither GOAWAY nor trailers; one that only looks at health has nothing to take.
#[test]
fn links_without_anything_to_say_are_not_waited_for() {
    let mut world = world(1, |config| config.drain.grace_ms = 3_600_000);
    let (idle, cut_off) = (world.logic(0), world.logic(0));
    world.service(cut_off).hello(pushing(Scope::Shard));
    world.settle();
    world.service(cut_off).cut_off = true;
    drain(&mut world, ms(10_000));
    world.pass(ms(50));
    assert!(world.service(idle).lost, "nobody is here: it ends at once");
    world.pass(ms(1_100));
    assert!(is_drained(&world));
}

#[test]
fn streams_are_told_how_long_it_takes_also_those_that_come_late() {
    let mut world = world(1, |_| {});
    let client = world.connect(0, "/ws");
    let early = world.logic(0);
    world.service(early).hello(pushing(Scope::Shard));
    world.settle();
    world.client(client).stalled = true;
    drain(&mut world, ms(8_000));
    world.pass(ms(3_000));
    let late = world.logic(0);
    world.service(late).hello(pushing(Scope::Shard));
    let check = HealthCheckRequest::default();
    let health = world.service(late).call(names::HEALTH_CHECK, &check);
    world.settle();
    assert_eq!(remaining(world.service(early)), [8_000]);
    assert_eq!(remaining(world.service(late)), [5_000]);
    let answer: HealthCheckResponse = world.service(late).answer(health);
    assert_eq!(answer.status(), ServingStatus::NotServing);
}

// A stream of GATEWAY scope on a shard without clients speaks to those of the other shard, to the last.
#[test]
fn links_stay_until_the_last_client_of_the_last_shard_is_gone() {
    let mut world = world(2, |_| {});
    let user = user_of(1, 2);
    let client = world.connect(1, &format!("/ws?user={user}"));
    let last = world.connect(1, "/ws");
    let logic = world.logic(0);
    world
        .service(logic)
        .hello(receiving("chat", Scope::Gateway, true));
    world.settle();
    drain(&mut world, ms(1_000));
    // One of the two is closed at once, the other after half of the time.
    world.pass(ms(300));
    let (open, other) = match world.client(client).closed() {
        None => (client, last),
        Some(_) => (last, client),
    };
    world.client(other).close(1012);
    world.client(open).text("still here");
    world.pass(ms(50));
    assert!(!world.service(logic).lost);
    assert_eq!(world.service(logic).messages().len(), 1);
    let push = world.service(logic).push(counted(&user, "still there?"));
    world.settle();
    let expected = match open == client {
        true => Outcome::Written,
        false => Outcome::NoTarget,
    };
    assert_eq!(
        world.service(logic).receipt(push),
        Some(vec![(expected, 1)])
    );
    let _ = pass_and_note(&mut world, ms(1_000));
    assert!(is_drained(&world));
    assert_eq!(world.service(logic).closed().len(), 2, "told of both");
}

// Whoever pushes on until the end may send again elsewhere what was not acknowledged: it must not have been done. What was
// is answered.
#[test]
fn what_is_not_acknowledged_when_a_stream_ends_was_not_done() {
    let mut world = world(2, |config| {
        // Commands for the other shard wait for room.
        (config.lanes.batches, config.lanes.batch_messages) = (1, 2);
    });
    let users = [user_of(0, 2), user_of(1, 2)];
    for user in &users {
        world.connect(0, &format!("/ws?user={user}"));
    }
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Gateway));
    world.settle();
    drain(&mut world, ms(100));
    let (mut sent, mut under_way) = (0, VecDeque::new());
    let socket = SocketId::Link(world.service(logic).link);
    for _ in 0..400 {
        if !world.service(logic).lost {
            for user in &users {
                sent = world.service(logic).push(counted(user, "more"));
            }
        }
        // What the service writes is 3 ms under way.
        let mut bytes = Vec::new();
        world
            .service(logic)
            .client
            .write_output(&mut bytes, usize::MAX);
        under_way.push_back(bytes);
        if under_way.len() > 3
            && let Some(mut bytes) = under_way.pop_front()
        {
            let now = world.now;
            world.shards[0].bytes(now, socket, &mut bytes);
        }
        answer_closes(&mut world);
        world.now += ms(1);
        world.step();
    }
    world.pass(ms(2_000));
    assert!(is_drained(&world));
    let exchange = world.service(logic).exchange.unwrap();
    let status = &world.service(logic).ended[&exchange];
    assert_eq!(status.code, Code::Unavailable, "{status:?}");
    let acked = world.service(logic).acked();
    assert!(acked < sent, "the test has pushed until the end");
    let done = world.metrics[0].messages_in_logic.get();
    assert_eq!(done, acked, "of {sent}");
    let unanswered = |sequence: &u64| world.logics[&logic].receipt(*sequence).is_none();
    let unanswered: Vec<_> = (1..=acked).filter(unanswered).collect();
    assert!(unanswered.is_empty(), "no receipts for {unanswered:?}");
}

// The other shard stands still, and owes answers: whoever pushes on meanwhile must not put the end off.
#[test]
fn the_last_answers_are_waited_for_but_no_more_commands_are_taken() {
    let mut world = world(2, |_| {});
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Gateway));
    world.settle();
    let user = user_of(1, 2);
    let first = world.service(logic).push(counted(&user, "anyone?"));
    drain(&mut world, ms(0));
    world.step_shard(1);
    for _ in 0..100 {
        world.now += ms(1);
        world.step_shard(0);
        world.service(logic).push(counted(&user, "and now?"));
    }
    let acked = world.service(logic).acked();
    assert!((first..first + 5).contains(&acked), "{acked}");
    world.settle();
    for sequence in first..=acked {
        let receipt = world.service(logic).receipt(sequence);
        assert_eq!(receipt, Some(vec![(Outcome::NoTarget, 1)]));
    }
    assert_eq!(world.service(logic).acked(), acked);
    assert!(is_drained(&world));
}

// What a shard has forwarded must be answered as long as it has a link that waits for the answer.
#[test]
fn no_shard_ends_before_the_last_link_of_the_last_shard_is_gone() {
    let mut world = world(2, |_| {});
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Gateway));
    world.settle();
    world.service(logic).cut_off = true;
    drain(&mut world, ms(0));
    world.pass(ms(500));
    assert!(
        !world.shards[0].is_drained(),
        "its link may still say something"
    );
    assert!(!world.shards[1].is_drained());
    world.pass(ms(1_000));
    assert!(is_drained(&world));
}

// No byte comes any more, and no reset: only the keepalive can find that out.
#[test]
fn a_link_that_falls_silent_is_gone_after_twenty_seconds_and_its_users_go_to_another() {
    let mut world = world(1, |_| {});
    let (silent, other) = (world.logic(0), world.logic(0));
    world
        .service(silent)
        .hello(receiving("chat", Scope::Shard, true));
    world.settle();
    let client = world.connect(0, "/ws?user=alice");
    world.client(client).text("one");
    world.settle();
    assert_eq!(world.service(silent).messages().len(), 1, "its user");
    world
        .service(other)
        .hello(receiving("chat", Scope::Shard, true));
    world.settle();
    world.service(silent).cut_off = true;
    // The client answers pings meanwhile.
    for _ in 0..198 {
        world.client(client).send(10, b"");
        world.pass(ms(100));
    }
    assert_eq!(world.metrics[0].links.get(), 2, "it may still come back");
    world.pass(ms(400));
    assert_eq!(world.metrics[0].links.get(), 1);
    world.client(client).text("two");
    world.settle();
    let payloads = world.service(other).messages();
    let payloads: Vec<_> = payloads.iter().map(|m| m.payload.as_ref()).collect();
    assert_eq!(payloads.last(), Some(&&b"two"[..]));
}
