use super::greeting::MAX_OTHER_EPOCHS;
use super::*;
use crate::core::buffer::{Bounds, Buffer};
use crate::core::receipts::Receipts;
use crate::push::Push;
use gateway_proto::v1::gateway_frame::Body as Up;
use gateway_proto::v1::{
    Ack, ClientMessage, Draining, GatewayFrame, Receipt as WireReceipt, Scope, Welcome,
};

const SECOND: Duration = Duration::from_secs(1);

const BOUNDS: Bounds = Bounds {
    items: 100,
    bytes: 100_000,
    age: Duration::from_secs(1000),
    drop_oldest: false,
};

fn stream() -> Stream {
    let identity = Identity {
        service: "test".to_owned(),
        session: [7; 16],
        index: 1,
        shard: 1,
        any_shard: false,
        whole: false,
        receive: true,
        directory: true,
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
        resume: true,
        resend_unknown: false,
        patience: SECOND * 30,
    };
    Stream::new(identity, rules, 1, Arc::new(|| [9; 16]))
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

/// Opens the stream as if the gateway had never seen it; gives the run.
fn open(stream: &mut Stream, now: Duration) -> u64 {
    stream.connect();
    let (run, _) = stream.connected(now, expected());
    let credit = stream.receive(now, run, up(Up::Welcome(welcome())), 9);
    assert_eq!(credit, Ok(9));
    run
}

fn broken() -> Loss {
    Loss::broken(lost())
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
    let mut frames = Vec::new();
    buffer.take(now, room, stream.inbox(), &mut Vec::new());
    stream.commands(now, |out| frames.extend(out.frames()));
    frames
}

fn outputs(stream: &mut Stream) -> Vec<Output> {
    std::iter::from_fn(|| stream.poll_output()).collect()
}

#[test]
fn says_hello_and_waits_for_welcome_before_it_sends() {
    let mut stream = stream();
    stream.connect();
    let (run, hello) = stream.connected(SECOND, expected());
    let Some(Body::Hello(hello)) = hello.body else {
        panic!("{hello:?}");
    };
    assert_eq!((hello.service.as_str(), hello.stream_index), ("test", 1));
    assert_eq!((hello.expected_shard_plus_one, hello.gateway_epoch), (2, 0));
    assert_eq!(hello.scope(), Scope::Shard);
    assert!(!stream.is_open());
    stream
        .receive(SECOND, run, up(Up::Welcome(welcome())), 1)
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
    assert!(matches!(error, (1, GatewayError::Silent { .. })));
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
        let (run, _) = stream.connected(SECOND, expected());
        let error = stream
            .receive(SECOND, run, up(Up::Welcome(wrong)), 1)
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
        let (run, _) = stream.connected(SECOND, expected());
        let wrong = Welcome {
            epoch: 6,
            ..welcome()
        };
        let error = stream
            .receive(SECOND, run, up(Up::Welcome(wrong)), 1)
            .unwrap_err();
        let balanced = matches!(error, GatewayError::LoadBalanced { .. });
        assert_eq!(balanced, attempt == MAX_OTHER_EPOCHS, "{error}");
        stream.lost(SECOND, run, Loss::broken(error));
    }
}

#[test]
fn a_gateway_that_breaks_the_protocol_is_an_error_and_no_panic() {
    let ack = || up(Up::Ack(Ack { sequence: 1 }));
    let mut stream = stream();
    let (run, _) = stream.connected(SECOND, expected());
    assert!(matches!(
        stream.receive(SECOND, run, ack(), 1),
        Err(GatewayError::Protocol { .. })
    ));
    let run = open(&mut stream, SECOND);
    assert!(matches!(
        stream.receive(SECOND, run, ack(), 1),
        Err(GatewayError::Protocol { .. })
    ));
    let again = up(Up::Welcome(welcome()));
    assert!(matches!(
        stream.receive(SECOND, run, again, 1),
        Err(GatewayError::Protocol { .. })
    ));
    assert_eq!(
        stream.receive(SECOND, run, GatewayFrame { body: None }, 4),
        Ok(4)
    );
    let unknown = WireReceipt {
        sequence: 77,
        ..WireReceipt::default()
    };
    assert_eq!(
        stream.receive(SECOND, run, up(Up::Receipt(unknown)), 4),
        Ok(4)
    );
}

#[test]
fn an_attempt_waits_for_the_backoff() {
    let mut stream = stream();
    assert_eq!(stream.next_attempt(), Duration::ZERO);
    stream.connect();
    stream.failed(SECOND, lost());
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
            stream.receive(SECOND, 1, up(Up::Message(message)), 10),
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
    stream.lost(SECOND, 1, broken());
    open(&mut stream, SECOND * 2);
    stream.acknowledge(1, 3);
    assert_eq!(stream.poll_ack(), None);
}

#[test]
fn draining_goes_on_sending() {
    let mut stream = stream();
    open(&mut stream, SECOND);
    let draining = Up::Draining(Draining { remaining_ms: 5 });
    stream.receive(SECOND, 1, up(draining), 1).unwrap();
    assert_eq!(stream.state(), StreamState::Draining);
    let mut buffer = Buffer::new(BOUNDS);
    let _ = buffer.append(item(0));
    assert_eq!(send(&mut stream, SECOND, &mut buffer, 1000).len(), 1);
}

#[test]
fn the_wire_carries_what_is_left_of_the_time_to_live_rounded_up() {
    let mut stream = stream();
    open(&mut stream, SECOND);
    let mut buffer = Buffer::new(BOUNDS);
    let body = || Body::Push(Push::user("a").request);
    let _ = buffer.append(Item::new(0, body(), Some(SECOND * 3)));
    let _ = buffer.append(Item::new(
        1,
        body(),
        Some(SECOND + Duration::from_micros(1)),
    ));
    let _ = buffer.append(Item::new(2, body(), Some(SECOND)));
    let ttl = |frame: &LogicFrame| match &frame.body {
        Some(Body::Push(push)) => push.delivery.as_ref().map(|delivery| delivery.ttl_ms),
        _ => None,
    };
    let frames = send(&mut stream, SECOND, &mut buffer, 1000);
    let left: Vec<_> = frames.iter().map(ttl).collect();
    assert_eq!(left, [Some(2000), Some(1)]);
}

mod model;
mod resume;
