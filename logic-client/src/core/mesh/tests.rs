use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gateway_proto::shard_of;

use crate::builder::Streams;
use crate::core::backoff::SplitMix;
use crate::core::world::World;
use crate::event::What;
use crate::push::Push;
use crate::query::Locate;

/// Worlds of the random test; it takes milliseconds each.
const SEEDS: u64 = 40;

const SECOND: Duration = Duration::from_secs(1);

fn returned(text: &str, reason: &str) -> (String, String) {
    (text.to_owned(), reason.to_owned())
}

/// A client whose buffers hold `commands` each, and gateways with one shard.
fn world(addresses: &[&str], commands: usize) -> World {
    let mut world = World::new(|builder| builder.buffer(commands, 1 << 20));
    for (number, address) in addresses.iter().enumerate() {
        world.boot(address, number as u64 + 1, 1);
    }
    world.resolve(addresses);
    assert!(world.is_open(addresses.len()));
    world
}

#[test]
fn a_frozen_gateway_delays_no_other() {
    let addresses: Vec<String> = (0..10).map(|number| format!("gateway-{number}")).collect();
    let names: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut world = world(&names, 50);
    world.gateways.get_mut(names[3]).unwrap().frozen = true;
    let mut waited = 0;
    for push in 0..10_000 {
        let text = format!("{push}");
        // Until the frozen one is known to be stuck, its full buffer is waited for.
        while !world.try_push(Push::user("u").text(text.as_str())) {
            waited += 1;
            world.run(SECOND / 1000);
        }
        for name in names.iter().filter(|name| **name != names[3]) {
            let done = world.gateways[*name].done.last().unwrap();
            assert_eq!((done.at, &done.text), (world.now, &text), "{name}");
        }
        world.run(SECOND / 1000);
    }
    assert!(waited <= 250, "{waited} ms");
    let back = world.back();
    assert!(back.iter().all(|(_, reason)| reason == "Full"));
    world.gateways.get_mut(names[3]).unwrap().frozen = false;
    world.run(SECOND);
    let arrived = world.gateways[names[3]].texts().len();
    assert_eq!(
        arrived + back.len(),
        10_000,
        "each part arrived or came back"
    );
}

#[test]
fn a_command_for_one_stream_waits_for_it() {
    let mut world = world(&["a"], 10);
    world.gateways.get_mut("a").unwrap().frozen = true;
    let mut taken = 0;
    while world.try_push(Push::user("u").text(taken.to_string())) {
        taken += 1;
        assert!(taken < 100, "the buffer is bounded");
        world.run(SECOND / 2);
    }
    assert_eq!(world.back(), [], "nobody else would take it");
    world.gateways.get_mut("a").unwrap().frozen = false;
    world.run(SECOND);
    assert_eq!(world.gateways["a"].texts().len(), taken);
}

#[test]
fn gateways_come_and_go_without_a_restart() {
    let mut world = world(&["a"], 100);
    world.boot("b", 2, 1);
    world.resolve(&["a", "b"]);
    assert!(world.is_open(2));
    assert!(world.try_push(Push::everyone().text("to both")));
    world.resolve(&["b"]);
    world.run(SECOND * 10);
    assert!(world.is_open(2), "it is there: it may have clients");
    assert!(world.try_push(Push::everyone().text("still to both")));
    world.run(SECOND * 51);
    assert!(world.is_open(1));
    assert!(world.try_push(Push::everyone().text("to b")));
    assert_eq!(world.gateways["a"].texts(), ["to both", "still to both"]);
    let all = ["to both", "still to both", "to b"];
    assert_eq!(world.gateways["b"].texts(), all);
    let removed = |what: &What| matches!(what, What::GatewayRemoved);
    let added = |what: &What| matches!(what, What::GatewayAdded);
    assert_eq!((world.noticed(added), world.noticed(removed)), (2, 1));
    assert_eq!(world.mesh.stats().past.acked, 2);
}

#[test]
fn a_gateway_that_left_the_set_goes_once_it_cannot_be_reached() {
    let mut world = world(&["a", "b"], 100);
    world.resolve(&["b"]);
    world.run(SECOND);
    assert!(world.is_open(2));
    world.vanish("a");
    world.run(SECOND * 30);
    assert!(world.is_open(1));
    assert!(world.mesh.stats().missing.is_empty());
    assert!(world.try_push(Push::user("u").text("to b")));
    assert_eq!(world.gateways["b"].texts(), ["to b"]);
}

#[test]
fn a_gateway_that_leaves_the_set_and_comes_back_keeps_its_streams_and_their_order() {
    let mut world = world(&["a", "b"], 100);
    // What is sent meanwhile stays on its way.
    world.gateways.get_mut("a").unwrap().frozen = true;
    assert!(world.try_push(Push::user("u").text("1")));
    world.resolve(&["b"]);
    world.run(SECOND);
    assert!(world.try_push(Push::user("u").text("2")));
    world.resolve(&["a", "b"]);
    world.run(SECOND);
    assert!(world.try_push(Push::user("u").text("3")));
    world.gateways.get_mut("a").unwrap().frozen = false;
    world.run(SECOND);
    assert_eq!(world.gateways["a"].texts(), ["1", "2", "3"]);
    assert_eq!(world.gateways["b"].texts(), ["1", "2", "3"]);
    assert_eq!(world.back(), []);
    let removed = |what: &What| matches!(what, What::GatewayRemoved);
    assert_eq!(world.noticed(removed), 0);
}

#[test]
fn what_is_unknown_is_sent_again_by_the_streams_to_other_shards() {
    let mut world = World::new(|builder| builder.resend_unknown(true));
    world.boot("a", 1, 1);
    world.resolve(&["a"]);
    world.gateways.get_mut("a").unwrap().frozen = true;
    for push in 0..20 {
        let user = format!("user-{push}");
        assert!(world.try_push(Push::user(user).text(push.to_string())));
    }
    world.run(SECOND);
    world.vanish("a");
    world.boot("a", 2, 3);
    world.run(SECOND * 60);
    assert!(world.is_open(3));
    assert_eq!(world.back(), []);
    let done = &world.gateways["a"].done;
    assert_eq!(done.len(), 20);
    for done in done {
        let user = format!("user-{}", done.text);
        assert_eq!(done.shard, shard_of(user.as_bytes(), 3), "{}", done.text);
    }
}

#[test]
fn what_was_sent_and_cannot_be_sent_again_is_unknown() {
    let mut world = World::new(|builder| builder.resend_unknown(true));
    world.boot("a", 1, 1);
    world.boot("b", 2, 1);
    world.resolve(&["a", "b"]);
    world.gateways.get_mut("a").unwrap().frozen = true;
    assert!(world.try_push(Push::user("u").text("1")));
    world.run(SECOND);
    world.vanish("a");
    world.resolve(&["b"]);
    world.run(SECOND * 120);
    // "a" may have done its part, and "b" has its own.
    assert_eq!(world.back(), [returned("1", "Unknown")]);
}

#[test]
fn what_a_gateway_alone_was_to_get_goes_to_the_one_in_its_place() {
    let mut world = world(&["a"], 100);
    world.vanish("a");
    world.run(SECOND * 30);
    for push in 0..20 {
        assert!(world.try_push(Push::user("u").text(push.to_string())));
    }
    world.boot("b", 2, 3);
    // The new one answers only later; until then nothing has nowhere to go.
    world.gateways.get_mut("b").unwrap().frozen = true;
    world.resolve(&["b"]);
    world.run(SECOND);
    assert!(world.try_push(Push::user("u").text("20")));
    world.gateways.get_mut("b").unwrap().frozen = false;
    world.run(SECOND * 10);
    assert!(world.is_open(3));
    let expected: Vec<_> = (0..=20).map(|push: i32| push.to_string()).collect();
    assert_eq!(world.gateways["b"].texts(), expected);
    assert_eq!(world.back(), []);
}

#[test]
fn a_removed_gateways_part_of_a_command_is_handed_back() {
    let mut world = world(&["a", "b"], 100);
    world.vanish("a");
    world.run(SECOND * 30);
    assert!(world.try_push(Push::user("u").text("1")));
    world.resolve(&["b"]);
    world.run(SECOND * 10);
    assert_eq!(world.gateways["b"].texts(), ["1"]);
    assert_eq!(world.back(), [returned("1", "GatewayRemoved")]);
}

#[test]
fn with_no_gateway_left_what_waited_is_handed_back() {
    let mut world = world(&["a"], 100);
    world.vanish("a");
    world.run(SECOND * 30);
    assert!(world.try_push(Push::user("u").text("1")));
    world.resolve(&[]);
    assert_eq!(world.back(), [returned("1", "GatewayRemoved")]);
    world.run(SECOND * 10);
    assert!(world.mesh.stats().streams.is_empty());
}

#[test]
fn another_run_with_other_shards_gets_what_was_not_sent() {
    let mut world = World::new(|builder| builder);
    world.boot("a", 1, 4);
    world.resolve(&["a"]);
    world.vanish("a");
    world.run(SECOND * 30);
    for push in 0..40 {
        let user = format!("user-{}", push % 8);
        assert!(world.try_push(Push::user(user).text(push.to_string())));
    }
    assert!(world.try_push(Push::topic("t").text("all")));
    world.boot("a", 2, 3);
    world.run(SECOND * 10);
    assert!(world.is_open(3));
    for shard in 0..3 {
        let done = world.gateways["a"].done.iter();
        let texts = done.filter(|done| done.shard == shard);
        let texts: Vec<_> = texts.map(|done| done.text.clone()).collect();
        let users = (0..40)
            .filter(|push| shard_of(format!("user-{}", push % 8).as_bytes(), 3) == shard)
            .map(|push| push.to_string());
        let expected: Vec<_> = users.chain(["all".to_owned()]).collect();
        assert_eq!(texts, expected, "shard {shard}");
    }
    assert_eq!(world.back(), []);
}

#[test]
fn with_a_directory_another_run_gets_all_that_waited_in_order() {
    let mut world = World::new(|builder| builder.locate(Locate::Directory));
    world.boot("a", 1, 1);
    world.resolve(&["a"]);
    assert!(world.is_open(1));
    world.vanish("a");
    world.run(SECOND * 30);
    // Pushes for users go where these are then, the others stay with the gateway: none passes another.
    assert!(world.try_push(Push::topic("t").text("first")));
    assert!(world.try_push(Push::user("u").text("second")));
    assert!(world.try_push(Push::topic("t").text("third")));
    world.boot("a", 2, 1);
    world.run(SECOND * 10);
    assert_eq!(world.back(), []);
    assert_eq!(world.gateways["a"].texts(), ["first", "second", "third"]);
}

#[test]
fn a_command_that_some_shards_got_comes_back_when_the_shards_change() {
    let mut world = World::new(|builder| builder.buffer(5, 1 << 20));
    world.boot("a", 1, 2);
    world.resolve(&["a"]);
    let hurt = (0..)
        .map(|number| format!("user-{number}"))
        .find(|user| shard_of(user.as_bytes(), 2) == 1)
        .unwrap();
    // Shard 1 is full of what it does not acknowledge; then the process dies.
    world.gateways.get_mut("a").unwrap().frozen = true;
    let mut filled = 0;
    while world.try_push(Push::user(hurt.as_str()).text("fill")) {
        filled += 1;
    }
    world.run(SECOND);
    assert!(
        world.try_push(Push::topic("t").text("half")),
        "shard 0 has room"
    );
    assert_eq!(world.back(), [returned("half", "Full")]);
    world.vanish("a");
    world.boot("a", 2, 3);
    world.run(SECOND * 60);
    assert!(world.is_open(3));
    let back = world.back();
    let unknown = back.iter().filter(|(_, reason)| reason == "Unknown");
    assert_eq!(unknown.count(), filled + 1, "{back:?}");
    assert_eq!(world.gateways["a"].texts(), [] as [&str; 0]);
}

#[test]
fn a_gateway_under_a_new_address_gets_nothing_twice() {
    let mut world = world(&["old"], 100);
    let moved = world.gateways.remove("old").unwrap();
    world.gateways.insert("old".to_owned(), moved);
    world.boot("new", 1, 1);
    world.resolve(&["new"]);
    world.run(SECOND * 6);
    assert!(world.is_open(1));
    assert!(world.try_push(Push::everyone().text("once")));
    assert_eq!(world.gateways["old"].texts(), [] as [&str; 0]);
    assert_eq!(world.gateways["new"].texts(), ["once"]);
}

#[test]
fn one_stream_serves_a_whole_gateway() {
    let mut world = World::new(|builder| builder.streams(Streams::One));
    world.boot("a", 1, 32);
    world.resolve(&["a"]);
    assert!(world.is_open(1));
    for push in 0..20 {
        let user = format!("user-{push}");
        assert!(world.try_push(Push::user(user).text(push.to_string())));
    }
    assert!(world.try_push(Push::topic("t").text("all")));
    assert_eq!(world.gateways["a"].done.len(), 21);
    let (_, hello) = &world.gateways["a"].hellos[0];
    assert_eq!(hello.scope(), gateway_proto::v1::Scope::Gateway);
    assert_eq!(hello.expected_shard_plus_one, shard_of(b"test", 32) + 1);
    // Another run, with so many shards that the stream leads to another one.
    world.vanish("a");
    world.boot("a", 2, 7);
    world.run(SECOND * 30);
    assert!(world.is_open(1));
    assert!(world.try_push(Push::topic("t").text("again")));
    assert_eq!(world.gateways["a"].texts(), ["again"]);
}

/// Gateways come, go, freeze, vanish, and come back as other processes, at random, while one user
/// is pushed to. In each run of a gateway each push arrives at most once and in order, and what
/// arrived nowhere was handed back.
#[test]
fn whatever_happens_nothing_is_lost_doubled_or_out_of_order() {
    for seed in 0..SEEDS {
        let mut random = SplitMix::new(seed);
        let mut draw = |most: u32| {
            let part = random.up_to(Duration::from_secs(u64::from(most)));
            (part.as_secs() as u32).min(most - 1)
        };
        let mut world =
            World::new(|builder| builder.max_stream_age(SECOND * 5).buffer(40, 1 << 20));
        let names = ["a", "b", "c"];
        let mut set: BTreeSet<usize> = [0].into();
        let mut epoch = 10;
        for name in names {
            epoch += 1;
            world.boot(name, epoch, draw(3) + 1);
        }
        let resolve = |world: &mut World, set: &BTreeSet<usize>| {
            let set: Vec<_> = set.iter().map(|at| names[*at]).collect();
            world.resolve(&set);
        };
        resolve(&mut world, &set);
        let mut pushed = Vec::new();
        for push in 0..400 {
            let text = format!("{push:03}");
            if world.try_push(Push::user("u").text(text.as_str())) {
                pushed.push(text);
            }
            let at = draw(3) as usize;
            let here = world.gateways.get_mut(names[at]).unwrap();
            match draw(40) {
                0 => here.frozen = !here.frozen,
                1 => here.cut = !here.cut,
                2 => {
                    world.vanish(names[at]);
                    epoch += 1;
                    world.boot(names[at], epoch, draw(3) + 1);
                }
                3 => {
                    set.insert(at);
                    resolve(&mut world, &set);
                }
                4 if set.len() > 1 => {
                    set.remove(&at);
                    resolve(&mut world, &set);
                }
                _ => {}
            }
            world.run(SECOND / 1000 * (draw(500) + 1));
        }
        for name in names {
            let gateway = world.gateways.get_mut(name).unwrap();
            (gateway.frozen, gateway.cut) = (false, false);
        }
        world.run(SECOND * 120);
        let mut arrived: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, gateway) in &world.gateways {
            let texts = gateway.texts();
            assert!(texts.is_sorted(), "seed {seed}, {name}: {texts:?}");
            for text in texts {
                *arrived.entry(text).or_default() += 1;
            }
            let mut once = gateway.texts();
            once.dedup();
            assert_eq!(once.len(), gateway.texts().len(), "seed {seed}, {name}");
        }
        let back = world.back();
        for text in &pushed {
            let told =
                arrived.contains_key(text.as_str()) || back.iter().any(|(one, _)| one == text);
            assert!(told, "seed {seed}: {text} is lost");
        }
        let stats = world.mesh.stats();
        let waiting: usize = stats
            .streams
            .iter()
            .map(|one| one.buffered + one.unacked)
            .sum();
        assert_eq!(waiting, 0, "seed {seed}: {stats:?}");
    }
}
