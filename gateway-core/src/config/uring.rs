//! The bare rings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Config, check::Verdict};

/// Rings of the driver `uring`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Uring {
    /// Clients that a ring has room for, 64 of them still coming in; cut to the process' limit of descriptors. A shard
    /// with more clients has more rings.
    #[schemars(range(min = 128, max = 1 << 20))]
    pub ring_descriptors: u32,
    /// Buffers that the clients of a ring receive into by turns: a power of two.
    #[schemars(range(min = 1, max = 1 << 15))]
    pub ring_buffers: u16,
    /// Bytes of such a buffer.
    #[schemars(range(min = 256, max = 1 << 16))]
    pub buffer_bytes: u32,
}

impl Default for Uring {
    fn default() -> Self {
        Self {
            ring_descriptors: 1 << 16,
            ring_buffers: 1024,
            buffer_bytes: 512,
        }
    }
}

/// The kernel takes no other number.
pub(super) fn buffers_fit(config: &Config) -> Verdict {
    let fits = config.uring.ring_buffers.is_power_of_two();
    (!fits).then(|| ("uring.ring_buffers", "a power of two".to_owned()))
}
