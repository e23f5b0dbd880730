//! Clients' connections, as gateways see them.

use std::{collections::BTreeMap, time::Duration};

use super::issued::Target;

/// A client's connection.
#[derive(Debug)]
pub struct Conn {
    /// Which client has it.
    pub client: usize,
    /// Whose.
    pub user: Option<u32>,
    /// The place of the gateway.
    pub place: usize,
    /// The run of the gateway; 0 until it is accepted.
    pub epoch: u64,
    /// The gateway's name for it.
    pub id: u64,
    pub(super) registered: Option<Duration>,
    pub(super) opened: Option<Duration>,
    pub(super) closing: Option<(Duration, u16)>,
    pub(super) ended: Option<Duration>,
    /// The newest push of each source for each target.
    pub(super) newest: BTreeMap<(u64, Target), usize>,
    pub(super) written: Vec<usize>,
    pub(super) received: usize,
}

impl Conn {
    /// A client dials.
    pub(super) fn new(client: usize, user: Option<u32>, place: usize) -> Self {
        Self {
            client,
            user,
            place,
            epoch: 0,
            id: 0,
            registered: None,
            opened: None,
            closing: None,
            ended: None,
            newest: BTreeMap::new(),
            written: Vec::new(),
            received: 0,
        }
    }

    /// The shard that has it.
    #[must_use]
    pub fn shard(&self) -> u32 {
        (self.id >> 54) as u32
    }

    /// Whether it was open at both ends the last time anybody looked.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.opened.is_some() && self.closing.is_none() && self.ended.is_none()
    }

    /// Whether the gateway closed it because it could not pass its messages on.
    #[must_use]
    pub fn gave_up(&self) -> bool {
        matches!(self.closing, Some((_, 1013 | 4503)))
    }

    pub(super) fn gone_by(&self) -> Duration {
        let closing = self.closing.map(|(at, _)| at);
        let all = [closing, self.ended];
        all.into_iter().flatten().min().unwrap_or(Duration::MAX)
    }
}
