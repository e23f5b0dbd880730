//! Links that break without a word: packets are dropped in a network namespace between the logic service and its gateway,
//! nobody sends a reset. Needs root, `ip` and `nft`: `.ci/faults` runs it.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

use common::{
    alone,
    load::{Load, Way, assert_rising, numbers},
    ringway,
    users::Users,
    wait_for,
};
use gateway_bench::{
    gateway::{Gateway, Launch},
    metrics::Metrics,
};
use logic_client::{LogicClient, What};

/// What the documents promise for both sides, with default settings.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(1);

#[test]
#[ignore = "needs root, ip and nft: .ci/faults runs it"]
fn cut_link_is_noticed_on_both_sides_within_20_s_and_loses_nothing() {
    let _alone = alone();
    let network = Network::new();
    let gateway = network.launch(ringway().shards(2)).start().unwrap();
    let users = Users::start(&[gateway.ws], 10);
    let service = LogicClient::builder().gateway(gateway.grpc.to_string());
    let load = Load::start(service, &users.names, 200, Way::FireAndForget);
    load.wait_for_pushed(200);

    let cut = Instant::now();
    network.cut(&gateway, Cut::BothWays);
    let lost = wait_for("the service to notice", || {
        load.first_notice(cut, |what| matches!(what, What::Lost { .. }))
    });
    assert!(
        lost - cut < NOTICED_WITHIN + SLACK,
        "the service noticed after {:?}",
        lost - cut
    );
    wait_for("the gateway to notice", || {
        (links(&gateway) == 0.0).then_some(())
    });
    let noticed = cut.elapsed();
    assert!(
        noticed < NOTICED_WITHIN + SLACK,
        "the gateway noticed after {noticed:?}"
    );
    println!(
        "noticed by the service after {:?}, by the gateway within {noticed:?}",
        lost - cut
    );

    network.heal();
    load.wait_for_pushed(200);
    load.stop();
    everything_arrives_once(&users, &load);
}

#[test]
#[ignore = "needs root, ip and nft: .ci/faults runs it"]
fn links_cut_again_and_again_in_one_direction_or_both_double_nothing() {
    // Cut from the gateway to the service only, commands go on being done, and nothing that tells of it comes back.
    let _alone = alone();
    let network = Network::new();
    let gateway = ringway()
        .shards(2)
        .setting("RINGWAY_GRPC_KEEPALIVE_INTERVAL_MS", 300)
        .setting("RINGWAY_GRPC_KEEPALIVE_TIMEOUT_MS", 300);
    let gateway = network.launch(gateway).start().unwrap();
    let users = Users::start(&[gateway.ws], 10);
    let service = LogicClient::builder()
        .gateway(gateway.grpc.to_string())
        .attempt_timeout(Duration::from_secs(1))
        .keepalive(Duration::from_millis(300));
    let load = Load::start(service, &users.names, 1_000, Way::FireAndForget);
    for direction in [
        Cut::BothWays,
        Cut::FromGateway,
        Cut::ToGateway,
        Cut::FromGateway,
    ] {
        load.wait_for_pushed(500);
        let cut = Instant::now();
        network.cut(&gateway, direction);
        wait_for("the service to notice", || {
            load.first_notice(cut, |what| matches!(what, What::Lost { .. }))
        });
        // No connection comes about before; and one may before the command that heals has ended.
        let healed = Instant::now();
        network.heal();
        wait_for("the streams to be open again", || {
            load.first_notice(healed, |what| matches!(what, What::Connected { .. }))
        });
    }
    load.wait_for_pushed(500);
    load.stop();
    everything_arrives_once(&users, &load);
}

#[test]
#[ignore = "needs root, ip and nft: .ci/faults runs it"]
fn shards_behind_a_firewall_are_reached_through_the_common_port_until_their_own_are_open() {
    let _alone = alone();
    let network = Network::new();
    let gateway = network.launch(ringway().shards(2)).start().unwrap();
    network.cut(&gateway, Cut::Shards);
    let users = Users::start(&[gateway.ws], 10);
    let service = LogicClient::builder().gateway(gateway.grpc.to_string());
    let service = service.attempt_timeout(Duration::from_secs(1));
    let start = Instant::now();
    let load = Load::start(service, &users.names, 200, Way::FireAndForget);
    load.wait_for_pushed(200);
    let turned = |wanted: &What| {
        wait_for("the turn", || {
            load.first_notice(start, |what| what == wanted)
        })
    };
    turned(&What::CommonPort);
    assert!(load.stats().streams.iter().all(|stream| stream.common_port));

    network.heal();
    let healed = Instant::now();
    let back = turned(&What::ShardPorts) - healed;
    assert!(back < Duration::from_secs(40), "after {back:?}");
    load.wait_for_pushed(200);
    load.stop();
    everything_arrives_once(&users, &load);
    println!("shards' own ports are used again {back:?} after they are open");
}

fn links(gateway: &Gateway) -> f64 {
    Metrics::read(gateway.admin)
        .unwrap()
        .sum("ringway_links", &[])
}

/// Everything has come, once and in order; nobody was cut off, nothing was given back.
fn everything_arrives_once(users: &Users, load: &Load) {
    wait_for("every message", || {
        let got: usize = users.seen().iter().map(|user| user.messages.len()).sum();
        (got as u64 >= load.pushed()).then_some(())
    });
    let mut all = BTreeSet::new();
    for (name, user) in users.names.iter().zip(users.seen()) {
        let numbers = numbers(name, &user.messages);
        assert_rising(name, &numbers);
        all.extend(numbers.into_iter().map(|number| (name, number)));
        assert_eq!(user.connections, 1, "{name} was cut off: {:?}", user.ends);
    }
    assert_eq!(all.len() as u64, load.pushed(), "messages that differ");
    assert_eq!(load.stats().total().unknown, 0);
}

/// Which packets of links are dropped.
#[derive(Clone, Copy, Debug)]
enum Cut {
    BothWays,
    ToGateway,
    FromGateway,
    /// What goes to any port of the gateway but its common ones.
    Shards,
}

/// This namespace — one in the middle — one for gateways. They are gone when this is dropped; those of a test that was killed
/// go when the next one begins.
struct Network {
    middle: String,
    far: String,
    gateway: Ipv4Addr,
}

impl Network {
    fn new() -> Self {
        remove_what_was_left();
        // Another name and other addresses each time: the kernel takes namespaces down by and by.
        static BUILT: AtomicU32 = AtomicU32::new(0);
        let (process, built) = (std::process::id(), BUILT.fetch_add(1, Relaxed));
        let unique = format!("{process}-{built}");
        let [middle, far] = ["mid", "far"].map(|part| format!("ringway-{part}-{unique}"));
        // Eight of 10.224.0.0/12.
        let block = (process * 16 + built % 16) % (1 << 17);
        let address = |at| Ipv4Addr::from((10 << 24) + (224 << 16) + block * 8 + at);
        let (here, near_end, far_end) = (address(1), address(2), address(5));
        let network = Self {
            middle,
            far,
            gateway: address(6),
        };
        let (middle, far) = (network.middle.as_str(), network.far.as_str());
        let (near, there) = (format!("rwh{unique}"), format!("rwm{unique}"));
        run(&format!("ip netns add {middle}"));
        run(&format!("ip netns add {far}"));
        run(&format!(
            "ip link add {near} type veth peer name near netns {middle}"
        ));
        run(&format!(
            "ip -n {middle} link add {there} type veth peer name near netns {far}"
        ));
        run(&format!("ip addr add {here}/30 dev {near}"));
        run(&format!("ip -n {middle} addr add {near_end}/30 dev near"));
        run(&format!("ip -n {middle} addr add {far_end}/30 dev {there}"));
        run(&format!(
            "ip -n {far} addr add {}/30 dev near",
            network.gateway
        ));
        run(&format!("ip link set {near} up"));
        for (namespace, device) in [
            (middle, "near"),
            (middle, there.as_str()),
            (far, "near"),
            (far, "lo"),
        ] {
            run(&format!("ip -n {namespace} link set {device} up"));
        }
        run(&format!("ip route add {}/30 via {near_end}", address(4)));
        run(&format!("ip -n {far} route add default via {far_end}"));
        run(&format!(
            "ip netns exec {middle} sysctl -q -w net.ipv4.ip_forward=1"
        ));
        run(&format!("ip netns exec {middle} nft add table ip cut"));
        let hook = "{ type filter hook forward priority 0 ; }";
        run(&format!(
            "ip netns exec {middle} nft add chain ip cut forward {hook}"
        ));
        network
    }

    /// A gateway on the far side.
    fn launch(&self, launch: Launch) -> Launch {
        let program = launch.program.to_str().unwrap().to_owned();
        let mut first: Vec<_> = ["netns", "exec", &self.far].map(String::from).into();
        first.push(program);
        first.extend(launch.first.iter().cloned());
        let launch = Launch {
            program: PathBuf::from("ip"),
            first,
            listen: [(self.gateway, 0).into(); 3],
            ..launch
        };
        launch.argument("--insecure")
    }

    /// Drops what links send; clients and the admin port go on.
    fn cut(&self, gateway: &Gateway, cut: Cut) {
        let others = format!("{{ {}, {} }}", gateway.ws.port(), gateway.admin.port());
        let to = format!("ip daddr {} tcp dport != {others} drop", self.gateway);
        let from = format!("ip saddr {} tcp sport != {others} drop", self.gateway);
        let known = format!(
            "{{ {}, {}, {} }}",
            gateway.ws.port(),
            gateway.admin.port(),
            gateway.grpc.port()
        );
        let shards = format!("ip daddr {} tcp dport != {known} drop", self.gateway);
        let rules = match cut {
            Cut::BothWays => vec![to, from],
            Cut::ToGateway => vec![to],
            Cut::FromGateway => vec![from],
            Cut::Shards => vec![shards],
        };
        for rule in rules {
            run(&format!(
                "ip netns exec {} nft add rule ip cut forward {rule}",
                self.middle
            ));
        }
    }

    /// Lets everything through.
    fn heal(&self) {
        run(&format!(
            "ip netns exec {} nft flush chain ip cut forward",
            self.middle
        ));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.far, &self.middle] {
            let _ = Command::new("ip")
                .args(["netns", "del", namespace])
                .status();
        }
    }
}

/// The namespaces of processes that are no more, and with them their links.
fn remove_what_was_left() {
    let Ok(names) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for name in names.filter_map(|name| name.ok()?.file_name().into_string().ok()) {
        let unique = ["ringway-mid-", "ringway-far-"].map(|start| name.strip_prefix(start));
        let process = unique.into_iter().flatten().next();
        let process = process.and_then(|unique| unique.split('-').next());
        if process.is_some_and(|process| !PathBuf::from(format!("/proc/{process}")).exists()) {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

fn run(command: &str) {
    let mut words = command.split(' ');
    let program = words.next().unwrap();
    let status = Command::new(program).args(words).status();
    assert!(status.unwrap().success(), "{command}");
}
