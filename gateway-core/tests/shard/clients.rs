//! What clients do and what becomes of it, without a kernel: handshakes, deadlines, events, closing.

use std::time::Duration;

use crate::world::{
    World,
    logic::{pushing, receiving, to, to_user},
    talk_until_unread, user_of, world,
};
use gateway_core::{
    config::Refuse,
    timesheet::{Rest, Watch},
};
use gateway_proto::v1::{self, PayloadKind, Scope, logic_frame::Body as Down};

fn dropped(world: &World, reason: &str) -> u64 {
    world.total(|metrics| {
        let mut drops = metrics.drops.iter();
        drops
            .find(|(label, _)| *label == reason)
            .map_or(0, |(_, count)| count)
    })
}

#[test]
fn a_request_may_come_byte_by_byte_with_a_frame_behind_it() {
    let mut world = world(2, |_| {});
    let logic = world.logic(0);
    world
        .service(logic)
        .hello(receiving("s", Scope::Gateway, false));
    world.settle();
    let client = world.accept(0);
    let user = user_of(1, 2);
    world.client(client).request(&format!("/ws?user={user}"));
    world.client(client).text("behind the request");
    let bytes = std::mem::take(&mut world.client(client).outgoing);
    for byte in bytes {
        world.client(client).outgoing.push(byte);
        world.settle();
    }
    assert_eq!(world.client(client).conn.shard(), 1);
    assert_eq!(
        &world.service(logic).messages()[0].payload[..],
        b"behind the request"
    );
}

#[test]
fn refusals_answer_clearly_and_are_counted() {
    let mut world = world(1, |_| {});
    let cases: [(&[u8], &str); 4] = [
        (b"\x16\x03\x01\x02\x00\x01", "HTTP/1.1 400"),
        (b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 426"),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404"),
        (b"POST /ws HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 405"),
    ];
    for (bytes, status) in cases {
        let client = world.accept(0);
        world.client(client).outgoing.extend_from_slice(bytes);
        world.settle();
        let answer = world.client(client).answer.clone().unwrap();
        assert!(answer.starts_with(status), "{answer}");
        assert!(
            world.client(client).ended,
            "the gateway ends the connection"
        );
    }
    assert_eq!(world.metrics[0].refused_handshakes.total(), 4);
    assert_eq!(world.metrics[0].connections.get(), 0);
    assert_eq!(world.metrics[0].handshaking.get(), 0);
}

#[test]
fn policy_refusals_tell_browsers_the_code() {
    let bad_user = format!("/ws?user={}", "x".repeat(300));
    let mut closing = world(1, |_| {});
    let client = closing.connect(0, &bad_user);
    assert_eq!(closing.client(client).closed().unwrap().0, 4400);
    let mut plain = world(1, |config| config.ws.refuse = Refuse::Http);
    let client = plain.connect(0, &bad_user);
    assert!(
        plain
            .client(client)
            .answer
            .as_deref()
            .unwrap()
            .starts_with("HTTP/1.1 400")
    );
}

#[test]
fn a_full_shard_refuses_new_connections_before_old_ones_suffer() {
    let mut world = world(1, |config| config.limits.max_connections = 1);
    let old = world.connect(0, "/ws");
    let new = world.connect(0, "/ws");
    assert_eq!(world.client(new).closed().unwrap().0, 1013);
    assert!(world.client(old).closed().is_none());
}

#[test]
fn a_request_that_does_not_come_is_given_up() {
    let mut world = world(1, |_| {});
    let client = world.accept(0);
    world
        .client(client)
        .outgoing
        .extend_from_slice(b"GET /ws HT");
    world.pass(Duration::from_secs(9));
    assert!(!world.client(client).ended);
    world.pass(Duration::from_secs(2));
    assert!(
        world
            .client(client)
            .answer
            .as_deref()
            .unwrap()
            .starts_with("HTTP/1.1 408")
    );
    assert!(world.client(client).ended);
}

#[test]
fn silence_is_answered_by_a_ping_and_no_pong_by_a_close() {
    let mut world = world(1, |_| {});
    let (dead, alive) = (world.connect(0, "/ws"), world.connect(0, "/ws"));
    let pings = |world: &mut World, client| {
        let frames = &world.client(client).frames;
        frames.iter().filter(|(opcode, _)| *opcode == 9).count()
    };
    world.pass(Duration::from_secs(24));
    assert_eq!(pings(&mut world, alive), 0);
    world.pass(Duration::from_secs(2));
    assert_eq!(pings(&mut world, alive), 1);
    world.client(alive).send(10, b"");
    world.pass(Duration::from_secs(20));
    assert_eq!(world.client(dead).closed().unwrap().0, 4408);
    assert!(world.client(alive).closed().is_none());
    // The dead one never answers the Close either.
    world.pass(Duration::from_secs(6));
    assert!(world.client(dead).gone);
    assert_eq!(world.metrics[0].connections.get(), 1);
}

#[test]
fn every_event_reaches_one_stream_of_each_service() {
    let mut world = world(2, |_| {});
    let (chat_a, chat_b) = (world.logic(0), world.logic(1));
    let audit = world.logic(0);
    world
        .service(chat_a)
        .hello(receiving("chat", Scope::Gateway, false));
    world
        .service(chat_b)
        .hello(receiving("chat", Scope::Gateway, false));
    world
        .service(audit)
        .hello(receiving("audit", Scope::Gateway, false));
    world.settle();
    let users: Vec<_> = (0..10).map(|n| format!("user-{n}")).collect();
    for user in &users {
        let client = world.connect(0, &format!("/ws?user={user}&token=secret"));
        for n in 0..3 {
            world.client(client).text(&format!("{user} says {n}"));
        }
        world.client(client).close(1000);
        world.settle();
        assert_eq!(world.client(client).closed().unwrap().0, 1000);
    }
    assert_eq!(world.service(audit).opened().len(), 10);
    assert_eq!(world.service(audit).messages().len(), 30);
    assert_eq!(world.service(audit).closed().len(), 10);
    let opened = world.service(audit).opened()[0].clone();
    assert_eq!(
        (opened.path.as_str(), opened.query.contains("secret")),
        ("/ws", false)
    );
    assert_eq!(world.service(audit).closed()[0].code, 1000);
    let of_a = world.service(chat_a).messages().len();
    let of_b = world.service(chat_b).messages().len();
    assert_eq!(of_a + of_b, 30);
    for user in &users {
        let has = |logic: &crate::world::logic::Logic| {
            let mut messages = logic.messages().into_iter();
            messages.any(|message| message.user_id.as_ref() == Some(user))
        };
        let both = has(world.service(chat_a)) && has(world.service(chat_b));
        assert!(!both, "all of {user} on one stream");
    }
    let ids: Vec<u64> = world
        .service(audit)
        .messages()
        .iter()
        .map(|m| m.id)
        .collect();
    assert!(ids.is_sorted());
}

#[test]
fn messages_wait_for_a_service_and_are_then_refused() {
    let mut world = world(1, |config| config.upstream.buffer_events = 5);
    let client = world.connect(0, "/ws?user=alice");
    for n in 0..4 {
        world.client(client).text(&n.to_string());
    }
    world.settle();
    assert!(
        world.client(client).closed().is_none(),
        "opened and four messages fit"
    );
    world.client(client).text("one too many");
    world.settle();
    assert_eq!(world.client(client).closed().unwrap().0, 4503);
    assert!(dropped(&world, "no_service") > 0);

    let logic = world.logic(0);
    world
        .service(logic)
        .hello(receiving("late", Scope::Shard, false));
    world.settle();
    let texts: Vec<_> = world
        .service(logic)
        .messages()
        .iter()
        .map(|m| m.payload.clone())
        .collect();
    assert_eq!(texts, ["0", "1", "2", "3"]);
}

#[test]
fn events_wait_while_a_service_changes_its_stream() {
    let mut world = world(2, |_| {});
    let first = world.logic(0);
    world
        .service(first)
        .hello(receiving("chat", Scope::Gateway, false));
    let user = user_of(1, 2);
    let client = world.connect(0, &format!("/ws?user={user}"));
    world.client(client).text("before");
    world.settle();
    assert_eq!(world.service(first).messages().len(), 1);
    world.cut(first);
    world.client(client).text("between");
    world.settle();
    let second = world.logic(1);
    world
        .service(second)
        .hello(receiving("chat", Scope::Shard, false));
    world.client(client).text("after");
    world.settle();
    let texts: Vec<_> = world
        .service(second)
        .messages()
        .iter()
        .map(|m| m.payload.clone())
        .collect();
    assert_eq!(texts, ["between", "after"]);
}

#[test]
fn a_service_that_does_not_read_stops_the_sockets_that_feed_it() {
    let mut world = world(2, |config| config.grpc.send_buffer_bytes = 10_000);
    let logic = world.logic(0);
    world
        .service(logic)
        .hello(receiving("chat", Scope::Gateway, false));
    world.settle();
    world.service(logic).reads = false;
    let clients = [
        world.connect(0, &format!("/ws?user={}", user_of(0, 2))),
        world.connect(0, &format!("/ws?user={}", user_of(1, 2))),
    ];
    let sent = talk_until_unread(&mut world, &clients, 3000);
    // Reading on brings everything.
    world.service(logic).release_all();
    world.settle();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.service(logic).messages().len(), sent);
}

#[test]
fn a_close_is_answered_after_the_answers_to_what_came_before_it() {
    for (shards, scope) in [(1, Scope::Shard), (2, Scope::Gateway)] {
        let mut world = world(shards, |_| {});
        let logic = world.logic(0);
        world.service(logic).hello(receiving("echo", scope, true));
        world.settle();
        let client = world.connect(usize::from(shards) - 1, "/ws");
        world.client(client).text("hello");
        world.client(client).close(1000);
        world.settle();
        assert!(
            world.client(client).closed().is_none(),
            "the service has not answered"
        );
        let message = world.service(logic).messages()[0].clone();
        let connection = message.connection.unwrap();
        let target = v1::message_request::Target::Connection(connection);
        world.service(logic).push(to(target, "echo"));
        world
            .service(logic)
            .frame(0, Some(Down::ClientAck(v1::ClientAck { id: message.id })));
        world.settle();
        assert_eq!(world.client(client).texts(), ["echo"]);
        assert_eq!(world.client(client).closed().unwrap().0, 1000);
    }
}

#[test]
fn a_close_waits_for_an_acknowledgement_only_so_long() {
    let mut world = world(1, |_| {});
    let logic = world.logic(0);
    world
        .service(logic)
        .hello(receiving("dead", Scope::Shard, true));
    world.settle();
    let client = world.connect(0, "/ws");
    world.client(client).text("hello");
    world.client(client).close(1000);
    world.pass(Duration::from_millis(600));
    assert_eq!(world.client(client).closed().unwrap().0, 1000);
}

#[test]
fn protocol_violations_close_with_their_code_and_harm_nobody_else() {
    let mut world = world(1, |config| config.ws.max_message_bytes = 1000);
    let witness = world.connect(0, "/ws?user=witness");
    let logic = world.logic(0);
    world
        .service(logic)
        .hello(receiving("s", Scope::Shard, false));
    world.settle();
    let cases: [(&[u8], u16); 4] = [
        (&[0x81, 0x02, b'h', b'i'], 1002),
        (&[0xf1, 0x80, 0, 0, 0, 0], 1002),
        (&[0x82, 0xff, 0, 0, 0, 0, 0x01, 0, 0, 0, 1, 2, 3, 4], 1009),
        (&[0x81, 0x81, 0, 0, 0, 0, 0xff], 1007),
    ];
    for (bytes, code) in cases {
        let client = world.connect(0, "/ws");
        world.client(client).outgoing.extend_from_slice(bytes);
        world.settle();
        assert_eq!(world.client(client).closed().unwrap().0, code);
        assert!(world.client(client).ended);
    }
    assert_eq!(world.metrics[0].client_errors.total(), 4);
    assert_eq!(world.service(logic).closed().len(), 4);
    world.service(logic).push(to_user("witness", "still here"));
    world.settle();
    assert_eq!(world.client(witness).texts(), ["still here"]);
}

#[test]
fn disconnect_closes_after_what_is_pending() {
    let mut world = world(1, |_| {});
    let client = world.connect(0, "/ws?user=alice");
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    world.service(logic).push(to_user("alice", "last words"));
    let target = Some(v1::disconnect::Target::UserId("alice".into()));
    let disconnect = v1::Disconnect {
        target,
        code: 4000,
        reason: "bye".into(),
    };
    world.service(logic).command(Down::Disconnect(disconnect));
    world.settle();
    assert_eq!(world.client(client).texts(), ["last words"]);
    assert_eq!(world.client(client).closed(), Some((4000, "bye")));
    world.client(client).close(4000);
    world.settle();
    assert!(world.client(client).ended);
    assert_eq!(world.metrics[0].connections.get(), 0);
}

#[test]
fn binary_stays_binary_and_text_stays_text() {
    let mut world = world(1, |_| {});
    let logic = world.logic(0);
    world
        .service(logic)
        .hello(receiving("s", Scope::Shard, false));
    let client = world.connect(0, "/ws?user=alice");
    world.client(client).text("text");
    world.client(client).send(2, &[0xff, 0]);
    world.settle();
    let kinds: Vec<_> = world
        .service(logic)
        .messages()
        .iter()
        .map(|m| m.kind())
        .collect();
    assert_eq!(kinds, [PayloadKind::Text, PayloadKind::Binary]);
    let mut push = to_user("alice", "");
    (push.payload, push.kind) = (vec![0xff, 0].into(), PayloadKind::Binary.into());
    world.service(logic).push(push);
    world.settle();
    assert_eq!(world.client(client).frames, [(2, vec![0xff, 0])]);
}

/// A clock that stands still.
struct Still(Duration);

impl Watch for Still {
    fn now(&self) -> Duration {
        self.0
    }

    fn run_delay(&self) -> Option<Duration> {
        None
    }
}

#[test]
fn a_slow_tick_of_clients_that_come_or_leave_is_put_down_to_them() {
    let mut world = world(1, |_| {});
    let (sheet, began) = (world.shards[0].timesheet(), world.now);
    sheet.start(Still(began));
    let slow = Duration::from_millis(25);
    sheet.begin(began);
    let client = world.accept(0);
    sheet.end(began + slow, Rest::Sleeps, 1);
    sheet.begin(began + slow);
    world.reset(client);
    sheet.end(began + 2 * slow, Rest::Sleeps, 1);
    let ticks: Vec<_> = world.metrics[0].time.slow_ticks.iter().collect();
    let counted = ticks.into_iter().filter(|(_, ticks)| *ticks > 0);
    assert_eq!(counted.collect::<Vec<_>>(), [("clients", 2)]);
}
