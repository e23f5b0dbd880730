//! Registering and watching, against a real etcd that stops, loses its data and compacts. Run by
//! `.ci/etcd`; by hand: `cargo test -p gateway-discovery --features etcd -- --ignored`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../etcd_server/mod.rs"]
mod etcd_server;
mod proxy;
mod sides;

use std::time::{Duration, Instant};

use etcd_server::Etcd;
use gateway_discovery::State;
use gateway_discovery::etcd::{Password, Registry, Status};
use proxy::Proxy;
use sides::{Gateway, PREFIX, Watch, record, registry};

/// The shortest lease that etcd keeps to: at least its election timeout, in whole seconds.
const TTL_S: u32 = 2;

#[tokio::test]
#[ignore = "needs etcd: see .ci/etcd"]
async fn a_registered_gateway_is_seen_until_it_withdraws() {
    let etcd = Etcd::start("seen");
    let mut watch = Watch::start(registry(&etcd));
    assert_eq!(watch.next_ids().await, [""; 0]);
    // A lease so long that only withdrawing can explain that it goes.
    let mut one = Gateway::register(registry(&etcd), record("gw-1", 1), 600);
    assert_eq!(watch.next_ids().await, ["gw-1"]);
    let _two = Gateway::register(registry(&etcd), record("gw-2", 1), 600);
    assert_eq!(watch.next_ids().await, ["gw-1", "gw-2"]);
    let found = watch.records.clone().unwrap();
    assert_eq!(found[0], record("gw-1", 1));

    one.until(|status| matches!(status, Status::Registered { .. }))
        .await;
    one.withdraw();
    one.until(|status| *status == Status::Withdrawn).await;
    assert_eq!(watch.next_ids().await, ["gw-2"]);
    assert_eq!(watch.troubles, [""; 0]);
}

#[tokio::test]
#[ignore = "needs etcd: see .ci/etcd"]
async fn a_killed_gateway_goes_with_its_lease() {
    let etcd = Etcd::start("killed");
    let mut watch = Watch::start(registry(&etcd));
    let gateway = Gateway::register(registry(&etcd), record("gw-1", 1), TTL_S);
    watch.until(|ids| ids == ["gw-1"]).await;
    // Renewed: it outlives its lease.
    let lease = Duration::from_secs(TTL_S.into());
    watch.stays(lease * 2, &["gw-1"]).await;
    let killed = Instant::now();
    gateway.kill();
    watch.until(<[String]>::is_empty).await;
    let stayed = killed.elapsed();
    assert!(stayed > lease / 4 && stayed < lease * 4, "{stayed:?}");
}

#[tokio::test]
#[ignore = "needs etcd: see .ci/etcd"]
async fn a_draining_gateway_is_marked_under_the_same_lease() {
    let etcd = Etcd::start("draining");
    let mut watch = Watch::start(registry(&etcd));
    let gateway = Gateway::register(registry(&etcd), record("gw-1", 1), TTL_S);
    watch.until(|ids| ids == ["gw-1"]).await;
    let leases = etcd.ctl(&["lease", "list"]);
    gateway.change(|record| record.state = State::Draining);
    watch.next_ids().await;
    assert_eq!(watch.records.as_ref().unwrap()[0].state, State::Draining);
    assert_eq!(etcd.ctl(&["lease", "list"]), leases);
}

// A gateway that crashed and came back leaves a record behind until its lease has run out.
#[tokio::test]
#[ignore = "needs etcd: see .ci/etcd"]
async fn a_gateway_replaced_under_its_name_is_told_last_and_withdraws_only_itself() {
    let etcd = Etcd::start("replaced");
    let mut watch = Watch::start(registry(&etcd));
    Gateway::register_and_kill(registry(&etcd), record("gw", 9), 600).await;
    watch.until(|ids| ids == ["gw"]).await;
    let mut new = Gateway::register(registry(&etcd), record("gw", 5), 600);
    watch.until(|ids| ids.len() == 2).await;
    let epochs = |watch: &Watch| -> Vec<u64> {
        let records = watch.records.iter().flatten();
        records.map(|record| record.epoch).collect()
    };
    assert_eq!(epochs(&watch), [9, 5]);
    new.withdraw();
    watch.until(|ids| ids.len() == 1).await;
    assert_eq!(epochs(&watch), [9]);
}

#[tokio::test]
#[ignore = "needs etcd: see .ci/etcd"]
async fn history_compacted_under_a_watch_costs_nothing() {
    let etcd = Etcd::start("compacted");
    let _one = Gateway::register(registry(&etcd), record("gw-1", 1), 600);
    let mut direct = Watch::start(registry(&etcd));
    direct.until(|ids| ids == ["gw-1"]).await;

    // The registry is read; then the way to etcd is blocked, so that the watch begins later than
    // history does.
    let proxy = Proxy::start(etcd.address()).await;
    proxy.block_after(b"\"gw-1\"");
    let through = Registry::new([proxy.endpoint()], PREFIX).unwrap();
    let mut watch = Watch::start(through.timeout(Duration::from_secs(60)));
    watch.until(|ids| ids == ["gw-1"]).await;
    let _two = Gateway::register(registry(&etcd), record("gw-2", 1), 600);
    direct.until(|ids| ids.len() == 2).await;
    etcd.ctl(&["put", "/elsewhere", "1"]);
    etcd.ctl(&["compact", &etcd.revision().to_string()]);
    proxy.unblock();

    assert_eq!(watch.next_ids().await, ["gw-1", "gw-2"]);
    assert_eq!(watch.troubles, [""; 0]);
    // And it goes on watching.
    etcd.ctl(&["del", &record("gw-1", 1).key(PREFIX)]);
    assert_eq!(watch.next_ids().await, ["gw-2"]);
}

#[tokio::test]
#[ignore = "needs etcd: see .ci/etcd"]
async fn an_etcd_that_restarts_keeps_the_set() {
    let mut etcd = Etcd::start("restarted");
    let mut watch = Watch::start(registry(&etcd));
    let mut gateway = Gateway::register(registry(&etcd), record("gw-1", 1), TTL_S);
    watch.until(|ids| ids == ["gw-1"]).await;

    etcd.kill();
    gateway
        .until(|status| matches!(status, Status::Lost(_)))
        .await;
    watch.until_trouble().await;
    let known = watch.records.clone();
    etcd.restart();
    gateway
        .until(|status| matches!(status, Status::Registered { .. }))
        .await;
    // News comes again.
    let _two = Gateway::register(registry(&etcd), record("gw-2", 1), TTL_S);
    watch.until(|ids| ids == ["gw-1", "gw-2"]).await;
    assert_eq!(known.unwrap(), [record("gw-1", 1)]);
    assert_eq!(watch.fewest, 1, "the set was smaller meanwhile");
    // The new lease is renewed.
    watch
        .stays(Duration::from_secs(u64::from(TTL_S) * 2), &["gw-1", "gw-2"])
        .await;
}

#[tokio::test]
#[ignore = "needs etcd: see .ci/etcd"]
async fn an_etcd_that_lost_its_data_is_filled_again_and_nobody_goes_meanwhile() {
    let mut etcd = Etcd::start("wiped");
    let settle = Duration::from_secs(6);
    let mut watch = Watch::start_with(registry(&etcd), settle);
    let mut one = Gateway::register(registry(&etcd), record("gw-1", 1), TTL_S);
    let two = Gateway::register(registry(&etcd), record("gw-2", 1), TTL_S);
    watch.until(|ids| ids == ["gw-1", "gw-2"]).await;

    etcd.kill();
    one.until(|status| matches!(status, Status::Lost(_))).await;
    // This one dies in the dark.
    two.kill();
    etcd.wipe();
    etcd.restart();
    let back = Instant::now();
    one.until(|status| matches!(status, Status::Registered { .. }))
        .await;
    watch.until(|ids| ids == ["gw-1"]).await;
    assert!(back.elapsed() > settle / 2, "{:?}", back.elapsed());
    assert_eq!(watch.fewest, 1, "the living gateway was missing meanwhile");
}

#[tokio::test]
#[ignore = "needs etcd: see .ci/etcd"]
async fn a_member_that_is_gone_or_silent_is_left_for_another() {
    let etcd = Etcd::start("failover");
    let (first, second) = (
        Proxy::start(etcd.address()).await,
        Proxy::start(etcd.address()).await,
    );
    let gone = Proxy::dead().await;
    let members = [gone, first.endpoint(), second.endpoint()];
    let registry = Registry::new(members, PREFIX).unwrap();
    let mut watch = Watch::start(registry.clone());
    let mut gateway = Gateway::register(registry, record("gw-1", 1), TTL_S);
    watch.until(|ids| ids == ["gw-1"]).await;

    for (silent, other) in [(&first, &second), (&second, &first)] {
        // No byte passes any more, and no connection ends: whoever is there must notice, and leave.
        silent.block();
        gateway.until_at(&other.endpoint()).await;
        let id = format!("gw-{}", other.endpoint());
        let seen = Gateway::register(self::registry(&etcd), record(&id, 1), TTL_S);
        watch.until(|ids| ids.contains(&id)).await;
        drop(seen);
        silent.unblock();
    }
}

#[tokio::test]
#[ignore = "needs etcd: see .ci/etcd"]
async fn passwords_are_used_and_wrong_ones_told() {
    let etcd = Etcd::start("users");
    for command in [
        "user add root:top",
        "user grant-role root root",
        "user add ringway:secret",
        "role add gateways",
        "role grant-permission gateways readwrite /ringway/ --prefix",
        "user grant-role ringway gateways",
        "auth enable",
    ] {
        etcd.ctl(&command.split(' ').collect::<Vec<_>>());
    }
    let mut nobody = Watch::start(registry(&etcd));
    nobody.until_trouble().await;
    assert!(
        nobody.troubles[0].contains("user name is empty"),
        "{:?}",
        nobody.troubles
    );
    let as_user =
        |password: &str| registry(&etcd).user("ringway", Password::Given(password.into()));
    let mut wrong = Watch::start(as_user("guess"));
    wrong.until_trouble().await;
    assert!(
        wrong.troubles[0].contains("logging in: "),
        "{:?}",
        wrong.troubles
    );

    let mut right = Watch::start(as_user("secret"));
    let mut gateway = Gateway::register(as_user("secret"), record("gw-1", 1), TTL_S);
    right.until(|ids| ids == ["gw-1"]).await;
    gateway.withdraw();
    right.until(<[String]>::is_empty).await;
    assert_eq!(right.troubles, [""; 0]);
}

#[tokio::test]
#[ignore = "needs etcd: see .ci/etcd"]
async fn an_entry_that_is_no_record_costs_only_itself_and_is_told() {
    let etcd = Etcd::start("broken");
    etcd.ctl(&["put", &format!("{PREFIX}mistake"), "gw-3:9000"]);
    let mut watch = Watch::start(registry(&etcd));
    let _one = Gateway::register(registry(&etcd), record("gw-1", 1), TTL_S);
    watch.until(|ids| ids == ["gw-1"]).await;
    let trouble = watch.troubles.last().unwrap();
    assert!(
        trouble.contains("etcd key /ringway/gateways/mistake: "),
        "{trouble}"
    );
}
