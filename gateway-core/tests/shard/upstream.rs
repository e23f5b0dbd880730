//! Clients' events on their way to services, without a kernel: nothing is lost when streams end, and order holds.

use std::time::Duration;

use crate::world::{
    LogicId, World,
    logic::{in_session, receiving},
    talk_until_unread, user_of, world,
};
use gateway_proto::v1::{self, Resume, Scope, logic_frame::Body as Down};

fn stream(world: &mut World, shard: usize, service: &str, scope: Scope) -> LogicId {
    let logic = world.logic(shard);
    world.service(logic).hello(receiving(service, scope, true));
    world.settle();
    logic
}

fn texts(world: &mut World, logic: LogicId) -> Vec<String> {
    let messages = world.service(logic).messages().into_iter();
    let text = |message: &v1::ClientMessage| String::from_utf8_lossy(&message.payload).into_owned();
    messages.map(text).collect()
}

fn ids(world: &mut World, logic: LogicId) -> Vec<u64> {
    world
        .service(logic)
        .events()
        .iter()
        .map(|of| of.0)
        .collect()
}

fn forgotten(world: &World) -> u64 {
    let drops = world.metrics[0].drops.iter();
    let found = drops.filter(|(reason, _)| *reason == "service_forgotten");
    found.map(|(_, count)| count).sum()
}

#[test]
fn what_is_not_acknowledged_goes_to_another_stream_in_order_and_before_anything_newer() {
    let mut world = world(1, |_| {});
    let first = stream(&mut world, 0, "chat", Scope::Shard);
    let client = world.connect(0, "/ws?user=alice");
    let second = stream(&mut world, 0, "chat", Scope::Shard);
    for n in 1..=4 {
        world.client(client).text(&n.to_string());
    }
    world.settle();
    assert_eq!(texts(&mut world, first), ["1", "2", "3", "4"]);
    assert!(texts(&mut world, second).is_empty(), "its stream is sticky");
    // Opened and the first message are acknowledged; the stream breaks while a newer message is under way.
    world.service(first).ack(2);
    world.settle();
    world.client(client).text("5");
    world.cut(first);
    assert_eq!(texts(&mut world, second), ["2", "3", "4", "5"]);
    assert_eq!(ids(&mut world, second), [1, 2, 3, 4]);
    assert_eq!(world.metrics[0].events_resent.get(), 3);
    world.service(second).ack(4);
    world.settle();
    assert_eq!(world.metrics[0].unacked_bytes.get(), 0);
}

#[test]
fn without_another_stream_they_wait_for_one() {
    let mut world = world(2, |_| {});
    let user = user_of(1, 2);
    let first = stream(&mut world, 0, "chat", Scope::Gateway);
    let client = world.connect(1, &format!("/ws?user={user}"));
    world.client(client).text("1");
    world.client(client).text("2");
    world.settle();
    world.cut(first);
    world.client(client).text("3");
    world.settle();
    let second = stream(&mut world, 1, "chat", Scope::Shard);
    assert_eq!(texts(&mut world, second), ["1", "2", "3"]);
    assert_eq!(world.service(second).opened().len(), 1);
    assert!(world.metrics[1].unacked_bytes.get() > 0);
}

#[test]
fn a_service_that_does_not_acknowledge_gets_every_event_once() {
    let mut world = world(1, |_| {});
    let first = world.logic(0);
    let hello = receiving("chat", Scope::Shard, false);
    world.service(first).hello(hello.clone());
    world.settle();
    let client = world.connect(0, "/ws?user=alice");
    world.client(client).text("1");
    world.settle();
    world.cut(first);
    let second = world.logic(0);
    world.service(second).hello(hello);
    world.client(client).text("2");
    world.settle();
    assert_eq!(texts(&mut world, second), ["2"]);
}

#[test]
fn what_crosses_to_a_stream_that_has_ended_comes_back_and_goes_on_in_order() {
    let mut world = world(2, |_| {});
    let user = user_of(1, 2);
    let first = stream(&mut world, 0, "chat", Scope::Gateway);
    let client = world.connect(1, &format!("/ws?user={user}"));
    let second = stream(&mut world, 0, "chat", Scope::Gateway);
    world.client(client).text("1");
    world.settle();
    // Into the lane while the stream's shard stands still; then it ends.
    world.client(client).text("2");
    world.step_shard(1);
    world.drop_link(first);
    world.client(client).text("3");
    world.step_shard(1);
    world.step_shard(0);
    // Its shard knows now; what was sent meanwhile is on its way back, and newer events are held behind it.
    world.client(client).text("4");
    world.step_shard(1);
    assert!(texts(&mut world, second).is_empty());
    world.settle();
    assert_eq!(texts(&mut world, second), ["1", "2", "3", "4"]);
    assert_eq!(world.client(client).closed(), None);
    world.client(client).text("5");
    world.settle();
    assert_eq!(texts(&mut world, second).len(), 5, "its socket is read on");
}

#[test]
fn a_newer_stream_of_the_session_goes_on_under_the_same_numbers() {
    for (shards, scope) in [(1, Scope::Shard), (2, Scope::Gateway)] {
        let mut world = world(shards, |_| {});
        let user = user_of(u32::from(shards) - 1, u32::from(shards));
        let hello = in_session(1, receiving("chat", scope, true));
        let old = world.logic(0);
        world.service(old).hello(hello.clone());
        world.settle();
        let other = stream(&mut world, 0, "chat", scope);
        let client = world.connect(usize::from(shards) - 1, &format!("/ws?user={user}"));
        for n in 1..=4 {
            world.client(client).text(&n.to_string());
        }
        world.settle();
        // Opened and the first message are handled; the client has come to know of the second one.
        world.service(old).ack(2);
        world.settle();
        let token = world.service(old).welcome().resume_token;
        let new = world.logic(0);
        let hello = v1::Hello {
            last_event: 3,
            ..hello
        };
        world.service(new).resume(hello, token);
        world.client(client).text("5");
        world.settle();
        assert_eq!(world.service(new).welcome().resume(), Resume::Resumed);
        assert_eq!(texts(&mut world, new), ["3", "4", "5"]);
        assert_eq!(ids(&mut world, new), [4, 5, 6]);
        assert!(texts(&mut world, other).is_empty());
        // What the client had is still to be acknowledged, on the new stream, or it is sent again elsewhere.
        world.service(new).ack(5);
        world.settle();
        world.cut(old);
        world.cut(new);
        world.settle();
        assert_eq!(texts(&mut world, other), ["5"]);
    }
}

#[test]
fn a_newer_stream_that_wants_something_else_leaves_the_events_to_others() {
    let mut world = world(1, |_| {});
    let hello = in_session(1, receiving("chat", Scope::Shard, true));
    let old = world.logic(0);
    world.service(old).hello(hello.clone());
    world.settle();
    let client = world.connect(0, "/ws?user=alice");
    world.client(client).text("1");
    world.settle();
    let token = world.service(old).welcome().resume_token;
    let new = world.logic(0);
    let other_service = v1::Hello {
        service: "audit".into(),
        ..hello
    };
    world.service(new).resume(other_service, token);
    world.settle();
    assert!(texts(&mut world, new).is_empty());
    let other = stream(&mut world, 0, "chat", Scope::Shard);
    assert_eq!(texts(&mut world, other), ["1"]);
}

#[test]
fn a_client_that_nobody_serves_is_closed_after_a_time() {
    let mut world = world(1, |_| {});
    let (talks, silent) = (world.connect(0, "/ws"), world.connect(0, "/ws"));
    let served = world.connect(0, "/ws");
    world.client(talks).text("hello?");
    world.pass(Duration::from_millis(9_900));
    assert_eq!(world.client(talks).closed(), None);
    world.pass(Duration::from_millis(200));
    assert_eq!(world.client(talks).closed().unwrap().0, 4503);
    assert_eq!(world.client(silent).closed(), None);
    // In time: whoever is served begins anew, and what was sent stays in order.
    world.client(served).text("1");
    world.pass(Duration::from_secs(9));
    let logic = stream(&mut world, 0, "chat", Scope::Shard);
    world.pass(Duration::from_secs(9));
    world.cut(logic);
    world.pass(Duration::from_secs(9));
    assert_eq!(world.client(served).closed(), None);
    world.pass(Duration::from_secs(2));
    assert_eq!(
        world.client(served).closed().unwrap().0,
        4503,
        "it waits again"
    );
    let logic = stream(&mut world, 0, "chat", Scope::Shard);
    assert_eq!(texts(&mut world, logic), ["hello?", "1"]);
    assert_eq!(world.service(logic).closed().len(), 2);
}

#[test]
fn a_service_that_does_not_come_back_is_forgotten_while_another_one_receives() {
    let mut world = world(1, |config| config.upstream.max_services = 2);
    let lives = stream(&mut world, 0, "chat", Scope::Shard);
    let dies = stream(&mut world, 0, "audit", Scope::Shard);
    let client = world.connect(0, "/ws?user=alice");
    let leaver = world.connect(0, "/ws?user=bob");
    world.cut(dies);
    world.client(client).text("1");
    world.client(leaver).close(1000);
    world.pass(Duration::from_secs(9));
    assert_eq!(forgotten(&world), 0, "it may come back");
    // From here on nothing waits for it, and nobody is closed.
    for n in 2..=20 {
        world.client(client).text(&n.to_string());
        world.pass(Duration::from_secs(2));
    }
    assert_eq!(world.client(client).closed(), None);
    assert_eq!(texts(&mut world, lives).len(), 20);
    // That two have come, which it had not acknowledged; two messages; and that one has left.
    assert_eq!(forgotten(&world), 5);
    // It has left room for another one, and begins anew if it comes back.
    stream(&mut world, 0, "billing", Scope::Shard);
    world.client(client).text("21");
    world.settle();
    assert_eq!(texts(&mut world, lives).len(), 21);
    assert_eq!(world.client(client).closed(), None);
}

#[test]
fn while_no_service_is_left_none_is_forgotten() {
    let mut world = world(1, |_| {});
    let chat = stream(&mut world, 0, "chat", Scope::Shard);
    let audit = stream(&mut world, 0, "audit", Scope::Shard);
    let client = world.connect(0, "/ws?user=alice");
    world.cut(chat);
    world.cut(audit);
    world.client(client).text("1");
    world.pass(Duration::from_secs(11));
    assert_eq!(world.client(client).closed().unwrap().0, 4503);
    // The first to come back gets what waited for it; for the other one nobody waits any more.
    let chat = stream(&mut world, 0, "chat", Scope::Shard);
    assert_eq!(texts(&mut world, chat), ["1"]);
    assert!(forgotten(&world) > 0);
}

#[test]
fn five_streams_of_a_service_share_the_users_and_each_user_has_one() {
    let mut world = world(2, |_| {});
    let mut streams: Vec<_> = (0..5)
        .map(|n| stream(&mut world, n % 2, "chat", Scope::Gateway))
        .collect();
    let audit = stream(&mut world, 0, "audit", Scope::Gateway);
    let clients: Vec<_> = (0..20)
        .map(|n| world.connect(0, &format!("/ws?user=user-{n}")))
        .collect();
    for round in 0..3 {
        for (n, client) in clients.iter().enumerate() {
            world.client(*client).text(&format!("{n}:{round}"));
        }
        world.settle();
    }
    let mut owners = vec![Vec::new(); 20];
    for (at, logic) in streams.iter().enumerate() {
        let texts = texts(&mut world, *logic);
        assert!(!texts.is_empty(), "every stream has its part");
        for text in texts {
            let (user, _) = text.split_once(':').unwrap();
            owners[user.parse::<usize>().unwrap()].push(at);
        }
    }
    for owner in &owners {
        assert_eq!(owner.len(), 3);
        assert!(owner.iter().all(|at| *at == owner[0]), "{owner:?}");
    }
    assert_eq!(
        texts(&mut world, audit).len(),
        60,
        "each service gets each event"
    );
    // One process dies: only its users move.
    let before = streams.clone();
    let dead = streams.remove(0);
    world.cut(dead);
    for (n, client) in clients.iter().enumerate() {
        world.client(*client).text(&format!("{n}:3"));
    }
    world.settle();
    for logic in streams {
        let at = before.iter().position(|other| *other == logic).unwrap();
        for text in texts(&mut world, logic) {
            let (user, round) = text.split_once(':').unwrap();
            let owner = owners[user.parse::<usize>().unwrap()][0];
            assert!(
                owner == at || owner == 0,
                "user {user} has moved in {round}"
            );
        }
    }
    assert_eq!(texts(&mut world, audit).len(), 80);
}

#[test]
fn who_leaves_and_comes_back_finds_its_stream_while_something_is_unacknowledged() {
    let mut world = world(2, |_| {});
    let user = user_of(1, 2);
    let target = format!("/ws?user={user}");
    let streams = [
        stream(&mut world, 0, "chat", Scope::Gateway),
        stream(&mut world, 0, "chat", Scope::Gateway),
    ];
    let mut texts_of = Vec::new();
    for n in 0..6 {
        let client = world.connect(1, &target);
        world.client(client).text(&n.to_string());
        world.settle();
        world.reset(client);
        texts_of = streams.map(|logic| texts(&mut world, logic).len()).to_vec();
    }
    texts_of.sort_unstable();
    assert_eq!(texts_of, [0, 6], "all on one stream");
    // Once all is acknowledged, it is a new user like any other.
    for logic in streams {
        world.service(logic).ack(u64::MAX);
    }
    world.settle();
    let client = world.connect(1, &target);
    world.client(client).text("new");
    world.settle();
    let all: Vec<_> = streams.map(|logic| texts(&mut world, logic).len()).to_vec();
    assert!(all.contains(&1), "{all:?}");
}

#[test]
fn who_comes_back_finds_the_stream_that_got_what_it_said_before_though_its_topics_kept_it_known() {
    let mut world = world(1, |_| {});
    let first = stream(&mut world, 0, "chat", Scope::Shard);
    let client = world.connect(0, "/ws?user=alice");
    world.service(first).command(Down::Subscribe(v1::Subscribe {
        target: Some(v1::subscribe::Target::UserId("alice".into())),
        topic: "news".into(),
    }));
    let others = [(); 2].map(|()| stream(&mut world, 0, "chat", Scope::Shard));
    world.client(client).text("1");
    world.settle();
    world.reset(client);
    world.cut(first);
    let client = world.connect(0, "/ws?user=alice");
    world.client(client).text("2");
    world.settle();
    let mut came = others.map(|logic| texts(&mut world, logic).join(" "));
    came.sort_unstable();
    assert_eq!(came, ["", "1 2"], "each user has one stream");
}

#[test]
fn an_anonymous_client_that_has_left_is_told_of_on_one_stream() {
    let mut world = world(1, |_| {});
    let first = stream(&mut world, 0, "chat", Scope::Shard);
    let client = world.connect(0, "/ws");
    for n in 0..5 {
        world.client(client).text(&n.to_string());
    }
    world.settle();
    world.reset(client);
    let others = [
        stream(&mut world, 0, "chat", Scope::Shard),
        stream(&mut world, 0, "chat", Scope::Shard),
    ];
    world.cut(first);
    let mut counts = others.map(|logic| world.service(logic).events().len());
    counts.sort_unstable();
    assert_eq!(counts, [0, 7], "opened, five messages, closed");
}

#[test]
fn a_service_that_acknowledges_nothing_stops_the_sockets_that_feed_it() {
    let mut world = world(2, |config| config.upstream.unacked_bytes = 10_000);
    let logic = stream(&mut world, 0, "chat", Scope::Gateway);
    let clients = [
        world.connect(0, &format!("/ws?user={}", user_of(0, 2))),
        world.connect(1, &format!("/ws?user={}", user_of(1, 2))),
    ];
    let sent = talk_until_unread(&mut world, &clients, 100);
    let unacked = world.total(|metrics| metrics.unacked_bytes.get());
    assert!(unacked < 50_000, "{unacked}");
    for _ in 0..100 {
        world.service(logic).ack(u64::MAX);
        world.pass(Duration::from_millis(10));
    }
    assert_eq!(world.service(logic).messages().len(), sent);
    assert_eq!(world.total(|metrics| metrics.unacked_bytes.get()), 0);
}

#[test]
fn who_only_comes_and_goes_is_no_reason_to_stop_reading() {
    let mut world = world(1, |config| config.upstream.unacked_bytes = 2_000);
    let logic = stream(&mut world, 0, "chat", Scope::Shard);
    // This service acknowledges messages alone.
    for _ in 0..100 {
        world.connect(0, "/ws");
    }
    let client = world.connect(0, "/ws");
    for n in 0..3 {
        world.client(client).text(&n.to_string());
        world.settle();
        let newest = world.service(logic).messages().last().unwrap().id;
        world.service(logic).ack(newest);
        world.settle();
    }
    assert_eq!(texts(&mut world, logic), ["0", "1", "2"]);
}
