//! What a service does with what comes back, over real sockets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::fake::{Fake, PATIENCE};
use logic_client::{LogicClient, Push, Returned};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::timeout;

const ATTEMPTS: u32 = 5;

/// The recipe of the guide; counts what it gives up.
async fn try_again(client: LogicClient, mut returned: Receiver<Returned>, lost: Arc<AtomicUsize>) {
    let room = Arc::new(Semaphore::new(1000));
    while let Some(back) = returned.recv().await {
        if !back.is_retriable() || back.attempts >= ATTEMPTS {
            lost.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let permit = Arc::clone(&room).acquire_owned().await;
        let (client, lost) = (client.clone(), Arc::clone(&lost));
        tokio::spawn(async move {
            let again = timeout(PATIENCE, client.push(back.push)).await;
            lost.fetch_add(usize::from(!matches!(again, Ok(Ok(())))), Ordering::Relaxed);
            drop(permit);
        });
    }
}

#[tokio::test]
async fn what_comes_back_is_pushed_again_and_arrives_exactly_once_everywhere() {
    let stuck = Fake::start_at("127.0.0.1:0", "stuck", 1, 2).await;
    let well = Fake::start_at("127.0.0.1:0", "well", 2, 2).await;
    let (sender, returned) = channel(10_000);
    let came_back = Arc::new(AtomicUsize::new(0));
    let client = LogicClient::builder()
        .gateway(&stuck.address)
        .gateway(&well.address)
        .buffer(64, 16 << 20)
        .on_returned({
            let came_back = Arc::clone(&came_back);
            move |back| {
                came_back.fetch_add(1, Ordering::Relaxed);
                sender.try_send(back).unwrap();
            }
        })
        .connect()
        .await
        .unwrap();
    let lost = Arc::new(AtomicUsize::new(0));
    tokio::spawn(try_again(client.clone(), returned, Arc::clone(&lost)));

    // One gateway takes nothing for a while; then its connections break, too.
    stuck.set(|behaviour| behaviour.read = false);
    let padding = "x".repeat(20_000);
    for number in 0..400 {
        let push = match number % 3 {
            0 => Push::user(format!("user-{number}")),
            1 => Push::topic("news"),
            _ => Push::users(["alice", "bob", "carol", "dave"]),
        };
        let push = push.text(format!("{number} {padding}"));
        timeout(PATIENCE, client.push(push)).await.unwrap().unwrap();
    }
    assert!(came_back.load(Ordering::Relaxed) > 0, "it was stuck");
    stuck.cut(0);
    stuck.set(|behaviour| behaviour.read = true);

    let shards_of = |number: usize| match number % 3 {
        0 => vec![gateway_proto::shard_of(
            format!("user-{number}").as_bytes(),
            2,
        )],
        1 => vec![0, 1],
        _ => {
            let users = ["alice", "bob", "carol", "dave"];
            let shards = users.map(|user| gateway_proto::shard_of(user.as_bytes(), 2));
            let mut shards = shards.to_vec();
            shards.sort_unstable();
            shards.dedup();
            shards
        }
    };
    let mut expected: BTreeMap<(u32, usize), usize> = BTreeMap::new();
    for number in 0..400 {
        for shard in shards_of(number) {
            expected.insert((shard, number), 1);
        }
    }
    for fake in [&stuck, &well] {
        fake.wait_for(expected.len()).await;
    }
    timeout(PATIENCE, client.flush()).await.unwrap().unwrap();
    for fake in [&stuck, &well] {
        let mut arrived: BTreeMap<(u32, usize), usize> = BTreeMap::new();
        for shard in 0..2 {
            for text in fake.texts(shard) {
                let number = text.split(' ').next().unwrap().parse().unwrap();
                *arrived.entry((shard, number)).or_default() += 1;
            }
        }
        assert_eq!(arrived, expected, "{}", fake.state.id);
    }
    assert_eq!(lost.load(Ordering::Relaxed), 0);
    assert!(client.close(Duration::from_secs(1)).await.pushes.is_empty());
}
