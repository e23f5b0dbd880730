//! The demo's logic service as a state machine: what clients did goes in, what the gateway is to do comes out.
//!
//! Rooms are topics. A person's connections lie on one shard, a room's on all of them, so a room's message is one push
//! to each shard.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use gateway_proto::v1::PayloadKind;
use serde::{Deserialize, Serialize};

use crate::identity::ConnId;

/// Connections to this path get back what they send.
pub(super) const ECHO_PATH: &str = "/echo";
/// Every connection that chats is subscribed to this topic, for the live counters.
pub(super) const STATS_TOPIC: &str = "stats";

/// Longest name of a person and of a room, in characters.
const MAX_NAME: usize = 64;
/// Longest message, in characters.
const MAX_TEXT: usize = 2000;
/// Most rooms, and most connections in one room.
const MAX_ROOMS: usize = 1000;
const MAX_ROOM_SIZE: usize = 500;
/// What a newcomer is shown of the past.
const HISTORY: usize = 30;

/// What a client did.
#[derive(Debug)]
pub(super) enum Event {
    /// It has connected to `path`.
    Opened {
        conn: ConnId,
        user: Option<String>,
        path: String,
    },
    /// It has sent a message.
    Message {
        conn: ConnId,
        kind: PayloadKind,
        payload: Bytes,
    },
    /// It is gone.
    Closed { conn: ConnId },
}

/// What the gateway is to do.
#[derive(Debug, PartialEq)]
pub(super) enum Command {
    /// A message for one connection.
    Send {
        conn: ConnId,
        kind: PayloadKind,
        payload: Bytes,
    },
    /// A text for all members of a topic, on every shard. Of several with the same `latest` key only the newest counts.
    Publish {
        topic: String,
        payload: Bytes,
        latest: Option<&'static str>,
    },
    /// The connection is to hear a topic.
    Subscribe { conn: ConnId, topic: String },
    /// The connection is to hear it no more.
    Unsubscribe { conn: ConnId, topic: String },
}

/// Who is here, and in which room.
#[derive(Default)]
pub(super) struct Chat {
    people: HashMap<ConnId, Person>,
    rooms: HashMap<String, Room>,
    /// Numbers the rooms: a room's topic must not depend on what people call it.
    next_room: u64,
}

struct Person {
    name: String,
    role: Role,
}

enum Role {
    Echo,
    /// Chats, in the room of this name.
    Chat(Option<String>),
}

struct Room {
    topic: String,
    members: Vec<ConnId>,
    history: VecDeque<Said>,
}

/// What the page says.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum FromPage {
    Join { room: String },
    Say { text: String, tag: Option<u32> },
    Leave,
}

/// What the page is told.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ToPage<'a> {
    Joined {
        room: &'a str,
        shard: u16,
        history: &'a VecDeque<Said>,
    },
    Said(&'a Said),
    Members {
        members: Vec<Member<'a>>,
    },
    Notice {
        name: &'a str,
        what: &'a str,
    },
    Error {
        text: &'a str,
    },
}

#[derive(Clone, Serialize)]
struct Said {
    name: String,
    shard: u16,
    text: String,
    /// Milliseconds since 1970.
    at: u64,
    /// Chosen by the sender, to know its message again.
    tag: Option<u32>,
}

#[derive(Serialize)]
struct Member<'a> {
    name: &'a str,
    shard: u16,
    tabs: usize,
}

impl Chat {
    /// Takes one event, and appends what follows from it to `out`. `at` is the time of day in milliseconds since 1970.
    pub(super) fn handle(&mut self, event: Event, at: u64, out: &mut Vec<Command>) {
        match event {
            Event::Opened { conn, user, path } => self.opened(conn, user, &path, out),
            Event::Closed { conn } => {
                self.leave(conn, out);
                self.people.remove(&conn);
            }
            Event::Message {
                conn,
                kind,
                payload,
            } => match self.people.get(&conn).map(|person| &person.role) {
                Some(Role::Echo) => out.push(Command::Send {
                    conn,
                    kind,
                    payload,
                }),
                Some(Role::Chat(_)) => self.said(conn, &payload, at, out),
                // A connection older than this service.
                None => {}
            },
        }
    }

    fn opened(&mut self, conn: ConnId, user: Option<String>, path: &str, out: &mut Vec<Command>) {
        let role = if path == ECHO_PATH {
            Role::Echo
        } else {
            let topic = STATS_TOPIC.to_owned();
            out.push(Command::Subscribe { conn, topic });
            Role::Chat(None)
        };
        let name = user.unwrap_or_else(|| "anonymous".to_owned());
        let name = name.chars().take(MAX_NAME).collect();
        self.people.insert(conn, Person { name, role });
    }

    fn said(&mut self, conn: ConnId, payload: &[u8], at: u64, out: &mut Vec<Command>) {
        let told = match serde_json::from_slice(payload) {
            Ok(FromPage::Join { room }) => self.join(conn, &room, out),
            Ok(FromPage::Say { text, tag }) => self.say(conn, &text, tag, at, out),
            Ok(FromPage::Leave) => {
                self.leave(conn, out);
                Ok(())
            }
            Err(_) => Err(
                "This service speaks JSON: {\"type\": \"join\", \"room\": …}, \"say\" with a \"text\", or \"leave\".",
            ),
        };
        if let Err(text) = told {
            tell(conn, &ToPage::Error { text }, out);
        }
    }

    fn join(
        &mut self,
        conn: ConnId,
        name: &str,
        out: &mut Vec<Command>,
    ) -> Result<(), &'static str> {
        let name = name.trim();
        if name.is_empty() || name.chars().count() > MAX_NAME {
            return Err("The name of a room has 1 to 64 characters.");
        }
        if !self.rooms.contains_key(name) && self.rooms.len() >= MAX_ROOMS {
            return Err("There are too many rooms.");
        }
        if self
            .rooms
            .get(name)
            .is_some_and(|room| room.members.len() >= MAX_ROOM_SIZE)
        {
            return Err("The room is full.");
        }
        self.leave(conn, out);
        let Some(person) = self.people.get_mut(&conn) else {
            return Ok(());
        };
        person.role = Role::Chat(Some(name.to_owned()));
        let next_room = &mut self.next_room;
        let room = self.rooms.entry(name.to_owned()).or_insert_with(|| {
            *next_room += 1;
            Room::new(*next_room)
        });
        room.members.push(conn);
        let topic = room.topic.clone();
        out.push(Command::Subscribe { conn, topic });
        let (shard, history) = (conn.shard(), &room.history);
        let joined = ToPage::Joined {
            room: name,
            shard,
            history,
        };
        tell(conn, &joined, out);
        let what = "joined";
        out.push(room.publish(
            &ToPage::Notice {
                name: &person.name,
                what,
            },
            None,
        ));
        out.push(self.members(name));
        Ok(())
    }

    fn say(
        &mut self,
        conn: ConnId,
        text: &str,
        tag: Option<u32>,
        at: u64,
        out: &mut Vec<Command>,
    ) -> Result<(), &'static str> {
        if text.chars().count() > MAX_TEXT {
            return Err("A message has at most 2,000 characters.");
        }
        let person = self.people.get(&conn);
        let Some((name, room)) = person.and_then(|person| person.room()) else {
            return Err("Join a room first.");
        };
        let Some(room) = self.rooms.get_mut(room) else {
            return Err("The room is gone.");
        };
        let said = Said {
            name: name.to_owned(),
            shard: conn.shard(),
            text: text.to_owned(),
            at,
            tag,
        };
        out.push(room.publish(&ToPage::Said(&said), None));
        if room.history.len() == HISTORY {
            room.history.pop_front();
        }
        room.history.push_back(said);
        Ok(())
    }

    /// Takes the connection out of its room, if it is in one. Empty rooms go, and their past with them.
    fn leave(&mut self, conn: ConnId, out: &mut Vec<Command>) {
        let Some(person) = self.people.get_mut(&conn) else {
            return;
        };
        let Role::Chat(room) = &mut person.role else {
            return;
        };
        let Some(name) = room.take() else { return };
        let Some(room) = self.rooms.get_mut(&name) else {
            return;
        };
        room.members.retain(|member| *member != conn);
        let topic = room.topic.clone();
        out.push(Command::Unsubscribe { conn, topic });
        if room.members.is_empty() {
            self.rooms.remove(&name);
            return;
        }
        let what = "left";
        out.push(room.publish(
            &ToPage::Notice {
                name: &person.name,
                what,
            },
            None,
        ));
        out.push(self.members(&name));
    }

    /// The whole list: it is short, and whoever missed one has the next.
    fn members(&self, room: &str) -> Command {
        let room = &self.rooms[room];
        let mut tabs = BTreeMap::new();
        for conn in &room.members {
            let name = self.people[conn].name.as_str();
            *tabs.entry((name, conn.shard())).or_insert(0) += 1;
        }
        let members = tabs
            .into_iter()
            .map(|((name, shard), tabs)| Member { name, shard, tabs });
        let members = members.collect();
        room.publish(&ToPage::Members { members }, Some("members"))
    }
}

impl Person {
    fn room(&self) -> Option<(&str, &str)> {
        match &self.role {
            Role::Chat(Some(room)) => Some((&self.name, room)),
            _ => None,
        }
    }
}

impl Room {
    fn new(number: u64) -> Self {
        Self {
            topic: format!("room-{number}"),
            members: Vec::new(),
            history: VecDeque::new(),
        }
    }

    fn publish(&self, message: &ToPage<'_>, latest: Option<&'static str>) -> Command {
        let (topic, payload) = (self.topic.clone(), json(message));
        Command::Publish {
            topic,
            payload,
            latest,
        }
    }
}

fn tell(conn: ConnId, message: &ToPage<'_>, out: &mut Vec<Command>) {
    let (kind, payload) = (PayloadKind::Text, json(message));
    out.push(Command::Send {
        conn,
        kind,
        payload,
    });
}

/// The text of a message to the page.
pub(super) fn json(message: &impl Serialize) -> Bytes {
    serde_json::to_vec(message)
        .expect("plain structs become JSON")
        .into()
}

#[cfg(test)]
mod tests;
