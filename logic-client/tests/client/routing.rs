//! Which stream a command goes to.

use crate::fake::{Fake, connection_of, user_of};
use gateway_proto::shard_of;
use gateway_proto::v1::logic_frame::Body;
use logic_client::{ConnectError, GatewayError, Invalid, LogicClient, Push, PushError};

async fn connect(gateways: &[&Fake]) -> LogicClient {
    let mut builder = LogicClient::builder();
    for fake in gateways {
        builder = builder.gateway(&fake.address);
    }
    builder.connect().await.unwrap()
}

#[tokio::test]
async fn a_users_pushes_go_straight_to_its_shard_in_order() {
    // Many users on four shards; a push on the wrong stream would be rejected by a gateway.
    let fake = Fake::start(4).await;
    let client = connect(&[&fake]).await;
    for number in 0..400 {
        let user = format!("user-{}", number % 40);
        client
            .push(Push::user(user).text(number.to_string()))
            .await
            .unwrap();
    }
    client.flush().await.unwrap();
    let log = fake.log();
    assert_eq!(log.frames.len(), 400);
    let mut newest = std::collections::HashMap::new();
    for (shard, frame) in &log.frames {
        let Some(Body::Push(push)) = &frame.body else {
            panic!("{frame:?}");
        };
        let user = crate::fake::users(push).remove(0);
        assert_eq!(*shard, shard_of(user.as_bytes(), 4));
        let number: i32 = std::str::from_utf8(&push.payload).unwrap().parse().unwrap();
        assert!(
            newest
                .insert(user, number)
                .is_none_or(|before| before < number)
        );
    }
    assert_eq!(log.hellos.len(), 4);
    let mut expected: Vec<_> = log
        .hellos
        .iter()
        .map(|h| h.expected_shard_plus_one)
        .collect();
    expected.sort_unstable();
    assert_eq!(expected, [1, 2, 3, 4]);
    assert!(
        log.hellos
            .iter()
            .all(|hello| hello.session_id == log.hellos[0].session_id)
    );
}

#[tokio::test]
async fn topics_and_everyone_go_to_every_shard_of_every_gateway() {
    let one = Fake::start_at("127.0.0.1:0", "one", 1, 2).await;
    let two = Fake::start_at("127.0.0.1:0", "two", 2, 3).await;
    let client = connect(&[&one, &two]).await;
    client
        .push(Push::topic("news").text("topic"))
        .await
        .unwrap();
    client
        .push(Push::everyone().text("everyone"))
        .await
        .unwrap();
    client.push(Push::user("alice").text("user")).await.unwrap();
    client.flush().await.unwrap();
    for fake in [&one, &two] {
        let shards = fake.state.shards;
        let alice = shard_of(b"alice", shards);
        for shard in 0..shards {
            let mut expected = vec!["topic", "everyone"];
            expected.extend((shard == alice).then_some("user"));
            assert_eq!(fake.texts(shard), expected);
        }
    }
}

#[tokio::test]
async fn a_list_of_users_is_split_by_shard() {
    let fake = Fake::start(3).await;
    let client = connect(&[&fake]).await;
    let users: Vec<String> = (0..100).map(|user| format!("user-{user}")).collect();
    client
        .push(Push::users(users.clone()).text("hi"))
        .await
        .unwrap();
    client.flush().await.unwrap();
    let log = fake.log();
    assert_eq!(log.frames.len(), 3, "one part for each shard");
    let mut seen = Vec::new();
    for (shard, frame) in &log.frames {
        let Some(Body::Push(push)) = &frame.body else {
            panic!("{frame:?}");
        };
        for user in crate::fake::users(push) {
            assert_eq!(shard_of(user.as_bytes(), 3), *shard);
            seen.push(user);
        }
    }
    seen.sort();
    let mut expected = users;
    expected.sort();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_connections_commands_go_to_the_gateway_and_shard_its_id_names() {
    let one = Fake::start_at("127.0.0.1:0", "one", 11, 2).await;
    let two = Fake::start_at("127.0.0.1:0", "two", 22, 2).await;
    let client = connect(&[&one, &two]).await;
    let connection = logic_client::Connection {
        epoch: 22,
        id: connection_of(22, 1).id,
    };
    client
        .push(Push::connection(connection).text("hi"))
        .await
        .unwrap();
    client.subscribe(connection, "room").await.unwrap();
    client.unsubscribe(connection, "room").await.unwrap();
    client.disconnect(connection, 1008, "no").await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(one.log().frames.len(), 0);
    let log = two.log();
    assert!(log.frames.iter().all(|(shard, _)| *shard == 1));
    let kinds: Vec<_> = log
        .frames
        .iter()
        .map(|(_, frame)| frame.body.as_ref().unwrap())
        .collect();
    assert!(matches!(
        kinds[..],
        [
            Body::Push(_),
            Body::Subscribe(_),
            Body::Unsubscribe(_),
            Body::Disconnect(_)
        ]
    ));
}

#[tokio::test]
async fn a_connection_of_an_unknown_run_has_no_target() {
    let fake = Fake::start(2).await;
    let client = connect(&[&fake]).await;
    let gone = logic_client::Connection { epoch: 999, id: 1 };
    client
        .push(Push::connection(gone).text("hi"))
        .await
        .unwrap();
    let receipt = client
        .push_confirmed(Push::connection(gone).text("hi"))
        .await
        .unwrap();
    assert_eq!((receipt.no_target, receipt.written), (1, 0));
    assert_eq!(client.stats().no_target, 2);
    assert_eq!(fake.log().frames.len(), 0);
}

#[tokio::test]
async fn subscriptions_of_a_user_reach_its_shard_on_every_gateway() {
    let one = Fake::start_at("127.0.0.1:0", "one", 1, 2).await;
    let two = Fake::start_at("127.0.0.1:0", "two", 2, 2).await;
    let client = connect(&[&one, &two]).await;
    let user = user_of(1, 2);
    client.subscribe(user, "room").await.unwrap();
    client.flush().await.unwrap();
    for fake in [&one, &two] {
        assert_eq!(
            fake.log()
                .frames
                .iter()
                .map(|(shard, _)| *shard)
                .collect::<Vec<_>>(),
            [1]
        );
    }
}

#[tokio::test]
async fn a_load_balanced_address_is_a_clear_error() {
    // Another gateway answers on the shard's address than was described.
    let fake = Fake::start(2).await;
    fake.set(|behaviour| behaviour.welcome_as = Some("another".to_owned()));
    let error = LogicClient::builder()
        .gateway(&fake.address)
        .connect()
        .await
        .unwrap_err();
    assert!(
        matches!(
            &error,
            ConnectError::Gateway(GatewayError::LoadBalanced { .. })
        ),
        "{error:?}"
    );
    assert!(
        error.to_string().ends_with(
            "this address is load-balanced; name the gateways themselves, for example with a headless service"
        ),
        "{error}"
    );
}

#[tokio::test]
async fn two_addresses_of_one_gateway_are_an_error() {
    let fake = Fake::start(1).await;
    let builder = LogicClient::builder()
        .gateway(&fake.address)
        .gateway(&fake.address);
    let error = builder.connect().await.unwrap_err();
    assert!(
        matches!(error, ConnectError::SameGateway { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn invalid_commands_cost_no_stream() {
    let fake = Fake::start(1).await;
    let client = connect(&[&fake]).await;
    let long = "x".repeat(257);
    for push in [
        Push::user(""),
        Push::topic(long),
        Push::user("a").conflate("k".repeat(300)),
    ] {
        let error = client.push(push).await.unwrap_err();
        assert!(
            matches!(error, PushError::Invalid(Invalid::Name { .. })),
            "{error:?}"
        );
    }
    let error = client
        .push(Push::users(Vec::<String>::new()))
        .await
        .unwrap_err();
    assert_eq!(error, PushError::Invalid(Invalid::NoUsers));
    let error = client
        .push(Push::user("a").binary(vec![0; 5 << 20]))
        .await
        .unwrap_err();
    assert!(
        matches!(error, PushError::Invalid(Invalid::PayloadTooLarge { .. })),
        "{error:?}"
    );
    client.push(Push::user("a").text("fine")).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(fake.texts(0), ["fine"]);
}

#[tokio::test]
async fn no_gateway_there_is_an_error_at_once() {
    let fake = Fake::start(1).await;
    let address = fake.kill().await;
    let error = LogicClient::builder()
        .gateway(address)
        .connect()
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ConnectError::Gateway(GatewayError::Unreachable { .. })
        ),
        "{error:?}"
    );
}
