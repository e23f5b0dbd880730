//! Names of things: connections, links, users, and which shard owns them.

use std::fmt;

pub use gateway_proto::{names::is_valid_name, shard_of};

/// Most shards a gateway can have: 10 bits of a [`ConnId`].
pub const MAX_SHARDS: u32 = 1 << 10;
/// Most connections a shard can have: 22 bits of a [`ConnId`].
pub const MAX_SLOTS: u32 = 1 << 22;

/// The index of a shard, below [`MAX_SHARDS`].
pub type ShardIndex = u16;

/// One client connection: shard (10 bits), slot (22 bits), generation (32 bits), from the top.
///
/// The slot indexes the shard's slab; the generation tells a connection from those that had the slot before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(u64);

impl ConnId {
    /// Puts the parts together. `shard` and `slot` must be below their maxima.
    #[must_use]
    pub fn new(shard: ShardIndex, slot: u32, generation: u32) -> Self {
        debug_assert!(u32::from(shard) < MAX_SHARDS && slot < MAX_SLOTS);
        Self(u64::from(shard) << 54 | u64::from(slot) << 32 | u64::from(generation))
    }

    /// The id as it stands on the wire; any number is taken, a meaningless one finds nobody.
    #[must_use]
    pub fn from_wire(id: u64) -> Self {
        Self(id)
    }

    /// For `Connection.id`.
    #[must_use]
    pub fn to_wire(self) -> u64 {
        self.0
    }

    /// The shard that owns the connection.
    #[must_use]
    pub fn shard(self) -> ShardIndex {
        (self.0 >> 54) as ShardIndex
    }

    /// The place in the shard's slab.
    #[must_use]
    pub fn slot(self) -> usize {
        ((self.0 >> 32) & u64::from(MAX_SLOTS - 1)) as usize
    }

    /// Which of the slot's connections this is.
    #[must_use]
    pub fn generation(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shard, slot, generation) = (self.shard(), self.slot(), self.generation());
        write!(f, "conn {shard}/{slot}#{generation:x}")
    }
}

/// One HTTP/2 connection of a logic service, on its shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LinkId {
    /// The place in the shard's slab of links.
    pub slot: u32,
    /// Which of the slot's links this is.
    pub generation: u32,
}

/// A socket of a shard, as its driver knows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SocketId {
    /// A client's connection.
    Conn(ConnId),
    /// A logic service's link.
    Link(LinkId),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conn_id_keeps_its_parts() {
        let id = ConnId::new(1023, MAX_SLOTS - 1, u32::MAX);
        assert_eq!((id.shard(), id.slot()), (1023, (MAX_SLOTS - 1) as usize));
        assert_eq!(id.generation(), u32::MAX);
        let id = ConnId::new(1, 2, 3);
        assert_eq!((id.shard(), id.slot(), id.generation()), (1, 2, 3));
        assert_eq!(ConnId::from_wire(id.to_wire()), id);
    }
}
