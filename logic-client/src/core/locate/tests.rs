use gateway_proto::shard_of;
use gateway_proto::v1::gateway_frame::Body as Up;
use gateway_proto::v1::snapshot::{Begin, Chunk, End, Stage};
use gateway_proto::v1::{Limits, Snapshot, UserOnline};

use super::*;
use crate::push::Push;

const SHARDS: u32 = 2;

/// Streams are named by gateway and shard.
type Stream = (u32, u32);

/// Gateways 0, 1 and 2 with two shards each, all silent.
fn mesh() -> (Router<Stream>, Directory) {
    mesh_with(usize::MAX)
}

/// The same, and the directory has room for so many.
fn mesh_with(most: usize) -> (Router<Stream>, Directory) {
    let (mut router, mut directory) = (Router::new(), Directory::new(most));
    for gateway in 0..3 {
        let route = Route {
            epoch: epoch(gateway),
            shards: (0..SHARDS).map(|shard| (gateway, shard)).collect(),
            whole: false,
            limits: Limits::default(),
        };
        router.set(GatewayId(gateway), route);
        directory.adopt(gateway, epoch(gateway), SHARDS);
    }
    (router, directory)
}

fn epoch(gateway: u32) -> u64 {
    u64::from(gateway) + 1
}

fn shard(user: &str) -> u32 {
    shard_of(user.as_bytes(), SHARDS)
}

/// Both shards of a gateway tell who is there.
fn tell(directory: &mut Directory, gateway: u32, users: &[&str]) {
    for shard in 0..SHARDS {
        let here = users.iter().filter(|user| self::shard(user) == shard);
        let users = here.map(|user| UserOnline {
            user_id: (*user).to_owned(),
            version: 1,
            connections: 1,
        });
        for stage in [
            Stage::Begin(Begin::default()),
            Stage::Chunk(Chunk {
                users: users.collect(),
            }),
            Stage::End(End::default()),
        ] {
            let stage = Some(stage);
            let frame = Up::Snapshot(Snapshot { stage, shard });
            directory.apply(gateway, epoch(gateway), 1, frame);
        }
    }
}

fn lose(directory: &mut Directory, gateway: u32) {
    directory.lost(gateway, None);
}

fn push(user: &str) -> Body {
    Body::Push(Push::user(user).request)
}

/// The gateways a command goes to; and how many users are nowhere.
fn gateways(router: &Router<Stream>, directory: &Directory, body: &Body) -> (Vec<u32>, u64) {
    let Located { paths, nowhere } = router.located(body, directory, None);
    let parts = paths.into_parts(body);
    (
        parts.iter().map(|((gateway, _), _)| *gateway).collect(),
        nowhere,
    )
}

#[test]
fn a_push_goes_where_the_user_is_and_only_there() {
    let (router, mut directory) = mesh();
    tell(&mut directory, 0, &["alice"]);
    tell(&mut directory, 1, &["alice", "bob"]);
    tell(&mut directory, 2, &[]);
    let at = |user| gateways(&router, &directory, &push(user));
    assert_eq!(at("alice"), (vec![0, 1], 0));
    assert_eq!(at("bob"), (vec![1], 0));
    assert_eq!(at("nobody"), (vec![], 1));
    let located = router.located(&push("bob"), &directory, None);
    assert_eq!(located.paths, Paths::One(&(1, shard("bob"))));
}

#[test]
fn who_is_known_nowhere_may_be_where_the_directory_is_not_complete() {
    let (router, mut directory) = mesh();
    let at = |directory: &Directory, user| gateways(&router, directory, &push(user));
    assert_eq!(at(&directory, "alice"), (vec![0, 1, 2], 0));
    tell(&mut directory, 0, &["alice"]);
    tell(&mut directory, 1, &["bob"]);
    // Found on a complete one: only there.
    assert_eq!(at(&directory, "alice"), (vec![0], 0));
    assert_eq!(at(&directory, "nobody"), (vec![2], 0));
}

#[test]
fn who_was_last_where_it_is_silent_may_have_gone_to_where_it_is_silent_too() {
    let (router, mut directory) = mesh();
    tell(&mut directory, 0, &["carol"]);
    tell(&mut directory, 1, &[]);
    lose(&mut directory, 0);
    assert_eq!(
        gateways(&router, &directory, &push("carol")),
        (vec![0, 2], 0)
    );
}

#[test]
fn what_was_for_a_gateway_that_came_back_goes_there_until_it_has_told_who_is_there() {
    let (router, mut directory) = mesh();
    tell(&mut directory, 0, &["alice"]);
    tell(&mut directory, 2, &[]);
    let back = Some(GatewayId(1));
    let at = |directory: &Directory, body: &Body| {
        let parts = router.located(body, directory, back).paths.into_parts(body);
        let gateways = parts.into_iter().map(|((gateway, _), _)| *gateway);
        gateways.collect::<Vec<_>>()
    };
    let list = Body::Push(Push::users(["alice"]).request);
    for body in [push("alice"), list] {
        assert_eq!(at(&directory, &body), [0, 1]);
    }
    tell(&mut directory, 1, &[]);
    assert_eq!(at(&directory, &push("alice")), [0]);
}

#[test]
fn while_a_gateway_is_silent_its_users_are_where_they_were_last() {
    let (router, mut directory) = mesh();
    tell(&mut directory, 0, &["alice", "carol"]);
    tell(&mut directory, 1, &["alice"]);
    tell(&mut directory, 2, &[]);
    lose(&mut directory, 0);
    let at = |directory: &Directory, user| gateways(&router, directory, &push(user));
    assert_eq!(at(&directory, "alice"), (vec![1], 0));
    assert_eq!(at(&directory, "carol"), (vec![0], 0));
    assert_eq!(at(&directory, "new"), (vec![0], 0));
    // Another run of the gateway: nothing is known of it.
    directory.adopt(0, 99, SHARDS);
    lose(&mut directory, 2);
    assert_eq!(at(&directory, "carol"), (vec![0, 2], 0));
}

#[test]
fn a_full_directory_costs_pushes_a_detour_and_nobody_a_message() {
    let (router, mut directory) = mesh_with(2);
    let users = (0..).map(|user| format!("user-{user}"));
    let here: Vec<_> = users.filter(|user| shard(user) == 0).take(3).collect();
    let [alice, bob, carol] = &here[..] else {
        unreachable!()
    };
    tell(&mut directory, 0, &[alice, bob]);
    tell(&mut directory, 1, &[alice, carol]);
    tell(&mut directory, 2, &[]);
    let at = |user: &str| gateways(&router, &directory, &push(user));
    // There was no room for what gateway 1 told of this shard.
    assert_eq!(at(alice), (vec![0, 1], 0));
    assert_eq!(
        at(bob),
        (vec![0, 1], 0),
        "who is known may be there as well"
    );
    assert_eq!(at(carol), (vec![1], 0));
    let list = Body::Push(Push::users([alice, bob, carol]).request);
    let Located { paths, nowhere } = router.located(&list, &directory, None);
    let parts = paths.into_parts(&list);
    let parts = parts.iter().map(|((gateway, _), part)| match whom(part) {
        Whom::Users(users) => (
            *gateway,
            users
                .user_ids
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
        ),
        _ => panic!("{part:?}"),
    });
    let expected = [
        (0, vec![alice.clone(), bob.clone()]),
        (1, vec![alice.clone(), bob.clone(), carol.clone()]),
    ];
    assert_eq!((parts.collect::<Vec<_>>(), nowhere), (expected.to_vec(), 0));
    let other = (0..).map(|user| format!("user-{user}"));
    let other = { other }.find(|user| shard(user) == 1).unwrap();
    assert_eq!(at(&other), (vec![], 1), "the other shard is known");
}

#[test]
fn a_list_is_split_by_where_its_users_are() {
    let (router, mut directory) = mesh();
    tell(&mut directory, 0, &["alice", "bob"]);
    tell(&mut directory, 1, &["alice"]);
    tell(&mut directory, 2, &["dave"]);
    let body = Body::Push(Push::users(["alice", "bob", "nobody", "none"]).request);
    let Located { paths, nowhere } = router.located(&body, &directory, None);
    assert_eq!(nowhere, 2);
    let mut reached = Vec::new();
    for ((gateway, shard), part) in paths.into_parts(&body) {
        let Whom::Users(users) = whom(&part) else {
            panic!("{part:?}");
        };
        for user in &users.user_ids {
            assert_eq!(self::shard(user), *shard);
            reached.push((user.to_string(), *gateway));
        }
    }
    reached.sort();
    let expected = [("alice", 0), ("alice", 1), ("bob", 0)];
    assert_eq!(reached, expected.map(|(user, at)| (user.to_owned(), at)));
    let nobody = Body::Push(Push::users(["nobody", "none"]).request);
    let located = router.located(&nobody, &directory, None);
    assert_eq!((located.paths, located.nowhere), (Paths::None, 2));
}

#[test]
fn a_subscription_is_for_connections_to_come_too() {
    use gateway_proto::v1::{Disconnect, Subscribe, disconnect, subscribe};
    let (router, mut directory) = mesh();
    (0..3).for_each(|gateway| tell(&mut directory, gateway, &[]));
    let subscribe = Body::Subscribe(Subscribe {
        target: Some(subscribe::Target::UserId("alice".to_owned())),
        topic: "news".to_owned(),
    });
    let disconnect = Body::Disconnect(Disconnect {
        target: Some(disconnect::Target::UserId("alice".to_owned())),
        ..Disconnect::default()
    });
    let at = |body| gateways(&router, &directory, body);
    assert_eq!(at(&subscribe), (vec![0, 1, 2], 0));
    assert_eq!(at(&disconnect), (vec![], 1));
    assert_eq!(at(&Body::Push(Push::everyone().request)).0.len(), 6);
}
