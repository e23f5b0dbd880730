//! What this process is given: cores, descriptors, memory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::process::{Resource, getrlimit};

use super::{Finding, advice, kernel};
use crate::{config::Config, driver::placement::Placement};

/// Descriptors that are no connections: standard streams, rings, listeners, links, the admin port.
const OTHER_DESCRIPTORS: u64 = 256;
const MIB: u64 = 1 << 20;

pub(super) fn cores(placement: &Placement) -> Finding {
    let (shards, why) = (placement.shards(), &placement.why);
    let text = format!("{shards} shards ({why})");
    let mut cores: Vec<_> = placement.cores.iter().flatten().collect();
    let pinned = cores.len();
    cores.sort_unstable();
    cores.dedup();
    if cores.len() < pinned {
        return Finding::warn(
            "cores",
            text,
            "shards that share a core wait for each other: fewer shards or more cores",
        );
    }
    if pinned == 0 {
        let advice = "a gateway that may pause for its quota is slow: whole cores without a quota are better (in \
                      Kubernetes: static CPU manager policy, Guaranteed pod)";
        return Finding::warn("cores", text, advice);
    }
    Finding::ok("cores", text)
}

/// The soft limit does not matter: the gateway raises it.
pub(super) fn descriptors(config: &Config, shards: u16) -> Finding {
    let about = "descriptors";
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let wanted = advice::limit("nofile").map_or(0, |advice| advice.wanted);
    let configured = u64::from(shards) * config.limits.max_connections as u64;
    let room = limit.saturating_sub(OTHER_DESCRIPTORS);
    let text = match limit {
        u64::MAX => "no limit".to_owned(),
        _ => format!("hard limit {limit}: room for about {room} connections"),
    };
    if room >= configured || limit >= wanted {
        return Finding::ok(about, text);
    }
    let text = format!("{text}, while limits.max_connections allows {configured}");
    let advice = format!(
        "raise the limit to {wanted} (tuning/limits.conf), or lower limits.max_connections to {}",
        room / u64::from(shards.max(1))
    );
    Finding::warn(about, text, advice)
}

pub(super) fn locked_memory() -> Finding {
    let about = "memlock";
    let limit = getrlimit(Resource::Memlock).maximum;
    let wanted = advice::limit("memlock");
    match (limit.map(|bytes| bytes / 1024), wanted) {
        (None, _) => Finding::ok(about, "no limit"),
        (Some(kib), _) if kernel::is_from(5, 12) => Finding::ok(
            about,
            format!("{kib} KiB (since Linux 5.12 rings do not count)"),
        ),
        (Some(kib), Some(wanted)) if !wanted.is_followed_by(kib) => Finding::warn(
            about,
            format!(
                "{kib} KiB, {} is wanted ({})",
                wanted.wanted(),
                wanted.reason
            ),
            "raise it (tuning/limits.conf)",
        ),
        (Some(kib), _) => Finding::ok(about, format!("{kib} KiB")),
    }
}

/// Outboxes may fill up to `limits.max_memory_bytes` per shard: more than there is means the end by the OOM killer.
pub(super) fn memory(config: &Config, shards: u16) -> Finding {
    let about = "memory";
    let Some((available, source)) = available_memory(Path::new("/")) else {
        return Finding::warn(
            about,
            "unknown: /proc and /sys/fs/cgroup tell nothing",
            "mount them",
        );
    };
    let shards = u64::from(shards.max(1));
    let allowed = shards * config.limits.max_memory_bytes as u64;
    let text = format!(
        "{} MiB ({source}), of which the shards may fill {} MiB",
        available / MIB,
        allowed / MIB
    );
    // A quarter for the kernel's socket buffers, the registry and what is in flight.
    let most = available / 4 * 3;
    if allowed <= most {
        return Finding::ok(about, text);
    }
    let advice = format!("set limits.max_memory_bytes to at most {}", most / shards);
    Finding::warn(about, text, advice)
}

/// The least of the host's memory and the limits of the cgroups above this process, and where it comes from.
pub(super) fn available_memory(root: &Path) -> Option<(u64, &'static str)> {
    let host = host_memory(root).map(|bytes| (bytes, "of the host"));
    let cgroup = cgroup_memory(root).map(|bytes| (bytes, "cgroup limit"));
    host.into_iter()
        .chain(cgroup)
        .min_by_key(|(bytes, _)| *bytes)
}

fn host_memory(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

fn cgroup_memory(root: &Path) -> Option<u64> {
    let own = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = own.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or(""), fields.next().unwrap_or("/"));
        let (top, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            "memory" => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return Vec::new(),
        };
        limits_up(root, top, path, file)
    });
    limits.min()
}

/// The limits of a cgroup and all above it. In a container the path may not exist: then only the top counts.
fn limits_up(root: &Path, top: &str, path: &str, file: &str) -> Vec<u64> {
    let own = PathBuf::from(top).join(path.trim_start_matches('/'));
    let above = own.ancestors().take_while(|dir| dir.starts_with(top));
    let read = |dir: &Path| fs::read_to_string(root.join(dir).join(file)).ok();
    let limits = above.filter_map(read);
    limits.filter_map(|text| text.trim().parse().ok()).collect()
}
