//! Streams that break and go on, without a kernel: sessions, duplicates, takeovers, clashes.

use std::time::Duration;

use crate::world::{
    ACKS_WAIT, LogicId, World,
    logic::{in_session, pushing, to_user},
    user_of, world,
};
use gateway_core::config::Config;
use gateway_proto::v1::{self, Outcome, ReceiptMode, Resume, Scope, logic_frame::Body as Down};
use h2_stream::Code;
use proptest::prelude::*;

fn session(scope: Scope) -> v1::Hello {
    in_session(1, pushing(scope))
}

/// A stream of session 1 on a link of its own, welcomed.
fn open(world: &mut World, scope: Scope, token: u64) -> LogicId {
    let logic = world.logic(0);
    world.service(logic).resume(session(scope), token);
    world.settle();
    logic
}

fn push(world: &mut World, logic: LogicId, sequence: u64, user: &str) {
    let push = to_user(user, &sequence.to_string());
    world.service(logic).frame(sequence, Some(Down::Push(push)));
}

fn token(world: &mut World, logic: LogicId) -> u64 {
    world.service(logic).welcome().resume_token
}

#[test]
fn a_broken_stream_goes_on_behind_the_newest_command_that_was_taken() {
    let mut world = world(1, |_| {});
    let client = world.connect(0, "/ws?user=alice");
    let first = open(&mut world, Scope::Shard, 0);
    assert_eq!(world.service(first).welcome().resume(), Resume::New);
    for sequence in [1, 2, 5] {
        push(&mut world, first, sequence, "alice");
    }
    world.settle();
    let token = token(&mut world, first);
    world.cut(first);
    let second = open(&mut world, Scope::Shard, token);
    let welcome = world.service(second).welcome().clone();
    assert_eq!(
        (welcome.resume(), welcome.last_sequence),
        (Resume::Resumed, 5)
    );
    assert!(welcome.resume_token != 0 && welcome.resume_token != token);
    assert!(
        welcome
            .capabilities
            .contains(&v1::Capability::Resume.into())
    );
    // The client resends too much: that has no effect, and is acknowledged.
    for sequence in [2, 5, 6] {
        push(&mut world, second, sequence, "alice");
    }
    world.settle();
    world.pass(ACKS_WAIT);
    assert_eq!(world.client(client).texts(), ["1", "2", "5", "6"]);
    assert_eq!(world.service(second).acked(), 6);
    assert_eq!(world.service(second).rejections(), []);
    assert_eq!(world.metrics[0].duplicates.get(), 2);
    assert_eq!(world.metrics[0].sessions.get(), 1);
}

#[test]
fn duplicates_alone_are_acknowledged_too() {
    let mut world = world(1, |_| {});
    let first = open(&mut world, Scope::Shard, 0);
    push(&mut world, first, 3, "nobody");
    world.settle();
    let token = token(&mut world, first);
    world.cut(first);
    let second = open(&mut world, Scope::Shard, token);
    push(&mut world, second, 3, "nobody");
    world.settle();
    world.pass(ACKS_WAIT);
    assert_eq!(world.service(second).acked(), 3);
    // Within one stream a sequence that does not rise stays a mistake.
    push(&mut world, second, 3, "nobody");
    world.settle();
    let rejected = [(3, v1::RejectReason::BadSequence)];
    assert_eq!(world.service(second).rejections(), rejected);
}

#[test]
fn a_newer_stream_ends_the_one_whose_place_it_takes() {
    let mut world = world(1, |_| {});
    let old = open(&mut world, Scope::Shard, 0);
    push(&mut world, old, 1, "nobody");
    world.settle();
    let token = token(&mut world, old);
    let new = open(&mut world, Scope::Shard, token);
    assert_eq!(world.service(old).end().unwrap().code, Code::Aborted);
    assert_eq!(world.service(old).acked(), 1);
    let welcome = world.service(new).welcome().clone();
    assert_eq!(
        (welcome.resume(), welcome.last_sequence),
        (Resume::Resumed, 1)
    );
    assert_eq!(world.metrics[0].takeovers.get(), 1);
    // The old link's end says nothing about the session any more.
    world.cut(old);
    push(&mut world, new, 2, "nobody");
    world.settle();
    world.pass(ACKS_WAIT);
    assert_eq!(world.service(new).acked(), 2);
}

#[test]
fn the_same_link_may_carry_the_newer_stream() {
    let mut world = world(1, |_| {});
    let logic = open(&mut world, Scope::Shard, 0);
    let old = world.service(logic).exchange.unwrap();
    let token = token(&mut world, logic);
    world.service(logic).resume(session(Scope::Shard), token);
    world.settle();
    assert_eq!(world.service(logic).ended[&old].code, Code::Aborted);
    assert_eq!(world.service(logic).welcome().resume(), Resume::Resumed);
}

#[test]
fn receipts_still_to_come_go_to_the_newer_stream() {
    let mut world = world(1, |_| {});
    let client = world.connect(0, "/ws?user=alice");
    let old = open(&mut world, Scope::Shard, 0);
    // The socket takes nothing, so the receipt waits.
    world.client(client).stalled = true;
    let mut push = to_user("alice", "hello");
    push.delivery = Some(v1::Delivery {
        receipt: ReceiptMode::Counts.into(),
        ..Default::default()
    });
    let sequence = world.service(old).push(push);
    world.settle();
    let mut newest = old;
    for _ in 0..2 {
        let token = token(&mut world, newest);
        newest = open(&mut world, Scope::Shard, token);
    }
    world.client(client).stalled = false;
    world.settle();
    let receipt = world.service(newest).receipt(sequence).unwrap();
    assert_eq!(receipt, [(Outcome::Written, 1)]);
    assert_eq!(world.service(old).receipt(sequence), None);
}

#[test]
fn who_does_not_know_the_token_is_refused_and_the_other_one_stays() {
    let mut world = world(1, |_| {});
    let honest = open(&mut world, Scope::Shard, 0);
    push(&mut world, honest, 1, "nobody");
    world.settle();
    for wrong in [0, 4711] {
        let stranger = open(&mut world, Scope::Shard, wrong);
        let end = world.service(stranger).end().unwrap().clone();
        assert_eq!(end.code, Code::AlreadyExists);
        assert!(world.service(stranger).frames.is_empty(), "no Welcome");
    }
    assert_eq!(world.metrics[0].session_clashes.get(), 2);
    push(&mut world, honest, 2, "nobody");
    world.settle();
    world.pass(ACKS_WAIT);
    assert_eq!(world.service(honest).acked(), 2);
}

#[test]
fn a_lost_welcome_is_no_clash() {
    let mut world = world(1, |_| {});
    for _ in 0..3 {
        let logic = open(&mut world, Scope::Shard, 0);
        assert_eq!(world.service(logic).end(), None);
        world.cut(logic);
    }
    assert_eq!(world.metrics[0].session_clashes.get(), 0);
}

#[test]
fn sessions_are_forgotten_after_their_time_or_when_there_are_too_many() {
    let mut world = world(1, |config| config.sessions.max = 2);
    let logic = open(&mut world, Scope::Shard, 0);
    let token = token(&mut world, logic);
    world.cut(logic);
    world.pass(Duration::from_secs(59));
    assert_eq!(world.metrics[0].sessions.get(), 1);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.metrics[0].sessions.get(), 0);
    let logic = open(&mut world, Scope::Shard, token);
    assert_eq!(world.service(logic).welcome().resume(), Resume::Unknown);
    world.cut(logic);
    for other in [2, 3] {
        let logic = world.logic(0);
        let hello = in_session(other, pushing(Scope::Shard));
        world.service(logic).hello(hello);
        world.settle();
    }
    assert_eq!(world.metrics[0].sessions_evicted.get(), 1);
    // Both places are taken by streams that are there.
    let logic = open(&mut world, Scope::Shard, token);
    let welcome = world.service(logic).welcome().clone();
    assert_eq!(
        (welcome.resume(), welcome.resume_token),
        (Resume::Unknown, 0)
    );
    assert_eq!(world.metrics[0].sessions_evicted.get(), 2);
}

#[test]
fn a_session_that_is_not_asked_for_is_not_kept() {
    let mut world = world(1, |_| {});
    for gateway_epoch in [0, crate::world::EPOCH] {
        let logic = world.logic(0);
        world.service(logic).hello(v1::Hello {
            capabilities: Vec::new(),
            gateway_epoch,
            ..session(Scope::Shard)
        });
        world.settle();
        let welcome = world.service(logic).welcome();
        let expected = if gateway_epoch == 0 {
            Resume::New
        } else {
            Resume::Unknown
        };
        assert_eq!((welcome.resume(), welcome.resume_token), (expected, 0));
    }
    assert_eq!(world.metrics[0].sessions.get(), 0);
}

/// Lanes so short that commands for the other shard must wait on their link.
fn crowded() -> World {
    world(2, |config| {
        config.lanes.batches = 1;
        config.lanes.batch_messages = 1;
    })
}

fn batch(users: &[&str], first: u64) -> v1::PushBatch {
    let messages = (first..).zip(users);
    let messages = messages.map(|(n, user)| to_user(user, &n.to_string()));
    v1::PushBatch {
        messages: messages.collect(),
    }
}

#[test]
fn a_batch_that_was_held_in_the_middle_goes_on_where_it_stopped() {
    for takeover in [false, true] {
        let mut world = crowded();
        let user = user_of(1, 2);
        let client = world.connect(1, &format!("/ws?user={user}"));
        let first = open(&mut world, Scope::Gateway, 0);
        let batch = batch(&[&*user; 10], 0);
        world.service(first).command(Down::Batch(batch.clone()));
        // Only the first shard runs: the lane fills, and the rest of the batch is held.
        world.step_shard(0);
        assert_eq!(world.service(first).acked(), 0);
        let token = token(&mut world, first);
        if !takeover {
            world.drop_link(first);
        }
        let second = world.logic(0);
        world.service(second).resume(session(Scope::Gateway), token);
        world.step_shard(0);
        assert_eq!(world.service(second).welcome().last_sequence, 0);
        world.service(second).command(Down::Batch(batch));
        world.settle();
        world.pass(Duration::from_secs(1));
        let expected: Vec<_> = (0..10).map(|n| n.to_string()).collect();
        assert_eq!(
            world.client(client).texts(),
            expected,
            "takeover: {takeover}"
        );
        assert_eq!(world.service(second).acked(), 1);
    }
}

#[test]
fn a_command_that_was_held_is_not_counted_as_done_nor_done_later() {
    for takeover in [false, true] {
        let mut world = crowded();
        let user = user_of(1, 2);
        let client = world.connect(1, &format!("/ws?user={user}"));
        let first = open(&mut world, Scope::Gateway, 0);
        for sequence in 1..=5 {
            push(&mut world, first, sequence, &user);
        }
        world.step_shard(0);
        let token = token(&mut world, first);
        if !takeover {
            world.drop_link(first);
        }
        let second = world.logic(0);
        world.service(second).resume(session(Scope::Gateway), token);
        world.step_shard(0);
        let taken = world.service(second).welcome().last_sequence;
        assert!((1..5).contains(&taken), "some are in the lane, not all");
        for sequence in taken + 1..=5 {
            push(&mut world, second, sequence, &user);
        }
        world.settle();
        world.pass(Duration::from_secs(1));
        assert_eq!(world.client(client).texts(), ["1", "2", "3", "4", "5"]);
    }
}

/// Lets shard 0 go away while shard 1 stands still, until the time is up in which it waits for the other's clients.
fn drain_first_shard(world: &mut World) {
    let now = world.now;
    world.shards[0].drain(now, Duration::ZERO);
    world.now += Duration::from_millis(Config::default().drain.grace_ms);
    world.step_shard(0);
}

#[test]
fn a_gateway_that_goes_away_acknowledges_all_it_took_and_takes_no_more() {
    let mut world = crowded();
    let user = user_of(1, 2);
    let client = world.connect(1, &format!("/ws?user={user}"));
    let logic = open(&mut world, Scope::Gateway, 0);
    for sequence in 1..=5 {
        push(&mut world, logic, sequence, &user);
    }
    // Some are in the lane, one is held, others have not been looked at; then the end comes.
    drain_first_shard(&mut world);
    assert_eq!(world.service(logic).end().unwrap().code, Code::Unavailable);
    let acked = world.service(logic).acked();
    assert!((1..5).contains(&acked), "{acked}");
    world.pass(Duration::from_secs(1));
    let expected: Vec<_> = (1..=acked).map(|n| n.to_string()).collect();
    assert_eq!(world.client(client).texts(), expected);
}

#[test]
fn a_gateway_that_goes_away_does_not_stop_in_the_middle_of_a_batch() {
    let mut world = crowded();
    let user = user_of(1, 2);
    let client = world.connect(1, &format!("/ws?user={user}"));
    let logic = open(&mut world, Scope::Gateway, 0);
    let commands = batch(&[&*user; 10], 0);
    world.service(logic).command(Down::Batch(commands.clone()));
    world.service(logic).command(Down::Batch(commands));
    world.step_shard(0);
    drain_first_shard(&mut world);
    assert_eq!(world.service(logic).end(), None);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.service(logic).end().unwrap().code, Code::Unavailable);
    assert_eq!(world.service(logic).acked(), 1);
    let expected: Vec<_> = (0..10).map(|n| n.to_string()).collect();
    assert_eq!(world.client(client).texts(), expected);
}

#[test]
fn who_closes_its_half_is_told_of_everything_it_sent_before() {
    let mut world = crowded();
    let user = user_of(1, 2);
    let client = world.connect(1, &format!("/ws?user={user}"));
    let logic = open(&mut world, Scope::Gateway, 0);
    for sequence in 1..=5 {
        push(&mut world, logic, sequence, &user);
    }
    let exchange = world.service(logic).exchange.unwrap();
    world.service(logic).client.half_close(exchange);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.service(logic).end().unwrap().code, Code::Ok);
    assert_eq!(world.service(logic).acked(), 5);
    assert_eq!(world.client(client).texts(), ["1", "2", "3", "4", "5"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// A client that resends what is not acknowledged, cut after any number of bytes, in either direction and by either
    /// a break or a takeover.
    #[test]
    fn nothing_is_lost_or_doubled_wherever_a_stream_breaks(
        cuts in proptest::collection::vec((0_usize..12_000, any::<bool>(), 0_usize..600, any::<bool>()), 1..6),
        batched in any::<bool>(),
        shards in 1_u16..3,
    ) {
        let mut world = if shards == 1 { world(1, |_| {}) } else { crowded() };
        let user = user_of(u32::from(shards) - 1, u32::from(shards));
        let client = world.connect(usize::from(shards) - 1, &format!("/ws?user={user}"));
        let commands: Vec<(u64, Down)> = (1..=60)
            .map(|sequence| {
                let first = sequence * 10;
                let users = vec![&*user; if batched { 7 } else { 1 }];
                (sequence, Down::Batch(batch(&users, first)))
            })
            .collect();
        let mut logic = world.logic(0);
        world.service(logic).resume(session(Scope::Gateway), 0);
        let (mut token, mut from) = (0, None);
        for (bytes, takeover, acks, lags) in cuts {
            // What the service has sent up to the cut: Hello, and after Welcome the commands.
            world.service(logic).writes = bytes;
            world.service(logic).takes = acks;
            converse(&mut world, lags, logic, &commands, &mut from, &mut token);
            if !takeover {
                world.drop_link(logic);
            }
            logic = world.logic(0);
            world.service(logic).resume(session(Scope::Gateway), token);
            from = None;
        }
        converse(&mut world, false, logic, &commands, &mut from, &mut token);
        let service = world.service(logic);
        prop_assert_eq!(service.acked().max(service.welcome().last_sequence), 60);
        let expected: Vec<String> = (1..=60_u64)
            .flat_map(|sequence| (0..if batched { 7 } else { 1 }).map(move |n| sequence * 10 + n))
            .map(|n| n.to_string())
            .collect();
        prop_assert_eq!(world.client(client).texts(), expected);
    }
}

/// Sends, after Welcome, what the gateway says it has not taken. `lags`: the other shards stand still meanwhile.
fn converse(
    world: &mut World,
    lags: bool,
    logic: LogicId,
    commands: &[(u64, Down)],
    from: &mut Option<u64>,
    token: &mut u64,
) {
    for _ in 0..if lags { 20 } else { 50 } {
        if lags {
            world.step_shard(0);
        } else {
            world.pass(Duration::from_millis(50));
        }
        let service = world.service(logic);
        if service.frames.is_empty() {
            continue;
        }
        let welcome = service.welcome().clone();
        *token = welcome.resume_token;
        let sent = from.unwrap_or(welcome.last_sequence);
        // A few at a time, so that a cut falls between HTTP/2 frames as well as into them.
        let next = commands.iter().filter(|(sequence, _)| *sequence > sent);
        for (sequence, body) in next.take(4) {
            service.frame(*sequence, Some(body.clone()));
            *from = Some(*sequence);
        }
    }
}
