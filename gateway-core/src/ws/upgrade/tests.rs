use super::*;
use crate::ws::close::CloseCode;
use proptest::prelude::*;
use std::time::Duration;

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A valid request for a target, with more header lines.
pub(in crate::ws) fn request(target: &str, more: &str) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nHost: gateway:8080\r\nUpgrade: websocket\r\n\
         Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n{KEY}{more}\r\n"
    )
    .into_bytes()
}

/// The valid request with one thing replaced.
fn changed(from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(request("/ws", "")).unwrap();
    assert!(text.contains(from));
    text.replacen(from, to, 1).into_bytes()
}

fn config() -> UpgradeConfig {
    UpgradeConfig {
        paths: vec!["/ws".to_owned(), "/echo".to_owned()],
        subprotocols: vec!["ringway.v1".to_owned(), "chat".to_owned()],
        event_headers: vec!["User-Agent".to_owned(), "X-Trace".to_owned()],
        pages: vec![Page {
            path: "/".to_owned(),
            content_type: "text/html; charset=utf-8".to_owned(),
            body: Bytes::from_static(b"<p>hello"),
        }],
        ..UpgradeConfig::default()
    }
}

fn upgrade(bytes: &[u8]) -> UpgradeRequest {
    match parse(&config(), bytes) {
        Progress::Upgrade { request, consumed } => {
            assert_eq!(consumed, bytes.len());
            *request
        }
        other => panic!("no upgrade: {other:?}"),
    }
}

fn refused(bytes: &[u8]) -> Reason {
    match parse(&config(), bytes) {
        Progress::Refused { refusal } => refusal.reason,
        other => panic!("not refused: {other:?}"),
    }
}

fn page(bytes: &[u8]) -> String {
    match parse(&config(), bytes) {
        Progress::Page { response } => String::from_utf8(response).unwrap(),
        other => panic!("no page: {other:?}"),
    }
}

// The key and the answer of RFC 6455 section 1.3.
#[test]
fn the_example_of_the_rfc_is_accepted() {
    let request = upgrade(&request("/ws", "Sec-WebSocket-Protocol: soap, chat\r\n"));
    let mut out = Vec::new();
    write_accept(&request, &mut out);
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
         Sec-WebSocket-Protocol: chat\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn a_request_cut_at_any_byte_waits_for_the_rest_and_leaves_what_follows() {
    let bytes = request("/ws?user=alice", "User-Agent: test\r\n");
    for cut in 0..bytes.len() {
        let progress = parse(&config(), &bytes[..cut]);
        assert!(
            matches!(progress, Progress::Incomplete),
            "{cut}: {progress:?}"
        );
    }
    let early = [&bytes[..], &[0x81, 0x80, 1, 2, 3, 4]].concat();
    let Progress::Upgrade { consumed, .. } = parse(&config(), &early) else {
        panic!("bytes after the request are no concern of it");
    };
    assert_eq!(consumed, bytes.len());
}

#[test]
fn header_names_and_token_lists_are_read_without_regard_to_case() {
    upgrade(&changed("Upgrade: websocket", "uPGRADE: h2c , WebSocket"));
    upgrade(&changed(
        "Connection: keep-alive, Upgrade",
        "connection: UPGRADE",
    ));
    upgrade(&changed(
        "Connection: keep-alive, Upgrade",
        "Connection: a\r\nConnection: upgrade",
    ));
    upgrade(&changed("GET /ws", "\r\nGET /ws"));
}

#[test]
fn targets_may_be_absolute_and_secrets_are_not_passed_on() {
    for target in [
        "/ws?a=1&token=x&b=%20",
        "http://gateway:8080/ws?a=1&b=%20&%74oken=x&access_token",
    ] {
        let request = upgrade(&request(target, ""));
        assert_eq!(
            (request.path.as_str(), request.query.as_str()),
            ("/ws", "a=1&b=%20")
        );
        assert_eq!(request.param("token").as_deref(), Some("x"));
        assert_eq!(request.param("b").as_deref(), Some(" "));
        assert_eq!(request.param("c"), None);
    }
    assert_eq!(upgrade(&request("/ws?x=%ff", "")).param("x"), None);
    assert_eq!(upgrade(&request("/ws?next=http://x/", "")).path, "/ws");
    for target in ["*", "ws", "gateway:8080", "/ws#top"] {
        assert_eq!(
            refused(&request(target, "")),
            Reason::BadRequest,
            "{target}"
        );
    }
    assert_eq!(refused(&request("http://gateway", "")), Reason::Path);
}

#[test]
fn the_most_wanted_subprotocol_that_the_client_offers_is_chosen() {
    let chosen = |lines: &str| upgrade(&request("/ws", lines)).subprotocol;
    let lines = "Sec-WebSocket-Protocol: a,,chat\r\nsec-websocket-protocol:ringway.v1\r\n";
    assert_eq!(chosen(lines).as_deref(), Some("ringway.v1"));
    assert_eq!(
        chosen("Sec-WebSocket-Protocol: x, chat\r\n").as_deref(),
        Some("chat")
    );
    assert_eq!(chosen("Sec-WebSocket-Protocol: Chat\r\n"), None);
    let mut out = Vec::new();
    write_accept(&upgrade(&request("/ws", "")), &mut out);
    assert!(out.ends_with(b"xOo=\r\n\r\n"), "none offered, none named");
}

#[test]
fn configured_headers_are_passed_on_by_their_configured_names() {
    let lines = "user-agent: test\r\nCookie: secret\r\nx-trace: 1\r\nX-TRACE: \u{e9}\r\n";
    let headers = upgrade(&request("/ws", lines)).headers;
    let pairs: Vec<_> = headers
        .iter()
        .map(|(name, value)| (&name[..], &value[..]))
        .collect();
    assert_eq!(
        pairs,
        [("User-Agent", "test"), ("X-Trace", "1"), ("X-Trace", "é")]
    );
}

#[test]
fn origins_are_compared_exactly_and_only_pages_have_one() {
    let config = UpgradeConfig {
        origins: vec!["https://app.example".to_owned()],
        ..config()
    };
    let allowed = |line: &str| match parse(&config, &request("/ws", line)) {
        Progress::Upgrade { request, .. } => request.origin_allowed,
        other => panic!("policy is not decided here: {other:?}"),
    };
    assert!(allowed("Origin: https://app.example\r\n"));
    assert!(allowed(""));
    assert!(!allowed("Origin: https://app.example.evil\r\n"));
    assert!(!allowed("Origin: null\r\n"));
    assert!(!allowed(
        "Origin: https://app.example\r\nOrigin: https://evil\r\n"
    ));
    assert!(upgrade(&request("/ws", "Origin: https://evil\r\n")).origin_allowed);
}

#[test]
fn what_is_not_http_is_refused_at_its_first_bytes() {
    assert_eq!(refused(&[0x16]), Reason::Tls);
    assert_eq!(
        refused(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        Reason::Tls
    );
    assert_eq!(refused(b"\0"), Reason::Garbage);
    assert_eq!(refused(b"GETS"), Reason::Garbage);
    assert_eq!(refused(b"SSH-2.0-x"), Reason::Garbage);
    assert_eq!(
        refused(b"GET /ws HTTP/1.1\r\nno colon\r\n"),
        Reason::Garbage
    );
    assert_eq!(
        refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        Reason::HttpVersion
    );
    assert_eq!(
        refused(&changed("HTTP/1.1", "HTTP/1.0")),
        Reason::HttpVersion
    );
}

#[test]
fn a_head_over_the_limit_is_refused_without_its_end() {
    let limit = config().max_header_bytes;
    let head = |length: usize| format!("GET /ws HTTP/1.1\r\nX: {}", "x".repeat(length - 21));
    assert!(matches!(
        parse(&config(), head(limit - 1).as_bytes()),
        Progress::Incomplete
    ));
    assert_eq!(refused(head(limit).as_bytes()), Reason::HeaderTooLarge);
    let padding = format!("X: {}\r\n", "x".repeat(limit));
    assert_eq!(refused(&request("/ws", &padding)), Reason::HeaderTooLarge);
    assert_eq!(
        refused(&request("/ws", &"X: x\r\n".repeat(64))),
        Reason::HeaderTooLarge
    );
    // What follows a request of the right size does not count.
    let bytes = [request("/ws", ""), vec![0; limit]].concat();
    assert!(matches!(parse(&config(), &bytes), Progress::Upgrade { .. }));
}

#[test]
fn each_rule_of_the_handshake_has_its_refusal() {
    let upgrade_line = "Upgrade: websocket\r\n";
    assert_eq!(refused(&changed(upgrade_line, "")), Reason::NoUpgrade);
    assert_eq!(
        refused(&changed(upgrade_line, "Upgrade: websockets\r\n")),
        Reason::NoUpgrade
    );
    assert_eq!(
        refused(&changed("keep-alive, Upgrade", "keep-alive")),
        Reason::NoUpgrade
    );
    assert_eq!(
        refused(&changed("Version: 13", "Version: 8")),
        Reason::BadVersion
    );
    assert_eq!(
        refused(&changed("Sec-WebSocket-Version: 13\r\n", "")),
        Reason::BadVersion
    );
    assert_eq!(refused(&changed(KEY, "")), Reason::BadKey);
    assert_eq!(refused(&request("/ws", KEY)), Reason::BadKey);
    assert_eq!(refused(&changed("b25jZQ", "b25jZ")), Reason::BadKey);
    assert_eq!(refused(&changed("ZQ==", "ZQA=")), Reason::BadKey);
    assert_eq!(refused(&changed("dGhl", "d-hl")), Reason::BadKey);
    assert_eq!(
        refused(&changed("Host: gateway:8080\r\n", "")),
        Reason::BadRequest
    );
    assert_eq!(
        refused(&request("/ws", "Host: other\r\n")),
        Reason::BadRequest
    );
    assert_eq!(
        refused(&request("/ws", "Content-Length: 1\r\n")),
        Reason::Body
    );
    assert_eq!(
        refused(&request("/ws", "Transfer-Encoding: chunked\r\n")),
        Reason::Body
    );
    upgrade(&request("/ws", "Content-Length: 0\r\n"));
    assert_eq!(refused(&changed("GET", "POST")), Reason::BadMethod);
    assert_eq!(refused(&request("/", "")), Reason::Path);
    assert_eq!(refused(&request("/ws/", "")), Reason::Path);
}

#[test]
fn pages_are_served_to_plain_requests_only() {
    let served = page(b"GET /?x=1 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(served.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"));
    assert!(served.contains("\r\nContent-Length: 8\r\n"));
    assert!(served.contains("\r\nConnection: close\r\n"));
    assert!(served.ends_with("\r\n\r\n<p>hello"));
    let head = page(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(head, served.trim_end_matches("<p>hello"));
    assert_eq!(
        refused(b"DELETE / HTTP/1.1\r\nHost: x\r\n\r\n"),
        Reason::BadMethod
    );
    assert_eq!(
        refused(b"GET /favicon.ico HTTP/1.1\r\nHost: x\r\n\r\n"),
        Reason::Path
    );
}

#[test]
fn every_refusal_is_a_complete_answer() {
    for reason in Reason::ALL {
        let refusal = Refusal::retry_after(reason, Duration::from_millis(1500));
        let mut out = Vec::new();
        write_refusal(&refusal, &mut out);
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut headers);
        let Ok(Status::Complete(head)) = response.parse(&out) else {
            panic!("{reason:?}: incomplete head");
        };
        let find = |name: &str| {
            let found = response.headers.iter().find(|header| header.name == name)?;
            Some(std::str::from_utf8(found.value).unwrap())
        };
        assert_eq!(response.code, Some(reason.status()));
        assert_eq!(
            find("Content-Length"),
            Some(&*(out.len() - head).to_string())
        );
        assert!(find("Connection").unwrap().starts_with("close"));
        assert_eq!(find("Retry-After"), Some("2"));
        assert_eq!(
            find("Sec-WebSocket-Version").is_some(),
            reason.status() == 426
        );
        assert_eq!(find("WWW-Authenticate").is_some(), reason.status() == 401);
        assert_eq!(find("Allow").is_some(), reason.status() == 405);
    }
    let mut labels: Vec<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
    labels.sort_unstable();
    assert!(labels.is_sorted_by(|a, b| a < b), "labels are used once");
}

#[test]
fn policy_refuses_with_a_close_code_or_a_status_as_configured() {
    let request = upgrade(&request("/ws", ""));
    let refusal = Refusal::retry_after(Reason::Overload, Duration::from_millis(1500));
    let mut out = Vec::new();
    assert!(refuse(RefuseMode::Close, &request, &refusal, &mut out));
    let mut expected = Vec::new();
    write_accept(&request, &mut expected);
    crate::ws::encode_close(CloseCode::Overload, "retry_after_ms=1500", &mut expected);
    assert_eq!(out, expected);

    out.clear();
    assert!(!refuse(RefuseMode::Http, &request, &refusal, &mut out));
    assert!(out.starts_with(b"HTTP/1.1 503 Service Unavailable\r\n"));

    out.clear();
    let refusal = Refusal::new(Reason::BadKey);
    assert!(!refuse(RefuseMode::Close, &request, &refusal, &mut out));
    assert!(
        out.starts_with(b"HTTP/1.1 400 Bad Request\r\n"),
        "no upgrade to accept"
    );
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes: Vec<u8>, target in "[!-~]{1,40}", lines in "([ -~]{0,30}\r\n){0,5}") {
        parse(&config(), &bytes);
        parse(&config(), &request(&target, &lines));
    }
}
