//! Shards: how many, where, and what moves their bytes.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Shards: threads and cores.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Shards {
    /// How many shards, at most 1,024. 0: the smaller of the allowed cores and the CPU quota.
    #[schemars(range(min = 0, max = 1024))]
    pub count: u32,
    /// The CPU of each shard, in order, as many as there are shards. Empty: the allowed CPUs in order, unpinned under a CPU quota.
    #[schemars(inner(range(min = 0, max = 65_535)))]
    pub cores: Vec<usize>,
    /// What moves the bytes: `auto` (the best that this build and host can do), `uring` (a bare io_uring), `monoio` (on
    /// io_uring, or with a warning on epoll), `epoll` (monoio, always on epoll) or `glommio` (only in builds with the cargo feature
    /// `glommio`).
    pub driver: DriverChoice,
}

/// What moves the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriverChoice {
    /// The best that this build and host can do.
    #[default]
    Auto,
    /// A bare io_uring, or refuse to start.
    Uring,
    /// monoio on io_uring; where that is forbidden on epoll, with a warning.
    Monoio,
    /// monoio on epoll, also where io_uring is allowed.
    Epoll,
    /// glommio, or refuse to start: only in builds with the cargo feature `glommio`.
    Glommio,
}

impl DriverChoice {
    /// All that can be chosen.
    pub const ALL: [Self; 5] = [
        Self::Auto,
        Self::Uring,
        Self::Monoio,
        Self::Epoll,
        Self::Glommio,
    ];

    /// As it is written in settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Monoio => "monoio",
            Self::Epoll => "epoll",
            Self::Glommio => "glommio",
        }
    }

    /// The choice of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.name() == name)
    }
}

impl fmt::Display for DriverChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
