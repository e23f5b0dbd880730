//! How a mesh of a world is set up.

use std::{pin::Pin, time::Duration};

use logic_client::resolver::{Resolver, Updates};

/// Gateways of a world have no more.
pub const MOST_SHARDS: u32 = 3;

/// How a mesh is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The consumer group.
    pub group: String,
    /// Commands that each stream's buffer holds.
    pub commands: usize,
    /// Bytes that each stream's buffer holds.
    pub bytes: usize,
    /// Bytes of events a gateway may be ahead.
    pub window: u32,
    /// One stream to each gateway instead of one to each shard.
    pub one: bool,
    /// When streams are replaced.
    pub max_age: Duration,
    /// How long a command waits to be sent.
    pub buffer_age: Duration,
    /// The oldest pushes give way in a full buffer.
    pub drop_oldest: bool,
    /// What may have arrived is sent again.
    pub resend: bool,
    /// It keeps a directory, and sends only to where users are.
    pub locate: bool,
}

/// The world tells the mesh where gateways are.
pub struct World;

impl Resolver for World {
    fn run(self: Box<Self>, _updates: Updates) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}
