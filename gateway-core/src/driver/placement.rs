//! How many shards there are, and on which core each runs.

use std::thread::available_parallelism;

use crate::{
    config,
    identity::{MAX_SHARDS, ShardIndex},
};

/// The cores this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The CPUs of the affinity mask.
    pub allowed: Vec<usize>,
    /// How many of them the cgroup's CPU quota pays for (v2 `cpu.max`, v1 `cpu.cfs_quota_us`); all without a quota.
    pub paid: usize,
}

/// Where the shards run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The CPU of each shard; `None`: wherever the kernel puts it.
    pub cores: Vec<Option<usize>>,
    /// Why, for the log.
    pub why: String,
}

/// A setting that cannot be followed on this host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: {allowed}")]
pub struct PlacementError {
    /// The setting.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What would be allowed.
    pub allowed: String,
}

impl Host {
    /// Asks the kernel.
    #[must_use]
    pub fn detect() -> Self {
        let paid = available_parallelism().map_or(1, usize::from);
        let allowed = core_affinity::get_core_ids()
            .filter(|cores| !cores.is_empty())
            .map_or_else(
                || (0..paid).collect(),
                |cores| cores.into_iter().map(|core| core.id).collect(),
            );
        Self { allowed, paid }
    }

    fn has_quota(&self) -> bool {
        self.paid < self.allowed.len()
    }
}

/// Places the shards.
///
/// Configured cores are taken as they are. Otherwise each shard gets a core of its own, in order, round robin when there
/// are more shards than cores; under a CPU quota none is pinned, because the kernel then has to choose which of the
/// cores may run.
///
/// # Errors
/// A setting that this host cannot follow.
pub fn place(config: &config::Shards, host: &Host) -> Result<Placement, PlacementError> {
    if config.count > MAX_SHARDS {
        return Err(PlacementError {
            key: "shards.count",
            value: config.count.to_string(),
            allowed: format!("at most {MAX_SHARDS}"),
        });
    }
    if let Some(core) = config
        .cores
        .iter()
        .find(|core| !host.allowed.contains(core))
    {
        return Err(PlacementError {
            key: "shards.cores",
            value: format!("{:?}", config.cores),
            allowed: format!(
                "core {core} is not among those this process may use: {:?}",
                host.allowed
            ),
        });
    }
    Ok(if config.cores.is_empty() {
        place_by_default(config.count as usize, host)
    } else {
        place_on(config.count as usize, &config.cores, "shards.cores says so")
    })
}

fn place_by_default(count: usize, host: &Host) -> Placement {
    let (paid, allowed) = (host.paid, host.allowed.len());
    if host.has_quota() {
        let count = if count == 0 { paid } else { count };
        Placement {
            cores: vec![None; count],
            why: format!("unpinned: the CPU quota pays for {paid} of {allowed} allowed cores"),
        }
    } else {
        place_on(
            count,
            &host.allowed,
            &format!("{allowed} cores are allowed, no CPU quota"),
        )
    }
}

fn place_on(count: usize, cores: &[usize], why: &str) -> Placement {
    let count = match count {
        0 => cores.len().min(MAX_SHARDS as usize),
        count => count,
    };
    let shared = if count > cores.len() {
        "; shards share cores"
    } else {
        ""
    };
    Placement {
        cores: cores
            .iter()
            .copied()
            .map(Some)
            .cycle()
            .take(count)
            .collect(),
        why: format!("{why}{shared}"),
    }
}

impl Placement {
    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> ShardIndex {
        self.cores.len() as ShardIndex
    }
}

/// Pins the calling thread. False: the kernel refused, and the thread runs anywhere.
#[must_use]
pub fn pin(core: usize) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: core })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(allowed: &[usize], paid: usize) -> Host {
        Host {
            allowed: allowed.to_vec(),
            paid,
        }
    }

    fn cores(count: u32, cores: &[usize], host: &Host) -> Vec<Option<usize>> {
        let config = config::Shards {
            count,
            cores: cores.to_vec(),
            ..Default::default()
        };
        place(&config, host).unwrap().cores
    }

    #[test]
    fn every_allowed_core_gets_a_shard() {
        assert_eq!(cores(0, &[], &host(&[2, 5], 2)), [Some(2), Some(5)]);
    }

    #[test]
    fn a_quota_bounds_the_count_and_unpins() {
        assert_eq!(cores(0, &[], &host(&[0, 1, 2, 3], 2)), [None, None]);
        assert_eq!(cores(3, &[], &host(&[0, 1, 2, 3], 2)), [None; 3]);
    }

    #[test]
    fn more_shards_than_cores_share_them_in_turn() {
        let host = host(&[4, 6], 2);
        assert_eq!(cores(3, &[], &host), [Some(4), Some(6), Some(4)]);
        assert_eq!(cores(2, &[6], &host), [Some(6), Some(6)]);
    }

    #[test]
    fn what_the_host_cannot_do_is_refused_with_the_key() {
        let config = config::Shards {
            cores: vec![0, 9],
            ..Default::default()
        };
        let error = place(&config, &host(&[0, 1], 2)).unwrap_err();
        assert_eq!(error.key, "shards.cores");
        assert!(error.to_string().contains("core 9"), "{error}");
        let config = config::Shards {
            count: MAX_SHARDS + 1,
            ..Default::default()
        };
        assert_eq!(
            place(&config, &host(&[0], 1)).unwrap_err().key,
            "shards.count"
        );
    }
}
