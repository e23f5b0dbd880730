use std::time::Duration;

use gateway_proto::shard_of;

use crate::core::returned::{ReturnReason, Returned};
use crate::core::world::World;
use crate::error::TryPushError;
use crate::push::Push;

const SECOND: Duration = Duration::from_secs(1);

/// A client whose buffers hold five commands each, and gateways with so many shards.
fn world(gateways: &[(&str, u32)]) -> World {
    let mut world = World::new(|builder| builder.buffer(5, 1 << 20));
    for (number, (address, shards)) in gateways.iter().enumerate() {
        world.boot(address, number as u64 + 1, *shards);
    }
    let addresses: Vec<_> = gateways.iter().map(|(address, _)| *address).collect();
    world.resolve(&addresses);
    world
}

fn user_of(shard: u32, shards: u32) -> String {
    let mut users = (0..).map(|number| format!("user-{number}"));
    let lives_there = |user: &String| shard_of(user.as_bytes(), shards) == shard;
    users.find(lives_there).unwrap()
}

/// Pushes until somebody's buffer is full.
fn fill(world: &mut World, push: &Push) {
    while world.try_push(push.clone()) {}
    world.run(SECOND);
}

fn take_back(world: &World) -> Vec<Returned> {
    std::mem::take(&mut *world.returned.lock().unwrap())
}

fn only_one(world: &World) -> Returned {
    let mut back = take_back(world);
    assert_eq!(back.len(), 1, "{back:?}");
    back.remove(0)
}

fn freeze(world: &mut World, address: &str, frozen: bool) {
    world.gateways.get_mut(address).unwrap().frozen = frozen;
}

fn count(world: &World, address: &str, text: &str) -> usize {
    let texts = world.gateways[address].texts();
    texts.iter().filter(|known| **known == text).count()
}

#[test]
fn the_part_of_a_stuck_gateway_goes_there_alone_when_it_is_pushed_again() {
    let mut world = world(&[("a", 1), ("b", 1)]);
    freeze(&mut world, "a", true);
    fill(&mut world, &Push::user("u").text("fill"));
    assert!(world.try_push(Push::user("u").text("1")));
    let back = only_one(&world);
    assert_eq!((&*back.gateway, &back.reason), ("a", &ReturnReason::Full));
    assert!(back.is_partial() && back.is_retriable());
    // It is the only one it is for, so there is room for it or not.
    let full = world.mesh.try_push(world.now, back.push.clone());
    assert_eq!(full, Err(TryPushError::Full(back.push.clone())));
    freeze(&mut world, "a", false);
    world.run(SECOND);
    assert!(world.try_push(back.push));
    for gateway in ["a", "b"] {
        assert_eq!(count(&world, gateway, "1"), 1, "{gateway}");
    }
}

#[test]
fn the_part_of_a_full_shard_goes_there_alone_when_it_is_pushed_again() {
    let mut world = world(&[("a", 3)]);
    freeze(&mut world, "a", true);
    fill(&mut world, &Push::user(user_of(1, 3)).text("fill"));
    assert!(world.try_push(Push::topic("t").text("1")));
    let back = only_one(&world);
    assert_eq!((back.shard, &back.reason), (1, &ReturnReason::Full));
    assert!(back.is_partial() && back.is_retriable());
    freeze(&mut world, "a", false);
    world.run(SECOND);
    assert!(world.try_push(back.push.clone()));
    let done = world.gateways["a"].done.iter();
    let done = done.filter(|done| done.text == "1");
    let mut shards: Vec<_> = done.map(|done| done.shard).collect();
    shards.sort_unstable();
    assert_eq!(shards, [0, 1, 2], "each shard once");
    // With other shards nobody knows who has it.
    world.vanish("a");
    world.boot("a", 9, 2);
    world.run(SECOND * 30);
    let gone = world.mesh.try_push(world.now, back.push.clone());
    let gone = gone.unwrap_err();
    assert!(matches!(
        &gone,
        TryPushError::NotSent(_, ReturnReason::ShardsChanged)
    ));
    assert!(world.try_push(gone.into_push().anew()));
    assert_eq!(count(&world, "a", "1"), 2, "all shards, as it was wanted");
}

#[test]
fn users_of_a_list_whose_gateway_is_stuck_get_it_once() {
    let mut world = world(&[("a", 2), ("b", 3)]);
    let users: Vec<String> = (0..20).map(|user| format!("user-{user}")).collect();
    freeze(&mut world, "a", true);
    fill(&mut world, &Push::users(users.clone()).text("fill"));
    assert!(world.try_push(Push::users(users).text("1")));
    let back = take_back(&world);
    assert_eq!(back.len(), 2, "a part for each shard: {back:?}");
    freeze(&mut world, "a", false);
    world.run(SECOND);
    for back in back {
        assert!(back.is_retriable() && world.try_push(back.push));
    }
    assert_eq!(count(&world, "a", "1"), 2);
    assert_eq!(count(&world, "b", "1"), 3);
}

#[test]
fn a_part_for_a_gateway_that_is_gone_is_not_for_others() {
    let mut world = world(&[("a", 1), ("b", 1)]);
    world.vanish("a");
    world.run(SECOND * 30);
    assert!(world.try_push(Push::user("u").text("1")));
    world.resolve(&["b"]);
    world.run(SECOND * 10);
    let back = only_one(&world);
    assert_eq!(back.reason, ReturnReason::GatewayRemoved);
    assert!(back.is_partial() && !back.is_retriable());
    let gone = world.mesh.try_push(world.now, back.push.clone());
    let reason = ReturnReason::GatewayRemoved;
    assert_eq!(gone, Err(TryPushError::NotSent(back.push.clone(), reason)));
    assert_eq!(count(&world, "b", "1"), 1);
    assert!(world.try_push(back.push.anew()));
    assert_eq!(count(&world, "b", "1"), 2, "as it was wanted");
}

#[test]
fn what_nobody_got_goes_to_whoever_takes_the_place() {
    let mut world = world(&[("a", 1)]);
    world.vanish("a");
    world.run(SECOND * 30);
    assert!(world.try_push(Push::topic("t").text("1")));
    world.resolve(&[]);
    let back = only_one(&world);
    assert_eq!(back.reason, ReturnReason::GatewayRemoved);
    assert!(!back.is_partial() && back.is_retriable());
    world.boot("b", 2, 2);
    world.resolve(&["b"]);
    assert!(world.try_push(back.push));
    assert_eq!(world.gateways["b"].texts(), ["1", "1"]);
}

#[test]
fn each_return_counts_and_says_what_may_be_pushed_again() {
    let mut world = world(&[("a", 1), ("b", 1)]);
    freeze(&mut world, "a", true);
    fill(&mut world, &Push::user("u").text("fill"));
    let price = Push::user("u").text("1").conflate("price");
    assert!(world.try_push(price));
    let back = only_one(&world);
    assert!(!back.is_retriable(), "it would replace a newer one");
    assert!(world.try_push(Push::user("u").text("2")));
    let first = only_one(&world);
    // What is sent and has no answer is given up some time.
    world.vanish("a");
    world.boot("a", 3, 1);
    world.run(SECOND * 60);
    let unknown = take_back(&world);
    assert!(!unknown.is_empty());
    for back in &unknown {
        assert_eq!(back.reason, ReturnReason::Unknown);
        assert!(back.is_partial() && !back.is_retriable(), "{back:?}");
    }
    freeze(&mut world, "a", true);
    assert!(world.try_push(first.push));
    world.vanish("a");
    world.boot("a", 4, 1);
    world.run(SECOND * 60);
    let second = only_one(&world);
    assert_eq!((first.attempts, second.attempts), (1, 2));
    assert_eq!(second.reason, ReturnReason::Unknown);
    // At least once, and for those alone who may have missed it.
    assert!(world.try_push(second.push));
    assert_eq!((count(&world, "a", "2"), count(&world, "b", "2")), (1, 1));
}
