//! Clients' events while streams come, break, are taken over and acknowledge, in any order: at least once, in order per
//! user, on one stream at a time.

use std::collections::HashMap;

use crate::world::{
    ClientId, LogicId, World,
    logic::{in_session, receiving},
    user_of, world,
};
use gateway_proto::v1::{self, Scope, gateway_frame::Body as Up};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Deed {
    Say(usize),
    /// The user's client goes and comes again.
    Return(usize),
    Open {
        shard: usize,
        whole_gateway: bool,
    },
    Break(usize),
    TakeOver(usize),
    /// Of what has come, all but this many.
    Acknowledge(usize, u64),
    /// One shard runs, the others stand still.
    Run(usize),
    Settle,
}

const SHARDS: usize = 3;
const USERS: usize = 6;

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => (0..USERS).prop_map(Deed::Say),
        1 => (0..USERS).prop_map(Deed::Return),
        2 => (0..SHARDS, any::<bool>())
            .prop_map(|(shard, whole_gateway)| Deed::Open { shard, whole_gateway }),
        1 => (0_usize..8).prop_map(Deed::Break),
        1 => (0_usize..8).prop_map(Deed::TakeOver),
        3 => (0_usize..8, 0_u64..4).prop_map(|(at, but)| Deed::Acknowledge(at, but)),
        4 => (0..SHARDS).prop_map(Deed::Run),
        1 => Just(Deed::Settle),
    ]
}

/// One stream of the service, across takeovers.
struct Outlet {
    logic: LogicId,
    hello: v1::Hello,
    /// Frames that were looked at.
    seen: usize,
    /// The newest event, and the newest one that was acknowledged.
    newest: u64,
    acked: u64,
    /// The newest event of each user.
    users: HashMap<String, u64>,
    ended: bool,
}

/// What has arrived of a user's messages: on which stream, the last one there, and the newest of all.
#[derive(Debug, Default)]
struct Arrived {
    stream: Option<usize>,
    last: u64,
    newest: u64,
}

struct Model {
    world: World,
    names: Vec<String>,
    clients: Vec<ClientId>,
    said: Vec<u64>,
    arrived: HashMap<String, Arrived>,
    outlets: Vec<Outlet>,
}

impl Model {
    fn new() -> Self {
        // No bound is reached, and lanes are short.
        let mut world = world(SHARDS as u16, |config| {
            config.lanes.batches = 1;
            config.lanes.batch_messages = 64;
        });
        let names: Vec<_> = (0..USERS)
            .map(|n| {
                let name = user_of((n % SHARDS) as u32, SHARDS as u32);
                (0..)
                    .map(|salt| format!("{name}.{n}.{salt}"))
                    .find(|name| {
                        let shard =
                            gateway_core::identity::shard_of(name.as_bytes(), SHARDS as u32);
                        shard as usize == n % SHARDS
                    })
                    .expect("some name belongs to every shard")
            })
            .collect();
        let clients = names
            .iter()
            .map(|name| world.connect(0, &format!("/ws?user={name}")))
            .collect();
        Self {
            world,
            names,
            clients,
            said: vec![0; USERS],
            arrived: HashMap::new(),
            outlets: Vec::new(),
        }
    }

    fn live(&self, at: usize) -> Option<usize> {
        let live: Vec<_> = (0..self.outlets.len())
            .filter(|at| !self.outlets[*at].ended)
            .collect();
        live.get(at % live.len().max(1)).copied()
    }

    fn act(&mut self, deed: &Deed) {
        match *deed {
            Deed::Say(user) => {
                self.said[user] += 1;
                let text = self.said[user].to_string();
                self.world.client(self.clients[user]).text(&text);
            }
            Deed::Return(user) => {
                let world = &mut self.world;
                world.settle();
                let client = self.clients[user];
                // What the gateway has not read would be lost with the socket.
                if world.client(client).outgoing.is_empty() {
                    world.reset(client);
                    let target = format!("/ws?user={}", self.names[user]);
                    self.clients[user] = world.connect(0, &target);
                }
            }
            Deed::Open {
                shard,
                whole_gateway,
            } => self.open(shard, whole_gateway),
            Deed::Break(at) => {
                if let Some(at) = self.live(at) {
                    self.outlets[at].ended = true;
                    let logic = self.outlets[at].logic;
                    self.world.drop_link(logic);
                }
            }
            Deed::TakeOver(at) => {
                if let Some(at) = self.live(at) {
                    self.take_over(at);
                }
            }
            Deed::Acknowledge(at, but) => {
                if let Some(at) = self.live(at) {
                    let outlet = &mut self.outlets[at];
                    let id = outlet.newest.saturating_sub(but);
                    outlet.acked = outlet.acked.max(id);
                    self.world.service(outlet.logic).ack(id);
                }
            }
            Deed::Run(shard) => self.world.step_shard(shard),
            Deed::Settle => self.world.settle(),
        }
        self.look();
    }

    fn open(&mut self, shard: usize, whole_gateway: bool) {
        let scope = if whole_gateway {
            Scope::Gateway
        } else {
            Scope::Shard
        };
        let logic = self.world.logic(shard);
        let session = self.outlets.len() as u8;
        let hello = in_session(session, receiving("chat", scope, true));
        self.world.service(logic).hello(hello.clone());
        self.outlets.push(Outlet {
            logic,
            hello,
            seen: 0,
            newest: 0,
            acked: 0,
            users: HashMap::new(),
            ended: false,
        });
    }

    fn take_over(&mut self, at: usize) {
        // The client knows its token, and nothing comes on the old stream from here on.
        self.world.settle();
        self.look();
        let outlet = &mut self.outlets[at];
        let old = self.world.service(outlet.logic);
        let (token, shard) = (old.welcome().resume_token, old.shard);
        outlet.hello.last_event = outlet.newest;
        outlet.logic = self.world.logic(shard);
        outlet.seen = 0;
        let service = self.world.service(outlet.logic);
        service.resume(outlet.hello.clone(), token);
        self.world.step_shard(shard);
    }

    /// Takes in what has come, and checks it.
    fn look(&mut self) {
        for at in 0..self.outlets.len() {
            if self.outlets[at].ended {
                continue;
            }
            let service = self.world.service(self.outlets[at].logic);
            let new = service.frames[self.outlets[at].seen..].to_vec();
            self.outlets[at].seen += new.len();
            for frame in new {
                match frame {
                    Up::Welcome(_) => {}
                    Up::Opened(opened) => self.event(at, opened.id, &opened.user_id, None),
                    Up::Closed(closed) => self.event(at, closed.id, &closed.user_id, None),
                    Up::Message(message) => {
                        let number = String::from_utf8_lossy(&message.payload).parse();
                        let number = number.expect("clients say numbers");
                        self.event(at, message.id, &message.user_id, Some(number));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn event(&mut self, at: usize, id: u64, user: &Option<String>, message: Option<u64>) {
        let user = user.clone().expect("nobody is anonymous");
        for (other, outlet) in self.outlets.iter().enumerate() {
            let unacked = |newest: &u64| *newest > outlet.acked;
            let elsewhere = other != at && !outlet.ended;
            assert!(
                !elsewhere || !outlet.users.get(&user).is_some_and(unacked),
                "{user} is on stream {at} while events of it are unacknowledged on {other}"
            );
        }
        let outlet = &mut self.outlets[at];
        assert_eq!(id, outlet.newest + 1, "stream {at}: events without a gap");
        outlet.newest = id;
        outlet.users.insert(user.clone(), id);
        let Some(number) = message else {
            return;
        };
        let arrived = self.arrived.entry(user.clone()).or_default();
        if arrived.stream == Some(at) {
            assert_eq!(number, arrived.last + 1, "{user} on stream {at}");
        }
        assert!(
            number <= arrived.newest + 1,
            "{user} on stream {at}: {number} after {arrived:?}"
        );
        *arrived = Arrived {
            stream: Some(at),
            last: number,
            newest: number.max(arrived.newest),
        };
    }

    fn finish(mut self) {
        self.open(0, true);
        for _ in 0..20 {
            self.world.pass(std::time::Duration::from_millis(50));
            self.look();
            for outlet in self.outlets.iter_mut().filter(|outlet| !outlet.ended) {
                outlet.acked = outlet.newest;
                self.world.service(outlet.logic).ack(outlet.newest);
            }
        }
        for (name, said) in self.names.iter().zip(&self.said) {
            assert_eq!(
                self.arrived.get(name).map_or(0, |arrived| arrived.newest),
                *said,
                "{name}"
            );
        }
        let unacked = self.world.total(|metrics| metrics.unacked_bytes.get());
        assert_eq!(unacked, 0);
        let drops = self.world.total(|metrics| metrics.drops.total());
        assert_eq!(drops, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_message_arrives_in_order_whatever_becomes_of_the_streams(
        deeds in proptest::collection::vec(deed(), 1..120),
    ) {
        let mut model = Model::new();
        for deed in &deeds {
            model.act(deed);
        }
        model.finish();
    }
}
