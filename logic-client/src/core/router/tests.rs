use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::core::buffer::Item;
use crate::core::receipts::Receipts;
use crate::core::reroute::{Change, Destination, Replan, reroute, split};
use crate::core::returned::ReturnReason;
use crate::push::{Connection as Id, Push};

/// A stream of these tests: gateway and shard.
type Stream = (usize, u32);

impl Destination for Stream {
    fn gateway(&self) -> GatewayId {
        GatewayId(self.0 as u32)
    }

    fn newest(&self) -> Option<u64> {
        None
    }
}

fn route(gateway: usize, epoch: u64, shards: u32) -> Route<Stream> {
    Route {
        epoch,
        shards: (0..shards).map(|shard| (gateway, shard)).collect(),
        whole: false,
        limits: Limits::default(),
    }
}

fn router(shards: &[u32]) -> Router<Stream> {
    let mut router = Router::new();
    for (gateway, &shards) in shards.iter().enumerate() {
        router.set(
            GatewayId(gateway as u32),
            route(gateway, gateway as u64 + 1, shards),
        );
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
fn one_stream_for_a_whole_gateway_gets_everything() {
    let mut router = Router::new();
    let route = Route {
        whole: true,
        ..route(0, 1, 1)
    };
    router.set(GatewayId(0), route);
    let connection = |epoch| {
        let id = 7 << 54;
        Push::connection(Id { epoch, id })
    };
    for push in [Push::user("alice"), Push::everyone(), connection(1)] {
        assert!(matches!(router.paths(&body(push)), Paths::One((0, 0))));
    }
    let lists = streams(&router, &body(Push::users(["a", "b"])));
    assert_eq!(lists, [(0, 0)]);
    assert_eq!(streams(&router, &body(connection(2))), []);
}

#[test]
fn a_gateway_that_was_never_reached_is_left_out() {
    let mut router = Router::new();
    router.set(GatewayId(1), route(1, 2, 2));
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
    router.set(GatewayId(1), narrow);
    assert_eq!((router.limits().payload, router.limits().users), (1000, 3));
    assert_eq!(
        streams(&router, &body(Push::users(["a", "b", "c", "d"]))).len(),
        4
    );
    router.set(GatewayId(1), route(1, 3, 1));
    assert_eq!(*router.limits(), Common::NONE);
}

#[test]
fn a_twin_is_found_by_its_epoch() {
    let router = router(&[1, 1]);
    assert_eq!(router.twin(GatewayId(0), 2), Some(GatewayId(1)));
    assert_eq!(router.twin(GatewayId(1), 2), None, "itself");
    assert_eq!(router.twin(GatewayId(0), 7), None);
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
    /// shards, each once, in the order of the calls, or comes back.
    #[test]
    fn rerouting_keeps_order_and_loses_and_doubles_nothing(
        kinds in prop::collection::vec(0..4_u8, 1..60),
        sent in prop::collection::vec(any::<bool>(), 1..60),
        (before, after) in (1..6_u32, 1..6_u32),
    ) {
        let (old, new) = (route(0, 1, before), route(0, 2, after));
        let mut waiting: BTreeMap<Stream, Vec<Item>> = BTreeMap::new();
        // Kind, parts, and how many of them were not sent.
        let mut unsent: BTreeMap<u64, (u8, usize, usize)> = BTreeMap::new();
        let mut receipts = Receipts::new();
        let mut marks = sent.iter().cycle();
        for (stamp, kind) in kinds.into_iter().enumerate() {
            let whole = command(kind, stamp as u64, &mut receipts);
            let parts = parts(&old, &whole);
            let count = parts.len();
            for (stream, part) in parts {
                if !marks.next().unwrap() {
                    unsent.entry(stamp as u64).or_insert((kind, count, 0)).2 += 1;
                    waiting.entry(stream).or_default().push(part);
                }
            }
        }
        let items = waiting.into_iter();
        let items = items.flat_map(|(stream, items)| items.into_iter().map(move |item| (item, stream)));
        let moved = reroute(items.collect(), |_| Change::Shards, |_, body| new.paths(body, &Common::NONE));
        prop_assert!(moved.items.windows(2).all(|pair| pair[0].1.stamp.order <= pair[1].1.stamp.order));
        let mut arrived: BTreeMap<u64, Vec<Stream>> = BTreeMap::new();
        for (stream, item) in &moved.items {
            arrived.entry(item.stamp.order).or_default().push(**stream);
        }
        let mut returned: BTreeMap<u64, ReturnReason> = BTreeMap::new();
        for (item, _, reason) in &moved.returned {
            prop_assert!(returned.insert(item.stamp.order, reason.clone()).is_none(), "once");
        }
        for (stamp, (kind, parts, unsent)) in unsent {
            let arrived = arrived.remove(&stamp).unwrap_or_default();
            let expected = match kind {
                2 if unsent < parts => Some(ReturnReason::ShardsChanged),
                3 => Some(ReturnReason::NoTarget),
                _ => None,
            };
            let come = arrived.len().max(1);
            prop_assert_eq!(arrived.is_empty(), expected.is_some());
            prop_assert_eq!(returned.remove(&stamp), expected);
            let mut shards = arrived.clone();
            shards.dedup();
            prop_assert_eq!(shards.len(), arrived.len(), "no shard gets it twice");
            if kind == 2 && !arrived.is_empty() {
                prop_assert_eq!(come, after as usize);
            }
            let replan = moved.replans.iter().find(|replan| {
                matches!(replan, Replan { ticket, .. } if receipts_stamp(&receipts, *ticket) == stamp)
            });
            let planned = replan.map_or((unsent, unsent), |plan| (plan.come, plan.gone));
            prop_assert_eq!(planned, (come, unsent));
        }
        prop_assert!(arrived.is_empty() && returned.is_empty(), "nothing that was sent comes again");
    }

    /// A gateway is removed: what was for it alone goes to the other one, the rest comes back.
    #[test]
    fn a_removed_gateways_own_commands_go_to_the_others(
        kinds in prop::collection::vec(0..3_u8, 1..40),
        alone in prop::collection::vec(any::<bool>(), 1..40),
        (gone, stays) in (1..5_u32, 1..5_u32),
    ) {
        let old = route(0, 1, gone);
        let both = router(&[gone, stays]);
        let mut left = router(&[gone, stays]);
        left.remove(GatewayId(0));
        let mut receipts = Receipts::new();
        let mut waiting = Vec::new();
        let mut own = Vec::new();
        for ((stamp, kind), alone) in kinds.into_iter().enumerate().zip(alone.iter().cycle()) {
            let whole = command(kind, stamp as u64, &mut receipts);
            let parts = match alone {
                true => parts(&old, &whole),
                false => match both.paths(&whole.body) {
                    Paths::Many(many) => split(&whole, many).into_iter().map(|(s, i)| (*s, i)).collect(),
                    _ => vec![],
                },
            };
            own.extend(alone.then_some(stamp as u64));
            let of_old = parts.into_iter().filter(|(stream, _)| stream.0 == 0);
            waiting.extend(of_old.map(|(stream, item)| (item, stream)));
        }
        let orders: std::collections::BTreeSet<_> = waiting.iter().map(|(item, _)| item.stamp.order).collect();
        let moved = reroute(waiting, |_| Change::Removed, |_, body| left.paths(body));
        let mut seen = std::collections::BTreeSet::new();
        for (stream, item) in &moved.items {
            prop_assert!(stream.0 == 1 && own.contains(&item.stamp.order));
            seen.insert(item.stamp.order);
        }
        for (item, _, reason) in &moved.returned {
            prop_assert!(!own.contains(&item.stamp.order));
            prop_assert_eq!(reason, &ReturnReason::GatewayRemoved);
            prop_assert!(seen.insert(item.stamp.order), "once, and not both");
        }
        prop_assert_eq!(seen, orders);
    }
}

fn command(kind: u8, stamp: u64, receipts: &mut Receipts<u64>) -> Item {
    let push = match kind {
        0 => Push::user(format!("user-{}", stamp % 7)),
        1 => Push::users((0..9).map(|user| format!("user-{user}"))),
        2 => Push::everyone(),
        _ => Push::connection(Id { epoch: 1, id: 0 }),
    };
    let ticket = receipts.open(stamp, false);
    Item::new(stamp, body(push), None).with_ticket(ticket)
}

fn parts(route: &Route<Stream>, whole: &Item) -> Vec<(Stream, Item)> {
    match route.paths(&whole.body, &Common::NONE) {
        Paths::One(stream) => vec![(*stream, whole.clone())],
        Paths::Many(parts) => {
            let parts = split(whole, parts).into_iter();
            parts.map(|(stream, item)| (*stream, item)).collect()
        }
        Paths::None => vec![],
    }
}

#[test]
fn what_would_come_behind_a_newer_command_is_handed_back() {
    struct Newer(u64);
    impl Destination for Newer {
        fn gateway(&self) -> GatewayId {
            GatewayId(1)
        }
        fn newest(&self) -> Option<u64> {
            Some(self.0)
        }
    }
    for (newest, moved) in [(4, true), (6, false)] {
        let stream = Newer(newest);
        let item = Item::new(5, body(Push::user("alice")), None);
        let rerouted = reroute(
            vec![(item, ())],
            |_| Change::Removed,
            |_, _| Paths::One(&stream),
        );
        assert_eq!(rerouted.items.len(), usize::from(moved));
        assert_eq!(rerouted.returned.len(), usize::from(!moved));
    }
}

fn receipts_stamp(receipts: &Receipts<u64>, ticket: crate::core::receipts::Ticket) -> u64 {
    receipts.waiter(ticket).copied().unwrap_or(u64::MAX)
}
