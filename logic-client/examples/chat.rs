//! Chat rooms: each room is a topic. Clients send plain text:
//!
//! - `/join ROOM` enters a room, `/leave ROOM` leaves it;
//! - anything else is said in the room that was joined last.
//!
//! `cargo run -p logic-client --example chat -- --gateway 127.0.0.1:9000`, then connect to
//! `ws://127.0.0.1:8080/ws?user=NAME`.

use std::collections::HashMap;
use std::time::Duration;

use logic_client::{Connection, Event, LogicClient, Message, Push, PushError};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = LogicClient::builder()
        .gateway(gateway())
        .service("chat")
        .receive_messages(true)
        .connect()
        .await?;
    let mut events = client.events().ok_or("events were taken")?;
    let mut chat = Chat {
        client: client.clone(),
        rooms: HashMap::new(),
    };
    println!("chatting until ctrl-c");
    loop {
        tokio::select! {
            Some(event) = events.next() => chat.on_event(event).await?,
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    client.close(Duration::from_secs(5)).await;
    Ok(())
}

struct Chat {
    client: LogicClient,
    /// The room each connection has joined last.
    rooms: HashMap<Connection, String>,
}

impl Chat {
    async fn on_event(&mut self, event: Event) -> Result<(), PushError> {
        match event {
            Event::Opened(opened) => {
                let hint = "welcome! /join ROOM, /leave ROOM, or just talk";
                let push = Push::connection(opened.connection).text(hint);
                self.client.push(push).await
            }
            Event::Message(message) => self.on_message(&message).await,
            Event::Closed(closed) => {
                self.rooms.remove(&closed.connection);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn on_message(&mut self, message: &Message) -> Result<(), PushError> {
        let Some(text) = message.text() else {
            return self.answer(message, "text, please").await;
        };
        let name = message.user.as_deref().unwrap_or("someone");
        match text.split_once(' ') {
            Some(("/join", room)) if is_room(room) => {
                self.client.subscribe(message.connection, room).await?;
                self.rooms.insert(message.connection, room.to_owned());
                self.say(room, &format!("* {name} has joined {room}")).await
            }
            Some(("/leave", room)) if is_room(room) => {
                self.say(room, &format!("* {name} has left {room}")).await?;
                self.client.unsubscribe(message.connection, room).await?;
                self.rooms.retain(|connection, joined| {
                    *connection != message.connection || joined != room
                });
                Ok(())
            }
            _ if text.starts_with('/') => self.answer(message, "/join ROOM or /leave ROOM").await,
            _ => match self.rooms.get(&message.connection) {
                Some(room) => self.say(room, &format!("[{room}] {name}: {text}")).await,
                None => self.answer(message, "/join ROOM first").await,
            },
        }
    }

    async fn say(&self, room: &str, line: &str) -> Result<(), PushError> {
        self.client.push(Push::topic(room).text(line)).await
    }

    async fn answer(&self, message: &Message, line: &str) -> Result<(), PushError> {
        self.client.push(message.reply().text(line)).await
    }
}

/// What a client sends must not become an invalid topic.
fn is_room(room: &str) -> bool {
    (1..=64).contains(&room.len())
}

/// `--gateway ADDR`.
fn gateway() -> String {
    let mut args = std::env::args().skip_while(|arg| arg != "--gateway");
    args.nth(1).unwrap_or_else(|| "127.0.0.1:9000".to_owned())
}
