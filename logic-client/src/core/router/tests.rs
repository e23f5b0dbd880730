use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::core::buffer::Item;
use crate::core::receipts::Receipts;
use crate::core::reroute::{Replan, reroute};
use crate::push::{Connection as Id, Push};

/// A stream of these tests: gateway and shard.
type Stream = (usize, u32);

fn route(gateway: usize, epoch: u64, shards: u32) -> Route<Stream> {
    Route {
        epoch,
        shards: (0..shards).map(|shard| (gateway, shard)).collect(),
        limits: Limits::default(),
    }
}

fn router(shards: &[u32]) -> Router<Stream> {
    let mut router = Router::new(shards.len());
    for (gateway, &shards) in shards.iter().enumerate() {
        router.set(gateway, route(gateway, gateway as u64 + 1, shards));
    }
    router
}

fn body(push: Push) -> Body {
    Body::Push(push.text("x").request)
}

fn streams(router: &Router<Stream>, body: &Body) -> Vec<Stream> {
    match router.paths(body) {
        Paths::None => Vec::new(),
        Paths::One(stream) => vec![*stream],
        Paths::Many(parts) => parts.into_iter().map(|(stream, _)| *stream).collect(),
    }
}

#[test]
fn a_user_goes_to_one_shard_of_each_gateway() {
    let router = router(&[2, 5]);
    let of = |shards| shard_of(b"alice", shards);
    let alice = body(Push::user("alice"));
    assert_eq!(streams(&router, &alice), [(0, of(2)), (1, of(5))]);
}

#[test]
fn all_others_go_everywhere() {
    let router = router(&[1, 2]);
    for push in [Push::topic("t"), Push::everyone()] {
        assert_eq!(streams(&router, &body(push)), [(0, 0), (1, 0), (1, 1)]);
    }
}

#[test]
fn the_usual_push_needs_no_parts() {
    let router = router(&[4]);
    assert!(matches!(
        router.paths(&body(Push::user("alice"))),
        Paths::One(_)
    ));
}

#[test]
fn a_connection_goes_where_its_id_says_or_nowhere() {
    let router = router(&[2, 3]);
    let to = |epoch, shard: u64| {
        body(Push::connection(Id {
            epoch,
            id: shard << 54 | 5,
        }))
    };
    assert_eq!(streams(&router, &to(2, 2)), [(1, 2)]);
    assert_eq!(streams(&router, &to(1, 1)), [(0, 1)]);
    assert_eq!(streams(&router, &to(1, 2)), [], "no such shard");
    assert_eq!(streams(&router, &to(9, 0)), [], "no such run");
}

#[test]
fn a_gateway_that_was_never_reached_is_left_out() {
    let mut router = Router::new(2);
    router.set(1, route(1, 2, 2));
    assert_eq!(streams(&router, &body(Push::everyone())), [(1, 0), (1, 1)]);
    assert!(matches!(
        router.paths(&body(Push::user("alice"))),
        Paths::One(_)
    ));
}

#[test]
fn the_narrowest_gateway_sets_the_limits() {
    let mut router = router(&[1, 1]);
    let mut narrow = route(1, 2, 1);
    narrow.limits.max_payload_bytes = 1000;
    narrow.limits.max_users_per_push = 3;
    router.set(1, narrow);
    assert_eq!((router.limits().payload, router.limits().users), (1000, 3));
    assert_eq!(
        streams(&router, &body(Push::users(["a", "b", "c", "d"]))).len(),
        4
    );
    router.set(1, route(1, 3, 1));
    assert_eq!(*router.limits(), Common::NONE);
}

#[test]
fn a_twin_is_found_by_its_epoch() {
    let router = router(&[1, 1]);
    assert_eq!(router.twin(0, 2), Some(1));
    assert_eq!(router.twin(1, 2), None, "itself");
    assert_eq!(router.twin(0, 7), None);
}

proptest! {
    /// Every user of a list is in exactly one part for each gateway, on its own shard, and no part
    /// is over the limits.
    #[test]
    fn a_list_is_split_without_loss(
        users in prop::collection::btree_set("[a-z]{1,9}", 1..200),
        shards in 1..9_u32,
        most in 1..50_usize,
        bytes in 1..500_usize,
    ) {
        let route = route(0, 1, shards);
        let limits = Common { users: most, message: ENVELOPE_BYTES + 1 + bytes, payload: 1 };
        let list = body(Push::users(users.iter().cloned()));
        let mut seen = Vec::new();
        let Paths::Many(parts) = route.paths(&list, &limits) else { panic!() };
        for ((_, shard), part) in parts {
            let Body::Push(push) = part else { panic!() };
            let Some(Target::Users(part)) = push.target else { panic!() };
            prop_assert!(!part.user_ids.is_empty() && part.user_ids.len() <= most);
            let size: usize = part.user_ids.iter().map(|user| user.len() + 3).sum();
            prop_assert!(size <= bytes || part.user_ids.len() == 1);
            for user in part.user_ids {
                prop_assert_eq!(shard_of(user.as_bytes(), shards), *shard);
                seen.push(user);
            }
        }
        seen.sort();
        prop_assert_eq!(seen, users.into_iter().collect::<Vec<_>>());
    }

    /// Commands wait on the streams of one run, some parts are sent already, and the gateway comes
    /// back with another number of shards: what was not sent arrives at the right new
    /// shards, each once, in the order of the calls.
    #[test]
    fn rerouting_keeps_order_and_loses_and_doubles_nothing(
        kinds in prop::collection::vec(0..4_u8, 1..60),
        sent in prop::collection::vec(any::<bool>(), 1..60),
        (before, after) in (1..6_u32, 1..6_u32),
    ) {
        let (old, new) = (route(0, 1, before), route(0, 2, after));
        let mut waiting: BTreeMap<Stream, Vec<Item>> = BTreeMap::new();
        let mut unsent = BTreeMap::new();
        let mut receipts = Receipts::new();
        let mut marks = sent.iter().cycle();
        for (stamp, kind) in kinds.into_iter().enumerate() {
            let push = match kind {
                0 => Push::user(format!("user-{}", stamp % 7)),
                1 => Push::users((0..9).map(|user| format!("user-{user}"))),
                2 => Push::everyone(),
                _ => Push::connection(Id { epoch: 1, id: 0 }),
            };
            let ticket = receipts.open(stamp, false);
            let whole = Item::new(stamp as u64, body(push), None).with_ticket(ticket);
            let parts = match old.paths(&whole.body, &Common::NONE) {
                Paths::One(stream) => vec![(*stream, whole.clone())],
                Paths::Many(parts) => parts.into_iter().map(|(s, b)| (*s, whole.part(b))).collect(),
                Paths::None => vec![],
            };
            for (stream, part) in parts {
                if !marks.next().unwrap() {
                    unsent.entry(stamp as u64).or_insert((kind, 0)).1 += 1;
                    waiting.entry(stream).or_default().push(part);
                }
            }
        }
        let items: Vec<_> = waiting.into_values().flatten().collect();
        let moved = reroute(items, &new, &Common::NONE);
        prop_assert!(moved.items.windows(2).all(|pair| pair[0].1.stamp <= pair[1].1.stamp));
        let mut arrived: BTreeMap<u64, Vec<(Stream, Body)>> = BTreeMap::new();
        for (stream, item) in moved.items {
            arrived.entry(item.stamp).or_default().push((*stream, item.body));
        }
        let gone: Vec<u64> = moved.gone.iter().map(|item| item.stamp).collect();
        for (stamp, (kind, parts)) in unsent {
            let Some(arrived) = arrived.remove(&stamp) else {
                prop_assert!(kind == 3 && gone.contains(&stamp), "only old connections are gone");
                continue;
            };
            let mut shards: Vec<_> = arrived.iter().map(|(stream, _)| *stream).collect();
            let come = shards.len();
            shards.dedup();
            prop_assert_eq!(shards.len(), come, "no shard gets it twice");
            if kind == 2 {
                prop_assert_eq!(come, after as usize);
            }
            let replan = moved.replans.iter().find(|replan| {
                matches!(replan, Replan { ticket, .. } if receipts_stamp(&receipts, *ticket) == stamp)
            });
            let (planned, dropped) = replan.map_or((parts, parts), |plan| (plan.come, plan.gone));
            prop_assert_eq!((planned, dropped), (come, parts));
        }
        prop_assert!(arrived.is_empty(), "nothing that was sent comes again");
    }
}

fn receipts_stamp(receipts: &Receipts<usize>, ticket: crate::core::receipts::Ticket) -> u64 {
    receipts.waiter(ticket).copied().unwrap_or(usize::MAX) as u64
}
