//! What logic services are told of their pushes: counts, receipts, rejections.

use crate::world::{
    logic::{pushing, to_everyone, to_topic, to_user, to_users},
    user_of, world,
};
use gateway_proto::{
    names,
    v1::{
        self, Outcome, RejectReason, Scope, gateway_frame::Body as Up, logic_frame::Body as Down,
    },
};

#[test]
fn a_counting_call_sums_up_all_shards() {
    let mut world = world(2, |_| {});
    let (here, there) = (user_of(0, 2), user_of(1, 2));
    for user in [&here, &here, &there] {
        world.connect(0, &format!("/ws?user={user}"));
    }
    let logic = world.logic(0);
    let call = world.service(logic).open(names::PUSH_STREAM);
    let bad = v1::MessageRequest {
        payload: vec![0xff].into(),
        ..to_user(&here, "")
    };
    for message in [
        to_user(&here, "2"),
        to_user(&there, "1"),
        to_user("nobody", "0"),
        bad,
        to_everyone("3"),
        to_topic("empty", "0"),
    ] {
        world.service(logic).client.send(call, &message);
    }
    world.settle();
    assert!(
        !world.service(logic).ended.contains_key(&call),
        "the call goes on"
    );
    world.service(logic).client.half_close(call);
    world.settle();
    let response: v1::MessageResponse = world.service(logic).answer(call);
    let expected = v1::MessageResponse {
        accepted: 5,
        delivered: 6,
        no_target: 2,
        dropped: 0,
        rejected: 1,
    };
    assert_eq!(response, expected);
}

#[test]
fn unary_calls_answer_at_once() {
    let mut world = world(2, |_| {});
    let user = user_of(1, 2);
    let client = world.connect(0, &format!("/ws?user={user}"));
    let logic = world.logic(0);
    let push = world
        .service(logic)
        .call(names::PUSH, &to_user(&user, "one"));
    let batch = v1::PushBatch {
        messages: vec![to_user(&user, "two"), to_user("nobody", "")],
    };
    let many = world.service(logic).call(names::PUSH_MANY, &batch);
    let empty = world
        .service(logic)
        .call(names::PUSH, &v1::MessageRequest::default());
    let describe = world
        .service(logic)
        .call(names::DESCRIBE, &v1::DescribeRequest {});
    world.settle();
    assert_eq!(world.client(client).texts(), ["one", "two"]);
    let response: v1::MessageResponse = world.service(logic).answer(push);
    assert_eq!((response.accepted, response.delivered), (1, 1));
    let response: v1::MessageResponse = world.service(logic).answer(many);
    assert_eq!(
        (response.accepted, response.delivered, response.no_target),
        (2, 1, 1)
    );
    let status = &world.service(logic).ended[&empty];
    assert_eq!(status.code, h2_stream::Code::InvalidArgument, "{status:?}");
    let described: v1::DescribeResponse = world.service(logic).answer(describe);
    assert_eq!((described.epoch, described.shards), (77, 2));
}

#[test]
fn receipts_tell_the_outcome_of_every_delivery() {
    let mut world = world(2, |config| config.outbox.max_messages = 2);
    let (here, there) = (user_of(0, 2), user_of(1, 2));
    let (a, b) = (
        world.connect(0, &format!("/ws?user={here}")),
        world.connect(0, &format!("/ws?user={there}")),
    );
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Gateway));
    let asking = |mut push: v1::MessageRequest, key: &str| {
        push.delivery = Some(v1::Delivery {
            receipt: v1::ReceiptMode::Targets.into(),
            conflation_key: key.into(),
            ..Default::default()
        });
        push
    };
    let written = world
        .service(logic)
        .push(asking(to_users(&[&here, &there, "x"], "hi"), ""));
    let nobody = world
        .service(logic)
        .push(asking(to_topic("empty", "hi"), ""));
    world.settle();
    let receipt = world.service(logic).receipt(written).unwrap();
    assert_eq!(receipt, [(Outcome::Written, 2), (Outcome::NoTarget, 1)]);
    assert_eq!(
        world.service(logic).receipt(nobody).unwrap(),
        [(Outcome::NoTarget, 1)]
    );

    world.client(b).stalled = true;
    let flying = world
        .service(logic)
        .push(asking(to_user(&there, "flies"), ""));
    world.settle();
    let older = world
        .service(logic)
        .push(asking(to_user(&there, "older"), "k"));
    let newer = world
        .service(logic)
        .push(asking(to_user(&there, "newer"), "k"));
    world.settle();
    let conflated = world.service(logic).receipt(older).unwrap();
    assert_eq!(conflated, [(Outcome::Conflated, 1)]);
    assert_eq!(
        world.service(logic).receipt(newer),
        None,
        "it waits for the kernel"
    );
    world.reset(b);
    for sequence in [flying, newer] {
        let receipt = world.service(logic).receipt(sequence).unwrap();
        assert_eq!(receipt, [(Outcome::Closed, 1)]);
    }
    assert_eq!(world.client(a).texts(), ["hi"]);
}

#[test]
fn invalid_content_costs_that_message_only() {
    let mut world = world(1, |config| config.limits.max_payload_bytes = 100);
    let client = world.connect(0, "/ws?user=alice");
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    let long = "x".repeat(257);
    let logic_ref = world.service(logic);
    logic_ref.push(v1::MessageRequest::default());
    logic_ref.push(to_user(&long, "hi"));
    logic_ref.push(to_user("", "hi"));
    logic_ref.push(v1::MessageRequest {
        payload: vec![0xc0].into(),
        ..to_user("alice", "")
    });
    logic_ref.push(to_user("alice", &"y".repeat(101)));
    logic_ref.frame(3, Some(Down::Push(to_user("alice", "again"))));
    logic_ref.frame(6, None);
    logic_ref.frame(7, Some(Down::Push(to_user("alice", "good"))));
    world.settle();
    let reasons: Vec<_> = world
        .service(logic)
        .rejections()
        .into_iter()
        .map(|(_, reason)| reason)
        .collect();
    use RejectReason::*;
    let expected = [
        UnknownTarget,
        InvalidName,
        InvalidName,
        InvalidText,
        TooLarge,
        BadSequence,
        UnknownFrame,
    ];
    assert_eq!(reasons, expected);
    assert_eq!(world.client(client).texts(), ["good"]);
    assert_eq!(world.service(logic).acked(), 7);
    assert_eq!(world.metrics[0].rejected.total(), 7);
}

/// A batch has one receipt; a message in it that is refused, even the last one, must not keep it from coming.
#[test]
fn a_batch_has_one_receipt_whatever_its_last_message_is() {
    let mut world = world(2, |_| {});
    let (here, there) = (user_of(0, 2), user_of(1, 2));
    world.connect(0, &format!("/ws?user={here}"));
    world.connect(0, &format!("/ws?user={there}"));
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Gateway));
    let delivery = Some(v1::Delivery {
        receipt: v1::ReceiptMode::Counts.into(),
        ..Default::default()
    });
    let asking = v1::MessageRequest {
        delivery,
        ..to_users(&[&here, &here, &there], "once each")
    };
    let messages = vec![asking, to_topic("empty", ""), to_user("", "refused")];
    let batch = world
        .service(logic)
        .command(Down::Batch(v1::PushBatch { messages }));
    world.settle();
    let receipt = world.service(logic).receipt(batch).unwrap();
    assert_eq!(receipt, [(Outcome::Written, 2), (Outcome::NoTarget, 1)]);
    assert_eq!(world.service(logic).acked(), batch);
    assert_eq!(world.service(logic).rejections().len(), 1);
}

#[test]
fn more_receipts_than_the_bound_are_refused_not_forgotten() {
    let mut world = world(1, |config| config.limits.max_jobs = 1);
    let client = world.connect(0, "/ws?user=alice");
    world.client(client).stalled = true;
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    let delivery = Some(v1::Delivery {
        receipt: v1::ReceiptMode::Counts.into(),
        ..Default::default()
    });
    for _ in 0..2 {
        let push = to_user("alice", "hi");
        world.service(logic).push(v1::MessageRequest {
            delivery: delivery.clone(),
            ..push
        });
    }
    world.settle();
    let rejections = world.service(logic).rejections();
    assert_eq!(rejections, [(2, RejectReason::Overloaded)]);
}

/// What a service is told of some pushes that come in one tick: DATA frames, their bytes, and receipts.
fn told_of(pushes: u32, receipt: v1::ReceiptMode) -> (Vec<usize>, usize) {
    let mut world = world(1, |config| config.outbox.max_messages = 10_000);
    world.connect(0, "/ws?user=alice");
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    world.settle();
    world.service(logic).data_frames.clear();
    for _ in 0..pushes {
        let mut push = to_user("alice", "x");
        push.delivery = Some(v1::Delivery {
            receipt: receipt.into(),
            ..Default::default()
        });
        world.service(logic).push(push);
    }
    world.settle();
    let service = world.service(logic);
    assert_eq!(service.acked(), u64::from(pushes));
    let receipts = service.frames.iter();
    let receipts = receipts.filter(|frame| matches!(frame, Up::Receipt(_)));
    let receipts = receipts.count();
    (service.data_frames.clone(), receipts)
}

#[test]
fn receipts_of_a_tick_leave_together_and_cost_nothing_when_none_is_asked_for() {
    const FRAME: usize = 16 << 10;
    // An Ack, and nothing else: gRPC's prefix, a field of a field.
    let (frames, receipts) = told_of(100, v1::ReceiptMode::None);
    assert_eq!((frames, receipts), (vec![5 + 4], 0));
    // The Ack of the tick, and what became of all of them.
    let (frames, receipts) = told_of(100, v1::ReceiptMode::Counts);
    assert_eq!((frames.len(), receipts), (2, 100), "{frames:?}");
    // As few frames as hold them.
    let (frames, receipts) = told_of(2_000, v1::ReceiptMode::Counts);
    let bytes: usize = frames.iter().sum();
    assert!(bytes > FRAME, "{frames:?}");
    assert!(frames.len() <= bytes.div_ceil(FRAME) + 1, "{frames:?}");
    assert_eq!(receipts, 2_000);
}
