//! What the server answers to a peer that breaks a rule, each over raw `h2`.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use common::START;
use common::raw::{RawClient, cx, framed, request};
use flate2::Compression;
use flate2::write::GzEncoder;
use h2_stream::{CloseReason, Code, Config, Server, ServerEvent, Status, StreamId};
use http::Method;

const STREAM: StreamId = StreamId(1);

fn client(config: Config) -> RawClient {
    RawClient::new(Server::new(config, START))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Sends `body` on a gRPC call and says the status code that came back, and why the stream closed.
fn status_of(
    config: Config,
    body: &[Bytes],
    encoding: Option<&str>,
) -> (String, Option<CloseReason>) {
    let mut raw = client(config);
    let mut request = request();
    if let Some(encoding) = encoding {
        request
            .headers_mut()
            .insert("grpc-encoding", encoding.parse().unwrap());
    }
    let (response, mut stream) = raw.call(request);
    for part in body {
        stream.send_data(part.clone(), false).unwrap();
    }
    stream.send_data(Bytes::new(), true).unwrap();
    let code = raw.answer(response).code().to_owned();
    let reason = raw.events.iter().find_map(|event| match event {
        ServerEvent::Closed { reason, .. } => Some(*reason),
        _ => None,
    });
    (code, reason)
}

#[test]
fn other_http_methods_get_405() {
    let mut raw = client(Config::default());
    let mut get = request();
    *get.method_mut() = Method::GET;
    let (response, _stream) = raw.call(get);
    let answer = raw.answer(response);
    assert_eq!(answer.head.status(), 405);
    assert_eq!(answer.head.headers()["allow"], "POST");
    assert_eq!(raw.events, []);
    assert_eq!(raw.server.counters().wrong_method, 1);
}

#[test]
fn other_content_types_get_415() {
    for wrong in [
        "application/json",
        "application/grpc-web",
        "application/grpc+json",
        "",
    ] {
        let mut raw = client(Config::default());
        let mut request = request();
        request
            .headers_mut()
            .insert("content-type", wrong.parse().unwrap());
        let (response, _stream) = raw.call(request);
        assert_eq!(raw.answer(response).head.status(), 415, "{wrong}");
        assert_eq!(raw.events, []);
        assert_eq!(raw.server.counters().wrong_content_type, 1);
    }
}

#[test]
fn grpc_content_types_are_accepted() {
    for right in [
        "application/grpc",
        "application/grpc+proto",
        "Application/gRPC; charset=utf-8",
    ] {
        let mut raw = client(Config::default());
        let mut request = request();
        request
            .headers_mut()
            .insert("content-type", right.parse().unwrap());
        let (_response, _stream) = raw.call(request);
        raw.run();
        assert!(
            matches!(raw.events[..], [ServerEvent::Request { .. }]),
            "{right}"
        );
    }
}

#[test]
fn unknown_method_is_the_owners_to_refuse() {
    // The crate knows no methods: `Request` comes, and the answer is trailers-only.
    let mut raw = client(Config::default());
    let (response, _stream) = raw.call(request());
    raw.run();
    raw.server.finish(STREAM, Status::unimplemented());
    let answer = raw.answer(response);
    assert_eq!(answer.head.headers()["grpc-status"], "12");
    assert_eq!(answer.head.headers()["content-type"], "application/grpc");
    assert!(answer.trailers.is_empty() && answer.body.is_empty());
}

#[test]
fn unknown_encoding_is_unimplemented_and_says_what_is_known() {
    let mut raw = client(Config::default());
    let mut request = request();
    request
        .headers_mut()
        .insert("grpc-encoding", "snappy".parse().unwrap());
    let (response, _stream) = raw.call(request);
    let answer = raw.answer(response);
    assert_eq!(answer.code(), "12");
    assert_eq!(
        answer.head.headers()["grpc-accept-encoding"],
        "identity,gzip"
    );
    assert_eq!(raw.server.counters().unknown_encoding, 1);
}

#[test]
fn message_over_the_limit_is_resource_exhausted() {
    // The prefix alone decides: 4 GiB are announced and never sent.
    let config = Config {
        max_message: 100,
        ..Config::default()
    };
    let expected = ("8".to_owned(), Some(CloseReason::MessageTooLarge));
    let announced = Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2]);
    assert_eq!(status_of(config.clone(), &[announced], None), expected);
    assert_eq!(
        status_of(config.clone(), &[framed(0, &[7; 101])], None),
        expected
    );
    let (_, fits) = status_of_unfinished(config, framed(0, &[7; 100]));
    assert_eq!(fits, 1);
}

/// Sends `body` and says how many events besides the request and half-close came, and messages.
fn status_of_unfinished(config: Config, body: Bytes) -> (usize, usize) {
    let mut raw = client(config);
    let (_response, mut stream) = raw.call(request());
    stream.send_data(body, true).unwrap();
    raw.run();
    let messages = raw
        .events
        .iter()
        .filter(|event| matches!(event, ServerEvent::Message { .. }));
    let messages = messages.count();
    (raw.events.len() - messages, messages)
}

#[test]
fn inflated_bomb_is_resource_exhausted() {
    let config = Config {
        max_message: 10_000,
        ..Config::default()
    };
    let bomb = framed(1, &gzip(&vec![0; 10_001]));
    let (code, reason) = status_of(config, &[bomb], Some("gzip"));
    assert_eq!(
        (code.as_str(), reason),
        ("8", Some(CloseReason::MessageTooLarge))
    );
}

#[test]
fn gzip_messages_arrive_inflated() {
    let mut raw = client(Config {
        max_message: 10_000,
        ..Config::default()
    });
    let mut request = request();
    request
        .headers_mut()
        .insert("grpc-encoding", "gzip".parse().unwrap());
    let (_response, mut stream) = raw.call(request);
    stream
        .send_data(framed(1, &gzip(&[5; 10_000])), false)
        .unwrap();
    // The flag is per message: this one is not compressed.
    stream.send_data(framed(0, b"plain"), true).unwrap();
    raw.run();
    let messages: Vec<&[u8]> = raw
        .events
        .iter()
        .filter_map(|event| match event {
            ServerEvent::Message { message, .. } => Some(&message[..]),
            _ => None,
        })
        .collect();
    assert_eq!(messages, [&[5; 10_000][..], b"plain"]);
}

#[test]
fn broken_messages_are_internal() {
    let internal = ("13".to_owned(), Some(CloseReason::BadMessage));
    let config = Config::default();
    assert_eq!(
        status_of(config.clone(), &[framed(1, b"x")], None),
        internal,
        "not announced"
    );
    assert_eq!(
        status_of(config.clone(), &[framed(2, b"x")], None),
        internal,
        "unknown flags"
    );
    assert_eq!(
        status_of(config, &[framed(1, b"no gzip")], Some("gzip")),
        internal,
        "no gzip"
    );
}

#[test]
fn message_cut_short_by_the_end_is_invalid_argument() {
    let invalid = ("3".to_owned(), Some(CloseReason::Truncated));
    for kept in [1, 4, 5, 9] {
        let part = framed(0, b"hello").slice(..kept);
        assert_eq!(
            status_of(Config::default(), &[part], None),
            invalid,
            "{kept} bytes"
        );
    }
}

#[test]
fn too_many_incomplete_messages_are_refused() {
    // Their credit is back already, so only this limit bounds their memory.
    let config = Config {
        max_message: 1000,
        max_incomplete: 1500,
        ..Config::default()
    };
    let mut raw = client(config);
    let mut calls = Vec::new();
    for _ in 0..2 {
        let (response, mut stream) = raw.call(request());
        stream
            .send_data(framed(0, &[1; 900]).slice(..800), false)
            .unwrap();
        calls.push((response, stream));
        raw.run();
    }
    let (second, _stream) = calls.pop().unwrap();
    assert_eq!(raw.answer(second).code(), "8");
    // The first is unharmed, and there is room again.
    let (first, mut stream) = calls.pop().unwrap();
    stream
        .send_data(framed(0, &[1; 900]).slice(800..), true)
        .unwrap();
    raw.run();
    assert!(
        raw.events
            .iter()
            .any(|event| matches!(event, ServerEvent::Message { stream: STREAM, .. }))
    );
    raw.server.finish(STREAM, Status::ok());
    assert_eq!(raw.answer(first).code(), "0");
}

#[test]
fn timeout_of_the_call_ends_it() {
    let mut raw = client(Config::default());
    let mut request = request();
    request
        .headers_mut()
        .insert("grpc-timeout", "1500m".parse().unwrap());
    let (response, _stream) = raw.call(request);
    raw.run();
    let due = START + Duration::from_millis(1500);
    assert!(matches!(raw.events[..], [ServerEvent::Request { deadline: Some(d), .. }] if d == due));
    assert_eq!(raw.server.next_deadline(), Some(due));
    raw.now = due;
    raw.server.handle_timeout(due);
    assert_eq!(raw.answer(response).code(), "4");
    let reason = CloseReason::DeadlineExceeded;
    assert_eq!(
        raw.events[1..],
        [ServerEvent::Closed {
            stream: STREAM,
            reason
        }]
    );
    assert!(!raw.server.send_encoded(STREAM, b"late"));
}

#[test]
fn timeout_within_an_answer_resets_the_stream() {
    // Messages the client has no window for are queued, maybe cut inside one: no status may
    // follow.
    let mut raw = client(Config::default());
    let mut request = request();
    request
        .headers_mut()
        .insert("grpc-timeout", "1S".parse().unwrap());
    let (mut response, _stream) = raw.call(request);
    raw.run();
    raw.server.send_encoded(STREAM, &[1; 100_000]);
    raw.run();
    assert!(raw.server.queued(STREAM) > 0);
    raw.now += Duration::from_secs(1);
    raw.server.handle_timeout(raw.now);
    raw.run();
    let Poll::Ready(Ok(response)) = std::pin::Pin::new(&mut response).poll(&mut cx()) else {
        panic!("the head was sent");
    };
    let mut body = response.into_body();
    let error = loop {
        match body.poll_data(&mut cx()) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(error))) => break error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
    assert_eq!(raw.server.open_streams(), 0);
}

#[test]
fn malformed_timeouts_are_refused() {
    for wrong in ["", "S", "1", "123456789S", "1x", "-1S", "1.5S"] {
        let mut raw = client(Config::default());
        let mut request = request();
        request
            .headers_mut()
            .insert("grpc-timeout", wrong.parse().unwrap());
        let (response, _stream) = raw.call(request);
        assert_eq!(raw.answer(response).code(), "13", "{wrong}");
        assert_eq!(raw.server.counters().bad_timeout, 1);
    }
}

#[test]
fn oversize_headers_get_431() {
    let mut raw = client(Config {
        max_header_list: 1000,
        ..Config::default()
    });
    let mut request = request();
    request
        .headers_mut()
        .insert("x", "y".repeat(1000).parse().unwrap());
    let (response, _stream) = raw.call(request);
    assert_eq!(raw.answer(response).head.status(), 431);
    assert_eq!(raw.events, []);
}

#[test]
fn reset_in_mid_message_closes_the_stream_behind_its_messages() {
    let mut raw = client(Config::default());
    let (_response, mut stream) = raw.call(request());
    stream.send_data(framed(0, b"whole"), false).unwrap();
    stream
        .send_data(framed(0, b"half").slice(..6), false)
        .unwrap();
    raw.run();
    stream.send_reset(h2::Reason::CANCEL);
    raw.run();
    let reason = CloseReason::Reset(8);
    assert!(matches!(
        raw.events[..],
        [ServerEvent::Request { .. }, ServerEvent::Message { .. }, ServerEvent::Closed { reason: r, .. }] if r == reason
    ));
    assert_eq!(raw.server.open_streams(), 0);
    assert_eq!(raw.server.counters().reset_by_client, 1);
}

#[test]
fn reset_after_half_close_is_told() {
    // Nothing is read any more: only the sending half hears of the reset.
    let mut raw = client(Config::default());
    let (_response, mut stream) = raw.call(request());
    stream.send_data(Bytes::new(), true).unwrap();
    raw.run();
    assert!(matches!(
        raw.events[..],
        [_, ServerEvent::HalfClosed { .. }]
    ));
    raw.server.start(STREAM);
    raw.run();
    stream.send_reset(h2::Reason::CANCEL);
    raw.run();
    let reason = CloseReason::Reset(8);
    assert_eq!(
        raw.events[2..],
        [ServerEvent::Closed {
            stream: STREAM,
            reason
        }]
    );
    assert_eq!(raw.server.open_streams(), 0);
}

#[test]
fn streams_over_the_limit_are_refused_and_the_others_go_on() {
    let mut raw = client(Config {
        max_streams: 2,
        ..Config::default()
    });
    // All three leave before the server's settings are known.
    let mut calls: Vec<_> = (0..3).map(|_| raw.call(request())).collect();
    raw.run();
    assert_eq!(raw.server.open_streams(), 2);
    let (refused, _stream) = calls.pop().unwrap();
    let Poll::Ready(Err(error)) = std::pin::pin!(refused).poll(&mut cx()) else {
        panic!("not refused");
    };
    assert_eq!(error.reason(), Some(h2::Reason::REFUSED_STREAM));
    for (response, _stream) in calls {
        let id = StreamId(response.stream_id().as_u32());
        raw.server.finish(id, Status::new(Code::Ok, ""));
        assert_eq!(raw.answer(response).code(), "0");
    }
}
