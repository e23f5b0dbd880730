//! What comes back: receipts, rejections, what clients do; and the end.

use std::time::Duration;

use crate::fake::{Fake, PATIENCE, connection_of, user_of};
use gateway_proto::v1::gateway_frame::Body as Up;
use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::{self, ClientMessage, Outcome, PayloadKind};
use logic_client::{Event, Kind, LogicClient, Push, PushError, RejectReason};
use tokio::time::timeout;

async fn connect(fake: &Fake) -> LogicClient {
    let builder = LogicClient::builder().gateway(&fake.address);
    builder
        .service("test")
        .receive_messages(true)
        .connect()
        .await
        .unwrap()
}

#[tokio::test]
async fn receipts_of_all_shards_become_one() {
    let fake = Fake::start(3).await;
    fake.set(|behaviour| {
        behaviour.receipt = |shard, _| {
            let outcomes = [
                vec![(Outcome::Written, 2), (Outcome::Conflated, 1)],
                vec![(Outcome::NoTarget, 1)],
                vec![(Outcome::DroppedSlow, 4), (Outcome::Closed, 1)],
            ];
            Some(outcomes[shard as usize].clone())
        };
    });
    let client = connect(&fake).await;
    let receipt = client
        .push_confirmed(Push::topic("t").text("x"))
        .await
        .unwrap();
    assert_eq!(
        (receipt.written, receipt.conflated, receipt.dropped_slow),
        (2, 1, 4)
    );
    assert_eq!(
        (receipt.closed, receipt.no_target, receipt.lost()),
        (1, 0, 6)
    );
    let nowhere = Push::user(user_of(1, 3)).text("x");
    assert_eq!(client.push_confirmed(nowhere).await.unwrap().no_target, 1);
}

#[tokio::test]
async fn a_rejection_fails_the_push_and_is_counted_and_told() {
    let fake = Fake::start(1).await;
    fake.set(|behaviour| {
        behaviour.reject = |push| (push.payload == "bad").then_some(v1::RejectReason::Overloaded);
    });
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let client = LogicClient::builder()
        .gateway(&fake.address)
        .on_notice(move |notice| {
            let _ = tell.send(notice.clone());
        })
        .connect()
        .await
        .unwrap();
    let error = client
        .push_confirmed(Push::user("a").text("bad"))
        .await
        .unwrap_err();
    assert!(matches!(&error.error, PushError::Rejected(r) if r.reason == RejectReason::Overloaded));
    client.push(Push::user("a").text("bad")).await.unwrap();
    client.push(Push::user("a").text("good")).await.unwrap();
    client.flush().await.unwrap();
    let total = client.stats().total();
    assert_eq!(
        (
            total.rejected(),
            total.rejected_for(RejectReason::Overloaded)
        ),
        (2, 2)
    );
    assert_eq!(total.acked, 3, "an Ack covers what was rejected");
    let mut rejections = 0;
    while let Ok(notice) = told.try_recv() {
        rejections += u32::from(matches!(notice.what, logic_client::What::Rejected(_)));
    }
    assert_eq!(rejections, 2);
}

#[tokio::test]
async fn too_many_awaited_receipts_fail_instead_of_piling_up() {
    let fake = Fake::start(1).await;
    fake.set(|behaviour| behaviour.receipt = |_, _| None);
    let builder = LogicClient::builder()
        .gateway(&fake.address)
        .max_receipts(2);
    let client = builder.connect().await.unwrap();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.push_confirmed(Push::user("a").text("x")).await })
        })
        .collect();
    fake.wait_for(2).await;
    let third = timeout(PATIENCE, client.push_confirmed(Push::user("a").text("x")))
        .await
        .unwrap();
    let third = third.unwrap_err();
    assert_eq!(third.error, PushError::TooManyReceipts);
    assert!(matches!(&third.returned[..], [back] if back.is_retriable()));
    assert_eq!(client.stats().total().over_receipts, 1);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_part_that_fails_hides_nothing_that_was_delivered() {
    let fake = Fake::start(3).await;
    fake.set(|behaviour| {
        behaviour.receipt = |shard, _| Some(vec![(Outcome::Written, shard + 1)]);
        // Shard 1 is the only one with this user.
        behaviour.reject = |push| {
            let users = crate::fake::users(push);
            let bad = users.contains(&user_of(1, 3));
            bad.then_some(v1::RejectReason::Overloaded)
        };
    });
    let client = connect(&fake).await;
    let push = Push::users((0..3).map(|shard| user_of(shard, 3))).text("x");
    let failed = client.push_confirmed(push).await.unwrap_err();
    assert!(matches!(failed.error, PushError::Rejected(_)), "{failed}");
    assert_eq!(failed.delivered.written, 1 + 3, "shards 0 and 2");
    assert!(failed.to_string().ends_with("written to 4 connections"));
    let [back] = &failed.returned[..] else {
        panic!("{failed:?}");
    };
    assert_eq!((back.shard, back.attempts), (1, 1));
    assert!(back.is_retriable(), "{back:?}");

    // What is pushed again reaches only whom it has not reached.
    fake.set(|behaviour| behaviour.reject = |_| None);
    let receipt = client.push_confirmed(back.push.clone()).await.unwrap();
    assert_eq!(receipt.written, 2);
    for shard in 0..3 {
        let log = fake.log();
        let of = log.frames.iter().filter(|(at, _)| *at == shard);
        let users: Vec<_> = of
            .filter_map(|(_, frame)| match &frame.body {
                Some(Body::Push(push)) => Some(crate::fake::users(push)),
                _ => None,
            })
            .collect();
        let times = if shard == 1 { 2 } else { 1 };
        assert_eq!(users, vec![vec![user_of(shard, 3)]; times], "{shard}");
    }
}

fn message(id: u64, text: &str) -> Up {
    let mut message = ClientMessage {
        id,
        connection: Some(connection_of(1, 0)),
        user_id: Some("alice".to_owned()),
        payload: text.to_owned().into(),
        ..ClientMessage::default()
    };
    message.set_kind(PayloadKind::Text);
    Up::Message(message)
}

fn acks(fake: &Fake, shard: u32) -> Vec<u64> {
    let log = fake.log();
    let of = log.frames.iter().filter(|(at, _)| *at == shard);
    of.filter_map(|(_, frame)| match &frame.body {
        Some(Body::ClientAck(ack)) => Some(ack.id),
        _ => None,
    })
    .collect()
}

#[tokio::test]
async fn an_event_is_acknowledged_when_the_next_one_is_asked_for() {
    let fake = Fake::start(2).await;
    let client = connect(&fake).await;
    let mut events = client.events().unwrap();
    assert!(client.events().is_none(), "only one takes events");
    let opened = v1::ClientOpened {
        id: 1,
        connection: Some(connection_of(1, 0)),
        remote_address: "127.0.0.1:5".to_owned(),
        headers: vec![v1::Header {
            name: "x".into(),
            value: "y".into(),
        }],
        ..v1::ClientOpened::default()
    };
    fake.send(0, Up::Opened(opened));
    fake.send(0, message(2, "hi"));
    let closed = v1::ClientClosed {
        id: 3,
        code: 1001,
        ..v1::ClientClosed::default()
    };
    fake.send(0, Up::Closed(closed));

    let Some(Event::Opened(opened)) = events.next().await else {
        panic!()
    };
    assert_eq!(
        (opened.user, opened.remote_address.as_str()),
        (None, "127.0.0.1:5")
    );
    assert_eq!(opened.headers, [("x".to_owned(), "y".to_owned())]);
    let Some(Event::Message(message)) = events.next().await else {
        panic!()
    };
    assert_eq!((message.text(), message.kind), (Some("hi"), Kind::Text));
    fake.wait("the first ack", |log| !log.frames.is_empty())
        .await;
    assert_eq!(acks(&fake, 0), [1], "the message is still being handled");

    client.push(message.reply().text("answer")).await.unwrap();
    let Some(Event::Closed(closed)) = events.next().await else {
        panic!()
    };
    assert_eq!(closed.code, 1001);
    events.acknowledge();
    fake.wait("all acks", |log| {
        let last = log
            .frames
            .iter()
            .filter_map(|(_, frame)| frame.body.as_ref());
        last.filter(|body| matches!(body, Body::ClientAck(ack) if ack.id == 3))
            .count()
            == 1
    })
    .await;
    assert_eq!(fake.texts(0), ["answer"]);
    assert_eq!(client.stats().total().events, 3);
}

#[tokio::test]
async fn events_nobody_takes_are_held_back_by_credit() {
    // The application takes no events: the gateway can send no more than the window.
    let fake = Fake::start(1).await;
    let client = LogicClient::builder()
        .gateway(&fake.address)
        .service("test")
        .receive_messages(true)
        .event_window(64 << 10)
        .connect()
        .await
        .unwrap();
    let text = "x".repeat(1000);
    for id in 1..=500 {
        fake.send(0, message(id, &text));
    }
    let mut events = client.events().unwrap();
    let waiting = async {
        while client.stats().total().events < 60 {
            tokio::task::yield_now().await;
        }
        // Whatever else was on its way would have come before the answer to a push.
        client.push(Push::user("a").text("x")).await.unwrap();
        fake.wait_for(1).await;
    };
    timeout(PATIENCE, waiting).await.unwrap();
    let held = client.stats().total().events;
    assert!(
        held <= 66,
        "{held} events of 1,000 bytes in a window of 64 KiB"
    );
    for id in 1..=500 {
        let event = timeout(PATIENCE, events.next()).await.unwrap();
        assert!(matches!(event, Some(Event::Message(_))), "{id}");
    }
    events.acknowledge();
    let whole = |log: &crate::fake::Log| {
        let ack = |frame: &v1::LogicFrame| match &frame.body {
            Some(Body::ClientAck(ack)) => ack.id,
            _ => 0,
        };
        log.frames.iter().map(|(_, frame)| ack(frame)).max() == Some(500)
    };
    fake.wait("all acknowledged", whole).await;
}

#[tokio::test]
async fn close_sends_what_is_buffered_and_ends_events() {
    let fake = Fake::start(2).await;
    let client = connect(&fake).await;
    let mut events = client.events().unwrap();
    for number in 0..1000 {
        let push = Push::user(format!("user-{number}")).text(number.to_string());
        client.try_push(push).unwrap();
    }
    let other = client.clone();
    let left = client.close(PATIENCE).await;
    assert_eq!((left.pushes.len(), left.commands, left.unknown), (0, 0, 0));
    assert_eq!(fake.texts(0).len() + fake.texts(1).len(), 1000);
    assert_eq!(events.next().await, None);
    assert_eq!(
        other.push(Push::user("a").text("late")).await,
        Err(PushError::Closed)
    );
}

#[tokio::test]
async fn close_hands_back_what_could_not_be_sent() {
    // The gateway is gone: after the deadline everything comes back, once, in order.
    let fake = Fake::start(2).await;
    let client = connect(&fake).await;
    fake.kill().await;
    let unreachable = async {
        while client.stats().total().failed_attempts == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, unreachable).await.unwrap();
    let pushes = vec![
        Push::user("alice").text("1"),
        Push::everyone().text("2"),
        Push::users((0..10).map(|user| format!("user-{user}"))).text("3"),
        Push::user("bob").text("4"),
    ];
    for push in &pushes {
        client.push(push.clone()).await.unwrap();
    }
    client.subscribe("alice", "room").await.unwrap();
    let left = timeout(PATIENCE, client.close(Duration::from_millis(50)))
        .await
        .unwrap();
    assert_eq!(left.pushes.len(), 4);
    assert_eq!((&left.pushes[0], &left.pushes[1]), (&pushes[0], &pushes[1]));
    assert_eq!(left.pushes[3], pushes[3]);
    assert_eq!((left.commands, left.unknown), (1, 0));
}

#[tokio::test]
async fn close_reports_what_was_on_its_way_as_unknown() {
    let fake = Fake::start(1).await;
    fake.set(|behaviour| behaviour.ack = false);
    let client = connect(&fake).await;
    for number in 0..7 {
        client
            .push(Push::user("a").text(number.to_string()))
            .await
            .unwrap();
    }
    fake.wait_for(7).await;
    let left = timeout(PATIENCE, client.close(Duration::from_millis(50)))
        .await
        .unwrap();
    assert_eq!((left.pushes.len(), left.unknown), (0, 7));
}
