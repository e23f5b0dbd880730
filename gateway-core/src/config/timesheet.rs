//! Where a shard's time goes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a shard's time goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timesheet {
    /// Keeps account of it: `ringway_time_seconds_total`, slow ticks, `ringway top`.
    pub enabled: bool,
    /// One tick in about this many is timed phase by phase, and the others are divided as it shows.
    #[schemars(range(min = 1, max = 1 << 20))]
    pub detail_every: u32,
    /// A tick that takes at least this long is counted, and logged with its cause and culprit. 0: none is.
    #[schemars(range(min = 0, max = 3_600_000))]
    pub slow_tick_ms: u64,
}

impl Default for Timesheet {
    fn default() -> Self {
        Self {
            enabled: true,
            detail_every: 64,
            slow_tick_ms: 20,
        }
    }
}
