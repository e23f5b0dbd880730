//! Where users are, and questions about them: what the mesh knows beside its routes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use gateway_proto::shard_of;
use gateway_proto::v1::gateway_frame::Body as Up;
use gateway_proto::v1::logic_frame::Body;
use gateway_proto::v1::query::Question;
use gateway_proto::v1::{Query, QueryResult};
use tokio::sync::oneshot;

use crate::core::buffer::{GaveWay, Item};
use crate::core::check::check;
use crate::core::description::Description;
use crate::core::directory::Directory;
use crate::core::locate::{Located, is_located};
use crate::core::lock;
use crate::core::mesh::{GoneFrom, Mesh, Routes, from};
use crate::core::query::{Asked, Queries, QueryId};
use crate::core::queue::Queue;
use crate::core::receipts::Ticket;
use crate::core::router::{GatewayId, Paths, Route};
use crate::error::PushError;
use crate::query::{Answers, Locate, Place};
use crate::stats::DirectoryStats;

/// Where users are, and who has asked.
#[derive(Debug)]
pub(crate) struct Presence {
    /// `None`: nobody wants to know.
    directory: Option<RwLock<Directory>>,
    queries: Mutex<Queries<oneshot::Sender<Answers>>>,
    /// The configured names of gateways that were reached.
    names: RwLock<HashMap<GatewayId, String>>,
}

impl Presence {
    /// Most users of a directory, each counted on each gateway: `most`.
    pub(crate) fn new(locate: Locate, most: usize) -> Self {
        Self {
            directory: (locate == Locate::Directory).then(|| RwLock::new(Directory::new(most))),
            queries: Mutex::default(),
            names: RwLock::default(),
        }
    }

    /// Whether commands go everywhere.
    pub(crate) fn is_off(&self) -> bool {
        self.directory.is_none()
    }

    /// What a gateway is from now on.
    pub(crate) fn adopted(&self, gateway: GatewayId, description: &Description) {
        let described = &description.gateway;
        let name = described.gateway_id.clone();
        write(&self.names, |names| names.insert(gateway, name));
        self.change(|directory| directory.adopt(gateway.0, described.epoch, described.shards));
    }

    /// A gateway is no more.
    pub(crate) fn removed(&self, gateway: GatewayId) {
        write(&self.names, |names| names.remove(&gateway));
        self.change(|directory| directory.forget(gateway.0));
    }

    /// The stream to a shard is not open any more, or that to all of them (`None`).
    pub(crate) fn lost(&self, gateway: GatewayId, shard: Option<u32>) {
        self.change(|directory| directory.lost(gateway.0, shard));
    }

    /// A gateway has told who is online, on its connection `run`. Says whether somebody found no room, the
    /// first one of all.
    pub(crate) fn told(&self, gateway: GatewayId, epoch: u64, run: u64, frame: Up) -> bool {
        let mut full = false;
        self.change(|directory| {
            let before = directory.any_cut();
            directory.apply(gateway.0, epoch, run, frame);
            full = !before && directory.any_cut();
        });
        full
    }

    pub(crate) fn stats(&self) -> Option<DirectoryStats> {
        let figures = self.look(Directory::figures)?;
        Some(DirectoryStats {
            users: figures.users,
            entries: figures.entries,
            complete: figures.complete,
            refused: figures.refused,
            cut: figures.cut,
            shards: figures.sources,
            snapshots: figures.snapshots,
            changes: figures.changes,
        })
    }

    fn name(&self, gateway: GatewayId) -> String {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.get(&gateway).cloned().unwrap_or_default()
    }

    fn look<R>(&self, with: impl FnOnce(&Directory) -> R) -> Option<R> {
        let directory = self.directory.as_ref()?;
        let directory = directory.read().unwrap_or_else(PoisonError::into_inner);
        Some(with(&directory))
    }

    fn change(&self, with: impl FnOnce(&mut Directory)) {
        if let Some(directory) = &self.directory {
            write(directory, with);
        }
    }
}

impl Mesh {
    /// Whether a command goes where its user is, and to no other gateway than this one.
    pub(super) fn is_located(&self, item: &Item) -> bool {
        let sole = item.stamp.parts == item.stamp.here;
        sole && !self.presence.is_off() && is_located(&item.body)
    }

    /// Where a command goes; `back` as for [`Router::located`](crate::core::router::Router::located).
    pub(super) fn locate<'a>(
        &self,
        routes: &'a Routes,
        body: &Body,
        back: Option<GatewayId>,
    ) -> Located<'a, Arc<Queue>> {
        let located = self
            .presence
            .look(|directory| routes.router.located(body, directory, back));
        located.unwrap_or_else(|| {
            let paths = routes.router.paths(body);
            let nowhere = u64::from(matches!(paths, Paths::None));
            Located { paths, nowhere }
        })
    }

    /// Where a user is, as far as gateways have told. Empty without a directory.
    pub fn whereis(&self, user: &str) -> Vec<Place> {
        let found = self
            .presence
            .look(|directory| directory.find(user).collect::<Vec<_>>());
        let found = found.into_iter().flatten();
        let mut places: Vec<_> = found
            .map(|found| Place {
                gateway: self.presence.name(GatewayId(found.gateway)),
                connections: found.connections,
                current: found.complete,
            })
            .collect();
        places.sort();
        places
    }

    /// Asks all gateways. The answer comes when all have answered, or with [`Mesh::end_query`].
    pub(crate) fn query(
        &self,
        now: Duration,
        question: Question,
    ) -> Result<(QueryId, oneshot::Receiver<Answers>), PushError> {
        let routes = self.routes();
        if routes.closed {
            return Err(PushError::Closed);
        }
        let body = Body::Query(Query {
            question: Some(question),
        });
        check(&body, routes.router.limits()).map_err(PushError::Invalid)?;
        let mut asked = Vec::new();
        let mut parts = Vec::new();
        let mut missing = Vec::new();
        for gateway in &routes.gateways {
            let Some(route) = routes.router.route(gateway.id) else {
                missing.push(gateway.address.to_string());
                continue;
            };
            let items = streams_asked(route, &body).map(|queue| (queue, self.part(now, &body)));
            let items: Vec<_> = items.collect();
            asked.push(Asked {
                name: self.presence.name(gateway.id),
                address: gateway.address.to_string(),
                tickets: items.iter().filter_map(|(_, item)| item.ticket).collect(),
            });
            parts.extend(items);
        }
        let (waiter, answer) = oneshot::channel();
        let nobody = asked.is_empty();
        let query = lock(&self.presence.queries).open(waiter, asked, missing);
        if nobody {
            self.end_query(query);
        }
        let mut returned = GoneFrom::new();
        for (queue, item) in parts {
            let ticket = item.ticket;
            let mut gave_way = GaveWay::new();
            let refused = queue.offer(item, &mut gave_way).is_err();
            returned.extend(from(queue, gave_way));
            if let Some(ticket) = ticket.filter(|_| refused) {
                self.answered(ticket, None);
            }
        }
        // Who is told may push.
        drop(routes);
        for (queue, item, reason) in returned {
            self.hand_back(now, &queue, item, reason);
        }
        Ok((query, answer))
    }

    /// A stream has answered a query, or will not (`None`).
    pub(crate) fn answered(&self, ticket: Ticket, result: Option<QueryResult>) {
        let done = lock(&self.presence.queries).answered(ticket, result);
        if let Some((waiter, answers)) = done {
            // Nobody waits any more: nothing to tell.
            let _ = waiter.send(answers);
        }
    }

    /// Answers with what is known by now.
    pub(crate) fn end_query(&self, query: QueryId) {
        let done = lock(&self.presence.queries).end(query);
        if let Some((waiter, answers)) = done {
            // As above.
            let _ = waiter.send(answers);
        }
    }

    /// What one stream is asked.
    fn part(&self, now: Duration, body: &Body) -> Item {
        let ticket = lock(&self.presence.queries).ticket();
        let patience = self.settings.query_timeout;
        self.item(now, body.clone(), Some(patience))
            .with_ticket(ticket)
    }
}

/// The streams of a gateway that can answer.
fn streams_asked<'a>(
    route: &'a Route<Arc<Queue>>,
    body: &'a Body,
) -> impl Iterator<Item = &'a Arc<Queue>> {
    let shards = route.shards.len().max(1) as u32;
    let only = match body {
        Body::Query(Query {
            question: Some(Question::UserId(user)),
        }) => Some(shard_of(user.as_bytes(), shards) as usize),
        _ => None,
    };
    let asked = move |(at, _): &(usize, &Arc<Queue>)| only.is_none_or(|only| only == *at);
    let streams = route.shards.iter().enumerate().filter(asked);
    streams.map(|(_, queue)| queue)
}

fn write<T, R>(behind: &RwLock<T>, with: impl FnOnce(&mut T) -> R) -> R {
    with(&mut behind.write().unwrap_or_else(PoisonError::into_inner))
}
