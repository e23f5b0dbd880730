//! What gateways answer to questions about users.

use std::fmt;

use crate::push::Connection;

/// Which gateways a push for a user goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Locate {
    /// To all: the shard of the user on each. Needs nothing to be known.
    #[default]
    Everywhere,
    /// To those where the user is, as the gateways tell it: each keeps this client up to date about
    /// all of its users, as far as there is room for them
    /// ([`Builder::directory_entries`](crate::Builder::directory_entries)).
    ///
    /// A user who is on no gateway is no target, and that is found out here. While a gateway has
    /// not told everything yet, or its stream is down, users who are known nowhere may be there, and
    /// get their pushes there. What is for one user's connections to come,
    /// [`subscribe`](crate::LogicClient::subscribe), goes everywhere.
    Directory,
}

/// What the gateways answered to a query, each for itself.
///
/// Someone who is on a gateway that is [`missing`](Self::missing) is not in the answer: a user that
/// was not found is offline only if none is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answers {
    /// Gateways of which every shard asked has answered in time.
    pub gateways: Vec<GatewayAnswer>,
    /// Addresses of the others: not reached, too slow, too busy, or without queries. What they would
    /// have said is not known.
    pub missing: Vec<String>,
}

/// What one gateway answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayAnswer {
    /// The configured name of the gateway.
    pub gateway: String,
    /// How many users it speaks of: 0 or 1 for a user; for a topic those of the connections that
    /// are named.
    pub users: u64,
    /// How many connections it speaks of.
    pub connection_count: u64,
    /// The connections of a user, or the members of a topic; at most 10,000. None for totals.
    pub connections: Vec<Connection>,
    /// There are more connections than are named.
    pub truncated: bool,
}

/// Where a user is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Place {
    /// The configured name of the gateway.
    pub gateway: String,
    /// How many connections the user has there.
    pub connections: u32,
    /// The gateway tells every change at present. Otherwise this is what was known last.
    pub current: bool,
}

impl Answers {
    /// Whether every gateway has answered.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// Users on all gateways that answered. One who is on two of them counts as two.
    #[must_use]
    pub fn users(&self) -> u64 {
        self.gateways.iter().map(|answer| answer.users).sum()
    }

    /// Connections on all gateways that answered.
    #[must_use]
    pub fn connections(&self) -> u64 {
        let counts = self.gateways.iter().map(|answer| answer.connection_count);
        counts.sum()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.gateway, self.connections)
    }
}
