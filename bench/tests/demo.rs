//! The demo, through its front door.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{PATIENCE, ringway, wait_for};
use gateway_bench::{
    clients::{Clients, Event},
    metrics,
};
use gateway_proto::shard_of;
use rustix::process::Signal;
use serde_json::{Value, json};

#[test]
fn page_is_served_where_websockets_connect() {
    let gateway = ringway().demo().start().unwrap();
    let page = metrics::get(gateway.ws, "/").unwrap();
    assert!(page.contains("<title>Ringway demo</title>"), "{page}");
}

#[test]
fn echo_returns_kind_bytes_and_order() {
    // Through the logic service and back; the largest message is larger than any window on the way.
    let gateway = ringway().demo().start().unwrap();
    let mut clients = Clients::connect(gateway.ws, &["/echo".into()]).unwrap();
    let sent: Vec<_> = [0, 1, 125, 126, 65_535, 65_536, 3 << 20]
        .into_iter()
        .flat_map(|length| [(true, vec![b'x'; length]), (false, vec![0xff; length])])
        .collect();
    let mut left = sent.iter();
    let mut expected = left.next();
    clients.send(0, sent[0].0, &sent[0].1).unwrap();
    wait_for("the last echo", || {
        let mut came = false;
        let take = |_, event: Event<'_>| {
            let Event::Message { text, payload } = event else {
                panic!("{event:?}")
            };
            let (right_text, right) = expected.unwrap();
            assert!(
                text == *right_text && payload == right,
                "{} bytes",
                payload.len()
            );
            expected = left.next();
            came = true;
        };
        clients.receive(Duration::from_millis(100), take).unwrap();
        match expected {
            Some((text, payload)) if came => {
                clients.send(0, *text, payload).unwrap();
                None
            }
            Some(_) => None,
            None => Some(()),
        }
    });
}

#[test]
fn two_people_on_different_shards_share_a_room() {
    let mut gateway = ringway().demo().start().unwrap();
    assert_eq!(gateway.shards, 2);
    let names = [0, 1].map(|shard| {
        let mut names = (0..).map(|n| format!("person-{n}"));
        names
            .find(|name| shard_of(name.as_bytes(), 2) == shard)
            .unwrap()
    });
    let targets = names.each_ref().map(|name| Clients::target(name));
    let mut people = People {
        clients: Clients::connect(gateway.ws, &targets).unwrap(),
        heard: [Vec::new(), Vec::new()],
    };
    for person in [0, 1] {
        people.say(person, &json!({"type": "join", "room": "lobby"}));
        people.hear(person, |told| {
            told["type"] == "joined" && told["shard"] == person
        });
    }
    let both = |told: &Value| {
        told["members"]
            .as_array()
            .is_some_and(|members| members.len() == 2)
    };
    people.hear(0, both);
    for person in [0, 1] {
        people.say(person, &json!({"type": "say", "text": "hi"}));
        // The other one hears it, from the shard it was said on.
        people.hear(1 - person, |told| {
            told["type"] == "said" && told["name"] == names[person] && told["shard"] == person
        });
    }
    people.hear(1, |told| {
        told["type"] == "stats" && told["shards"][1]["connections"] == 1
    });

    gateway.signal(Signal::TERM).unwrap();
    wait_for("the end of both", || {
        let wait = Duration::from_millis(20);
        people.clients.receive(wait, |_, _| {}).unwrap();
        (people.clients.open() == 0).then_some(())
    });
    assert!(gateway.wait(PATIENCE).unwrap().success());
}

/// Two clients, and all that they were told.
struct People {
    clients: Clients,
    heard: [Vec<Value>; 2],
}

impl People {
    fn say(&mut self, person: usize, message: &Value) {
        self.clients
            .send(person, true, message.to_string().as_bytes())
            .unwrap();
    }

    /// Waits until `person` has been told what `is_it`.
    fn hear(&mut self, person: usize, is_it: impl Fn(&Value) -> bool) {
        wait_for("a message", || {
            let take = |to: usize, event: Event<'_>| {
                let Event::Message {
                    text: true,
                    payload,
                } = event
                else {
                    panic!("{event:?}")
                };
                self.heard[to].push(serde_json::from_slice(payload).unwrap());
            };
            self.clients
                .receive(Duration::from_millis(20), take)
                .unwrap();
            self.heard[person].iter().any(&is_it).then_some(())
        });
    }
}
