//! What a push costs the client: run it with `--release --nocapture` for the figure.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::fake::{Fake, PATIENCE};
use logic_client::{Bytes, LogicClient, Push};

/// Four streams, one task that pushes, users all over: everything arrives. In a debug build the
/// number is smaller, the claim the same.
#[test]
fn one_task_fills_four_streams() {
    const PUSHES: u64 = if cfg!(debug_assertions) {
        50_000
    } else {
        2_000_000
    };
    let (tell, told) = std::sync::mpsc::channel();
    let gateway = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let fake = Fake::start(4).await;
            fake.set(|behaviour| behaviour.keep = false);
            tell.send((fake.address.clone(), fake.state.clone()))
                .unwrap();
            fake.wait("all", |_| {
                fake.state.handled.load(Ordering::Relaxed) >= PUSHES + 4
            })
            .await;
            fake.wait("the end", |log| log.connections > 5).await;
        });
    });
    let (address, state) = told.recv().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = LogicClient::builder()
            .gateway(&address)
            .connect()
            .await
            .unwrap();
        let users: Vec<String> = (0..10_000).map(|user| format!("user-{user}")).collect();
        let payload = Bytes::from(vec![b'x'; 128]);
        let start = Instant::now();
        for user in users.iter().cycle().take(PUSHES as usize) {
            let push = Push::user(user.as_str()).binary(payload.clone());
            client.push(push).await.unwrap();
        }
        let pushed = start.elapsed();
        tokio::time::timeout(PATIENCE, client.flush())
            .await
            .unwrap()
            .unwrap();
        let acked = start.elapsed();
        let rate = |time: Duration| PUSHES as f64 / time.as_secs_f64() / 1e6;
        println!(
            "pushed {:.2} M/s, acknowledged {:.2} M/s",
            rate(pushed),
            rate(acked)
        );
        let total = client.stats().total();
        assert_eq!(
            (total.sent, total.acked, total.unknown),
            (PUSHES, PUSHES, 0)
        );
        assert_eq!(state.handled.load(Ordering::Relaxed), PUSHES + 4);
        let left = client.close(PATIENCE).await;
        assert_eq!((left.pushes.len(), left.unknown), (0, 0));
        // One more connection lets the gateway's thread end.
        tokio::net::TcpStream::connect(&address).await.unwrap();
    });
    gateway.join().unwrap();
}
