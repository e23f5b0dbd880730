//! Findings on made-up hosts, and the whole look on this one.

use std::{fs, net::TcpListener, path::PathBuf};

use super::{Finding, Level, cpus, kernel, look, ports, resources};
use crate::config::Config;

fn any_port(config: &mut Config) {
    for listen in [
        &mut config.ws.listen,
        &mut config.grpc.listen,
        &mut config.admin.listen,
    ] {
        listen.set_port(0);
    }
}

#[test]
fn a_gateway_on_any_port_can_start_here() {
    let mut config = Config::default();
    any_port(&mut config);
    let findings = look(&config);
    let failed: Vec<_> = findings.iter().filter(|f| f.level == Level::Fail).collect();
    assert!(failed.is_empty(), "{failed:?}");
    for about in [
        "driver",
        "cores",
        "descriptors",
        "memory",
        "ports",
        "net.core.somaxconn",
    ] {
        assert!(findings.iter().any(|f| f.about == about), "{about}");
    }
}

#[test]
fn a_taken_port_prevents_the_start_and_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = Config::default();
    any_port(&mut config);
    config.admin.listen = taken.local_addr().unwrap();
    let findings = ports::free(&config, 2);
    assert_eq!(findings.len(), 1);
    assert_eq!(
        (findings[0].level, findings[0].about.as_str()),
        (Level::Fail, "admin.listen")
    );
    assert!(
        findings[0].advice.contains("ss -ltnp"),
        "{}",
        findings[0].advice
    );
}

// 9000 is reserved, 40000 lies in the range, 8080 outside of it.
#[test]
fn ports_that_outgoing_connections_may_take_are_named() {
    let exposed =
        |reserved| ports::exposed([8080, 9000, 40_000].into_iter(), "8192\t60999\n", reserved);
    assert_eq!(exposed("9000-9064,9900\n"), Some(vec![40_000]));
    assert_eq!(exposed("\n"), Some(vec![9000, 40_000]));
}

#[test]
fn more_configured_memory_than_there_is_gets_a_warning() {
    let mut config = Config::default();
    config.limits.max_memory_bytes = 1 << 44;
    let finding = resources::memory(&config, 2);
    assert_eq!(finding.level, Level::Warn);
    assert!(
        finding.advice.contains("limits.max_memory_bytes"),
        "{}",
        finding.advice
    );
    config.limits.max_memory_bytes = 1 << 20;
    assert_eq!(resources::memory(&config, 2).level, Level::Ok);
}

#[test]
fn of_several_words_the_one_in_brackets_counts() {
    assert_eq!(kernel::chosen("always [madvise] never\n"), "madvise");
    assert_eq!(kernel::chosen("madvise\n"), "madvise");
}

/// A made-up host's files, which go with it.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let name = format!("ringway-check-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn levels(findings: &[Finding]) -> Vec<(Level, &str)> {
    let levels = findings.iter();
    levels
        .map(|found| (found.level, found.about.as_str()))
        .collect()
}

#[test]
fn who_else_works_on_the_shards_cpus_is_told_where_they_are_set_aside() {
    let host = Files::new("cpus");
    host.write("sys/devices/virtual/workqueue/cpumask", "ff,ffffffff\n");
    host.write("proc/irq/default_smp_affinity", "3\n");
    let told = cpus::set_aside(&host.0, &[2, 39], 40);
    assert_eq!(
        levels(&told),
        [
            (Level::Warn, "workqueue/cpumask"),
            (Level::Ok, "irq/default_smp_affinity")
        ]
    );
    assert_eq!(told[0].advice, "tuning/tune apply --cpus 2,39");
    assert_eq!(cpus::set_aside(&host.0, &[], 40), []);
    assert_eq!(
        cpus::set_aside(&host.0, &[0, 1], 2),
        [],
        "there are no others"
    );
}

#[test]
fn a_card_with_fewer_queues_than_cpus_should_be_spread() {
    let host = Files::new("queues");
    for (path, mask) in [
        ("one/device/vendor", ""),
        ("one/queues/rx-0/rps_cpus", "0\n"),
        ("one/queues/tx-0/xps_cpus", "0\n"),
        ("spread/device/vendor", ""),
        ("spread/queues/rx-0/rps_cpus", "00000000,0000000f\n"),
        ("two/device/vendor", ""),
        ("two/queues/rx-0/rps_cpus", "00000000,00000000\n"),
        ("two/queues/rx-1/rps_cpus", "00000000,00000000\n"),
        ("lo/queues/rx-0/rps_cpus", "0\n"),
    ] {
        host.write(&format!("sys/class/net/{path}"), mask);
    }
    let told = cpus::queues(&host.0, 2);
    assert_eq!(
        levels(&told),
        [
            (Level::Warn, "queues/one"),
            (Level::Ok, "queues/spread"),
            (Level::Ok, "queues/two")
        ]
    );
    assert_eq!(told[0].advice, "tuning/tune apply --interface one");
}

// The limit stands two groups above the process' own; a group without a limit says "max".
#[test]
fn a_cgroup_limit_counts_wherever_it_stands() {
    let host = Files::new("memory");
    let root = host.0.clone();
    let write = |path: &str, text: &str| host.write(path, text);
    write(
        "proc/meminfo",
        "MemTotal:       16000000 kB\nMemFree: 1 kB\n",
    );
    assert_eq!(
        resources::available_memory(&root),
        Some((16_384_000_000, "of the host"))
    );
    write("proc/self/cgroup", "0::/kubepods/pod1/box\n");
    write("sys/fs/cgroup/kubepods/memory.max", "1048576\n");
    write("sys/fs/cgroup/kubepods/pod1/box/memory.max", "max\n");
    assert_eq!(
        resources::available_memory(&root),
        Some((1_048_576, "cgroup limit"))
    );
    write("proc/self/cgroup", "4:memory:/a\n0::/\n");
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n");
    assert_eq!(
        resources::available_memory(&root),
        Some((4096, "cgroup limit"))
    );
}
