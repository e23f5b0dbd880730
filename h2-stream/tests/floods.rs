//! Many small things at once: what a good peer may do, and what ends the connection.

#![allow(clippy::unwrap_used)]

mod common;

use common::START;
use common::raw::{RawClient, cx, framed, request};
use h2_stream::{Config, Server, ServerEvent, StreamId};

const STREAM: StreamId = StreamId(1);

fn client(config: Config) -> RawClient {
    RawClient::new(Server::new(config, START))
}

#[test]
fn rapid_resets_end_the_connection() {
    // CVE-2023-44487: opened and reset in one read, far more than any client has reason to.
    let mut raw = client(Config::default());
    raw.run();
    for _ in 0..90 {
        let (_response, mut stream) = raw.call(request());
        // Lets the HEADERS leave before the RST_STREAM, both before the server looks.
        let _ = std::pin::Pin::new(&mut raw.connection).poll(&mut cx());
        stream.send_reset(h2::Reason::CANCEL);
        let _ = std::pin::Pin::new(&mut raw.connection).poll(&mut cx());
    }
    raw.run();
    assert!(raw.server.is_closed());
    let error = raw.over.expect("over").unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM));
}

#[test]
fn million_small_messages_one_per_frame_pass() {
    let mut raw = client(Config::default());
    assert_eq!(small_messages(&mut raw, 1_000_000), 1_000_000);
    assert!(!raw.server.is_closed());
}

#[test]
fn small_messages_would_trip_the_budget_h2_has_by_itself() {
    // The counterpart of the test above: it has something to lose.
    let config = Config {
        data_frame_budget: 25_600,
        ..Config::default()
    };
    let mut raw = client(config);
    assert!(small_messages(&mut raw, 100_000) < 100_000);
    let reason = raw.server.close_reason().unwrap();
    assert!(reason.contains("excessive load"), "{reason}");
}

/// Sends messages of 128 bytes, one per DATA frame; says how many arrived.
fn small_messages(raw: &mut RawClient, count: usize) -> usize {
    let (_response, mut stream) = raw.call(request());
    let message = framed(0, &[9; 128]);
    let (mut sent, mut got) = (0, 0);
    while got < count && !raw.server.is_closed() {
        stream.reserve_capacity(64 << 10);
        while sent < count && stream.capacity() >= message.len() {
            stream.send_data(message.clone(), false).unwrap();
            stream.reserve_capacity(64 << 10);
            sent += 1;
        }
        raw.step();
        let messages = raw.events.drain(..);
        got += messages
            .filter(|event| matches!(event, ServerEvent::Message { .. }))
            .count();
    }
    got
}

#[test]
fn held_stream_of_small_frames_is_no_flood() {
    // A paused stream's window full of the smallest messages: they wait here, joined, not in h2.
    let mut raw = client(Config::default());
    let (_response, mut stream) = raw.call(request());
    raw.run();
    raw.server.pause(STREAM);
    let message = framed(0, b"");
    let mut sent = 0;
    loop {
        stream.reserve_capacity(1 << 20);
        while stream.capacity() >= 5 {
            stream.send_data(message.clone(), false).unwrap();
            stream.reserve_capacity(1 << 20);
            sent += 1;
        }
        if !raw.step() && stream.capacity() < 5 {
            break;
        }
    }
    assert!(sent > 200_000, "{sent}");
    assert_eq!(raw.events.len(), 1);
    raw.server.resume(STREAM);
    raw.run();
    assert_eq!(raw.events.len(), 1 + sent);
    assert!(!raw.server.is_closed());
}
