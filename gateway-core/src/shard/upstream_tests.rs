use super::*;
use crate::{identity::LinkId, lanes::StreamRef};
use gateway_proto::v1::ClientMessage;

fn receiver(stream: u32) -> ReceiverRef {
    let link = LinkId {
        slot: 0,
        generation: 0,
    };
    ReceiverRef {
        shard: 0,
        stream: StreamRef { link, stream },
    }
}

fn stream(stream: u32) -> Pick {
    Pick::Stream {
        receiver: receiver(stream),
        acks: false,
    }
}

fn event() -> (ConnId, Event) {
    let message = ClientMessage {
        payload: vec![0; 100].into(),
        ..Default::default()
    };
    (ConnId::new(0, 1, 1), Event::Message(message))
}

fn upstream() -> Upstream {
    Upstream::new(config::Upstream {
        buffer_events: 3,
        max_services: 2,
        ..Default::default()
    })
}

#[test]
fn a_user_keeps_its_stream_until_that_ends() {
    let mut upstream = upstream();
    let name: Arc<str> = "chat".into();
    let (service, _) = upstream.receiver_up(&name, receiver(1), false).unwrap();
    let mut assignments = Assignments::new();
    assert_eq!(upstream.pick(service, &mut assignments), stream(1));
    upstream.receiver_up(&name, receiver(3), false).unwrap();
    assert_eq!(upstream.pick(service, &mut assignments), stream(1));
    upstream.receiver_down(receiver(1)).unwrap();
    assert_eq!(upstream.pick(service, &mut assignments), stream(3));
    assert_eq!(assignments.len(), 1);
    upstream.receiver_down(receiver(3)).unwrap();
    assert_eq!(upstream.pick(service, &mut assignments), Pick::Nobody);
}

#[test]
fn new_users_are_spread_over_the_streams() {
    let mut upstream = upstream();
    let name: Arc<str> = "chat".into();
    for stream in [1, 3] {
        upstream
            .receiver_up(&name, receiver(stream), false)
            .unwrap();
    }
    let mut counts = [0, 0];
    for _ in 0..10 {
        let pick = upstream.pick(0, &mut Assignments::new());
        counts[usize::from(pick == stream(3))] += 1;
    }
    assert_eq!(counts, [5, 5]);
}

#[test]
fn events_wait_for_the_first_service_within_a_bound() {
    let mut upstream = upstream();
    for _ in 0..3 {
        let (conn, event) = event();
        upstream.keep(None, conn, &event, false).unwrap();
    }
    let (conn, one_more) = event();
    assert_eq!(upstream.keep(None, conn, &one_more, false), Err(NoRoom));
    let up = upstream.receiver_up(&"chat".into(), receiver(1), false);
    assert_eq!(up.unwrap().1.len(), 3);
    assert_eq!(upstream.kept_bytes(), 0);
}

#[test]
fn there_is_a_bound_on_services() {
    let mut upstream = upstream();
    for (name, expected) in [("a", true), ("b", true), ("c", false), ("a", true)] {
        let up = upstream.receiver_up(&name.into(), receiver(1), false);
        assert_eq!(up.is_some(), expected, "{name}");
    }
}

#[test]
fn newer_events_are_held_until_a_stream_of_another_shard_has_given_back_what_it_had() {
    let mut upstream = upstream();
    let name: Arc<str> = "chat".into();
    let mut assignments = Assignments::new();
    upstream.receiver_up(&name, receiver(1), false).unwrap();
    assert_eq!(upstream.pick(0, &mut assignments), stream(1));
    upstream.receiver_up(&name, receiver(3), false).unwrap();
    upstream.receiver_ended(receiver(1));
    let behind = Pick::Behind(receiver(1));
    assert_eq!(upstream.pick(0, &mut assignments), behind);
    assert!(upstream.is_full(receiver(1)), "what feeds it is not read");
    assert_eq!(upstream.pick(0, &mut Assignments::new()), stream(3));
    let (conn, event) = event();
    upstream.hold(receiver(1), Upward::Event(conn, event));
    let (service, held) = upstream.receiver_down(receiver(1)).unwrap();
    assert_eq!((service, held.len()), (0, 1));
    assert_eq!(upstream.pick(0, &mut assignments), stream(3));
}
