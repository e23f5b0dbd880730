//! Full buffers, and streams that must not wait for each other.

use std::time::Duration;

use crate::fake::{Fake, PATIENCE, user_of};
use logic_client::{LogicClient, Push, ReturnReason, TryPushError};
use tokio::time::timeout;

/// A client of a gateway that reads nothing, its buffers full.
async fn stalled(fake: &Fake) -> (LogicClient, Push) {
    let client = LogicClient::builder()
        .gateway(&fake.address)
        .buffer(8, 16 << 20)
        .connect()
        .await
        .unwrap();
    fake.set(|behaviour| behaviour.read = false);
    let push = Push::user(user_of(0, fake.state.shards)).binary(vec![0; 100_000]);
    let fill = async {
        // Sockets and windows take some, too; then pushing waits for good.
        while timeout(Duration::from_millis(200), client.push(push.clone()))
            .await
            .is_ok()
        {}
    };
    timeout(PATIENCE, fill).await.unwrap();
    (client, push)
}

#[tokio::test]
async fn a_full_buffer_hands_back_and_makes_wait_until_there_is_room() {
    let fake = Fake::start(1).await;
    let (client, push) = stalled(&fake).await;
    let error = client.try_push(push.clone()).unwrap_err();
    assert_eq!(error, TryPushError::Full(push.clone()));
    let stats = client.stats();
    let stream = &stats.streams[0];
    assert_eq!(stream.buffered + stream.unacked, 8, "{stats:?}");

    let waiting = tokio::spawn({
        let (client, push) = (client.clone(), push.clone());
        async move { client.push(push).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    fake.set(|behaviour| behaviour.read = true);
    timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    timeout(PATIENCE, client.flush()).await.unwrap().unwrap();
    assert_eq!(client.stats().total().unknown, 0);
}

#[tokio::test]
async fn a_push_that_stopped_waiting_was_not_sent() {
    // Dropping the future of a push must leave it nowhere: a caller may retry elsewhere.
    let fake = Fake::start(1).await;
    let (client, _) = stalled(&fake).await;
    let user = user_of(0, 1);
    let dropped = client.push(Push::user(user.as_str()).text("dropped"));
    assert!(timeout(Duration::from_millis(20), dropped).await.is_err());
    fake.set(|behaviour| behaviour.read = true);
    client
        .push(Push::user(user.as_str()).text("sent"))
        .await
        .unwrap();
    client.flush().await.unwrap();
    let log = fake.log();
    let came = |text: &str| {
        let is = |frame: &gateway_proto::v1::LogicFrame| match &frame.body {
            Some(gateway_proto::v1::logic_frame::Body::Push(push)) => push.payload == text,
            _ => false,
        };
        log.frames.iter().filter(|(_, frame)| is(frame)).count()
    };
    assert_eq!((came("dropped"), came("sent")), (0, 1));
}

#[tokio::test]
async fn a_stalled_gateway_does_not_stall_another() {
    // One gateway reads nothing; a user of the other gets everything. With several gateways a
    // user's push goes to both, so the target is a connection.
    let stuck = Fake::start_at("127.0.0.1:0", "stuck", 1, 1).await;
    let well = Fake::start_at("127.0.0.1:0", "well", 2, 1).await;
    let client = LogicClient::builder()
        .gateway(&stuck.address)
        .gateway(&well.address)
        .buffer(8, 16 << 20)
        .connect()
        .await
        .unwrap();
    stuck.set(|behaviour| behaviour.read = false);
    let connection = |epoch| logic_client::Connection { epoch, id: 1 };
    let large = Push::connection(connection(1)).binary(vec![0; 100_000]);
    while timeout(Duration::from_millis(200), client.push(large.clone()))
        .await
        .is_ok()
    {}
    assert!(matches!(client.try_push(large), Err(TryPushError::Full(_))));
    for number in 0..1000 {
        let push = Push::connection(connection(2)).text(number.to_string());
        timeout(PATIENCE, client.push(push)).await.unwrap().unwrap();
    }
    well.wait_for(1000).await;
    // A push for both is taken by both or by none.
    let error = client.try_push(Push::everyone().text("all")).unwrap_err();
    assert!(matches!(error, TryPushError::Full(_)), "{error:?}");
    client
        .push(Push::connection(connection(2)).text("last"))
        .await
        .unwrap();
    well.wait_for(1001).await;
    assert!(!well.texts(0).contains(&"all".to_owned()));
}

#[tokio::test]
async fn what_expires_in_the_buffer_is_counted_and_not_sent() {
    let fake = Fake::start(1).await;
    let client = LogicClient::builder()
        .gateway(&fake.address)
        .connect()
        .await
        .unwrap();
    let address = fake.kill().await;
    let lost = async {
        while client.stats().streams[0].last_error.is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, lost).await.unwrap();
    let user = user_of(0, 1);
    client
        .push(
            Push::user(user.as_str())
                .text("old")
                .ttl(Duration::from_millis(1)),
        )
        .await
        .unwrap();
    client
        .push(Push::user(user.as_str()).text("lasting").ttl(PATIENCE))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let fake = Fake::start_at(&address, "fake", 2, 1).await;
    timeout(PATIENCE, client.flush()).await.unwrap().unwrap();
    assert_eq!(fake.texts(0), ["lasting"]);
    let expired = client.stats().total().returned_for(&ReturnReason::Expired);
    assert_eq!(expired, 1);
    let log = fake.log();
    let Some(gateway_proto::v1::logic_frame::Body::Push(push)) = &log.frames[0].1.body else {
        panic!();
    };
    let left = push.delivery.as_ref().unwrap().ttl_ms;
    assert!((1..20_000).contains(&left), "what is left of it: {left}");
}
