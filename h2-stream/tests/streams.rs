//! Messages over a pair of both sides: order, completeness, credit, status.

mod common;

use std::time::Duration;

use common::{Pair, START, frames};
use h2_stream::{ClientEvent, CloseReason, Code, Config, Metadata, ServerEvent, Status, StreamId};
use proptest::collection::vec;
use proptest::prelude::*;

/// Windows so small that everything has to wait for credit.
fn narrow(window: u32) -> Config {
    Config {
        stream_window: window,
        connection_window: 65_535,
        max_message: 200_000,
        ..Config::default()
    }
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    vec(
        prop_oneof![4 => 0..40usize, 2 => 0..3000usize, 1 => 0..60_000usize],
        0..40,
    )
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    vec(
        prop_oneof![1..20usize, 1..2000usize, 10_000..70_000usize],
        1..8,
    )
}

/// The n-th message of a stream: every byte tells where it belongs.
fn message(stream: StreamId, n: usize, size: usize) -> Vec<u8> {
    (0..size)
        .map(|i| (i ^ n.wrapping_mul(31) ^ stream.0 as usize) as u8)
        .collect()
}

fn messages(stream: StreamId, sizes: &[usize]) -> Vec<Vec<u8>> {
    sizes
        .iter()
        .enumerate()
        .map(|(n, size)| message(stream, n, *size))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn messages_arrive_whole_and_in_order(
        up in vec(sizes(), 1..4),
        down in sizes(),
        cuts in cuts(),
        window in 100..70_000u32,
    ) {
        // Both directions at once, several calls, bytes cut anywhere, small windows.
        let mut pair = Pair::with(narrow(window), narrow(window));
        pair.cuts = cuts;
        let calls: Vec<_> = up.iter().map(|_| pair.call()).collect();
        for (call, sizes) in calls.iter().zip(&up) {
            for message in messages(*call, sizes) {
                prop_assert!(pair.client.send_encoded(*call, &message));
            }
            pair.client.half_close(*call);
            for message in messages(*call, &down) {
                prop_assert!(pair.server.send_encoded(*call, &message));
            }
            pair.server.start(*call);
        }
        pair.run();
        for (call, sizes) in calls.iter().zip(&up) {
            let sent = messages(*call, sizes);
            prop_assert_eq!(pair.server_messages().remove(call).unwrap_or_default(), sent);
            let closed = ServerEvent::HalfClosed { stream: *call };
            prop_assert_eq!(pair.server_events.iter().filter(|event| **event == closed).count(), 1);
            let sent = messages(*call, &down);
            prop_assert_eq!(pair.client_messages().remove(call).unwrap_or_default(), sent);
            pair.server.finish(*call, Status::ok());
        }
        pair.run();
        for call in calls {
            prop_assert_eq!(pair.status(call), Some(&Status::ok()));
        }
        prop_assert_eq!((pair.server.open_streams(), pair.client.open_streams()), (0, 0));
    }

    #[test]
    fn credit_never_leaks(
        rounds in vec((sizes(), 0..6u8), 1..6),
        cuts in cuts(),
        window in 1000..70_000u32,
    ) {
        // Calls end in every way there is, with messages handled or not, whole or not.
        let mut pair = Pair::with(narrow(window), narrow(window));
        pair.cuts = cuts;
        for (sizes, ending) in rounds {
            end_a_call(&mut pair, &sizes, ending);
        }
        prop_assert_eq!((pair.server.open_streams(), pair.client.open_streams()), (0, 0));
        assert_window(&mut pair, window);
    }
}

#[test]
fn credit_never_leaks_over_many_calls() {
    // Even ten bytes lost per call would add up to more than what h2 may hold back.
    for ending in 0..6 {
        let mut pair = Pair::with(narrow(65_535), narrow(65_535));
        for _ in 0..3000 {
            end_a_call(&mut pair, &[10, 0, 300], ending);
        }
        assert_window(&mut pair, 65_535);
    }
}

/// A call with messages both ways that ends in one of six ways, soon after it began.
fn end_a_call(pair: &mut Pair, sizes: &[usize], ending: u8) {
    pair.release = ending.is_multiple_of(2);
    let call = pair.call();
    for message in messages(call, sizes) {
        pair.client.send_encoded(call, &message);
        pair.server.send_encoded(call, &message);
    }
    for _ in 0..sizes.len() / 2 {
        pair.step();
    }
    match ending {
        0 | 1 => pair.server.finish(call, Status::ok()),
        2 | 3 => pair.client.reset(call),
        4 => pair.server.pause(call),
        _ => pair.client.pause(call),
    }
    pair.run();
    pair.client.reset(call);
    pair.run();
    pair.client_events.clear();
    pair.server_events.clear();
}

/// Both sides can have a window's worth of unhandled messages under way, but for what h2 saves
/// up before it sends a WINDOW_UPDATE: at most a third.
fn assert_window(pair: &mut Pair, window: u32) {
    pair.cuts = vec![64 << 10];
    pair.release = false;
    let call = pair.call();
    let fits = window.min(65_535) as usize / 100;
    for _ in 0..fits {
        pair.client.send_encoded(call, &[1; 95]);
        pair.server.send_encoded(call, &[1; 95]);
    }
    pair.run();
    let up = pair.server_messages()[&call].len();
    let down = pair.client_messages()[&call].len();
    assert!(up >= fits * 2 / 3, "{up} of {fits} up");
    assert!(down >= fits * 2 / 3, "{down} of {fits} down");
    // Once handled, the rest follows.
    pair.release = true;
    for event in pair.server_events.clone() {
        if let ServerEvent::Message { stream, credit, .. } = event {
            pair.server.release(stream, credit);
        }
    }
    for event in pair.client_events.clone() {
        if let ClientEvent::Message { id, credit, .. } = event {
            pair.client.release(id, credit);
        }
    }
    pair.run();
    assert_eq!(pair.server_messages()[&call].len(), fits);
    assert_eq!(pair.client_messages()[&call].len(), fits);
}

#[test]
fn message_as_large_as_the_limit_passes_a_smaller_window() {
    let config = Config {
        max_message: 4 << 20,
        ..narrow(1000)
    };
    let mut pair = Pair::with(config.clone(), config);
    let call = pair.call();
    let large = message(call, 1, 4 << 20);
    pair.client.send_encoded(call, &large);
    pair.server.send_encoded(call, &large);
    pair.run();
    assert_eq!(pair.server_messages()[&call], std::slice::from_ref(&large));
    assert_eq!(pair.client_messages()[&call], [large]);
}

#[test]
fn unreleased_messages_hold_the_sender_back() {
    let mut pair = Pair::with(narrow(10_000), narrow(10_000));
    let call = pair.call();
    pair.release = false;
    for _ in 0..100 {
        pair.client.send_encoded(call, &[1; 995]);
    }
    pair.run();
    assert_eq!(pair.server_messages()[&call].len(), 10);
    assert_eq!(pair.client.queued(call), 90_000);
    // Handled messages let as many follow.
    for event in std::mem::take(&mut pair.server_events) {
        if let ServerEvent::Message { stream, credit, .. } = event {
            assert_eq!(credit, 1000);
            pair.server.release(stream, credit);
        }
    }
    pair.run();
    assert_eq!(pair.server_messages()[&call].len(), 10);
}

#[test]
fn released_twice_is_credited_once() {
    let mut pair = Pair::with(narrow(10_000), narrow(10_000));
    let call = pair.call();
    pair.release = false;
    pair.client.send_encoded(call, &[1; 995]);
    pair.run();
    for _ in 0..100 {
        pair.server.release(call, 1000);
        pair.server.release(StreamId(99), 1000);
    }
    for _ in 0..100 {
        pair.client.send_encoded(call, &[1; 995]);
    }
    pair.run();
    assert_eq!(pair.server_messages()[&call].len(), 11);
}

#[test]
fn held_stream_waits_while_others_go_on() {
    let mut pair = Pair::new();
    let (held, other) = (pair.call(), pair.call());
    pair.server.pause(held);
    for id in [held, other] {
        pair.client.send_encoded(id, b"message");
        pair.client.half_close(id);
    }
    pair.run();
    assert_eq!(pair.server_messages().keys().collect::<Vec<_>>(), [&other]);
    pair.server.resume(held);
    pair.run();
    assert_eq!(pair.server_messages()[&held], [b"message"]);
    assert_eq!(
        pair.server_events.last(),
        Some(&ServerEvent::HalfClosed { stream: held })
    );
}

#[test]
fn reset_of_a_held_stream_is_told() {
    let mut pair = Pair::new();
    let call = pair.call();
    pair.server.pause(call);
    pair.client.reset(call);
    pair.run();
    let reason = CloseReason::Reset(8);
    assert_eq!(
        pair.server_events[1..],
        [ServerEvent::Closed {
            stream: call,
            reason
        }]
    );
    assert_eq!(pair.server.open_streams(), 0);
}

#[test]
fn messages_leave_joined_in_large_frames() {
    let mut pair = Pair::new();
    let call = pair.call();
    for _ in 0..1000 {
        pair.server.send_encoded(call, &[1; 128]);
    }
    pair.server.finish(call, Status::ok());
    let mut out = Vec::new();
    while pair.server.has_output() {
        pair.server.write_output(&mut out, 1 << 20);
        pair.client.receive(START, &out);
        let data: Vec<_> = frames(&out)
            .into_iter()
            .filter(|frame| frame.0 == 0)
            .collect();
        if !data.is_empty() {
            // 133,000 bytes: eight full frames and the rest.
            assert_eq!(data.len(), 9, "{data:?}");
            assert!(data[..8].iter().all(|frame| frame.3 == 16 << 10));
        }
        out.clear();
        pair.poll();
    }
    assert_eq!(pair.client_messages()[&call].len(), 1000);
}

#[test]
fn output_is_bounded_by_what_was_asked_for() {
    let mut pair = Pair::new();
    let call = pair.call();
    pair.client.send_encoded(call, &vec![1; 500_000]);
    let mut out = b"before".to_vec();
    assert_eq!(pair.client.write_output(&mut out, 1000), 1000);
    assert_eq!(out.len(), 1006);
    assert!(out.starts_with(b"before"));
    assert!(pair.client.has_output());
    let mut total = 1000;
    while pair.client.has_output() {
        out.clear();
        total += pair.client.write_output(&mut out, 1000);
    }
    assert!(total > 500_000);
    assert!(!pair.client.has_output());
}

#[test]
fn buffer_of_a_stream_says_when_it_is_full() {
    let config = Config {
        send_buffer: 1000,
        ..Config::default()
    };
    let mut pair = Pair::with(config, Config::default());
    let call = pair.call();
    assert!(pair.server.can_send(call));
    pair.server.send_encoded(call, &[1; 995]);
    assert_eq!(pair.server.queued(call), 1000);
    assert!(!pair.server.can_send(call));
    pair.run();
    assert!(pair.server.can_send(call));
    assert!(!pair.server.can_send(StreamId(77)));
    assert!(!pair.server.send_encoded(StreamId(77), b"nobody"));
}

#[test]
fn encoded_and_typed_messages_are_the_same() {
    let mut pair = Pair::new();
    let call = pair.call();
    let typed = String::from("a prost message");
    pair.client.send(call, &typed);
    pair.client
        .send_encoded(call, &prost::Message::encode_to_vec(&typed));
    pair.run();
    let got = &pair.server_messages()[&call];
    assert_eq!(got[0], got[1]);
    assert_eq!(
        <String as prost::Message>::decode(&got[0][..]).unwrap(),
        typed
    );
}

#[test]
fn start_sends_the_head_before_any_message() {
    let mut pair = Pair::new();
    let call = pair.call();
    assert!(pair.client_events.is_empty());
    pair.server.start(call);
    pair.run();
    assert!(matches!(pair.client_events[..], [ClientEvent::Headers { id, .. }] if id == call));
}

#[test]
fn status_carries_any_text_and_metadata() {
    for answered in [false, true] {
        // Once as trailers, once as trailers-only.
        let mut pair = Pair::new();
        let call = pair.call();
        if answered {
            pair.server.send_encoded(call, b"x");
        }
        let mut status = Status::new(Code::NotFound, "käse 100% \u{1f9c0}\n");
        status.metadata.insert("retry-after", "5").unwrap();
        status
            .metadata
            .insert_bin("detail-bin", &[0, 255, 10])
            .unwrap();
        pair.server.finish(call, status.clone());
        pair.run();
        assert_eq!(pair.status(call), Some(&status));
        let got = pair.status(call).unwrap();
        assert_eq!(got.metadata.get("retry-after"), Some("5"));
        assert_eq!(
            got.metadata.get_bin("detail-bin").unwrap()[..],
            [0, 255, 10]
        );
        assert_eq!(pair.client_events.len(), if answered { 3 } else { 1 });
    }
}

#[test]
fn request_carries_metadata_and_timeout() {
    let mut pair = Pair::new();
    let mut sent = Metadata::new();
    sent.insert("authorization", "Bearer x").unwrap();
    sent.insert_bin("trace-bin", b"\x00\x01").unwrap();
    let timeout = Some(Duration::from_secs(7));
    pair.client
        .open("/pkg.Service/Method", sent.clone(), timeout, START)
        .unwrap();
    pair.run();
    let [
        ServerEvent::Request {
            method,
            metadata,
            deadline,
            ..
        },
    ] = &pair.server_events[..]
    else {
        panic!("{:?}", pair.server_events);
    };
    assert_eq!(method, "/pkg.Service/Method");
    assert_eq!(metadata, &sent, "without what HTTP and gRPC use themselves");
    assert_eq!(*deadline, Some(START + Duration::from_secs(7)));
}

#[test]
fn clients_own_clock_ends_a_call_the_server_forgot() {
    let mut pair = Pair::new();
    let timeout = Some(Duration::from_secs(1));
    let call = pair
        .client
        .open("/t/M", Metadata::new(), timeout, START)
        .unwrap();
    // The server never hears of it.
    pair.client.handle_timeout(START + Duration::from_secs(1));
    pair.poll();
    assert_eq!(pair.status(call).unwrap().code, Code::DeadlineExceeded);
    assert_eq!(pair.client.open_streams(), 0);
}

#[test]
fn early_finish_stops_a_sending_client() {
    let mut pair = Pair::new();
    let call = pair.call();
    pair.client.send_encoded(call, b"first");
    pair.run();
    pair.server
        .finish(call, Status::new(Code::InvalidArgument, "no"));
    pair.client.send_encoded(call, &vec![1; 5 << 20]);
    pair.run();
    assert_eq!(pair.status(call).unwrap().code, Code::InvalidArgument);
    assert!(!pair.client.send_encoded(call, b"late"));
    assert_eq!(
        (pair.server.open_streams(), pair.client.open_streams()),
        (0, 0)
    );
    assert!(!pair.server.is_closed() && !pair.client.is_closed());
}

#[test]
fn windows_can_be_changed_later() {
    let mut pair = Pair::with(narrow(1000), narrow(1000));
    let call = pair.call();
    pair.release = false;
    for _ in 0..200 {
        pair.client.send_encoded(call, &[1; 995]);
    }
    pair.run();
    assert_eq!(pair.server_messages()[&call].len(), 1);
    pair.server.set_windows(100_000, 1 << 20);
    pair.run();
    // A few more than 100: bytes at the end of a frame are credited with the next frame.
    let got = pair.server_messages()[&call].len();
    assert!((100..110).contains(&got), "{got}");
}
