//! The life of a connection: beginning, silence, GOAWAY, end.

mod common;

use std::time::Duration;

use common::raw::{RawClient, framed, request};
use common::{Pair, START};
use h2_stream::{
    Client, ClientEvent, CloseReason, Code, Config, Metadata, OpenError, Server, ServerEvent,
    Status, StreamId,
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn calls_open_before_the_servers_settings_arrive() {
    let mut pair = Pair::new();
    let ids: Vec<_> = (0..100)
        .map(|_| {
            pair.client
                .open("/t/M", Metadata::new(), None, START)
                .unwrap()
        })
        .collect();
    for id in &ids {
        assert!(pair.client.send_encoded(*id, b"early"));
        pair.client.half_close(*id);
    }
    pair.run();
    assert_eq!(pair.server_messages().len(), 100);
    assert!(
        ids.iter()
            .all(|id| pair.server_messages()[id] == [b"early"])
    );
}

#[test]
fn calls_beyond_the_servers_limit_are_handed_back() {
    let config = Config {
        max_streams: 2,
        ..Config::default()
    };
    let mut pair = Pair::with(config, Config::default());
    pair.run();
    let open = |pair: &mut Pair| pair.client.open("/t/M", Metadata::new(), None, START);
    let first = open(&mut pair).unwrap();
    open(&mut pair).unwrap();
    assert_eq!(open(&mut pair), Err(OpenError::TooManyStreams));
    pair.run();
    assert_eq!(pair.server.open_streams(), 2);
    pair.server.finish(first, Status::ok());
    pair.run();
    open(&mut pair).unwrap();
    pair.run();
    assert_eq!(pair.server.open_streams(), 2);
}

#[test]
fn a_method_that_is_no_path_is_refused() {
    let mut client = Client::new(Config::default(), "localhost:9000", START);
    let bad = client.open("t M", Metadata::new(), None, START);
    assert_eq!(bad, Err(OpenError::InvalidMethod));
    let mut nowhere = Client::new(Config::default(), "not an authority", START);
    let bad = nowhere.open("/t/M", Metadata::new(), None, START);
    assert_eq!(bad, Err(OpenError::InvalidMethod));
}

#[test]
fn peers_that_answer_pings_stay_for_hours() {
    let mut pair = Pair::new();
    pair.call();
    pair.wait(SECOND * 3600);
    assert!(!pair.server.is_closed() && !pair.client.is_closed());
}

#[test]
fn silent_client_is_lost_after_a_ping() {
    let mut pair = Pair::new();
    let call = pair.call();
    // From here on the client hears nothing and says nothing.
    let mut server = pair.server;
    let ping_at = server.next_deadline().unwrap();
    assert_eq!(ping_at, START + SECOND * 20);
    server.handle_timeout(ping_at);
    let mut out = Vec::new();
    server.write_output(&mut out, 1000);
    assert_eq!(common::frames(&out)[0].0, 6, "a PING");
    let lost_at = server.next_deadline().unwrap();
    assert_eq!(lost_at, ping_at + SECOND * 20);
    server.handle_timeout(lost_at - Duration::from_nanos(1));
    assert!(!server.is_closed());
    server.handle_timeout(lost_at);
    assert!(server.is_closed());
    let reason = CloseReason::ConnectionLost;
    assert_eq!(
        server.poll_event(lost_at),
        Some(ServerEvent::Closed {
            stream: call,
            reason
        })
    );
    assert_eq!(server.next_deadline(), None);
}

#[test]
fn silent_server_is_lost_after_a_ping() {
    let mut pair = Pair::new();
    let id = pair.call();
    let mut client = pair.client;
    client.handle_timeout(START + SECOND * 20);
    client.handle_timeout(START + SECOND * 40);
    assert!(client.is_closed());
    let Some(ClientEvent::Finished {
        id: ended, status, ..
    }) = client.poll_event(START)
    else {
        panic!("the call ends with the connection");
    };
    assert_eq!((ended, status.code), (id, Code::Unavailable));
    let last = client.poll_event(START);
    assert!(
        matches!(last, Some(ClientEvent::ConnectionLost { .. })),
        "{last:?}"
    );
    assert_eq!(client.poll_event(START), None);
}

#[test]
fn silence_we_cause_ourselves_is_not_the_peers() {
    // The owner does not poll, so the socket is not read, so nobody can be heard.
    let config = Config {
        receive_buffer: 10,
        ..Config::default()
    };
    let mut pair = Pair::with(config, Config::default());
    let call = pair.call();
    pair.client.send_encoded(call, &[1; 100]);
    let mut bytes = Vec::new();
    pair.client.write_output(&mut bytes, 1000);
    pair.server.receive(START, &bytes);
    assert!(!pair.server.wants_bytes());
    for minute in 1..10 {
        pair.server.handle_timeout(START + SECOND * 60 * minute);
    }
    assert!(!pair.server.is_closed());
}

#[test]
fn client_without_a_preface_is_closed_in_time() {
    let mut server = Server::new(Config::default(), START);
    let deadline = server.next_deadline().unwrap();
    assert_eq!(deadline, START + SECOND * 10);
    server.handle_timeout(deadline);
    assert!(server.is_closed());
}

#[test]
fn garbage_instead_of_a_preface_closes() {
    let mut server = Server::new(Config::default(), START);
    server.receive(START, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(server.poll_event(START), None);
    assert!(server.is_closed());
    assert!(server.close_reason().is_some());
    assert!(!server.wants_bytes());
}

#[test]
fn garbage_after_the_preface_gets_a_goaway() {
    let mut pair = Pair::new();
    pair.call();
    pair.server.receive(START, &[0xff; 100]);
    pair.poll();
    let mut out = Vec::new();
    while pair.server.has_output() {
        pair.server.write_output(&mut out, 1000);
    }
    assert!(pair.server.is_closed());
    assert!(
        common::frames(&out).iter().any(|frame| frame.0 == 7),
        "a GOAWAY"
    );
    assert!(matches!(
        pair.server_events[..],
        [
            _,
            ServerEvent::Closed {
                reason: CloseReason::ConnectionLost,
                ..
            }
        ]
    ));
}

#[test]
fn servers_graceful_goaway_lets_open_calls_finish() {
    let mut pair = Pair::new();
    let call = pair.call();
    pair.server.shutdown(START);
    pair.run();
    assert!(
        matches!(pair.client_events[..], [ClientEvent::GoAway { .. }]),
        "{:?}",
        pair.client_events
    );
    let refused = pair.client.open("/t/M", Metadata::new(), None, START);
    assert_eq!(refused, Err(OpenError::Closed));
    // The call goes on, both ways, to its own end.
    pair.client.send_encoded(call, b"up");
    pair.server.send_encoded(call, b"down");
    pair.run();
    assert_eq!(pair.server_messages()[&call], [b"up"]);
    assert_eq!(pair.client_messages()[&call], [b"down"]);
    assert!(!pair.server.is_closed());
    pair.client.half_close(call);
    pair.run();
    pair.server.finish(call, Status::ok());
    pair.run();
    assert_eq!(pair.status(call), Some(&Status::ok()));
    assert!(pair.server.is_closed() && pair.client.is_closed());
    assert!(matches!(
        pair.client_events.last(),
        Some(ClientEvent::ConnectionLost { .. })
    ));
}

#[test]
fn clients_shutdown_lets_open_calls_finish() {
    let mut pair = Pair::new();
    let call = pair.call();
    pair.client.shutdown();
    pair.client.send_encoded(call, b"last");
    pair.client.half_close(call);
    pair.run();
    assert_eq!(
        pair.client.open("/t/M", Metadata::new(), None, START),
        Err(OpenError::Closed)
    );
    assert!(!pair.client.is_closed());
    pair.server.finish(call, Status::ok());
    pair.run();
    assert_eq!(pair.status(call), Some(&Status::ok()));
    assert!(pair.client.is_closed() && pair.server.is_closed());
}

#[test]
fn abort_tells_and_closes() {
    let mut pair = Pair::new();
    let call = pair.call();
    pair.client.half_close(call);
    pair.run();
    pair.server.abort();
    pair.run();
    assert!(pair.server.is_closed());
    // The server's driver closes the socket now.
    pair.client.receive_eof(START);
    pair.run();
    assert!(pair.client.is_closed());
    assert_eq!(
        pair.status(call).map(|status| status.code),
        Some(Code::Unavailable)
    );
    assert!(matches!(
        pair.server_events.last(),
        Some(ServerEvent::Closed {
            reason: CloseReason::ConnectionLost,
            ..
        })
    ));
}

#[test]
fn what_came_before_the_end_of_the_socket_is_delivered() {
    // Requests, messages and the end arrive in one read.
    let mut pair = Pair::new();
    let id = pair
        .client
        .open("/t/M", Metadata::new(), None, START)
        .unwrap();
    pair.client.send_encoded(id, b"one");
    pair.client.send_encoded(id, b"two");
    let mut bytes = Vec::new();
    pair.client.write_output(&mut bytes, 10_000);
    pair.server.receive(START, &bytes);
    pair.server.receive_eof(START);
    pair.poll();
    assert_eq!(pair.server_messages()[&id], [b"one", b"two"]);
    let reason = CloseReason::ConnectionLost;
    assert_eq!(
        pair.server_events.last(),
        Some(&ServerEvent::Closed { stream: id, reason })
    );
    assert!(pair.server.is_closed());
}

#[test]
fn held_stream_keeps_its_messages_beyond_the_end_of_the_socket() {
    let mut pair = Pair::new();
    let id = pair.call();
    pair.server.pause(id);
    pair.client.send_encoded(id, b"kept");
    pair.run();
    pair.server.receive_eof(START);
    pair.poll();
    assert!(pair.server.is_closed());
    assert_eq!(pair.server_events.len(), 1);
    pair.server.resume(id);
    pair.poll();
    assert_eq!(pair.server_messages()[&id], [b"kept"]);
    assert!(matches!(
        pair.server_events.last(),
        Some(ServerEvent::Closed { .. })
    ));
    assert_eq!(pair.server.open_streams(), 0);
}

#[test]
fn many_resets_of_ours_end_the_connection_gracefully() {
    // Each early end of a sending client is remembered by h2, so there must be an end to it.
    let config = Config {
        max_resets: 10,
        ..Config::default()
    };
    let mut raw = RawClient::new(Server::new(config, START));
    let (mut count, mut held) = (0, None);
    while let Ok((response, mut stream)) = raw.requests.send_request(request(), false) {
        stream.send_data(framed(0, b"more to come"), false).unwrap();
        raw.run();
        if held.is_none() {
            held = Some((response, stream));
        } else {
            raw.server
                .finish(StreamId(stream.stream_id().as_u32()), Status::ok());
            assert_eq!(raw.answer(response).code(), "0");
        }
        count += 1;
        assert!(count < 20, "no GOAWAY");
    }
    assert_eq!(count, 11);
    // The oldest call is unharmed.
    let (response, mut stream) = held.unwrap();
    stream.send_data(framed(0, b"the end"), true).unwrap();
    raw.run();
    raw.server.finish(StreamId(1), Status::ok());
    assert_eq!(raw.answer(response).code(), "0");
    assert!(raw.server.is_closed());
}

#[test]
fn only_io_util_of_tokio_is_asked_for() {
    // No clock, no socket, no task: the manifest is where they would come in.
    let manifest = include_str!("../Cargo.toml");
    let normal = manifest.split("[dev-dependencies]").next().unwrap();
    let tokio: Vec<&str> = normal
        .lines()
        .filter(|line| line.starts_with("tokio"))
        .collect();
    assert_eq!(
        tokio,
        [r#"tokio = { workspace = true, features = ["io-util"] }"#]
    );
    let root = include_str!("../../Cargo.toml");
    assert!(root.contains("\ntokio = { version = \"1.48\", default-features = false }\n"));
    // The same as cargo resolves it for this crate alone, where cargo is at hand.
    let tree = std::process::Command::new(env!("CARGO"))
        .args([
            "tree",
            "-p",
            "h2-stream",
            "-e",
            "normal,features",
            "--offline",
        ])
        .args(["--prefix", "none", "--format", "{p} {f}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        tree.status.success(),
        "{}",
        String::from_utf8_lossy(&tree.stderr)
    );
    let tree = String::from_utf8(tree.stdout).unwrap();
    // `bytes` is part of io-util, `default` is empty, and `sync` (of tokio-util, which h2
    // uses) has neither clock nor runtime.
    let harmless = ["io-util", "bytes", "default", "sync"];
    let features: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.strip_prefix("tokio feature \""))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(features.contains(&"io-util"), "{tree}");
    assert!(
        features.iter().all(|feature| harmless.contains(feature)),
        "{features:?}"
    );
}
