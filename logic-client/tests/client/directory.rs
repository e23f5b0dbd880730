//! Pushes go where users are, and questions are put together from all gateways.

use std::time::Duration;

use crate::fake::{Fake, PATIENCE};
use gateway_proto::shard_of;
use gateway_proto::v1::gateway_frame::Body as Up;
use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::snapshot::{Begin, Chunk, End, Stage};
use gateway_proto::v1::{self, QueryResult, Snapshot, UserOffline, UserOnline};
use logic_client::{Builder, Locate, LogicClient, Push, Stats};
use tokio::time::{Instant, interval};

const SHARDS: u32 = 2;

async fn two() -> (Fake, Fake) {
    let one = Fake::start_at("127.0.0.1:0", "one", 1, SHARDS).await;
    let two = Fake::start_at("127.0.0.1:0", "two", 2, SHARDS).await;
    (one, two)
}

fn builder(gateways: &[&Fake]) -> Builder {
    let builder = LogicClient::builder()
        .locate(Locate::Directory)
        .backoff(Duration::from_millis(1), Duration::from_millis(20));
    let gateways = gateways.iter();
    gateways.fold(builder, |builder, fake| builder.gateway(&fake.address))
}

/// Waits until the figures are as `enough` wants them.
async fn until(client: &LogicClient, what: &str, enough: impl Fn(&Stats) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    let mut look = interval(Duration::from_millis(2));
    while !enough(&client.stats()) {
        assert!(Instant::now() < deadline, "in vain: {what}");
        look.tick().await;
    }
}

/// All shards tell who is there; the client knows it when this returns.
async fn tell(client: &LogicClient, fake: &Fake, users: &[&str]) {
    let snapshots = client.stats().directory.unwrap().snapshots;
    for shard in 0..SHARDS {
        let here = users
            .iter()
            .filter(|user| shard_of(user.as_bytes(), SHARDS) == shard);
        let users = here.map(|user| online(user, 1, 1)).collect();
        for stage in [
            Stage::Begin(Begin::default()),
            Stage::Chunk(Chunk { users }),
            Stage::End(End { version: 1 }),
        ] {
            let stage = Some(stage);
            fake.send(shard, Up::Snapshot(Snapshot { stage, shard }));
        }
    }
    until(client, "the snapshots", |stats| {
        stats.directory.unwrap().snapshots >= snapshots + u64::from(SHARDS)
    })
    .await;
}

fn online(user: &str, version: u64, connections: u32) -> UserOnline {
    UserOnline {
        user_id: user.to_owned(),
        version,
        connections,
    }
}

fn shard(user: &str) -> u32 {
    shard_of(user.as_bytes(), SHARDS)
}

fn count(fake: &Fake) -> usize {
    fake.log().frames.len()
}

#[tokio::test]
async fn a_push_goes_only_where_the_user_is() {
    let (one, two) = two().await;
    let client = builder(&[&one, &two]).connect().await.unwrap();
    assert!(one.log().hellos.iter().all(|hello| {
        hello.receive == [v1::Receive::Directory as i32]
            && hello
                .capabilities
                .contains(&v1::Capability::Directory.into())
    }));
    tell(&client, &one, &["alice"]).await;
    tell(&client, &two, &["bob"]).await;
    for _ in 0..10 {
        client.push(Push::user("alice").text("a")).await.unwrap();
        client.push(Push::user("bob").text("b")).await.unwrap();
    }
    client.flush().await.unwrap();
    assert_eq!(one.texts(shard("alice")), ["a"; 10]);
    assert_eq!(two.texts(shard("bob")), ["b"; 10]);
    assert_eq!((count(&one), count(&two)), (10, 10));
    let places = client.whereis("alice");
    assert_eq!(places.len(), 1);
    assert_eq!(
        (places[0].gateway.as_str(), places[0].connections),
        ("one", 1)
    );
    assert!(places[0].current);
    // Changes count at once.
    let changes = client.stats().directory.unwrap().changes;
    two.send(shard("alice"), Up::Online(online("alice", 2, 3)));
    one.send(
        shard("alice"),
        Up::Offline(UserOffline {
            user_id: "alice".to_owned(),
            version: 2,
        }),
    );
    until(&client, "changes", |stats| {
        stats.directory.unwrap().changes >= changes + 2
    })
    .await;
    let places = client.whereis("alice");
    assert_eq!(
        (places[0].gateway.as_str(), places[0].connections),
        ("two", 3)
    );
    client
        .push(Push::user("alice").text("moved"))
        .await
        .unwrap();
    client.flush().await.unwrap();
    assert_eq!((count(&one), count(&two)), (10, 11));
}

#[tokio::test]
async fn a_push_for_nobody_is_answered_at_once_and_crosses_no_network() {
    let (one, two) = two().await;
    let client = builder(&[&one, &two]).connect().await.unwrap();
    // While a gateway has not told all, whoever is known nowhere may be there.
    tell(&client, &one, &["alice"]).await;
    let receipt = client.push_confirmed(Push::user("nobody").text("x"));
    assert_eq!(receipt.await.unwrap().written, 1);
    assert_eq!((count(&one), count(&two)), (0, 1));
    tell(&client, &two, &[]).await;
    let receipt = client.push_confirmed(Push::user("nobody").text("x"));
    assert_eq!(receipt.await.unwrap().no_target, 1);
    client.push(Push::user("nobody").text("x")).await.unwrap();
    client.disconnect("nobody".to_owned(), 0, "").await.unwrap();
    assert_eq!(client.stats().no_target, 3);
    let list = Push::users(["alice", "nobody", "none"]).text("list");
    let receipt = client.push_confirmed(list).await.unwrap();
    assert_eq!((receipt.written, receipt.no_target), (1, 2));
    let receipt = client.push_confirmed(Push::users(["nobody", "none"]).text("list"));
    assert_eq!(receipt.await.unwrap().no_target, 2);
    assert_eq!(client.stats().no_target, 7);
    client.flush().await.unwrap();
    assert_eq!((count(&one), count(&two)), (1, 1));
}

#[tokio::test]
async fn a_new_epoch_of_a_gateway_has_nobody_yet() {
    let (one, two) = two().await;
    let client = builder(&[&one, &two]).connect().await.unwrap();
    tell(&client, &one, &["alice", "carol"]).await;
    tell(&client, &two, &["bob"]).await;
    let figures = client.stats().directory.unwrap();
    assert_eq!((figures.users, figures.complete, figures.shards), (3, 4, 4));
    let address = one.kill().await;
    until(&client, "the loss", |stats| {
        stats.directory.unwrap().complete == 2
    })
    .await;
    // What was known last stays.
    assert!(!client.whereis("alice")[0].current);
    client
        .push(Push::user("alice").text("waits"))
        .await
        .unwrap();
    client
        .push(Push::user("carol").text("moves"))
        .await
        .unwrap();
    // She comes back on the other gateway before the first one is there again.
    two.send(shard("carol"), Up::Online(online("carol", 5, 1)));
    until(&client, "carol", |_| client.whereis("carol").len() == 2).await;
    let one = Fake::start_at(&address, "one", 9, SHARDS).await;
    one.wait_for(1).await;
    two.wait_for(1).await;
    assert_eq!(one.texts(shard("alice")), ["waits"]);
    assert_eq!(two.texts(shard("carol")), ["moves"]);
    assert_eq!(client.whereis("alice"), []);
    assert_eq!(client.whereis("carol").len(), 1);
    tell(&client, &one, &["alice"]).await;
    assert_eq!(client.whereis("alice").len(), 1);
    let figures = client.stats().directory.unwrap();
    assert_eq!((figures.complete, figures.shards), (4, 4));
}

#[tokio::test]
async fn the_same_epoch_brings_its_users_back_exactly() {
    let fake = Fake::start_at("127.0.0.1:0", "one", 1, SHARDS).await;
    let client = builder(&[&fake]).connect().await.unwrap();
    tell(&client, &fake, &["alice", "bob", "carol"]).await;
    let address = fake.kill().await;
    until(&client, "the loss", |stats| {
        stats.directory.unwrap().complete == 0
    })
    .await;
    assert_eq!(client.stats().directory.unwrap().users, 3);
    let fake = Fake::start_at(&address, "one", 1, SHARDS).await;
    fake.wait("Hello", |log| log.hellos.len() == 2).await;
    tell(&client, &fake, &["bob", "dave"]).await;
    assert_eq!(client.stats().directory.unwrap().users, 2);
    for (user, places) in [("alice", 0), ("bob", 1), ("carol", 0), ("dave", 1)] {
        assert_eq!(client.whereis(user).len(), places, "{user}");
    }
}

/// Answers the queries that have come to a shard.
fn answer(fake: &Fake, users: u64, connections: u64) {
    let frames = fake.log().frames.clone();
    for (shard, frame) in frames {
        if let Some(Body::Query(_)) = frame.body {
            let result = QueryResult {
                sequence: frame.sequence,
                users,
                connection_count: connections,
                connections: vec![crate::fake::connection_of(fake.state.epoch, shard)],
                truncated: false,
            };
            fake.send(shard, Up::Result(result));
        }
    }
}

fn queries(log: &crate::fake::Log) -> usize {
    let frames = log.frames.iter();
    let query = |(_, frame): &&(u32, v1::LogicFrame)| matches!(frame.body, Some(Body::Query(_)));
    frames.filter(query).count()
}

#[tokio::test]
async fn a_query_asks_every_gateway_and_tells_them_apart() {
    let (one, two) = two().await;
    let client = builder(&[&one, &two]).connect().await.unwrap();
    let answering = async {
        for (fake, users) in [(&one, 10), (&two, 20)] {
            // Both shards are asked for totals.
            fake.wait("queries", |log| queries(log) == 2).await;
            answer(fake, users, users * 2);
        }
    };
    let (answers, ()) = tokio::join!(client.query_totals(), answering);
    let answers = answers.unwrap();
    assert!(answers.is_complete());
    assert_eq!((answers.users(), answers.connections()), (60, 120));
    let mut names: Vec<_> = answers.gateways.iter().collect();
    names.sort_by_key(|answer| &answer.gateway);
    assert_eq!((names[0].gateway.as_str(), names[0].users), ("one", 20));
    assert_eq!((names[1].gateway.as_str(), names[1].users), ("two", 40));
    assert_eq!(names[0].connections.len(), 2);
}

#[tokio::test]
async fn a_gateway_that_does_not_answer_is_named() {
    let (one, two) = two().await;
    let builder = builder(&[&one, &two]).query_timeout(Duration::from_millis(300));
    let client = builder.connect().await.unwrap();
    let answering = async {
        // A user is of one shard.
        one.wait("a query", |log| queries(log) == 1).await;
        answer(&one, 1, 1);
    };
    let (answers, ()) = tokio::join!(client.query_user("alice"), answering);
    let answers = answers.unwrap();
    assert_eq!(answers.missing, std::slice::from_ref(&two.address));
    assert_eq!((answers.users(), answers.gateways.len()), (1, 1));
    assert_eq!(queries(&two.log()), 1);
    // One that refuses is missing, and nobody waits for it.
    let refusing = async {
        for (fake, before) in [(&one, 1), (&two, 1)] {
            fake.wait("queries", |log| queries(log) == before + 2).await;
            let frames = fake.log().frames.clone();
            for (shard, frame) in frames.into_iter().skip(before) {
                let mut rejected = v1::Rejected {
                    sequence: frame.sequence,
                    ..Default::default()
                };
                rejected.set_reason(v1::RejectReason::Unsupported);
                fake.send(shard, Up::Rejected(rejected));
            }
        }
    };
    let (answers, ()) = tokio::join!(client.query_topic("news"), refusing);
    assert_eq!(answers.unwrap().missing.len(), 2);
    let invalid = client.query_user("").await.unwrap_err();
    assert!(matches!(invalid, logic_client::PushError::Invalid(_)));
}
