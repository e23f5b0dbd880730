//! Gateways that go away and come back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::fake::{Fake, PATIENCE, user_of};
use gateway_proto::shard_of;
use gateway_proto::v1::gateway_frame::Body as Up;
use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::{Draining, Subscribe};
use logic_client::{FlushError, LogicClient, Notice, Push, PushError, StreamState, What};
use tokio::time::timeout;

type Notices = Arc<Mutex<Vec<Notice>>>;

async fn connect(fake: &Fake) -> (LogicClient, Notices) {
    let notices = Notices::default();
    let seen = Arc::clone(&notices);
    let client = LogicClient::builder()
        .gateway(&fake.address)
        .backoff(Duration::from_millis(5), Duration::from_millis(50))
        .on_notice(move |notice| seen.lock().unwrap().push(notice.clone()))
        .connect()
        .await
        .unwrap();
    (client, notices)
}

fn is_lost(client: &LogicClient) -> bool {
    client
        .stats()
        .streams
        .iter()
        .all(|stream| stream.state != StreamState::Open)
}

/// Waits until the client has noticed something; it has no event for its own state.
async fn noticed(client: &LogicClient, what: impl Fn(&LogicClient) -> bool) {
    let waiting = async {
        while !what(client) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("noticed in time");
}

#[tokio::test]
async fn what_was_not_sent_is_sent_after_a_restart_and_nothing_twice() {
    // The gateway dies with everything acknowledged; pushes go on while it is away.
    let fake = Fake::start(2).await;
    let (client, notices) = connect(&fake).await;
    for number in 0..50 {
        let user = format!("user-{}", number % 5);
        client
            .push(Push::user(user).text(number.to_string()))
            .await
            .unwrap();
    }
    client.flush().await.unwrap();
    let address = fake.kill().await;
    noticed(&client, is_lost).await;
    for number in 50..100 {
        let user = format!("user-{}", number % 5);
        client
            .push(Push::user(user).text(number.to_string()))
            .await
            .unwrap();
    }
    let failed = |client: &LogicClient| client.stats().total().failed_attempts;
    noticed(&client, |client| failed(client) >= 4).await;

    let fake = Fake::start_at(&address, "fake", 2, 2).await;
    timeout(PATIENCE, client.flush()).await.unwrap().unwrap();
    let mut numbers: Vec<u32> = Vec::new();
    for shard in 0..2 {
        numbers.extend(
            fake.texts(shard)
                .iter()
                .map(|text| text.parse::<u32>().unwrap()),
        );
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (50..100).collect::<Vec<_>>());
    let total = client.stats().total();
    assert_eq!((total.sent, total.acked, total.unknown), (100, 100, 0));
    assert_eq!(total.reconnects, 2);
    let epochs: Vec<u64> = notices
        .lock()
        .unwrap()
        .iter()
        .filter_map(epoch_of)
        .collect();
    assert_eq!(epochs, [1, 1, 2, 2]);
}

fn epoch_of(notice: &Notice) -> Option<u64> {
    match notice.what {
        What::Connected { epoch } => Some(epoch),
        _ => None,
    }
}

#[tokio::test]
async fn what_was_on_its_way_is_unknown() {
    // The gateway takes commands and dies before it acknowledges them.
    let fake = Fake::start(1).await;
    let (client, notices) = connect(&fake).await;
    fake.set(|behaviour| {
        behaviour.ack = false;
        behaviour.receipt = |_, _| None;
    });
    let confirmed = tokio::spawn({
        let client = client.clone();
        async move { client.push_confirmed(Push::user("alice").text("0")).await }
    });
    fake.wait_for(1).await;
    for number in 1..10 {
        client
            .push(Push::user("alice").text(number.to_string()))
            .await
            .unwrap();
    }
    fake.wait_for(10).await;
    let flushing = tokio::spawn({
        let client = client.clone();
        async move { client.flush().await }
    });
    tokio::task::yield_now().await;
    let address = fake.kill().await;
    // Another run remembers nothing.
    let _fake = Fake::start_at(&address, "fake", 2, 1).await;
    let confirmed = timeout(PATIENCE, confirmed).await.unwrap().unwrap();
    assert_eq!(confirmed.unwrap_err().error, PushError::Unknown);
    // The flush waited for what was on its way, and cannot vouch for it.
    let flushed = timeout(PATIENCE, flushing).await.unwrap().unwrap();
    assert_eq!(flushed, Err(FlushError::Unknown { count: 10 }));
    assert_eq!(client.flush().await, Ok(()), "told once");
    assert_eq!(client.stats().total().unknown, 10);
    let lost = |notice: &Notice| matches!(notice.what, What::Unknown { count: 10 });
    assert!(notices.lock().unwrap().iter().any(lost));
}

#[tokio::test]
async fn another_number_of_shards_routes_what_was_not_sent_anew_in_order() {
    let fake = Fake::start(4).await;
    let (client, _) = connect(&fake).await;
    let address = fake.kill().await;
    noticed(&client, is_lost).await;
    for number in 0..60 {
        let user = format!("user-{}", number % 12);
        client
            .push(Push::user(user).text(number.to_string()))
            .await
            .unwrap();
        if number % 20 == 10 {
            client
                .push(Push::everyone().text(format!("{number}.5")))
                .await
                .unwrap();
        }
    }
    let users: Vec<String> = (0..12).map(|user| format!("user-{user}")).collect();
    client.push(Push::users(users).text("60")).await.unwrap();
    let confirmed = tokio::spawn({
        let client = client.clone();
        async move { client.push_confirmed(Push::topic("t").text("61")).await }
    });
    noticed(&client, |client| {
        client
            .stats()
            .streams
            .iter()
            .map(|stream| stream.buffered)
            .sum::<usize>()
            >= 60 + 5 * 4
    })
    .await;

    let fake = Fake::start_at(&address, "fake", 2, 3).await;
    let confirmed = timeout(PATIENCE, confirmed)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(
        confirmed.written, 3,
        "one receipt of each of the new shards"
    );
    timeout(PATIENCE, client.flush()).await.unwrap().unwrap();
    for shard in 0..3 {
        let came: Vec<f64> = fake
            .texts(shard)
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let mut expected: Vec<f64> = (0..60)
            .filter(|number| shard_of(format!("user-{}", number % 12).as_bytes(), 3) == shard)
            .map(f64::from)
            .chain([10.5, 30.5, 50.5, 60.0, 61.0])
            .collect();
        expected.sort_by(f64::total_cmp);
        assert_eq!(
            came, expected,
            "shard {shard}: all, once, in the order of the calls"
        );
    }
    let stats = client.stats();
    assert_eq!(stats.streams.len(), 3);
    assert_eq!(stats.total().unknown, 0);
}

#[tokio::test]
async fn a_gateway_that_was_away_at_first_is_found_later() {
    let here = Fake::start_at("127.0.0.1:0", "here", 1, 1).await;
    let away = Fake::start_at("127.0.0.1:0", "away", 2, 1)
        .await
        .kill()
        .await;
    let client = LogicClient::builder()
        .gateway(&here.address)
        .gateway(&away)
        .backoff(Duration::from_millis(5), Duration::from_millis(20))
        .connect()
        .await
        .unwrap();
    assert_eq!(client.stats().missing, [away.as_str()]);
    client.push(Push::everyone().text("one")).await.unwrap();
    client.flush().await.unwrap();
    let there = Fake::start_at(&away, "away", 3, 1).await;
    there.wait("Hello", |log| !log.hellos.is_empty()).await;
    assert!(client.stats().missing.is_empty());
    client.push(Push::everyone().text("two")).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(here.texts(0), ["one", "two"]);
    assert_eq!(there.texts(0), ["two"]);
}

#[tokio::test]
async fn a_draining_gateway_gets_pushes_until_the_stream_ends() {
    let fake = Fake::start(1).await;
    let (client, notices) = connect(&fake).await;
    fake.send(0, Up::Draining(Draining { remaining_ms: 500 }));
    noticed(&client, |client| {
        client.stats().streams[0].state == StreamState::Draining
    })
    .await;
    client
        .push(Push::user("alice").text("still"))
        .await
        .unwrap();
    client.flush().await.unwrap();
    assert_eq!(fake.texts(0), ["still"]);
    let told = |notice: &Notice| matches!(notice.what, What::Draining { remaining_ms: 500 });
    assert!(notices.lock().unwrap().iter().any(told));
}

#[tokio::test]
async fn commands_that_wait_keep_their_order_with_pushes() {
    // Subscribe and push to the same user, while the gateway is away.
    let fake = Fake::start(2).await;
    let (client, _) = connect(&fake).await;
    let address = fake.kill().await;
    noticed(&client, is_lost).await;
    let user = user_of(1, 2);
    client.subscribe(user.as_str(), "room").await.unwrap();
    client
        .push(Push::topic("room").text("first"))
        .await
        .unwrap();
    let fake = Fake::start_at(&address, "fake", 2, 2).await;
    timeout(PATIENCE, client.flush()).await.unwrap().unwrap();
    let log = fake.log();
    let mine: Vec<_> = log.frames.iter().filter(|(shard, _)| *shard == 1).collect();
    let expected = Subscribe {
        target: Some(gateway_proto::v1::subscribe::Target::UserId(user)),
        topic: "room".to_owned(),
    };
    assert_eq!(mine[0].1.body, Some(Body::Subscribe(expected)));
    assert!(matches!(mine[1].1.body, Some(Body::Push(_))));
}
