//! Which streams a command goes to.

use gateway_proto::shard_of;
use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::message_request::Target;
use gateway_proto::v1::{Connection, Limits, Users, disconnect, subscribe, unsubscribe};

use crate::core::check::{Common, ENVELOPE_BYTES};

/// A connection's id begins with its shard: 10 bits from the top.
const SHARD_SHIFT: u32 = 54;

/// One gateway, as it was described last. `S` stands for a stream.
#[derive(Clone, Debug)]
pub(crate) struct Route<S> {
    pub(crate) epoch: u64,
    /// The stream to each shard.
    pub(crate) shards: Vec<S>,
    pub(crate) limits: Limits,
}

/// The gateways in the order they were configured; `None` for one that was never reached.
#[derive(Debug)]
pub(crate) struct Router<S> {
    gateways: Vec<Option<Route<S>>>,
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
    pub(crate) fn new(gateways: usize) -> Self {
        Self {
            gateways: (0..gateways).map(|_| None).collect(),
            limits: Common::NONE,
        }
    }

    pub(crate) fn route(&self, gateway: usize) -> Option<&Route<S>> {
        self.gateways[gateway].as_ref()
    }

    /// Sets what a gateway is from now on; gives back what it was.
    pub(crate) fn set(&mut self, gateway: usize, route: Route<S>) -> Option<Route<S>> {
        let old = self.gateways[gateway].replace(route);
        self.limits = Common::NONE;
        for route in self.gateways.iter().flatten() {
            self.limits.narrow(&route.limits);
        }
        old
    }

    /// Another gateway with this epoch: the same process under another address.
    pub(crate) fn twin(&self, gateway: usize, epoch: u64) -> Option<usize> {
        self.gateways.iter().enumerate().position(|(at, route)| {
            at != gateway && route.as_ref().is_some_and(|route| route.epoch == epoch)
        })
    }

    /// What all gateways take.
    pub(crate) fn limits(&self) -> &Common {
        &self.limits
    }

    pub(crate) fn streams(&self) -> impl Iterator<Item = &S> {
        self.gateways
            .iter()
            .flatten()
            .flat_map(|route| &route.shards)
    }

    /// Where a command goes: a user's to its shard on every gateway, a connection's to its own,
    /// a list's in parts, all others to every shard of every gateway.
    pub(crate) fn paths(&self, body: &Body) -> Paths<'_, S> {
        if let [Some(route)] = &self.gateways[..] {
            return route.paths(body, &self.limits);
        }
        let paths = self.gateways.iter().flatten();
        let mut paths = paths
            .map(|route| route.paths(body, &self.limits))
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
}

impl<'a, S> Paths<'a, S> {
    fn into_parts(self, body: &Body) -> Vec<(&'a S, Body)> {
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
        match whom(body) {
            Whom::User(user) => {
                let shard = shard_of(user.as_bytes(), self.shards.len() as u32);
                self.shards
                    .get(shard as usize)
                    .map_or(Paths::None, Paths::One)
            }
            Whom::Connection(connection) => {
                let shard = (connection.id >> SHARD_SHIFT) as usize;
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
    fn parts(&self, body: &Body, users: &Users, limits: &Common) -> Paths<'_, S> {
        let Body::Push(push) = body else {
            return Paths::None;
        };
        let mut shares: Vec<Vec<String>> = self.shards.iter().map(|_| Vec::new()).collect();
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
enum Whom<'a> {
    User(&'a str),
    Connection(&'a Connection),
    Users(&'a Users),
    All,
}

fn whom(body: &Body) -> Whom<'_> {
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
fn cut(users: Vec<String>, most: usize, bytes: usize) -> Vec<Vec<String>> {
    /// A protobuf string of up to 256 bytes has a header of at most 3.
    const HEADER: usize = 3;
    let mut lists: Vec<Vec<String>> = Vec::new();
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
