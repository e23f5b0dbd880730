//! A gateway that keeps the rules of sessions, a network that breaks anywhere, and what must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU8, Ordering};

use proptest::prelude::*;

use super::*;
use crate::core::receipts::Ticket;
use crate::core::returned::ReturnReason;
use crate::error::PushError;

use gateway::{Gateway, Session};

mod gateway;

/// What goes up on a connection.
enum Going {
    Frame(Up),
    End(Ending),
}

#[derive(Default)]
struct Connection {
    run: u64,
    down: VecDeque<LogicFrame>,
    up: VecDeque<Going>,
    /// The client has not given it up.
    heard: bool,
    /// Its session, once Hello has come.
    session: Vec<u8>,
}

struct World {
    now: Duration,
    stream: Stream,
    buffer: Buffer,
    receipts: Receipts<()>,
    connections: Vec<Connection>,
    gateway: Gateway,
    pushed: u64,
    tickets: BTreeMap<Ticket, u64>,
    answered: BTreeMap<u64, Result<(), PushError>>,
    returned: BTreeMap<u64, ReturnReason>,
    /// Events in the order the application got them.
    got: Vec<u64>,
    handled: Option<(u64, u64)>,
    /// A Hello got no answer, the old connection broke before, or nothing came on it: then events may come twice.
    in_doubt: bool,
}

impl World {
    fn new() -> Self {
        let mut stream = stream();
        let drawn = AtomicU8::new(8);
        stream.entropy = Arc::new(move || [drawn.fetch_add(1, Ordering::Relaxed); 16]);
        Self {
            now: SECOND,
            stream,
            buffer: Buffer::new(Bounds {
                items: usize::MAX,
                bytes: usize::MAX,
                ..BOUNDS
            }),
            receipts: Receipts::new(),
            connections: Vec::new(),
            gateway: Gateway {
                epoch: 5,
                ..Gateway::default()
            },
            pushed: 0,
            tickets: BTreeMap::new(),
            answered: BTreeMap::new(),
            returned: BTreeMap::new(),
            got: Vec::new(),
            handled: None,
            in_doubt: false,
        }
    }

    fn push(&mut self, receipt: bool, ttl: Option<u8>) {
        let push = Push::user(self.pushed.to_string());
        let expires = ttl.map(|ttl| self.now + SECOND * ttl.into());
        let mut item = Item::new(self.pushed, Body::Push(push.request), expires);
        if receipt {
            let ticket = self.receipts.open((), false);
            self.tickets.insert(ticket, self.pushed);
            item = item.with_ticket(ticket);
        }
        let _ = self.buffer.append(item);
        self.pushed += 1;
    }

    /// The client dials: for the first time, again, or beside the connection it has.
    fn connect(&mut self) {
        let greeting = matches!(self.stream.attempt, Attempt::Greeting(_));
        if greeting || !self.stream.is_open() && self.now < self.stream.next_attempt() {
            return;
        }
        self.in_doubt |= self.stream.events.is_undecided();
        if !self.stream.is_open() {
            self.stream.connect();
        }
        let expected = Expected {
            epoch: self.gateway.epoch,
            ..expected()
        };
        let (run, hello) = self.stream.connected(self.now, expected);
        self.connections.push(Connection {
            run,
            down: VecDeque::from([hello]),
            heard: true,
            ..Connection::default()
        });
    }

    /// The client sends on the connection commands go to.
    fn send(&mut self, room: usize) {
        let Some(run) = self.stream.open_run() else {
            return;
        };
        let mut frames = Vec::new();
        self.stream
            .resend(self.now, room, |out| frames.extend(out.frames()));
        if self.stream.takes_commands() {
            let mut gave_way = Vec::new();
            let inbox = self.stream.inbox();
            self.buffer.take(self.now, room, inbox, &mut gave_way);
            for (item, reason) in gave_way {
                self.hand_back(&item, reason);
            }
            self.stream
                .commands(self.now, |out| frames.extend(out.frames()));
        }
        if let Some((run, id)) = self.handled.take() {
            self.stream.acknowledge(run, id);
            frames.extend(self.stream.poll_ack());
        }
        let connection = self.connections.iter_mut().find(|one| one.run == run);
        connection.unwrap().down.extend(frames);
        self.settle();
    }

    /// What the stream puts out, as a runner passes it on.
    fn settle(&mut self) {
        while let Some(output) = self.stream.poll_output() {
            match output {
                Output::Event { event, run, id, .. } => {
                    let Event::Message(message) = event else {
                        panic!("{event:?}");
                    };
                    self.got.push(message.connection.id);
                    self.handled = Some((run, id));
                }
                Output::Settled(ticket, answer) => {
                    self.answer(ticket, answer.map(drop).map_err(|error| error.error));
                }
                Output::Returned(item, reason) => self.hand_back(&item, reason),
                Output::Unsent(items) => self.buffer.put_back(items),
                Output::Notice(_) => {}
                Output::Answered(..) | Output::Directory { .. } => panic!("not asked for"),
            }
        }
        self.buffer.release(self.stream.take_released());
    }

    fn answer(&mut self, ticket: Ticket, answer: Result<(), PushError>) {
        let stamp = self.tickets[&ticket];
        let before = self.answered.insert(stamp, answer);
        assert_eq!(before, None, "{stamp} is answered twice");
    }

    fn hand_back(&mut self, item: &Item, reason: ReturnReason) {
        if let Some(ticket) = item.ticket {
            self.answer(ticket, reason.clone().into_answer().map(drop));
        }
        let before = self.returned.insert(item.stamp.order, reason);
        assert_eq!(before, None, "{} is handed back twice", item.stamp.order);
    }

    /// The client gives up a connection; the gateway may not know for long.
    fn drop_at_client(&mut self, at: usize, ending: Ending) {
        if std::mem::take(&mut self.connections[at].heard) {
            let run = self.connections[at].run;
            // While one Hello is said: was the connection before replaced, or lost?
            self.in_doubt |= matches!(self.stream.attempt, Attempt::Greeting(_));
            let error = lost();
            self.stream.lost(self.now, run, Loss { error, ending });
            self.settle();
        }
    }

    /// Something reaches the client.
    fn up(&mut self, at: usize) {
        if !self.connections[at].heard {
            return;
        }
        let run = self.connections[at].run;
        match self.connections[at].up.pop_front() {
            None => {}
            Some(Going::End(ending)) => self.drop_at_client(at, ending),
            Some(Going::Frame(frame)) => {
                let received = self.stream.receive(self.now, run, up(frame), 1);
                let events = &self.stream.events;
                self.in_doubt |= events.is_undecided() && events.is_ambiguous();
                self.settle();
                if received.is_err() {
                    self.drop_at_client(at, Ending::Broken);
                }
            }
        }
    }

    fn forget(&mut self, restart: bool) {
        for at in 0..self.connections.len() {
            self.drop_at_gateway(at, Ending::Broken);
            if restart {
                self.connections[at].down.clear();
            }
        }
        self.gateway.sessions.clear();
        if restart {
            self.gateway.epoch += 1;
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        if let Err((run, _)) = self.stream.handle_timeout(self.now) {
            let at = self.connections.iter().position(|one| one.run == run);
            self.drop_at_client(at.unwrap(), Ending::Broken);
        }
        self.settle();
    }

    fn step(&mut self, act: &Act) {
        let at = |pick: u8, world: &Self| {
            let newest = world.connections.len().checked_sub(1)?;
            newest.checked_sub(usize::from(pick) % 3)
        };
        match *act {
            Act::Push { receipt, ttl } => self.push(receipt, ttl),
            Act::Send(room) => self.send(room),
            Act::Connect => self.connect(),
            Act::Down(pick, count) => {
                at(pick, self)
                    .into_iter()
                    .for_each(|at| (0..count).for_each(|_| self.down(at)));
            }
            Act::Up(pick, count) => {
                at(pick, self)
                    .into_iter()
                    .for_each(|at| (0..count).for_each(|_| self.up(at)));
            }
            Act::Acks => self.gateway_acks(),
            Act::Answers => self.gateway_answers(),
            Act::Speaks => self.client_speaks(),
            Act::LostAtClient(pick) => {
                at(pick, self)
                    .into_iter()
                    .for_each(|at| self.drop_at_client(at, Ending::Broken));
            }
            Act::LostAtGateway(pick) => {
                at(pick, self)
                    .into_iter()
                    .for_each(|at| self.drop_at_gateway(at, Ending::Broken));
            }
            Act::Drained(pick) => {
                at(pick, self)
                    .into_iter()
                    .for_each(|at| self.drop_at_gateway(at, Ending::Clean));
            }
            Act::Forget { restart } => self.forget(restart),
            Act::Pass(seconds) => self.pass(SECOND * seconds.into() / 4),
        }
    }

    /// Everything works from now on, until there is nothing left to do.
    fn calm_down(&mut self) {
        for _ in 0..40 {
            self.pass(SECOND * 2);
            if !self.stream.is_open() {
                self.connect();
            }
            for _ in 0..3 {
                self.send(usize::MAX);
                for at in 0..self.connections.len() {
                    while !self.connections[at].down.is_empty() {
                        self.down(at);
                    }
                }
                self.gateway_acks();
                while self
                    .serving()
                    .is_some_and(|(_, session)| !session.jobs.is_empty())
                {
                    self.gateway_answers();
                }
                for at in 0..self.connections.len() {
                    while self.connections[at].heard && !self.connections[at].up.is_empty() {
                        self.up(at);
                    }
                }
            }
        }
    }

    fn check(&self) {
        let effects = &self.gateway.effects;
        let done: BTreeSet<u64> = effects.iter().copied().collect();
        assert_eq!(done.len(), effects.len(), "once each: {effects:?}");
        let is_unknown = |stamp: &u64| self.returned.get(stamp) == Some(&ReturnReason::Unknown);
        let known: Vec<_> = effects.iter().filter(|stamp| !is_unknown(stamp)).collect();
        assert!(known.is_sorted(), "in order: {effects:?}");
        assert!(self.buffer.is_empty() && self.stream.is_quiet());
        for stamp in 0..self.pushed {
            let done = done.contains(&stamp);
            match self.returned.get(&stamp) {
                None => {
                    let rejected = stamp % 7 == 6;
                    assert!(done || rejected, "{stamp} is lost");
                }
                Some(ReturnReason::Unknown) => {}
                Some(reason) => assert!(!done, "{stamp} was handed back ({reason}) and done"),
            }
        }
        for stamp in self.tickets.values() {
            let answer = self.answered.get(stamp);
            assert!(answer.is_some(), "{stamp} is not answered");
            let done = done.contains(stamp);
            let returned = self.returned.contains_key(stamp);
            assert!(
                answer != Some(&Ok(())) || done || returned,
                "{stamp} is not done"
            );
        }
        let once = self.got.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(once || self.in_doubt, "events, in order: {:?}", self.got);
        // A gateway finds a dead connection, too, and gives its events to another stream.
        let heard = |one: &&Session| one.attached.is_some_and(|at| self.connections[at].heard);
        let sessions = self.gateway.sessions.values().filter(heard);
        let unacked = sessions.flat_map(|one| &one.unacked);
        for (_, event) in unacked {
            assert!(self.got.contains(event), "event {event} is lost");
        }
    }
}

/// What the world does.
#[derive(Clone, Debug)]
enum Act {
    Push {
        receipt: bool,
        ttl: Option<u8>,
    },
    Send(usize),
    /// Dials: beside the connection there is, if there is one.
    Connect,
    /// So many frames arrive on the newest connection, or on one of the two before.
    Down(u8, u8),
    Up(u8, u8),
    Acks,
    Answers,
    Speaks,
    LostAtClient(u8),
    LostAtGateway(u8),
    /// The gateway ends the stream in good order.
    Drained(u8),
    Forget {
        restart: bool,
    },
    Pass(u8),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let ttl = prop::option::weighted(0.3, 1..60_u8);
    let act = prop_oneof![
        8 => (any::<bool>(), ttl).prop_map(|(receipt, ttl)| Act::Push { receipt, ttl }),
        8 => (1..2000_usize).prop_map(Act::Send),
        4 => Just(Act::Connect),
        10 => (0..3_u8, 1..9_u8).prop_map(|(pick, count)| Act::Down(pick, count)),
        10 => (0..3_u8, 1..9_u8).prop_map(|(pick, count)| Act::Up(pick, count)),
        5 => Just(Act::Acks),
        4 => Just(Act::Answers),
        4 => Just(Act::Speaks),
        2 => any::<u8>().prop_map(Act::LostAtClient),
        2 => any::<u8>().prop_map(Act::LostAtGateway),
        1 => any::<u8>().prop_map(Act::Drained),
        1 => any::<bool>().prop_map(|restart| Act::Forget { restart }),
        2 => any::<u8>().prop_map(Act::Pass),
    ];
    prop::collection::vec(act, 1..300)
}

/// Hello tells of no event; one comes on the old connection; the gateway loses that, and numbers anew.
#[test]
fn an_event_with_the_number_of_one_that_came_after_hello_is_not_lost() {
    let mut world = World::new();
    world.connect();
    let acts = [
        Act::Down(0, 1),
        Act::Up(0, 1),
        Act::Connect,
        Act::Speaks,
        Act::Up(1, 1),
        Act::LostAtGateway(1),
        Act::Down(0, 1),
        Act::Up(0, 1),
        Act::Speaks,
    ];
    for act in &acts {
        world.step(act);
    }
    world.calm_down();
    world.check();
    assert_eq!(world.got, [0, 1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Connections break on either side, end in good order and are replaced, Welcomes get lost,
    /// gateways forget and restart, at any moment: nothing is lost or done twice, everything is in
    /// order, and every push is done, answered or handed back, once.
    #[test]
    fn nothing_is_lost_doubled_or_reordered_wherever_connections_break(acts in acts()) {
        let mut world = World::new();
        world.connect();
        for act in &acts {
            world.step(act);
        }
        world.calm_down();
        world.check();
    }
}
