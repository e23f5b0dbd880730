//! Peers that are not ours, small: whatever the envelope, every payload is ours, whole, and in order.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use common::{alone, ringway};
use gateway_bench::{
    peers::Kind,
    setup::Setup,
    unicast::{self, Options},
};

fn faultless(kind: Kind) {
    let _alone = alone();
    let options = Options {
        setup: Setup {
            connections: 50,
            against: vec![kind],
            ..Setup::default()
        },
        window: 256,
        messages: Some(5_000),
        ..Options::default()
    };
    let findings = unicast::run(&options, &ringway()).unwrap();
    assert!(findings.is_faultless(), "{findings}");
    assert_eq!(findings.sides.len(), 2);
    for side in &findings.sides {
        assert_eq!(side.median.get("messages"), Some(5_000.0), "{findings}");
        assert!(
            side.median.get("server_micros_per_message") > Some(0.0),
            "{findings}"
        );
    }
}

#[test]
#[ignore = "needs Debian's libnginx-mod-nchan and nginx-light"]
fn nchan_delivers_our_payloads() {
    faultless(Kind::Nchan);
}

#[test]
#[ignore = "needs Debian's nats-server"]
fn nats_delivers_our_payloads() {
    faultless(Kind::Nats);
}

#[test]
#[ignore = "needs Debian's pushpin"]
fn pushpin_delivers_our_payloads() {
    faultless(Kind::Pushpin);
}
