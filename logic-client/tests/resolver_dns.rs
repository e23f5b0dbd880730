//! Gateways named in the DNS, asked of a real name server.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod name_server;

use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use logic_client::resolver::{Dns, Endpoint, Known, Resolver, Updated, channel};
use name_server::{NameServer, PATIENCE, Reply};
use tokio::time::timeout;

const NAME: &str = "ringway.prod.test.";
const SERVICE: &str = "_grpc._tcp.ringway.prod.test.";

/// Shorter than any time to live that counts.
const QUICK: Duration = Duration::from_millis(50);

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3600);

fn watch(dns: Dns, server: &NameServer) -> Updated {
    let dns = dns.name_servers([server.address], &["prod.test"]).unwrap();
    let (updates, updated) = channel();
    tokio::spawn(Box::new(dns.timeout(Duration::from_millis(200))).run(updates));
    updated
}

fn addresses(server: &NameServer) -> Updated {
    let dns = Dns::addresses(NAME, 9000).unwrap();
    watch(dns.refresh(QUICK, NEVER), server)
}

async fn next(updated: &mut Updated) -> Known {
    timeout(PATIENCE, updated.next()).await.unwrap().unwrap()
}

fn set(addresses: &[&str]) -> Option<Vec<Endpoint>> {
    Some(addresses.iter().copied().map(Endpoint::new).collect())
}

#[tokio::test]
async fn every_address_of_a_name_is_a_gateway() {
    let server = NameServer::start().await;
    server.set_addresses(NAME, 60, &["10.0.0.8", "10.0.0.7", "fd00::7"]);
    let known = next(&mut addresses(&server)).await;
    let expected = set(&["10.0.0.7:9000", "10.0.0.8:9000", "[fd00::7]:9000"]);
    assert_eq!((known.endpoints, known.trouble), (expected, None));
}

#[tokio::test]
async fn a_name_is_asked_for_again_when_its_time_to_live_has_run_out() {
    let server = NameServer::start().await;
    server.set_addresses(NAME, 1, &["10.0.0.7"]);
    let mut updated = addresses(&server);
    assert_eq!(next(&mut updated).await.endpoints, set(&["10.0.0.7:9000"]));
    let began = Instant::now();
    server.set_addresses(NAME, 3600, &["10.0.0.7", "10.0.0.8"]);
    let both = set(&["10.0.0.7:9000", "10.0.0.8:9000"]);
    assert_eq!(next(&mut updated).await.endpoints, both);
    let waited = began.elapsed();
    assert!(waited > Duration::from_millis(900), "{waited:?}");
    assert_eq!(server.asked(NAME, RecordType::A), 2);
}

#[tokio::test]
async fn the_alias_on_the_way_to_a_name_counts_for_its_time_to_live() {
    let server = NameServer::start().await;
    server.set_addresses("green.test.", 3600, &["10.0.0.7"]);
    server.set_addresses("blue.test.", 3600, &["10.0.0.8"]);
    server.set_both(NAME, &Reply::Alias(1, "green.test."));
    let mut updated = addresses(&server);
    assert_eq!(next(&mut updated).await.endpoints, set(&["10.0.0.7:9000"]));
    server.set_both(NAME, &Reply::Alias(3600, "blue.test."));
    assert_eq!(next(&mut updated).await.endpoints, set(&["10.0.0.8:9000"]));
}

#[tokio::test]
async fn bounds_hold_whatever_the_time_to_live() {
    let server = NameServer::start().await;
    server.set_addresses(NAME, 86_400, &["10.0.0.7"]);
    let dns = Dns::addresses(NAME, 9000).unwrap().refresh(QUICK, QUICK);
    let _updated = watch(dns, &server);
    server.until_asked_again(NAME, RecordType::A, 3).await;

    let server = NameServer::start().await;
    server.set_addresses(NAME, 0, &["10.0.0.7"]);
    let least = Duration::from_millis(300);
    let dns = Dns::addresses(NAME, 9000).unwrap().refresh(least, NEVER);
    let mut updated = watch(dns, &server);
    next(&mut updated).await;
    let began = Instant::now();
    server.until_asked_again(NAME, RecordType::A, 3).await;
    let waited = began.elapsed();
    assert!(waited > least * 2, "{waited:?}");
}

#[tokio::test]
async fn what_is_no_answer_keeps_the_last_set_and_tells_trouble() {
    let server = NameServer::start().await;
    for (reply, word) in [
        (Reply::Code(ResponseCode::NXDomain), "NXDOMAIN"),
        (Reply::Code(ResponseCode::ServFail), "Server Failure"),
        (Reply::Code(ResponseCode::Refused), "Refused"),
        (Reply::Silence, "timed out"),
    ] {
        server.set_addresses(NAME, 0, &["10.0.0.7"]);
        let mut updated = addresses(&server);
        assert_eq!(next(&mut updated).await.trouble, None);
        server.set_both(NAME, &reply);
        let known = next(&mut updated).await;
        assert_eq!(known.endpoints, set(&["10.0.0.7:9000"]), "{reply:?}");
        let trouble = known.trouble.unwrap();
        assert!(trouble.contains(word), "{reply:?}: {trouble}");
        // And it goes on asking.
        server.set_addresses(NAME, 0, &["10.0.0.9"]);
        let known = next(&mut updated).await;
        assert_eq!(known, next_set(&["10.0.0.9:9000"]), "{reply:?}");
    }
}

fn next_set(addresses: &[&str]) -> Known {
    let (updates, updated) = channel();
    updates.set(set(addresses).unwrap());
    updated.known()
}

#[tokio::test]
async fn an_answer_without_records_means_that_there_is_no_gateway() {
    let server = NameServer::start().await;
    server.set_addresses(NAME, 0, &["10.0.0.7"]);
    let mut updated = addresses(&server);
    next(&mut updated).await;
    server.set_addresses(NAME, 0, &[]);
    assert_eq!(next(&mut updated).await, next_set(&[]));
}

#[tokio::test]
async fn before_the_first_answer_there_is_no_set() {
    let server = NameServer::start().await;
    server.set_both(NAME, &Reply::Code(ResponseCode::ServFail));
    let mut updated = addresses(&server);
    assert_eq!(next(&mut updated).await.endpoints, None);
    server.set_addresses(NAME, 60, &["10.0.0.7"]);
    assert_eq!(next(&mut updated).await, next_set(&["10.0.0.7:9000"]));
}

// Half an answer: the other half stays as it was.
#[tokio::test]
async fn a_failure_for_one_family_keeps_what_was_known_of_it() {
    let server = NameServer::start().await;
    server.set_addresses(NAME, 0, &["10.0.0.7", "fd00::7"]);
    let mut updated = addresses(&server);
    next(&mut updated).await;
    server.set(NAME, RecordType::AAAA, Reply::Code(ResponseCode::ServFail));
    let known = next(&mut updated).await;
    assert!(known.trouble.unwrap().contains("AAAA"));
    server.set_addresses(NAME, 0, &["10.0.0.8"]);
    server.set(NAME, RecordType::AAAA, Reply::Code(ResponseCode::ServFail));
    let known = next(&mut updated).await;
    let expected = set(&["10.0.0.8:9000", "[fd00::7]:9000"]);
    assert_eq!(known.endpoints, expected);
}

#[tokio::test]
async fn services_lead_to_their_targets_with_ports_of_their_own() {
    let server = NameServer::start().await;
    server.set_services(SERVICE, 0, &[("gw-0.test.", 9000), ("gw-1.test.", 9100)]);
    server.set_addresses("gw-0.test.", 0, &["10.0.0.7"]);
    server.set_addresses("gw-1.test.", 0, &["10.0.0.8"]);
    let dns = Dns::services(SERVICE).unwrap().refresh(QUICK, NEVER);
    let mut updated = watch(dns, &server);
    let both = next_set(&["10.0.0.7:9000", "10.0.0.8:9100"]);
    assert_eq!(next(&mut updated).await, both);

    // One target cannot be found out: its last address stays, the others are followed.
    server.set_both("gw-0.test.", &Reply::Code(ResponseCode::ServFail));
    server.set_addresses("gw-1.test.", 0, &["10.0.0.9"]);
    let known = loop {
        let known = next(&mut updated).await;
        if known.trouble.is_some() && known.endpoints == set(&["10.0.0.7:9000", "10.0.0.9:9100"]) {
            break known;
        }
    };
    assert!(known.trouble.unwrap().contains("gw-0.test."));

    // It is taken away, and with it the trouble.
    server.set_services(SERVICE, 0, &[("gw-1.test.", 9100)]);
    let known = loop {
        let known = next(&mut updated).await;
        if known.trouble.is_none() {
            break known;
        }
    };
    assert_eq!(known.endpoints, set(&["10.0.0.9:9100"]));

    // "There is decidedly no such service."
    server.set_services(SERVICE, 0, &[(".", 0)]);
    assert_eq!(next(&mut updated).await, next_set(&[]));
}

#[tokio::test]
async fn short_names_are_found_in_the_search_domains() {
    let server = NameServer::start().await;
    // Of the right name only one type exists, as usual; the search must end there all the same.
    server.set_addresses(NAME, 60, &["10.0.0.7"]);
    let dns = Dns::addresses("ringway", 9000).unwrap();
    let mut updated = watch(dns.refresh(QUICK, NEVER), &server);
    assert_eq!(next(&mut updated).await, next_set(&["10.0.0.7:9000"]));
    assert_eq!(server.asked("ringway.", RecordType::A), 0);
}

#[tokio::test]
async fn answers_too_long_for_udp_come_over_tcp() {
    let server = NameServer::start().await;
    server.truncate_udp();
    let ips: Vec<String> = (0..200).map(|host| format!("10.0.0.{host}")).collect();
    let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
    server.set_addresses(NAME, 60, &ips);
    let known = next(&mut addresses(&server)).await;
    assert_eq!(known.endpoints.unwrap().len(), 200);
}

#[test]
fn what_is_no_name_is_refused() {
    for wrong in ["10.0.0.7", "::1", "", ".", "a..b"] {
        Dns::addresses(wrong, 9000).expect_err(wrong);
    }
    let dns = Dns::addresses(NAME, 9000).unwrap();
    dns.name_servers([], &[]).unwrap_err();
}
