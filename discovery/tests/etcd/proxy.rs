//! A way to etcd that the test can block: bytes stay away, and no connection ends.

use std::net::TcpListener as StdListener;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Proxy {
    port: u16,
    gate: Arc<Gate>,
}

struct Gate {
    blocked: watch::Sender<bool>,
    /// Blocks when these bytes have come from etcd, before they are passed on.
    trigger: watch::Sender<Vec<u8>>,
}

impl Proxy {
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let gate = Arc::new(Gate {
            blocked: watch::Sender::new(false),
            trigger: watch::Sender::new(Vec::new()),
        });
        let (target, shared) = (target.to_owned(), Arc::clone(&gate));
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(&target).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pass(from_client, to_server, Arc::clone(&shared), false));
                tokio::spawn(pass(from_server, to_client, Arc::clone(&shared), true));
            }
        });
        Self { port, gate }
    }

    /// An endpoint where nobody listens.
    pub async fn dead() -> String {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on nothing passes, in either direction.
    pub fn block(&self) {
        self.gate.blocked.send_replace(true);
    }

    /// Once `bytes` have come from etcd, they still pass, but nothing more goes to etcd.
    pub fn block_after(&self, bytes: &[u8]) {
        self.gate.trigger.send_replace(bytes.to_vec());
    }

    /// What was held back passes.
    pub fn unblock(&self) {
        self.gate.trigger.send_replace(Vec::new());
        self.gate.blocked.send_replace(false);
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, gate: Arc<Gate>, answers: bool) {
    let mut blocked = gate.blocked.subscribe();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        let trigger = gate.trigger.borrow().clone();
        let triggered = !trigger.is_empty();
        if answers && triggered {
            let mut windows = buffer[..read].windows(trigger.len());
            if windows.any(|window| window == trigger) {
                gate.blocked.send_replace(true);
            }
        } else {
            // The gate stays as long as this does.
            let _ = blocked.wait_for(|blocked| !blocked).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
