//! Streams that break, end and go on where they were, over real sockets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::fake::{Fake, PATIENCE, connection_of, user_of};
use gateway_proto::v1;
use h2_stream::Code;
use logic_client::{
    Builder, LogicClient, Outcome, Overflow, Push, PushError, ReturnReason, Returned, TryPushError,
};
use tokio::time::timeout;

type Back = Arc<Mutex<Vec<Returned>>>;

async fn connect(fake: &Fake, set: impl FnOnce(Builder) -> Builder) -> (LogicClient, Back) {
    let back = Back::default();
    let seen = Arc::clone(&back);
    let builder = LogicClient::builder()
        .gateway(&fake.address)
        .backoff(Duration::from_millis(5), Duration::from_millis(50))
        .on_returned(move |returned| seen.lock().unwrap().push(returned));
    (set(builder).connect().await.unwrap(), back)
}

fn texts(back: &Back) -> Vec<(String, ReturnReason)> {
    let back = back.lock().unwrap();
    let text = |returned: &Returned| {
        let debug = format!("{:?}", returned.push);
        let start = debug.find("payload: b\"").unwrap() + 11;
        let end = debug[start..].find('"').unwrap() + start;
        (debug[start..end].to_owned(), returned.reason.clone())
    };
    back.iter().map(text).collect()
}

fn numbers(fake: &Fake) -> Vec<u32> {
    let texts = fake.texts(0);
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

async fn until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("in time");
}

#[tokio::test]
async fn a_broken_stream_goes_on_and_nothing_is_lost_doubled_or_unknown() {
    let fake = Fake::start(1).await;
    let (client, back) = connect(&fake, |builder| builder).await;
    for number in 0..2000 {
        client
            .push(Push::user("a").text(number.to_string()))
            .await
            .unwrap();
        if number % 400 == 399 {
            fake.cut(0);
        }
    }
    timeout(PATIENCE, client.flush()).await.unwrap().unwrap();
    assert_eq!(numbers(&fake), (0..2000).collect::<Vec<_>>());
    let total = client.stats().total();
    assert_eq!((total.acked, total.unknown), (2000, 0));
    assert!(total.resumed >= 1 && texts(&back).is_empty());
}

#[tokio::test]
async fn an_acknowledged_command_is_not_sent_again_though_its_ack_was_lost() {
    let fake = Fake::start(1).await;
    let (client, _) = connect(&fake, |builder| builder).await;
    fake.set(|behaviour| behaviour.ack = false);
    for number in 0..10 {
        client
            .push(Push::user("a").text(number.to_string()))
            .await
            .unwrap();
    }
    fake.wait_for(10).await;
    fake.cut(0);
    timeout(PATIENCE, client.flush()).await.unwrap().unwrap();
    assert_eq!(numbers(&fake), (0..10).collect::<Vec<_>>());
    assert_eq!(client.stats().total().resent, 0, "Welcome tells");
}

#[tokio::test]
async fn what_nobody_remembers_is_handed_back_or_sent_again_as_set() {
    for resend in [false, true] {
        let fake = Fake::start(1).await;
        let (client, back) = connect(&fake, |builder| builder.resend_unknown(resend)).await;
        fake.set(|behaviour| behaviour.ack = false);
        client.push(Push::user("a").text("1")).await.unwrap();
        fake.wait_for(1).await;
        fake.state.sessions.lock().unwrap().forget();
        fake.end(0, Code::Internal);
        fake.wait("another Hello", |log| log.hellos.len() == 2)
            .await;
        fake.set(|behaviour| behaviour.ack = true);
        let flushed = timeout(PATIENCE, client.flush()).await.unwrap();
        assert!(flushed.is_err(), "it cannot be vouched for");
        if resend {
            assert_eq!(fake.texts(0), ["1", "1"]);
            assert!(texts(&back).is_empty());
        } else {
            assert_eq!(fake.texts(0), ["1"]);
            assert_eq!(texts(&back), [("1".to_owned(), ReturnReason::Unknown)]);
        }
    }
}

#[tokio::test]
async fn after_an_end_in_good_order_what_was_not_acknowledged_is_sent_once_more() {
    let fake = Fake::start(1).await;
    let (client, back) = connect(&fake, |builder| builder).await;
    client.push(Push::user("a").text("0")).await.unwrap();
    client.flush().await.unwrap();
    fake.end(0, Code::Unavailable);
    for number in 1..50 {
        client
            .push(Push::user("a").text(number.to_string()))
            .await
            .unwrap();
    }
    timeout(PATIENCE, client.flush()).await.unwrap().unwrap();
    assert_eq!(numbers(&fake), (0..50).collect::<Vec<_>>());
    assert!(texts(&back).is_empty());
}

#[tokio::test]
async fn a_stranger_in_the_session_costs_nobody_a_message() {
    let fake = Fake::start(1).await;
    let (client, back) = connect(&fake, |builder| builder).await;
    fake.set(|behaviour| behaviour.ack = false);
    client.push(Push::user("a").text("1")).await.unwrap();
    fake.wait_for(1).await;
    // What a gateway says when another stream came with the token of this one.
    fake.end(0, Code::Aborted);
    fake.wait("another Hello", |log| log.hellos.len() == 2)
        .await;
    fake.set(|behaviour| behaviour.ack = true);
    until(|| !texts(&back).is_empty()).await;
    assert_eq!(texts(&back), [("1".to_owned(), ReturnReason::Unknown)]);
    client.push(Push::user("a").text("2")).await.unwrap();
    timeout(PATIENCE, client.flush())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(fake.texts(0), ["1", "2"]);
    let log = fake.log();
    assert_ne!(log.hellos[0].session_id, log.hellos[1].session_id);
    assert_eq!(client.stats().total().shared_sessions, 1);
}

#[tokio::test]
async fn a_confirmed_push_is_answered_whatever_breaks() {
    let fake = Fake::start(1).await;
    let (client, back) = connect(&fake, |builder| builder).await;
    fake.set(|behaviour| behaviour.receipt = |_, _| None);
    let confirmed = tokio::spawn({
        let client = client.clone();
        async move { client.push_confirmed(Push::user("a").text("x")).await }
    });
    fake.wait_for(1).await;
    client.flush().await.unwrap();
    fake.cut(0);
    let answer = timeout(PATIENCE, confirmed).await.unwrap().unwrap();
    assert_eq!(
        answer.unwrap_err().error,
        PushError::Unknown,
        "the receipt went with the stream"
    );
    assert!(texts(&back).is_empty());
}

#[tokio::test]
async fn a_receipt_names_its_targets_if_asked_for() {
    let fake = Fake::start(2).await;
    fake.set(|behaviour| {
        behaviour.receipt = |shard, _| {
            let outcomes = [(v1::Outcome::Written, 2), (v1::Outcome::Closed, 1)];
            Some(vec![outcomes[shard as usize]])
        };
    });
    let (client, _) = connect(&fake, |builder| builder).await;
    let push = Push::everyone().text("x");
    let receipt = client.push_confirmed_targets(push.clone()).await.unwrap();
    let mut targets = receipt.targets;
    targets.sort_by_key(|(_, connection)| *connection);
    let on = |shard| connection_of(1, shard).into();
    assert_eq!(
        targets,
        [
            (Outcome::Written, on(0)),
            (Outcome::Written, on(0)),
            (Outcome::Closed, on(1))
        ]
    );
    assert_eq!((receipt.written, receipt.closed), (2, 1));
    assert_eq!(client.push_confirmed(push).await.unwrap().targets, []);
}

#[tokio::test]
async fn many_pushes_keep_their_order_and_refusals_come_back() {
    let fake = Fake::start(3).await;
    let (client, _) = connect(&fake, |builder| builder.buffer(64, 1 << 20)).await;
    let mut pushes: Vec<Push> = (0..1000)
        .map(|number| Push::user(format!("user-{}", number % 7)).text(number.to_string()))
        .collect();
    pushes.insert(500, Push::everyone().text("499"));
    pushes.insert(100, Push::user("").text("nobody"));
    let refused = timeout(PATIENCE, client.push_many(pushes)).await.unwrap();
    assert!(
        matches!(&refused[..], [(push, PushError::Invalid(_))] if *push == Push::user("").text("nobody")),
        "{refused:?}"
    );
    client.flush().await.unwrap();
    let mut all = 0;
    for shard in 0..3 {
        let texts = fake.texts(shard);
        let numbers: Vec<u32> = texts.iter().map(|text| text.parse().unwrap()).collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
        all += numbers.len();
    }
    assert_eq!(all, 1003);
}

#[tokio::test]
async fn a_full_buffer_refuses_or_drops_the_oldest_as_set() {
    for overflow in [Overflow::Error, Overflow::DropOldest] {
        let fake = Fake::start(1).await;
        let (client, back) = connect(&fake, |b| b.buffer(4, 1 << 20).overflow(overflow)).await;
        fake.kill().await;
        until(|| client.stats().streams[0].last_error.is_some()).await;
        let user = user_of(0, 1);
        let push = |number: u32| Push::user(user.as_str()).text(number.to_string());
        for number in 0..4 {
            client.push(push(number)).await.unwrap();
        }
        if overflow == Overflow::Error {
            assert_eq!(client.push(push(4)).await, Err(PushError::Full));
            let refused = client.push_many((5..7).map(push)).await;
            assert_eq!(
                refused,
                [(push(5), PushError::Full), (push(6), PushError::Full)]
            );
        } else {
            client.push(push(4)).await.unwrap();
            assert_eq!(texts(&back), [("0".to_owned(), ReturnReason::Displaced)]);
        }
        let total = client.stats().total();
        let displaced = total.returned_for(&ReturnReason::Displaced);
        assert_eq!(displaced, u64::from(overflow == Overflow::DropOldest));
        let left = client.close(Duration::from_millis(10)).await;
        assert_eq!(left.pushes.len(), 4);
    }
}

#[tokio::test]
async fn what_waits_too_long_comes_back_though_the_gateway_does_not() {
    let fake = Fake::start(1).await;
    let age = Duration::from_millis(100);
    let (client, back) = connect(&fake, |builder| builder.buffer_age(age)).await;
    fake.set(|behaviour| behaviour.ack = false);
    client.push(Push::user("a").text("sent")).await.unwrap();
    fake.wait_for(1).await;
    fake.kill().await;
    until(|| client.stats().streams[0].last_error.is_some()).await;
    let short = Push::user("a").text("short").ttl(Duration::from_millis(1));
    client.push(short).await.unwrap();
    client.push(Push::user("a").text("waiting")).await.unwrap();
    until(|| texts(&back).len() == 3).await;
    let mut back = texts(&back);
    back.sort_by(|(one, _), (other, _)| one.cmp(other));
    assert_eq!(
        back,
        [
            ("sent".to_owned(), ReturnReason::Unknown),
            ("short".to_owned(), ReturnReason::Expired),
            ("waiting".to_owned(), ReturnReason::TooOld)
        ]
    );
    // Nothing is left to wait for.
    assert!(timeout(PATIENCE, client.flush()).await.unwrap().is_err());
}

#[tokio::test]
async fn close_gives_back_what_may_have_arrived_as_pushes() {
    let fake = Fake::start(1).await;
    let (client, back) = connect(&fake, |builder| builder).await;
    fake.set(|behaviour| behaviour.ack = false);
    let pushes: Vec<Push> = (0..3)
        .map(|n| Push::user("a").text(n.to_string()))
        .collect();
    client.push_many(pushes.clone()).await;
    fake.wait_for(3).await;
    let left = client.close(Duration::from_millis(10)).await;
    assert_eq!((left.unknown, left.unknown_pushes), (3, pushes));
    assert!(left.pushes.is_empty() && texts(&back).is_empty());
}

#[tokio::test]
async fn a_client_that_is_dropped_hands_back_what_it_has() {
    let fake = Fake::start(1).await;
    let (client, back) = connect(&fake, |builder| builder).await;
    fake.kill().await;
    until(|| client.stats().streams[0].last_error.is_some()).await;
    client.push(Push::user("a").text("1")).await.unwrap();
    drop(client);
    assert_eq!(texts(&back), [("1".to_owned(), ReturnReason::Closed)]);
}

#[tokio::test]
async fn without_resume_there_is_no_session() {
    let fake = Fake::start(1).await;
    let (client, back) = connect(&fake, |builder| builder.resume(false)).await;
    fake.set(|behaviour| behaviour.ack = false);
    client.push(Push::user("a").text("1")).await.unwrap();
    fake.wait_for(1).await;
    fake.cut(0);
    timeout(PATIENCE, client.flush())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!((client.stats().total().unknown, texts(&back).len()), (1, 0));
    assert!(fake.log().hellos[0].session_id.is_empty());
    let full = client.try_push(Push::user("").text("x"));
    assert!(matches!(full, Err(TryPushError::Invalid(..))));
}
