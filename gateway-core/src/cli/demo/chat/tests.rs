use serde_json::{Value, json};

use super::*;

fn conn(shard: u16, slot: u32) -> ConnId {
    ConnId::new(shard, slot, 7)
}

fn open(chat: &mut Chat, conn: ConnId, user: &str, path: &str) -> Vec<Command> {
    let mut out = Vec::new();
    let (user, path) = (Some(user.to_owned()), path.to_owned());
    chat.handle(Event::Opened { conn, user, path }, 0, &mut out);
    out
}

fn send(chat: &mut Chat, conn: ConnId, message: &Value) -> Vec<Command> {
    let mut out = Vec::new();
    let payload = message.to_string().into();
    let kind = PayloadKind::Text;
    chat.handle(
        Event::Message {
            conn,
            kind,
            payload,
        },
        1_000,
        &mut out,
    );
    out
}

fn join(chat: &mut Chat, conn: ConnId, room: &str) -> Vec<Command> {
    send(chat, conn, &json!({"type": "join", "room": room}))
}

/// What was published, by topic, and what single connections were told.
fn texts(commands: &[Command]) -> Vec<Value> {
    let texts = commands.iter().filter_map(|command| match command {
        Command::Send { payload, .. } | Command::Publish { payload, .. } => Some(payload),
        _ => None,
    });
    texts
        .map(|text| serde_json::from_slice(text).unwrap())
        .collect()
}

fn error(commands: &[Command]) -> bool {
    matches!(texts(commands).as_slice(), [only] if only["type"] == "error")
}

#[test]
fn echo_keeps_kind_and_bytes() {
    // Also what would be a chat command, and what is no UTF-8, comes back untouched.
    let mut chat = Chat::default();
    let echo = conn(0, 1);
    assert!(open(&mut chat, echo, "a", ECHO_PATH).is_empty());
    for (kind, payload) in [
        (
            PayloadKind::Text,
            Bytes::from_static(b"{\"type\":\"leave\"}"),
        ),
        (PayloadKind::Binary, Bytes::from_static(&[0xff, 0, 0xfe])),
        (PayloadKind::Text, Bytes::new()),
    ] {
        let mut out = Vec::new();
        let event = Event::Message {
            conn: echo,
            kind,
            payload: payload.clone(),
        };
        chat.handle(event, 0, &mut out);
        assert_eq!(
            out,
            [Command::Send {
                conn: echo,
                kind,
                payload
            }]
        );
    }
}

#[test]
fn room_spans_shards_and_names_them() {
    let mut chat = Chat::default();
    let (alice, bob) = (conn(0, 1), conn(1, 1));
    open(&mut chat, alice, "alice", "/ws");
    open(&mut chat, bob, "bob", "/ws");
    join(&mut chat, alice, "lobby");
    let out = join(&mut chat, bob, " lobby ");
    let Command::Subscribe { conn, topic } = &out[0] else {
        panic!("subscribed before anything is published: {out:?}");
    };
    assert_eq!(*conn, bob);
    let told = texts(&out);
    assert_eq!(
        told[0],
        json!({"type": "joined", "room": "lobby", "shard": 1, "history": []})
    );
    assert_eq!(
        told[1],
        json!({"type": "notice", "name": "bob", "what": "joined"})
    );
    let members =
        json!([{"name": "alice", "shard": 0, "tabs": 1}, {"name": "bob", "shard": 1, "tabs": 1}]);
    assert_eq!(told[2]["members"], members);

    let out = send(
        &mut chat,
        alice,
        &json!({"type": "say", "text": "<b>hi</b>", "tag": 5}),
    );
    let [
        Command::Publish {
            topic: to,
            latest: None,
            ..
        },
    ] = out.as_slice()
    else {
        panic!("one push for the room: {out:?}");
    };
    assert_eq!(to, topic);
    let said = json!({"type": "said", "name": "alice", "shard": 0, "text": "<b>hi</b>", "at": 1000, "tag": 5});
    assert_eq!(texts(&out), [said]);
}

#[test]
fn newcomer_sees_the_newest_of_the_past() {
    let mut chat = Chat::default();
    let (alice, bob) = (conn(0, 1), conn(1, 1));
    open(&mut chat, alice, "alice", "/ws");
    open(&mut chat, bob, "bob", "/ws");
    join(&mut chat, alice, "lobby");
    for n in 0..HISTORY + 3 {
        send(
            &mut chat,
            alice,
            &json!({"type": "say", "text": n.to_string()}),
        );
    }
    let told = texts(&join(&mut chat, bob, "lobby"));
    let history = told[0]["history"].as_array().unwrap();
    assert_eq!((history.len(), &history[0]["text"]), (HISTORY, &json!("3")));
}

#[test]
fn another_room_a_leave_and_a_close_each_end_a_membership() {
    let mut chat = Chat::default();
    let (alice, bob) = (conn(0, 1), conn(1, 1));
    open(&mut chat, alice, "alice", "/ws");
    open(&mut chat, bob, "bob", "/ws");
    join(&mut chat, bob, "lobby");
    for way in ["join", "leave", "close"] {
        join(&mut chat, alice, "lobby");
        let out = match way {
            "join" => join(&mut chat, alice, "attic"),
            "leave" => send(&mut chat, alice, &json!({"type": "leave"})),
            _ => {
                let mut out = Vec::new();
                chat.handle(Event::Closed { conn: alice }, 0, &mut out);
                out
            }
        };
        assert!(
            matches!(out[0], Command::Unsubscribe { conn, .. } if conn == alice),
            "{way}"
        );
        let told = texts(&out);
        assert_eq!(
            told[0],
            json!({"type": "notice", "name": "alice", "what": "left"}),
            "{way}"
        );
        assert_eq!(
            told[1]["members"],
            json!([{"name": "bob", "shard": 1, "tabs": 1}]),
            "{way}"
        );
    }
    // What the last one leaves behind is gone: nothing grows with rooms of the past.
    assert_eq!((chat.rooms.len(), chat.people.len()), (1, 1));
}

#[test]
fn two_tabs_of_a_person_are_one_member() {
    let mut chat = Chat::default();
    for slot in [1, 2] {
        open(&mut chat, conn(1, slot), "alice", "/ws");
    }
    join(&mut chat, conn(1, 1), "lobby");
    let told = texts(&join(&mut chat, conn(1, 2), "lobby"));
    assert_eq!(
        told[2]["members"],
        json!([{"name": "alice", "shard": 1, "tabs": 2}])
    );
}

#[test]
fn bad_input_is_answered_and_changes_nothing() {
    let mut chat = Chat::default();
    let alice = conn(0, 1);
    open(&mut chat, alice, "alice", "/ws");
    let bad = [
        json!({"type": "say", "text": "nowhere"}),
        json!({"type": "join", "room": "  "}),
        json!({"type": "join", "room": "x".repeat(65)}),
        json!({"type": "dance"}),
        json!(17),
    ];
    for message in &bad {
        assert!(error(&send(&mut chat, alice, message)), "{message}");
    }
    join(&mut chat, alice, &"ü".repeat(64));
    assert!(error(&send(
        &mut chat,
        alice,
        &json!({"type": "say", "text": "x".repeat(2001)})
    )));
    assert_eq!(chat.rooms.len(), 1);
}

#[test]
fn rooms_and_their_members_are_bounded() {
    let mut chat = Chat::default();
    for slot in 0..=MAX_ROOM_SIZE as u32 {
        open(&mut chat, conn(0, slot), "alice", "/ws");
        let full = slot as usize == MAX_ROOM_SIZE;
        assert_eq!(error(&join(&mut chat, conn(0, slot), "lobby")), full);
    }
    let first = MAX_ROOM_SIZE as u32 + 1;
    for slot in first..first + MAX_ROOMS as u32 {
        open(&mut chat, conn(0, slot), "bob", "/ws");
        let full = chat.rooms.len() == MAX_ROOMS;
        let room = format!("room {slot}");
        assert_eq!(error(&join(&mut chat, conn(0, slot), &room)), full);
    }
    assert_eq!(chat.rooms.len(), MAX_ROOMS);
}

#[test]
fn strangers_are_ignored() {
    let mut chat = Chat::default();
    assert!(send(&mut chat, conn(0, 1), &json!({"type": "leave"})).is_empty());
    let mut out = Vec::new();
    chat.handle(Event::Closed { conn: conn(0, 1) }, 0, &mut out);
    assert!(out.is_empty());
}
