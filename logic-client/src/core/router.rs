//! Which streams a command goes to.

use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::message_request::Target;
use gateway_proto::v1::{Connection, Limits, Users, disconnect, subscribe, unsubscribe};
use gateway_proto::{UserId, shard_of};

use crate::core::check::{Common, ENVELOPE_BYTES};

/// A connection's id begins with its shard: 10 bits from the top.
const SHARD_SHIFT: u32 = 54;

/// One gateway, as it was described last. `S` stands for a stream.
#[derive(Clone, Debug)]
pub(crate) struct Route<S> {
    pub(crate) epoch: u64,
    /// The stream to each shard, or one to all.
    pub(crate) shards: Vec<S>,
    /// There is one stream, and what it gets is for the whole gateway.
    pub(crate) whole: bool,
    pub(crate) limits: Limits,
}

/// Names a gateway as long as it is in the set. One that leaves and comes back has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GatewayId(pub(crate) u32);

/// The gateways that were reached, in the order they were added.
#[derive(Debug)]
pub(crate) struct Router<S> {
    gateways: Vec<(GatewayId, Route<S>)>,
    limits: Common,
}

/// Where a command goes.
#[derive(Debug, PartialEq)]
pub(crate) enum Paths<'a, S> {
    /// Nowhere: it is for a connection of no known gateway.
    None,
    /// To one stream, as it is. The usual case: no allocation.
    One(&'a S),
    /// To several streams, each with its own part.
    Many(Vec<(&'a S, Body)>),
}

impl<S> Router<S> {
    pub(crate) fn new() -> Self {
        Self {
            gateways: Vec::new(),
            limits: Common::NONE,
        }
    }

    pub(crate) fn route(&self, gateway: GatewayId) -> Option<&Route<S>> {
        let mut gateways = self.gateways.iter();
        gateways
            .find(|(id, _)| *id == gateway)
            .map(|(_, route)| route)
    }

    /// Sets what a gateway is from now on; gives back what it was.
    pub(crate) fn set(&mut self, gateway: GatewayId, route: Route<S>) -> Option<Route<S>> {
        let old = match self.gateways.binary_search_by_key(&gateway, |(id, _)| *id) {
            Ok(at) => Some(std::mem::replace(&mut self.gateways[at].1, route)),
            Err(at) => {
                self.gateways.insert(at, (gateway, route));
                None
            }
        };
        self.narrow();
        old
    }

    /// A gateway is no more; gives back what it was.
    pub(crate) fn remove(&mut self, gateway: GatewayId) -> Option<Route<S>> {
        let at = self.gateways.binary_search_by_key(&gateway, |(id, _)| *id);
        let (_, old) = self.gateways.remove(at.ok()?);
        self.narrow();
        Some(old)
    }

    /// Another gateway with this epoch: the same process under another address.
    pub(crate) fn twin(&self, gateway: GatewayId, epoch: u64) -> Option<GatewayId> {
        let mut gateways = self.gateways.iter();
        gateways
            .find(|(id, route)| *id != gateway && route.epoch == epoch)
            .map(|(id, _)| *id)
    }

    /// What all gateways take.
    pub(crate) fn limits(&self) -> &Common {
        &self.limits
    }

    /// In the order they were added.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (GatewayId, &Route<S>)> {
        self.gateways.iter().map(|(id, route)| (*id, route))
    }

    pub(crate) fn streams(&self) -> impl Iterator<Item = &S> {
        self.gateways.iter().flat_map(|(_, route)| &route.shards)
    }

    /// Where a command goes: a user's to its shard on every gateway, a connection's to its own,
    /// a list's in parts, all others to every shard of every gateway.
    pub(crate) fn paths(&self, body: &Body) -> Paths<'_, S> {
        if let [(_, route)] = &self.gateways[..] {
            return route.paths(body, &self.limits);
        }
        let paths = self.gateways.iter();
        let mut paths = paths
            .map(|(_, route)| route.paths(body, &self.limits))
            .filter(|paths| !matches!(paths, Paths::None));
        let Some(first) = paths.next() else {
            return Paths::None;
        };
        let Some(second) = paths.next() else {
            return first;
        };
        let mut many = first.into_parts(body);
        for paths in std::iter::once(second).chain(paths) {
            many.extend(paths.into_parts(body));
        }
        Paths::Many(many)
    }

    fn narrow(&mut self) {
        self.limits = Common::NONE;
        for (_, route) in &self.gateways {
            self.limits.narrow(&route.limits);
        }
    }
}

impl<'a, S> Paths<'a, S> {
    pub(crate) fn into_parts(self, body: &Body) -> Vec<(&'a S, Body)> {
        match self {
            Self::None => Vec::new(),
            Self::One(stream) => vec![(stream, body.clone())],
            Self::Many(parts) => parts,
        }
    }
}

impl<S> Route<S> {
    /// [`Router::paths`] among the shards of this gateway.
    pub(crate) fn paths(&self, body: &Body, limits: &Common) -> Paths<'_, S> {
        if let Body::Query(_) = body {
            // Every gateway is asked by itself, and its answer is its own.
            return Paths::None;
        }
        match whom(body) {
            Whom::User(user) => {
                let shard = shard_of(user.as_bytes(), self.shards.len() as u32);
                self.shards
                    .get(shard as usize)
                    .map_or(Paths::None, Paths::One)
            }
            Whom::Connection(connection) => {
                let shard = match self.whole {
                    true => 0,
                    false => (connection.id >> SHARD_SHIFT) as usize,
                };
                let shard = self
                    .shards
                    .get(shard)
                    .filter(|_| connection.epoch == self.epoch);
                shard.map_or(Paths::None, Paths::One)
            }
            Whom::Users(users) => self.parts(body, users, limits),
            Whom::All => match &self.shards[..] {
                [stream] => Paths::One(stream),
                shards => Paths::Many(shards.iter().map(|s| (s, body.clone())).collect()),
            },
        }
    }

    /// A list of users by shard, in lists that are short enough for the gateway.
    pub(crate) fn parts(&self, body: &Body, users: &Users, limits: &Common) -> Paths<'_, S> {
        let Body::Push(push) = body else {
            return Paths::None;
        };
        let mut shares: Vec<Vec<UserId>> = self.shards.iter().map(|_| Vec::new()).collect();
        for user in &users.user_ids {
            let shard = shard_of(user.as_bytes(), self.shards.len() as u32);
            if let Some(share) = shares.get_mut(shard as usize) {
                share.push(user.clone());
            }
        }
        let room = limits
            .message
            .saturating_sub(push.payload.len() + ENVELOPE_BYTES);
        let mut parts = Vec::new();
        for (stream, share) in self.shards.iter().zip(shares) {
            for user_ids in cut(share, limits.users, room) {
                let mut part = push.clone();
                part.target = Some(Target::Users(Users { user_ids }));
                parts.push((stream, Body::Push(part)));
            }
        }
        Paths::Many(parts)
    }
}

/// Whom a command concerns.
pub(crate) enum Whom<'a> {
    User(&'a str),
    Connection(&'a Connection),
    Users(&'a Users),
    All,
}

pub(crate) fn whom(body: &Body) -> Whom<'_> {
    match body {
        Body::Push(push) => match &push.target {
            Some(Target::UserId(user)) => Whom::User(user),
            Some(Target::Connection(connection)) => Whom::Connection(connection),
            Some(Target::Users(users)) => Whom::Users(users),
            Some(Target::Topic(_) | Target::Everyone(_)) | None => Whom::All,
        },
        Body::Subscribe(command) => match &command.target {
            Some(subscribe::Target::UserId(user)) => Whom::User(user),
            Some(subscribe::Target::Connection(connection)) => Whom::Connection(connection),
            None => Whom::All,
        },
        Body::Unsubscribe(command) => match &command.target {
            Some(unsubscribe::Target::UserId(user)) => Whom::User(user),
            Some(unsubscribe::Target::Connection(connection)) => Whom::Connection(connection),
            None => Whom::All,
        },
        Body::Disconnect(command) => match &command.target {
            Some(disconnect::Target::UserId(user)) => Whom::User(user),
            Some(disconnect::Target::Connection(connection)) => Whom::Connection(connection),
            None => Whom::All,
        },
        _ => Whom::All,
    }
}

/// Cuts `users` into lists of at most `most` users and about `bytes` bytes.
fn cut(users: Vec<UserId>, most: usize, bytes: usize) -> Vec<Vec<UserId>> {
    /// A protobuf string of up to 256 bytes has a header of at most 3.
    const HEADER: usize = 3;
    let mut lists: Vec<Vec<UserId>> = Vec::new();
    let mut room = 0;
    for user in users {
        let size = user.len() + HEADER;
        match lists.last_mut() {
            Some(list) if list.len() < most && size <= room => list.push(user),
            _ => {
                lists.push(vec![user]);
                room = bytes;
            }
        }
        room = room.saturating_sub(size);
    }
    lists
}

#[cfg(test)]
mod tests;
