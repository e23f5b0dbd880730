//! Gateways that come and go while the client runs, as a resolver tells.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::fake::{Fake, PATIENCE};
use logic_client::resolver::{Endpoint, Resolver, Updates};
use logic_client::{ConnectError, LogicClient, Notice, Push, Streams, What};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Tells what the test tells it.
struct Told(mpsc::UnboundedReceiver<Result<Vec<Endpoint>, &'static str>>);

impl Resolver for Told {
    fn run(mut self: Box<Self>, updates: Updates) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            while let Some(told) = self.0.recv().await {
                match told {
                    Ok(endpoints) => updates.set(endpoints),
                    Err(trouble) => updates.trouble(trouble),
                }
            }
        })
    }
}

type Teller = mpsc::UnboundedSender<Result<Vec<Endpoint>, &'static str>>;

fn resolver() -> (Teller, Told) {
    let (tell, told) = mpsc::unbounded_channel();
    (tell, Told(told))
}

fn set(fakes: &[&Fake]) -> Result<Vec<Endpoint>, &'static str> {
    let endpoints = fakes.iter().map(|fake| Endpoint::new(&fake.address));
    Ok(endpoints.collect())
}

/// Waits until the client has noticed something.
async fn noticed(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("noticed in time");
}

#[tokio::test]
async fn gateways_are_added_and_removed_without_a_restart() {
    let one = Fake::start_at("127.0.0.1:0", "one", 1, 2).await;
    let other = Fake::start_at("127.0.0.1:0", "other", 2, 1).await;
    let (tell, resolver) = resolver();
    tell.send(set(&[&one])).unwrap();
    let notices = Arc::<Mutex<Vec<Notice>>>::default();
    let seen = Arc::clone(&notices);
    let client = LogicClient::builder()
        .resolver(resolver)
        .leave_after(Duration::ZERO)
        .on_notice(move |notice| seen.lock().unwrap().push(notice.clone()))
        .connect()
        .await
        .unwrap();
    client.push(Push::everyone().text("1")).await.unwrap();
    tell.send(set(&[&one, &other])).unwrap();
    other.wait("Hello", |log| !log.hellos.is_empty()).await;
    client.push(Push::everyone().text("2")).await.unwrap();
    timeout(PATIENCE, client.flush()).await.unwrap().unwrap();

    tell.send(set(&[&other])).unwrap();
    noticed(|| client.stats().streams.len() == 1).await;
    client.push(Push::everyone().text("3")).await.unwrap();
    timeout(PATIENCE, client.flush()).await.unwrap().unwrap();
    assert_eq!((one.texts(0), one.texts(1)), (texts("1 2"), texts("1 2")));
    assert_eq!(other.texts(0), texts("2 3"));

    // Trouble changes nothing but is told.
    tell.send(Err("the registry is away")).unwrap();
    let told = |what: &What| notices.lock().unwrap().iter().any(|one| one.what == *what);
    let trouble = "the registry is away".to_owned();
    noticed(|| {
        told(&What::Resolver {
            trouble: trouble.clone(),
        })
    })
    .await;
    assert!(told(&What::GatewayAdded) && told(&What::GatewayRemoved));
    client.push(Push::everyone().text("4")).await.unwrap();
    timeout(PATIENCE, client.flush()).await.unwrap().unwrap();
    assert_eq!(other.texts(0), texts("2 3 4"));
}

fn texts(texts: &str) -> Vec<String> {
    texts.split(' ').map(str::to_owned).collect()
}

#[tokio::test]
async fn connecting_waits_for_a_set_with_a_gateway_in_it() {
    let fake = Fake::start(1).await;
    let (tell, resolver) = resolver();
    let connecting = tokio::spawn(LogicClient::builder().resolver(resolver).connect());
    tell.send(Err("not yet")).unwrap();
    tell.send(Ok(Vec::new())).unwrap();
    tell.send(set(&[&fake])).unwrap();
    let client = timeout(PATIENCE, connecting)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(client.stats().streams.len(), 1);
}

#[tokio::test]
async fn a_resolver_that_names_nobody_is_an_error_in_time() {
    let (tell, resolver) = resolver();
    tell.send(Ok(Vec::new())).unwrap();
    let connecting = LogicClient::builder()
        .resolver(resolver)
        .connect_timeout(Duration::from_millis(50))
        .connect();
    assert_eq!(connecting.await.unwrap_err(), ConnectError::NoGateway);
}

#[tokio::test]
async fn named_gateways_stay_beside_those_that_are_resolved() {
    let named = Fake::start_at("127.0.0.1:0", "named", 1, 1).await;
    let found = Fake::start_at("127.0.0.1:0", "found", 2, 1).await;
    let (tell, resolver) = resolver();
    let client = LogicClient::builder()
        .gateway(&named.address)
        .resolver(resolver)
        .leave_after(Duration::ZERO)
        .connect()
        .await
        .unwrap();
    tell.send(set(&[&found])).unwrap();
    found.wait("Hello", |log| !log.hellos.is_empty()).await;
    tell.send(Ok(Vec::new())).unwrap();
    noticed(|| client.stats().streams.len() == 1).await;
    assert_eq!(client.stats().streams[0].gateway, named.address);
}

#[tokio::test]
async fn one_stream_to_a_gateway_of_many_shards() {
    let fake = Fake::start(8).await;
    let client = LogicClient::builder()
        .gateway(&fake.address)
        .service("small")
        .streams(Streams::One)
        .connect()
        .await
        .unwrap();
    let users: Vec<String> = (0..20).map(|user| format!("user-{user}")).collect();
    for user in &users {
        client
            .push(Push::user(user.as_str()).text("1"))
            .await
            .unwrap();
    }
    timeout(PATIENCE, client.flush()).await.unwrap().unwrap();
    let shard = gateway_proto::shard_of(b"small", 8);
    assert_eq!(fake.texts(shard).len(), 20);
    assert_eq!(client.stats().streams.len(), 1);
}

#[tokio::test]
async fn a_stream_is_replaced_when_it_is_old() {
    let fake = Fake::start(1).await;
    let client = LogicClient::builder()
        .gateway(&fake.address)
        .max_stream_age(Duration::from_secs(1))
        .connect()
        .await
        .unwrap();
    let mut pushed = 0;
    while fake.log().hellos.len() < 3 {
        client
            .push(Push::user("u").text(pushed.to_string()))
            .await
            .unwrap();
        pushed += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    timeout(PATIENCE, client.flush()).await.unwrap().unwrap();
    let expected: Vec<_> = (0..pushed).map(|push: i32| push.to_string()).collect();
    assert_eq!(fake.texts(0), expected);
    assert_eq!(client.stats().total().unknown, 0);
}
