//! Whether the configured ports can be had, now and after a restart.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    ops::RangeInclusive,
};

use super::Finding;
use crate::config::Config;

/// Listens on each port for a moment.
pub(super) fn free(config: &Config, shards: u16) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (key, address) in addresses(config, shards) {
        if let Err(error) = TcpListener::bind(address) {
            let text = format!("cannot listen on {address}: {error}");
            findings.push(Finding::fail(&key, text, way_to_port(&error, address)));
        }
    }
    if findings.is_empty() {
        let [ws, grpc, admin] = config.listeners().map(|(_, address)| address);
        let text = format!("free: ws {ws}, grpc {grpc} and one per shard, admin {admin}");
        findings.push(Finding::ok("ports", text));
    }
    findings
}

/// Ports that the kernel may give to any outgoing connection: then the gateway does not start.
pub(super) fn ephemeral(config: &Config, shards: u16) -> Option<Finding> {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok();
    let range = read("ip_local_port_range")?;
    let reserved = read("ip_local_reserved_ports").unwrap_or_default();
    let ports = addresses(config, shards)
        .into_iter()
        .map(|(_, address)| address.port());
    let about = "ip_local_port_range";
    let exposed = exposed(ports.filter(|port| *port != 0), &range, &reserved)?;
    if exposed.is_empty() {
        return Some(Finding::ok(about, "holds none of the gateway's ports"));
    }
    let list = exposed
        .iter()
        .map(u16::to_string)
        .collect::<Vec<_>>()
        .join(",");
    Some(Finding::warn(
        about,
        format!("holds ports of the gateway that an outgoing connection may take first: {list}"),
        format!("sysctl -w net.ipv4.ip_local_reserved_ports={list}"),
    ))
}

/// Those of `ports` within the range that are not reserved.
pub(super) fn exposed(
    ports: impl Iterator<Item = u16>,
    range: &str,
    reserved: &str,
) -> Option<Vec<u16>> {
    let mut ends = range.split_whitespace().map(|end| end.parse::<u16>().ok());
    let range = ends.next()??..=ends.next()??;
    let reserved: Vec<_> = reserved.trim().split(',').filter_map(ports_of).collect();
    let is_reserved = |port: &u16| reserved.iter().any(|range| range.contains(port));
    Some(
        ports
            .filter(|port| range.contains(port) && !is_reserved(port))
            .collect(),
    )
}

/// `8080` or `9000-9064`.
fn ports_of(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

fn addresses(config: &Config, shards: u16) -> Vec<(String, SocketAddr)> {
    let all = config
        .listeners()
        .map(|(key, address)| (key.to_owned(), address));
    let mut all = all.to_vec();
    let grpc = config.grpc.listen;
    for shard in 0..shards {
        // Port 0 leaves the choice to the kernel; beyond the last port, `shards.count` decides, not this host.
        let port = grpc
            .port()
            .checked_add(shard + 1)
            .filter(|_| grpc.port() != 0);
        let key = format!("grpc.listen (shard {shard})");
        all.extend(port.map(|port| (key, SocketAddr::new(grpc.ip(), port))));
    }
    all
}

fn way_to_port(error: &io::Error, address: SocketAddr) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("another process has it: ss -ltnp 'sport = :{}'", address.port()),
        io::ErrorKind::PermissionDenied => {
            "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE: choose a higher one".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "choose an address of this host".to_owned(),
        _ => "choose another address".to_owned(),
    }
}
