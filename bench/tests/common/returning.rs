//! Users whose WebSockets come back, as well-behaved apps do: after the time they were asked to wait, wherever a gateway
//! takes them.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, protocol::CloseFrame},
};

/// The wait of a client that found no gateway.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// What all users have seen.
#[derive(Debug, Default)]
struct Seen {
    /// How often each message came, by user and text.
    messages: HashMap<(String, String), u32>,
    /// How often a gateway has sent a user away, and for how long.
    sent_away: Vec<Duration>,
    /// Connections that ended otherwise.
    broken: Vec<String>,
}

/// Users that stay connected until this is dropped.
pub struct Users {
    seen: Arc<Mutex<Seen>>,
    over: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Users {
    /// Each keeps one connection, to any of `gateways`.
    pub fn start(names: &[String], gateways: &[SocketAddr]) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let over = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        for (number, name) in names.iter().enumerate() {
            let user = User {
                name: name.clone(),
                gateways: gateways.to_vec(),
                turn: number,
                seen: Arc::clone(&seen),
            };
            let mut over = over.subscribe();
            tasks.spawn(async move {
                tokio::select! {
                    () = user.live() => {}
                    _ = over.changed() => {}
                }
            });
        }
        Self { seen, over, tasks }
    }

    /// How often `text` came to `user`.
    pub fn count(&self, user: &str, text: &str) -> u32 {
        let seen = self.seen.lock().unwrap();
        let key = (user.to_owned(), text.to_owned());
        seen.messages.get(&key).copied().unwrap_or(0)
    }

    /// Connections that ended without being asked to come back, and how many were asked.
    pub fn ends(&self) -> (Vec<String>, usize) {
        let seen = self.seen.lock().unwrap();
        (seen.broken.clone(), seen.sent_away.len())
    }

    /// Ends all, without a word.
    pub async fn end(mut self) {
        self.over.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

struct User {
    name: String,
    gateways: Vec<SocketAddr>,
    /// Which gateway is tried next: as behind a load balancer, not always the same.
    turn: usize,
    seen: Arc<Mutex<Seen>>,
}

impl User {
    async fn live(mut self) {
        loop {
            let gateway = self.gateways[self.turn % self.gateways.len()];
            self.turn += 1;
            let url = format!("ws://{gateway}/ws?user={}", self.name);
            match connect_async(url).await {
                Ok((socket, _)) => {
                    if let Some(wait) = self.listen(socket).await {
                        sleep(wait).await;
                    }
                }
                Err(_) => sleep(TRY_AGAIN).await,
            }
        }
    }

    /// Until the connection ends: how long to stay away, if a gateway has said so.
    async fn listen(
        &self,
        mut socket: WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>,
    ) -> Option<Duration> {
        let mut away = None;
        loop {
            let end = match socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    let key = (self.name.clone(), text.to_string());
                    *self.seen().messages.entry(key).or_default() += 1;
                    continue;
                }
                Some(Ok(Message::Close(close))) => {
                    match close.as_ref().and_then(retry_after) {
                        Some(wait) => {
                            self.seen().sent_away.push(wait);
                            away = Some(wait);
                        }
                        None => self.seen().broken.push(format!("{close:?}")),
                    }
                    // The answer to the Close leaves.
                    let _ = socket.flush().await;
                    continue;
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => error.to_string(),
                None => "the end".to_owned(),
            };
            if away.is_none() {
                self.seen().broken.push(end);
            }
            return away;
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }
}

fn retry_after(close: &CloseFrame) -> Option<Duration> {
    let millis = close.reason.strip_prefix("retry_after_ms=")?;
    let asked = u16::from(close.code) == 1012;
    asked.then_some(Duration::from_millis(millis.parse().ok()?))
}
