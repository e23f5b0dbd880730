use std::time::Duration;

use crate::core::world::World;
use crate::event::What;
use crate::push::Push;
use crate::resolver::Endpoint;

const SECOND: Duration = Duration::from_secs(1);

fn is_lost(what: &What) -> bool {
    matches!(what, What::Lost { .. })
}

fn is_replaced(what: &What) -> bool {
    matches!(what, What::Replaced)
}

/// A client with one gateway of so many shards.
fn world(shards: u32, age: Duration) -> World {
    let mut world = World::new(|builder| builder.max_stream_age(age));
    world.boot("a", 1, shards);
    world.resolve(&["a"]);
    assert!(world.is_open(shards as usize));
    world
}

#[test]
fn a_half_open_link_is_found_within_20_seconds() {
    for busy in [false, true] {
        let mut world = world(1, Duration::MAX);
        world.run(SECOND * 7);
        world.gateways.get_mut("a").unwrap().cut = true;
        let cut = world.now;
        let mut pushes = 0;
        while world.noticed(is_lost) == 0 {
            assert!(world.now < cut + SECOND * 30, "never found");
            if busy {
                assert!(world.try_push(Push::user("u").text(pushes.to_string())));
                pushes += 1;
            }
            world.run(SECOND / 10);
        }
        let took = world.now - cut;
        assert!(took <= SECOND * 20, "busy: {busy}, found after {took:?}");
        // What was on its way is neither lost nor done twice.
        world.gateways.get_mut("a").unwrap().cut = false;
        world.run(SECOND * 10);
        let texts: Vec<_> = (0..pushes).map(|push: i32| push.to_string()).collect();
        assert_eq!(world.gateways["a"].texts(), texts);
        assert_eq!(world.back(), []);
    }
}

#[test]
fn an_idle_link_that_answers_is_not_given_up() {
    let mut world = world(2, Duration::MAX);
    world.run(SECOND * 300);
    assert_eq!(world.noticed(is_lost), 0);
    assert_eq!(world.gateways["a"].hellos.len(), 2);
}

#[test]
fn a_stream_that_grows_old_is_replaced_without_loss_and_in_order() {
    let mut world = world(1, SECOND * 10);
    for push in 0..6_000 {
        assert!(world.try_push(Push::user("u").text(push.to_string())));
        world.run(SECOND / 100);
    }
    let replaced = world.noticed(is_replaced);
    assert!((5..=7).contains(&replaced), "replaced {replaced} times");
    let expected: Vec<_> = (0..6_000).map(|push: i32| push.to_string()).collect();
    assert_eq!(world.gateways["a"].texts(), expected);
    let total = world.mesh.stats().total();
    assert_eq!((total.acked, total.unknown), (6_000, 0));
    assert_eq!((world.noticed(is_lost), world.back()), (0, vec![]));
}

#[test]
fn a_replacement_waits_for_nobody() {
    // Pushes arrive in the instant they are made, also while connections change.
    let mut world = world(1, SECOND);
    for push in 0..500 {
        assert!(world.try_push(Push::user("u").text(push.to_string())));
        let done = &world.gateways["a"].done;
        assert_eq!(done.last().map(|done| done.at), Some(world.now));
        world.run(SECOND / 50);
    }
    assert!(world.noticed(is_replaced) >= 8);
}

#[test]
fn streams_are_not_replaced_all_at_once() {
    let world = {
        let mut world = world(16, SECOND * 100);
        world.run(SECOND * 130);
        world
    };
    let hellos = &world.gateways["a"].hellos;
    let start = hellos[0].0;
    let mut ages: Vec<_> = hellos[16..].iter().map(|(at, _)| *at - start).collect();
    ages.sort();
    assert_eq!(ages.len(), 16);
    assert!(
        ages[0] >= SECOND * 80 && ages[15] <= SECOND * 120,
        "{ages:?}"
    );
    assert!(ages[15] - ages[0] > SECOND * 15, "{ages:?}");
}

#[test]
fn a_connection_stays_when_it_cannot_be_replaced() {
    let mut world = world(1, SECOND * 10);
    world.gateways.get_mut("a").unwrap().down = true;
    for push in 0..600 {
        assert!(world.try_push(Push::user("u").text(push.to_string())));
        world.run(SECOND / 10);
    }
    assert_eq!(world.gateways["a"].texts().len(), 600);
    assert_eq!(world.gateways["a"].hellos.len(), 1);
    world.gateways.get_mut("a").unwrap().down = false;
    world.run(SECOND * 11);
    assert_eq!(world.gateways["a"].hellos.len(), 2);
    assert_eq!(world.noticed(is_lost), 0);
}

#[test]
fn a_frozen_gateway_is_kept_until_it_is_silent_for_too_long() {
    let mut world = world(1, Duration::MAX);
    world.gateways.get_mut("a").unwrap().frozen = true;
    for push in 0..100 {
        assert!(world.try_push(Push::user("u").text(push.to_string())));
        world.run(SECOND / 10);
    }
    world.gateways.get_mut("a").unwrap().frozen = false;
    world.run(SECOND);
    let expected: Vec<_> = (0..100).map(|push: i32| push.to_string()).collect();
    assert_eq!(world.gateways["a"].texts(), expected);
    assert_eq!(world.noticed(is_lost), 0);
}

#[test]
fn a_resolver_that_knows_of_a_new_run_saves_the_wait_for_silence() {
    let told = |epoch| Endpoint {
        epoch: Some(epoch),
        ..Endpoint::new("a")
    };
    let mut world = World::new(|builder| builder);
    world.boot("a", 1, 1);
    world.resolve_to(vec![told(1)]);
    world.run(SECOND * 30);
    world.vanish("a");
    assert!(world.try_push(Push::user("u").text("on its way")));
    world.boot("a", 2, 1);
    world.resolve_to(vec![told(2)]);
    world.run(SECOND);
    assert!(world.try_push(Push::user("u").text("new")));
    // What was on its way to the old run is unknown: the new one must not get it.
    assert_eq!(world.gateways["a"].texts(), ["new"]);
    let unknown = ("on its way".to_owned(), "Unknown".to_owned());
    assert_eq!(world.back(), [unknown]);
}
