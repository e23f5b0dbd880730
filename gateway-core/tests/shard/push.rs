//! Pushes, from a logic service's bytes to a client's, without a kernel.

use std::time::Duration;

use crate::world::{
    ACKS_WAIT,
    logic::{pushing, to, to_everyone, to_topic, to_user, to_users},
    user_of, world,
};
use gateway_core::config::WhenFull;
use gateway_proto::{
    names,
    v1::{self, RejectReason, Scope, logic_frame::Body as Down},
};

fn subscribe(user: &str, topic: &str) -> Down {
    Down::Subscribe(v1::Subscribe {
        target: Some(v1::subscribe::Target::UserId(user.into())),
        topic: topic.into(),
    })
}

#[test]
fn push_reaches_every_connection_of_a_user_in_order() {
    let mut world = world(1, |_| {});
    let (a, b, stranger) = (
        world.connect(0, "/ws?user=alice"),
        world.connect(0, "/ws?user=alice"),
        world.connect(0, "/ws?user=bob"),
    );
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    for n in 0..100 {
        world.service(logic).push(to_user("alice", &n.to_string()));
    }
    world.settle();
    let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(world.client(a).texts(), expected);
    assert_eq!(world.client(b).texts(), expected);
    assert!(world.client(stranger).texts().is_empty());
    assert_eq!(world.service(logic).acked(), 100);
    let sends = world.metrics[0].sends.get() + world.metrics[0].messages_per_send.count();
    assert!(
        sends < 20,
        "messages that come together are joined: {sends} sends"
    );
}

#[test]
fn a_socket_that_takes_one_byte_at_a_time_gets_everything_in_order() {
    let mut world = world(1, |_| {});
    world.socket_takes = 1;
    let client = world.connect(0, "/ws?user=alice");
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    for n in 0..20 {
        world.service(logic).push(to_user("alice", &n.to_string()));
    }
    world.settle();
    assert_eq!(world.client(client).texts().len(), 20);
    assert_eq!(world.client(client).texts()[19], "19");
}

#[test]
fn a_connection_moves_to_the_shard_of_its_user_once() {
    let mut world = world(4, |_| {});
    let user = user_of(3, 4);
    let client = world.connect(0, &format!("/ws?user={user}"));
    assert_eq!(world.client(client).conn.shard(), 3);
    assert!(
        world
            .client(client)
            .answer
            .as_deref()
            .unwrap()
            .starts_with("HTTP/1.1 101")
    );
    let logic = world.logic(3);
    world.service(logic).hello(pushing(Scope::Shard));
    world.service(logic).push(to_user(&user, "hi"));
    world.settle();
    assert_eq!(world.client(client).texts(), ["hi"]);
    assert_eq!(
        world.total(|metrics| metrics.crossings.total()),
        1,
        "the socket alone"
    );
    let anonymous = world.connect(2, "/ws");
    assert_eq!(world.client(anonymous).conn.shard(), 2);
}

#[test]
fn a_stream_of_shard_scope_is_told_of_users_elsewhere() {
    let mut world = world(2, |_| {});
    let (here, there) = (user_of(0, 2), user_of(1, 2));
    let client = world.connect(0, &format!("/ws?user={here}"));
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    let wrong = world.service(logic).push(to_user(&there, "lost"));
    world
        .service(logic)
        .push(to_users(&[&here, &there], "both"));
    world.service(logic).push(to_user(&here, "found"));
    world.settle();
    assert_eq!(world.client(client).texts(), ["found"]);
    let rejections = world.service(logic).rejections();
    let reason = RejectReason::WrongShard;
    assert_eq!(rejections, [(wrong, reason), (wrong + 1, reason)]);
    assert_eq!(
        world.service(logic).acked(),
        3,
        "an ack covers what was rejected"
    );
}

#[test]
fn a_stream_of_gateway_scope_reaches_every_shard() {
    let mut world = world(4, |_| {});
    let users: Vec<String> = (0..4).map(|shard| user_of(shard, 4)).collect();
    let clients: Vec<_> = users
        .iter()
        .map(|user| world.connect(0, &format!("/ws?user={user}")))
        .collect();
    let logic = world.logic(1);
    world.service(logic).hello(pushing(Scope::Gateway));
    for user in &users {
        world.service(logic).command(subscribe(user, "room"));
    }
    world.settle();
    for (n, user) in users.iter().enumerate() {
        world
            .service(logic)
            .push(to_user(user, &format!("only {n}")));
    }
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    world.service(logic).push(to_users(&names, "users"));
    world.service(logic).push(to_topic("room", "room"));
    world.service(logic).push(to_everyone("all"));
    world.settle();
    for (n, client) in clients.into_iter().enumerate() {
        let expected = [
            format!("only {n}"),
            "users".into(),
            "room".into(),
            "all".into(),
        ];
        assert_eq!(world.client(client).texts(), expected);
    }
    let pushes = world.metrics[1]
        .crossings
        .iter()
        .find(|(kind, _)| *kind == "push");
    assert_eq!(pushes, Some(("push", 3 + 3 + 3 + 3)));
}

#[test]
fn a_push_that_closes_a_slow_connection_reaches_the_users_other_ones() {
    let mut world = world(1, |config| config.outbox.max_messages = 2);
    let conns = [(); 3].map(|()| world.connect(0, "/ws?user=alice"));
    world.client(conns[0]).stalled = true;
    world.client(conns[1]).stalled = true;
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    for n in 0..10 {
        world.service(logic).push(to_user("alice", &n.to_string()));
        world.settle();
    }
    let expected: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    assert_eq!(world.client(conns[2]).texts(), expected);
}

#[test]
fn acks_wait_for_company_but_not_for_long() {
    let mut world = world(1, |_| {});
    world.connect(0, "/ws?user=alice");
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    world.settle();
    world.service(logic).push(to_user("alice", "alone"));
    world.settle();
    assert_eq!(world.service(logic).acked(), 0);
    world.pass(ACKS_WAIT);
    assert_eq!(world.service(logic).acked(), 1);
    // A receipt takes the ack along.
    let mut asked = to_user("alice", "asked");
    let delivery = asked.delivery.get_or_insert_default();
    delivery.set_receipt(v1::ReceiptMode::Counts);
    world.service(logic).push(asked);
    world.settle();
    assert_eq!(world.service(logic).acked(), 2);
    // Many do not wait.
    for _ in 0..64 {
        world.service(logic).push(to_user("alice", "many"));
    }
    world.settle();
    assert_eq!(world.service(logic).acked(), 66);
}

#[test]
fn slow_client_does_not_stall_others() {
    let mut world = world(1, |config| config.outbox.max_messages = 50);
    let (slow, fast) = (
        world.connect(0, "/ws?user=slow"),
        world.connect(0, "/ws?user=fast"),
    );
    world.client(slow).stalled = true;
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    for n in 0..200 {
        world.service(logic).push(to_user("slow", &n.to_string()));
        world.service(logic).push(to_user("fast", &n.to_string()));
        world.settle();
    }
    assert_eq!(world.client(fast).texts().len(), 200);
    world.pass(ACKS_WAIT);
    assert_eq!(world.service(logic).acked(), 400);
    let dropped = world.metrics[0]
        .drops
        .iter()
        .find(|(reason, _)| *reason == "slow");
    assert!(dropped.is_some_and(|(_, count)| count > 0));
    // What was in flight can't be taken back; then the Close.
    world.client(slow).stalled = false;
    world.settle();
    assert_eq!(world.client(slow).closed().unwrap().0, 4408);
    assert!(world.client(slow).texts().len() < 60);
}

#[test]
fn oldest_messages_go_where_that_is_the_setting() {
    let mut world = world(1, |config| {
        config.outbox.max_messages = 10;
        config.outbox.when_full = WhenFull::DropOldest;
    });
    let slow = world.connect(0, "/ws?user=slow");
    world.client(slow).stalled = true;
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    for n in 0..100 {
        world.service(logic).push(to_user("slow", &n.to_string()));
        world.settle();
    }
    world.client(slow).stalled = false;
    world.settle();
    let client = world.client(slow);
    assert_eq!(client.texts().last(), Some(&"99"));
    assert!(client.texts().len() <= 11 && client.closed().is_none());
}

#[test]
fn expired_messages_are_not_sent() {
    let mut world = world(1, |_| {});
    let client = world.connect(0, "/ws?user=alice");
    world.client(client).stalled = true;
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    world.service(logic).push(to_user("alice", "flies"));
    world.settle();
    for (ttl_ms, text) in [(100, "short"), (10_000, "long")] {
        let delivery = Some(v1::Delivery {
            ttl_ms,
            ..Default::default()
        });
        let push = v1::MessageRequest {
            delivery,
            ..to_user("alice", text)
        };
        world.service(logic).push(push);
    }
    world.settle();
    world.pass(Duration::from_millis(500));
    world.client(client).stalled = false;
    world.settle();
    assert_eq!(world.client(client).texts(), ["flies", "long"]);
}

#[test]
fn wide_fan_outs_run_in_slices_and_single_pushes_go_between() {
    let mut world = world(1, |config| config.tick.slice = 16);
    let members: Vec<_> = (0..200)
        .map(|n| world.connect(0, &format!("/ws?user=member-{n}")))
        .collect();
    let single = world.connect(0, "/ws?user=single");
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    for n in 0..200 {
        world
            .service(logic)
            .command(subscribe(&format!("member-{n}"), "wide"));
    }
    world.settle();
    world.service(logic).push(to_topic("wide", "first"));
    world.service(logic).push(to_topic("wide", "second"));
    world.service(logic).push(to_user("single", "between"));
    let mut rounds = 0;
    while world.client(single).texts().is_empty() {
        world.step();
        rounds += 1;
    }
    let last = world.client(members[0]).texts().len() + world.client(members[199]).texts().len();
    assert!(
        rounds <= 3 && last < 4,
        "{rounds} rounds, the fan-out was over: {last}"
    );
    world.settle();
    for member in members {
        assert_eq!(world.client(member).texts(), ["first", "second"]);
    }
}

/// A topic, everybody and a list: what they get is one frame of 20,000 bytes, among others and in order.
#[test]
fn a_long_payload_for_many_goes_out_whole_and_in_its_place() {
    let mut world = world(2, |_| {});
    let users = [user_of(0, 2), user_of(1, 2)];
    let clients: Vec<_> = users
        .iter()
        .flat_map(|user| {
            let target = format!("/ws?user={user}");
            [world.connect(0, &target), world.connect(1, &target)]
        })
        .collect();
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Gateway));
    for user in &users {
        world.service(logic).command(subscribe(user, "wide"));
    }
    world.settle();
    let long = |letter: &str| letter.repeat(20_000);
    world.socket_takes = 7_000;
    let logic = world.service(logic);
    logic.push(to_topic("wide", "first"));
    logic.push(to_topic("wide", &long("t")));
    logic.push(to_everyone(&long("e")));
    logic.push(to_topic("wide", "between"));
    let listed: Vec<_> = users.iter().map(String::as_str).collect();
    logic.push(to_users(&listed, &long("u")));
    world.settle();
    let expected = [
        "first".to_owned(),
        long("t"),
        long("e"),
        "between".to_owned(),
        long("u"),
    ];
    for client in clients {
        let mut texts = world.client(client).texts();
        // A list is not kept behind fan-outs that wait.
        texts.sort_by_key(|text| expected.iter().position(|expected| expected == text));
        assert!(texts == expected, "lost, damaged or in another order");
    }
}

#[test]
fn everyone_means_those_who_were_there() {
    let mut world = world(1, |config| config.tick.slice = 4);
    let early: Vec<_> = (0..40).map(|_| world.connect(0, "/ws")).collect();
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    world.settle();
    world.service(logic).push(to_everyone("hi"));
    world.step();
    let late = world.accept(0);
    world.client(late).request("/ws");
    world.settle();
    for client in early {
        assert_eq!(world.client(client).texts(), ["hi"]);
    }
    assert!(world.client(late).texts().is_empty());
}

#[test]
fn gone_connections_and_other_epochs_are_no_target() {
    let mut world = world(1, |_| {});
    let (gone, there) = (world.connect(0, "/ws"), world.connect(0, "/ws"));
    let (gone_id, there_id) = (
        world.client(gone).conn.to_wire(),
        world.client(there).conn.to_wire(),
    );
    world.reset(gone);
    world.connect(0, "/ws");
    let logic = world.logic(0);
    let mut calls = Vec::new();
    for (epoch, id) in [
        (77, gone_id),
        (76, there_id),
        (77, u64::MAX),
        (77, there_id),
    ] {
        let connection = v1::message_request::Target::Connection(v1::Connection { epoch, id });
        calls.push(
            world
                .service(logic)
                .call(names::PUSH, &to(connection, "hi")),
        );
    }
    world.settle();
    let delivered: Vec<u64> = calls
        .into_iter()
        .map(|call| {
            world
                .service(logic)
                .answer::<v1::MessageResponse>(call)
                .delivered
        })
        .collect();
    assert_eq!(delivered, [0, 0, 0, 1]);
}

#[test]
fn full_lanes_hold_the_link_and_lose_nothing() {
    let mut world = world(2, |config| {
        config.lanes.batches = 1;
        config.lanes.batch_messages = 4;
        config.tick.lane_batches = 1;
    });
    let user = user_of(1, 2);
    let client = world.connect(1, &format!("/ws?user={user}"));
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Gateway));
    for n in 0..1000 {
        world.service(logic).push(to_user(&user, &n.to_string()));
    }
    // Shard 1 does not tick: what does not fit into its lane must stay on the link.
    for _ in 0..50 {
        world.shards[0].tick(world.now);
    }
    world.pass(Duration::from_secs(2));
    let expected: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    assert_eq!(world.client(client).texts(), expected);
    assert_eq!(world.service(logic).acked(), 1000);
}

#[test]
fn a_burst_within_one_tick_does_not_make_a_client_slow() {
    let mut world = world(1, |config| config.outbox.max_messages = 10);
    let client = world.connect(0, "/ws?user=alice");
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    for n in 0..1000 {
        world.service(logic).push(to_user("alice", &n.to_string()));
        if n % 100 == 0 {
            world.service(logic).push(to_everyone("all"));
        }
    }
    world.settle();
    assert_eq!(world.client(client).texts().len(), 1010);
    assert_eq!(world.client(client).closed(), None);
}

#[test]
fn users_that_leave_beyond_the_bound_lose_their_subscriptions() {
    let mut world = world(1, |config| config.limits.max_offline_users = 1);
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    let users = ["/ws?user=alice", "/ws?user=bob"];
    let clients = users.map(|user| world.connect(0, user));
    for user in ["alice", "bob"] {
        world.service(logic).command(subscribe(user, "news"));
    }
    world.settle();
    for client in clients {
        world.reset(client);
        world.settle();
    }
    let [alice, bob] = users.map(|user| world.connect(0, user));
    world.service(logic).push(to_topic("news", "hello"));
    world.settle();
    assert_eq!(world.client(alice).texts(), ["hello"]);
    assert!(world.client(bob).texts().is_empty());
    assert_eq!(
        world.total(|metrics| metrics.subscribers_forgotten.get()),
        1
    );
}
