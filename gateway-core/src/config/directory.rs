//! Settings of the directory of users.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Telling logic services who is online.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Directory {
    /// Whether streams may receive DIRECTORY.
    pub enabled: bool,
    /// Most streams of a shard that receive DIRECTORY.
    #[schemars(range(min = 1, max = 1 << 16))]
    pub max_streams: usize,
    /// Most bytes of changes a shard keeps for streams that are behind; what is further behind gets a new snapshot.
    #[schemars(range(min = 1 << 10, max = 1_u64 << 32))]
    pub max_queue_bytes: usize,
    /// Most users in one chunk of a snapshot.
    #[schemars(range(min = 1, max = 1000))]
    pub chunk_users: usize,
    /// Most users told of in one tick of a shard, all streams together.
    #[schemars(range(min = 1, max = 1 << 20))]
    pub slice: usize,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            enabled: true,
            max_streams: 4096,
            max_queue_bytes: 4 << 20,
            chunk_users: 1000,
            slice: 2000,
        }
    }
}
