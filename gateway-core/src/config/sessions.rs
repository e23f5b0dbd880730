//! What a shard remembers of broken streams.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a shard remembers of broken streams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sessions {
    /// A stream that has ended can be resumed within this time.
    #[schemars(range(min = 1, max = 86_400_000))]
    pub keep_ms: u64,
    /// Most sessions a shard remembers, those with a stream included. When there are more, the one that ended longest ago goes.
    #[schemars(range(min = 0, max = 1 << 24))]
    pub max: usize,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            keep_ms: 60_000,
            max: 65_536,
        }
    }
}
