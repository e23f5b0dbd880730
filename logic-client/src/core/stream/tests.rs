use std::collections::{BTreeMap, BTreeSet};

use gateway_proto::v1::gateway_frame::Body as Up;
use gateway_proto::v1::{
    Ack, ClientMessage, Draining, GatewayFrame, Receipt as WireReceipt, Welcome,
};
use proptest::prelude::*;

use super::inbound::MAX_OTHER_EPOCHS;
use super::*;
use crate::core::buffer::{Bounds, Buffer};
use crate::core::receipts::Receipts;
use crate::push::Push;

const SECOND: Duration = Duration::from_secs(1);

fn stream() -> Stream {
    let identity = Identity {
        service: "test".to_owned(),
        session: [7; 16],
        index: 1,
        shard: 1,
        receive: true,
    };
    let pace = Pace {
        base: Duration::from_millis(50),
        cap: SECOND,
        stable: SECOND * 10,
    };
    let rules = Rules {
        pace,
        welcome: SECOND * 5,
        receipts: 3,
    };
    Stream::new(identity, rules, 1)
}

fn expected() -> Expected {
    Expected {
        address: "gateway:9001".to_owned(),
        gateway_id: "g".to_owned(),
        epoch: 5,
        shards: 2,
    }
}

fn welcome() -> Welcome {
    Welcome {
        gateway_id: "g".to_owned(),
        epoch: 5,
        shard: 1,
        shards: 2,
        ..Welcome::default()
    }
}

fn up(body: Up) -> GatewayFrame {
    GatewayFrame { body: Some(body) }
}

fn open(stream: &mut Stream, now: Duration) {
    stream.connect();
    stream.connected(now, expected());
    let credit = stream.receive(now, up(Up::Welcome(welcome())), 9);
    assert_eq!(credit, Ok(9));
}

fn lost() -> GatewayError {
    GatewayError::Unreachable {
        address: "gateway:9001".to_owned(),
        reason: "test".to_owned(),
    }
}

fn item(stamp: u64) -> Item {
    Item::new(stamp, Body::Push(Push::user("alice").request), None)
}

/// Sends what is in the buffer; gives the frames.
fn send(stream: &mut Stream, now: Duration, buffer: &mut Buffer, room: usize) -> Vec<LogicFrame> {
    let mut batch = Batch::default();
    let mut frames = Vec::new();
    buffer.take(now, room, &mut batch);
    stream.commands(now, &mut batch, |frame| frames.push(frame.clone()));
    frames
}

fn outputs(stream: &mut Stream) -> Vec<Output> {
    std::iter::from_fn(|| stream.poll_output()).collect()
}

#[test]
fn says_hello_and_waits_for_welcome_before_it_sends() {
    let mut stream = stream();
    stream.connect();
    let hello = stream.connected(SECOND, expected());
    let Some(Body::Hello(hello)) = hello.body else {
        panic!("{hello:?}");
    };
    assert_eq!((hello.service.as_str(), hello.stream_index), ("test", 1));
    assert_eq!((hello.expected_shard_plus_one, hello.gateway_epoch), (2, 0));
    assert_eq!(hello.scope(), Scope::Shard);
    assert!(!stream.is_open());
    stream
        .receive(SECOND, up(Up::Welcome(welcome())), 1)
        .unwrap();
    assert!(stream.is_open());
    assert_eq!(stream.state(), StreamState::Open);
}

#[test]
fn a_gateway_that_does_not_answer_hello_is_given_up() {
    let mut stream = stream();
    stream.connect();
    stream.connected(SECOND, expected());
    assert_eq!(stream.next_deadline(), Some(SECOND * 6));
    assert_eq!(stream.handle_timeout(SECOND * 5), Ok(()));
    let error = stream.handle_timeout(SECOND * 6).unwrap_err();
    assert!(matches!(error, GatewayError::Silent { .. }));
}

#[test]
fn welcome_of_another_gateway_or_shard_is_a_load_balancer() {
    let another = Welcome {
        gateway_id: "h".to_owned(),
        ..welcome()
    };
    let shard = Welcome {
        shard: 0,
        ..welcome()
    };
    for wrong in [another, shard] {
        let mut stream = stream();
        stream.connected(SECOND, expected());
        let error = stream
            .receive(SECOND, up(Up::Welcome(wrong)), 1)
            .unwrap_err();
        assert!(
            matches!(error, GatewayError::LoadBalanced { .. }),
            "{error}"
        );
    }
}

#[test]
fn another_epoch_is_a_restart_at_first_and_a_load_balancer_when_it_goes_on() {
    // Two gateways of one name behind one address never agree on an epoch.
    let mut stream = stream();
    for attempt in 1..=MAX_OTHER_EPOCHS {
        stream.connected(SECOND, expected());
        let wrong = Welcome {
            epoch: 6,
            ..welcome()
        };
        let error = stream
            .receive(SECOND, up(Up::Welcome(wrong)), 1)
            .unwrap_err();
        let balanced = matches!(error, GatewayError::LoadBalanced { .. });
        assert_eq!(balanced, attempt == MAX_OTHER_EPOCHS, "{error}");
        stream.lost(SECOND, error);
    }
}

#[test]
fn a_gateway_that_breaks_the_protocol_is_an_error_and_no_panic() {
    let ack = || up(Up::Ack(Ack { sequence: 1 }));
    let mut stream = stream();
    stream.connected(SECOND, expected());
    assert!(matches!(
        stream.receive(SECOND, ack(), 1),
        Err(GatewayError::Protocol { .. })
    ));
    open(&mut stream, SECOND);
    assert!(matches!(
        stream.receive(SECOND, ack(), 1),
        Err(GatewayError::Protocol { .. })
    ));
    let again = up(Up::Welcome(welcome()));
    assert!(matches!(
        stream.receive(SECOND, again, 1),
        Err(GatewayError::Protocol { .. })
    ));
    assert_eq!(
        stream.receive(SECOND, GatewayFrame { body: None }, 4),
        Ok(4)
    );
    let unknown = WireReceipt {
        sequence: 77,
        ..WireReceipt::default()
    };
    assert_eq!(stream.receive(SECOND, up(Up::Receipt(unknown)), 4), Ok(4));
}

#[test]
fn an_attempt_waits_for_the_backoff() {
    let mut stream = stream();
    assert_eq!(stream.next_attempt(), Duration::ZERO);
    stream.connect();
    stream.lost(SECOND, lost());
    assert!(stream.next_attempt() >= SECOND);
    assert!(stream.next_attempt() <= SECOND + Duration::from_millis(50));
    assert_eq!(stream.counters().failed_attempts, 1);
}

#[test]
fn acks_of_events_are_joined_and_do_not_outlive_the_connection() {
    let mut stream = stream();
    open(&mut stream, SECOND);
    outputs(&mut stream);
    for id in 1..=3 {
        let message = ClientMessage {
            id,
            ..ClientMessage::default()
        };
        assert_eq!(
            stream.receive(SECOND, up(Up::Message(message)), 10),
            Ok(0),
            "held back"
        );
    }
    let events = outputs(&mut stream);
    assert!(matches!(
        events[2],
        Output::Event {
            run: 1,
            id: 3,
            credit: 10,
            ..
        }
    ));
    stream.acknowledge(1, 2);
    stream.acknowledge(1, 3);
    let ack = stream.poll_ack().unwrap();
    assert_eq!(
        (ack.sequence, ack.body),
        (0, Some(Body::ClientAck(ClientAck { id: 3 })))
    );
    assert_eq!(stream.poll_ack(), None);
    // On the next connection ids begin anew: an old one would acknowledge what was not seen.
    stream.lost(SECOND, lost());
    open(&mut stream, SECOND * 2);
    stream.acknowledge(1, 3);
    assert_eq!(stream.poll_ack(), None);
}

#[test]
fn draining_goes_on_sending() {
    let mut stream = stream();
    open(&mut stream, SECOND);
    let draining = Up::Draining(Draining { remaining_ms: 5 });
    stream.receive(SECOND, up(draining), 1).unwrap();
    assert_eq!(stream.state(), StreamState::Draining);
    let mut buffer = Buffer::new(Bounds {
        items: 9,
        bytes: 9000,
    });
    buffer.push(item(0));
    assert_eq!(send(&mut stream, SECOND, &mut buffer, 1000).len(), 1);
}

#[test]
fn the_wire_carries_what_is_left_of_the_time_to_live_rounded_up() {
    let mut stream = stream();
    open(&mut stream, SECOND);
    let mut buffer = Buffer::new(Bounds {
        items: 9,
        bytes: 9000,
    });
    let body = || Body::Push(Push::user("a").request);
    buffer.push(Item::new(0, body(), Some(SECOND * 3)));
    buffer.push(Item::new(
        1,
        body(),
        Some(SECOND + Duration::from_micros(1)),
    ));
    buffer.push(Item::new(2, body(), Some(SECOND)));
    let ttl = |frame: &LogicFrame| match &frame.body {
        Some(Body::Push(push)) => push.delivery.as_ref().map(|delivery| delivery.ttl_ms),
        _ => None,
    };
    let frames = send(&mut stream, SECOND, &mut buffer, 1000);
    let left: Vec<_> = frames.iter().map(ttl).collect();
    assert_eq!(left, [Some(2000), Some(1)]);
    assert_eq!(stream.counters().expired, 1);
}

/// What the world does to a stream.
#[derive(Clone, Debug)]
enum Act {
    Push {
        receipt: bool,
        ttl: Option<u8>,
    },
    Send {
        room: usize,
    },
    /// The gateway acknowledges this part (of 255) of what is not acknowledged.
    Ack(u8),
    /// The gateway answers the oldest receipt awaited.
    Receipt,
    Lose,
    Reconnect,
    Pass(u8),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (any::<bool>(), prop::option::of(1..50_u8))
            .prop_map(|(receipt, ttl)| Act::Push { receipt, ttl }),
        3 => (1..2000_usize).prop_map(|room| Act::Send { room }),
        3 => any::<u8>().prop_map(Act::Ack),
        2 => Just(Act::Receipt),
        1 => Just(Act::Lose),
        2 => Just(Act::Reconnect),
        1 => any::<u8>().prop_map(Act::Pass),
    ];
    prop::collection::vec(act, 1..200)
}

proptest! {
    /// Pushes, sends, acks, receipts, breaks and reconnects in any order: numbers rise, nothing is
    /// sent twice, and everything is acknowledged, unknown, expired, refused or still there.
    #[test]
    fn nothing_is_sent_twice_or_lost_uncounted(acts in acts()) {
        let mut stream = stream();
        let mut buffer = Buffer::new(Bounds { items: usize::MAX, bytes: usize::MAX });
        let mut receipts = Receipts::new();
        let mut awaited = BTreeSet::new();
        let mut settled = Vec::new();
        let mut on_wire = BTreeMap::new();
        let (mut now, mut pushed, mut sequence, mut acked) = (Duration::ZERO, 0, 0, 0);
        open(&mut stream, now);
        for act in acts {
            let settled_before = stream.settled();
            match act {
                Act::Push { receipt, ttl } => {
                    let user = Push::user(pushed.to_string());
                    let expires = ttl.map(|ttl| now + SECOND * ttl.into());
                    let mut item = Item::new(pushed, Body::Push(user.request), expires);
                    if receipt {
                        let ticket = receipts.open((), false);
                        awaited.insert(ticket);
                        item = item.with_ticket(ticket);
                    }
                    buffer.push(item);
                    pushed += 1;
                }
                Act::Send { room } if stream.is_open() => {
                    for frame in send(&mut stream, now, &mut buffer, room) {
                        prop_assert!(frame.sequence > sequence, "numbers rise");
                        sequence = frame.sequence;
                        let Some(Body::Push(push)) = frame.body else { panic!() };
                        let who = format!("{:?}", push.target);
                        prop_assert!(on_wire.insert(who, sequence).is_none(), "sent twice");
                    }
                }
                Act::Ack(part) if stream.is_open() && acked < sequence => {
                    acked += (sequence - acked) * u64::from(part) / 255;
                    stream.receive(now, up(Up::Ack(Ack { sequence: acked })), 1).unwrap();
                }
                Act::Receipt if stream.is_open() => {
                    let oldest = stream.receipts.keys().next().copied();
                    let sequence = oldest.unwrap_or(sequence + 9);
                    let receipt = WireReceipt { sequence, ..WireReceipt::default() };
                    stream.receive(now, up(Up::Receipt(receipt)), 1).unwrap();
                }
                Act::Lose if stream.is_open() => {
                    stream.lost(now, lost());
                    acked = sequence;
                }
                Act::Reconnect if !stream.is_open() => {
                    now = now.max(stream.next_attempt());
                    open(&mut stream, now);
                }
                Act::Pass(seconds) => now += SECOND * u32::from(seconds) / 10,
                _ => {}
            }
            prop_assert!(stream.settled() >= settled_before && stream.settled() <= pushed);
            settled.extend(outputs(&mut stream).into_iter().filter_map(|output| match output {
                Output::Settled(ticket, _) => Some(ticket),
                _ => None,
            }));
        }
        let counters = stream.counters();
        prop_assert_eq!(counters.sent, on_wire.len() as u64);
        let in_flight = counters.sent - counters.acked - counters.unknown;
        prop_assert_eq!(in_flight, sequence - acked);
        let accounted = counters.sent + counters.expired + counters.over_receipts;
        prop_assert_eq!(accounted + buffer.len() as u64, pushed);
        // At the end every receipt is answered, once.
        stream.end();
        prop_assert!(stream.is_quiet());
        for output in outputs(&mut stream) {
            if let Output::Settled(ticket, _) = output {
                settled.push(ticket);
            }
        }
        settled.extend(buffer.drain().into_iter().filter_map(|item| item.ticket));
        prop_assert_eq!(settled.len(), awaited.len(), "each once");
        prop_assert_eq!(settled.into_iter().collect::<BTreeSet<_>>(), awaited);
    }
}
