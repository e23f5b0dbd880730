//! What is read without prost is what prost reads.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

use gateway_proto::{
    plain::{self, Body, Plain},
    v1::{self, logic_frame::Body as Down, message_request::Target},
};
use proptest::prelude::*;
use prost::Message;

/// The message that prost would have made of it.
fn message(plain: &Plain, bytes: &[u8]) -> v1::MessageRequest {
    let user = plain.user.of(bytes).to_vec();
    v1::MessageRequest {
        target: Some(Target::UserId(String::from_utf8(user).unwrap())),
        payload: plain.payload.of(bytes).to_vec().into(),
        kind: plain.kind,
        delivery: None,
    }
}

/// Whatever was read: prost reads the same.
fn agrees(bytes: &[u8]) {
    if let Some((sequence, body)) = plain::frame(bytes) {
        let body = match body {
            Body::Push(push) => Down::Push(message(&push, bytes)),
            Body::Batch(batch) => Down::Batch(batch_of(&batch, bytes)),
        };
        let body = Some(body);
        assert_eq!(
            v1::LogicFrame::decode(bytes),
            Ok(v1::LogicFrame { sequence, body })
        );
    }
    if let Some(push) = plain::request(bytes) {
        assert_eq!(v1::MessageRequest::decode(bytes), Ok(message(&push, bytes)));
    }
    if let Some(batch) = plain::batch(bytes) {
        assert_eq!(v1::PushBatch::decode(bytes), Ok(batch_of(&batch, bytes)));
    }
}

fn batch_of(batch: &[Plain], bytes: &[u8]) -> v1::PushBatch {
    v1::PushBatch {
        messages: batch.iter().map(|push| message(push, bytes)).collect(),
    }
}

fn push() -> impl Strategy<Value = v1::MessageRequest> {
    let target = prop_oneof![
        8 => ".{0,20}".prop_map(|user| Some(Target::UserId(user))),
        1 => ".{0,9}".prop_map(|topic| Some(Target::Topic(topic))),
        1 => Just(None),
    ];
    let delivery = prop_oneof![
        8 => Just(None),
        1 => any::<u32>().prop_map(|ttl_ms| Some(v1::Delivery { ttl_ms, ..Default::default() })),
    ];
    let payload = prop::collection::vec(any::<u8>(), 0..200);
    let kind = prop_oneof![4 => 0..3_i32, 1 => any::<i32>()];
    (target, payload, kind, delivery).prop_map(|(target, payload, kind, delivery)| {
        v1::MessageRequest {
            target,
            payload: payload.into(),
            kind,
            delivery,
        }
    })
}

fn frame() -> impl Strategy<Value = v1::LogicFrame> {
    let batch = prop::collection::vec(push(), 0..5);
    let body = prop_oneof![
        push().prop_map(|push| Some(Down::Push(push))),
        batch.prop_map(|messages| Some(Down::Batch(v1::PushBatch { messages }))),
        Just(Some(Down::ClientAck(v1::ClientAck { id: 7 }))),
        Just(None),
    ];
    (any::<u64>(), body).prop_map(|(sequence, body)| v1::LogicFrame { sequence, body })
}

fn is_plain(push: &v1::MessageRequest) -> bool {
    matches!(push.target, Some(Target::UserId(_))) && push.delivery.is_none()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Every plain push is read here, and nothing else is.
    #[test]
    fn plain_pushes_are_read_and_others_are_not(frame in frame()) {
        let bytes = frame.encode_to_vec();
        agrees(&bytes);
        let plain = match &frame.body {
            Some(Down::Push(push)) => is_plain(push),
            Some(Down::Batch(batch)) => batch.messages.iter().all(is_plain),
            _ => false,
        };
        prop_assert_eq!(plain::frame(&bytes).is_some(), plain);
    }

    /// Cut, changed, repeated and put together at will: whatever is read here prost reads alike.
    #[test]
    fn both_agree_on_damaged_bytes(
        first in frame(),
        second in frame(),
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 0..4),
    ) {
        let mut bytes = first.encode_to_vec();
        for (at, byte, how) in damages {
            let at = at.index(bytes.len() + 1);
            match how {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, byte),
                2 => bytes.extend(second.encode_to_vec()),
                _ => if let Some(old) = bytes.get_mut(at) {
                    *old = byte;
                }
            }
        }
        agrees(&bytes);
        if let Some(Down::Push(push)) = &first.body {
            agrees(&push.encode_to_vec());
        }
    }

    /// Copied one behind the other, they still are what they were.
    #[test]
    fn copies_are_found_again(pushes in prop::collection::vec(push().prop_filter("plain", is_plain), 0..9)) {
        let mut together = Vec::new();
        let mut copies = Vec::new();
        for push in &pushes {
            let bytes = push.encode_to_vec();
            let read = plain::request(&bytes).expect("a plain push");
            copies.push(read.copy(&bytes, &mut together));
        }
        let found: Vec<_> = copies.iter().map(|copy| message(copy, &together)).collect();
        prop_assert_eq!(found, pushes);
    }

    #[test]
    fn both_agree_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        agrees(&bytes);
    }

    /// Few values that are all meaningful hit more than any bytes do.
    #[test]
    fn both_agree_on_bytes_that_look_like_fields(
        bytes in prop::collection::vec(
            prop::sample::select(vec![0_u8, 1, 2, 3, 8, 0x0a, 0x1a, 0x22, 0x32, 0x38, 0x80, 0xff, b'a']),
            0..24,
        )
    ) {
        agrees(&bytes);
    }
}
