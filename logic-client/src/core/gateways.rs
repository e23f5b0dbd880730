//! Which gateways there are, and how the mesh follows what they become.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gateway_proto::shard_of;
use tokio::sync::Notify;

use crate::builder::Streams;
use crate::core::buffer::Item;
use crate::core::description::Description;
use crate::core::mesh::{Mesh, Routes};
use crate::core::queue::{Ending, Queue};
use crate::core::reroute::{Change, Destination, Rerouted, reroute};
use crate::core::returned::ReturnReason;
use crate::core::router::{GatewayId, Route};
use crate::core::seeker::Seeker;
use crate::error::ConnectError;
use crate::event::{Notice, What};
use crate::resolver::Endpoint;

/// A gateway of the set.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) id: GatewayId,
    pub(crate) address: Arc<str>,
    /// The run the resolver spoke of last.
    told_epoch: Option<u64>,
    standing: Standing,
    /// It is in the set no more, and goes then, or when it cannot be reached; in either case not before
    /// those that take its place were tried.
    leaving: Option<Duration>,
    /// Its shards' own ports are out of reach: there is one stream, through its common port.
    common: bool,
    /// Wakes whoever polls its seeker.
    wake: Arc<Notify>,
}

/// What came of looking for a gateway.
#[derive(Debug)]
enum Standing {
    Untried,
    Failed(ConnectError),
    Found,
}

/// What follows from a new set of gateways.
#[must_use = "without its seeker a gateway is not found"]
pub struct Changes {
    /// Each is to be polled until it ends.
    pub started: Vec<Seeker>,
}

/// What is to be told when the routes are no longer locked: those who are told may push.
#[derive(Default)]
struct Told {
    returned: Vec<(Item, Arc<Queue>, ReturnReason)>,
    notices: Vec<(Arc<str>, What)>,
}

impl Destination for Arc<Queue> {
    fn gateway(&self) -> GatewayId {
        self.gateway
    }

    fn newest(&self) -> Option<u64> {
        self.lock().newest()
    }
}

impl Mesh {
    /// The gateways the builder named.
    pub fn start(self: &Arc<Self>, now: Duration) -> Changes {
        self.follow(now, Vec::new())
    }

    /// These are the gateways now, beside those the builder named. One that is no longer among them may
    /// still have clients, as while it drains: it is used as long as it can be reached, for a set time
    /// at most. If it comes back by then, nothing has happened. Else what was not sent goes to others, if
    /// it was for that gateway alone, or is handed back. No gateway goes before the new ones were tried
    /// and one was found, so that a command has somewhere to go.
    pub fn set_gateways(self: &Arc<Self>, now: Duration, endpoints: Vec<Endpoint>) -> Changes {
        self.routes_mut().told = true;
        self.follow(now, endpoints)
    }

    fn follow(self: &Arc<Self>, now: Duration, endpoints: Vec<Endpoint>) -> Changes {
        let mut told = Told::default();
        let mut started = Vec::new();
        let mut routes = self.routes_mut();
        if routes.closed {
            return Changes { started };
        }
        let named = self.settings.gateways.iter();
        let mut wanted: Vec<Endpoint> = named.map(Endpoint::new).collect();
        for endpoint in endpoints {
            match wanted
                .iter_mut()
                .find(|one| one.address == endpoint.address)
            {
                Some(one) => *one = endpoint,
                None => wanted.push(endpoint),
            }
        }
        let leaves_at = now.saturating_add(self.settings.leave_after);
        for at in 0..routes.gateways.len() {
            let gateway = &mut routes.gateways[at];
            let stays = wanted.iter().any(|one| *one.address == *gateway.address);
            let leaves_at = gateway.leaving.unwrap_or(leaves_at);
            gateway.leaving = (!stays).then_some(leaves_at);
            routes.tell_leaving(at);
        }
        for endpoint in wanted {
            let known = routes.position(&endpoint.address);
            if let Some(at) = known {
                routes.told_epoch(at, endpoint.epoch);
                continue;
            }
            let id = GatewayId(self.next_gateway.fetch_add(1, Ordering::Relaxed));
            let gateway = Gateway::new(id, &endpoint);
            told.notices
                .push((Arc::clone(&gateway.address), What::GatewayAdded));
            started.push(Seeker::new(self, &gateway));
            routes.gateways.push(gateway);
        }
        self.dismiss(now, &mut routes, &mut told);
        drop(routes);
        self.tell(now, told);
        Changes { started }
    }

    /// A gateway said nothing, or nothing that can be used.
    pub(crate) fn failed(&self, now: Duration, gateway: GatewayId, error: ConnectError) {
        let mut told = Told::default();
        let mut routes = self.routes_mut();
        if let Some(gateway) = routes.gateway_mut(gateway) {
            gateway.standing = Standing::Failed(error);
            self.dismiss(now, &mut routes, &mut told);
        }
        drop(routes);
        self.tell(now, told);
    }

    /// A gateway cannot be reached, or its time is over: if it is to leave, it goes now. Says whether it
    /// is gone.
    pub(crate) fn let_go(&self, now: Duration, gateway: GatewayId) -> bool {
        let leaves = |known: &Gateway| known.id == gateway && known.leaving.is_some();
        if !self.routes().gateways.iter().any(leaves) {
            return false;
        }
        let mut told = Told::default();
        let mut routes = self.routes_mut();
        self.dismiss(now, &mut routes, &mut told);
        let gone = routes.gateway(gateway).is_none();
        drop(routes);
        self.tell(now, told);
        gone
    }

    /// Whether a gateway is in the set, or about to leave it.
    pub(crate) fn knows(&self, gateway: GatewayId) -> bool {
        let routes = self.routes();
        !routes.closed && routes.gateways.iter().any(|known| known.id == gateway)
    }

    /// Whether the client can begin: every gateway was looked for, and at least one found. `None`:
    /// not yet known; [`Mesh::outlook_changes`].
    pub(crate) fn outlook(&self) -> Option<Result<(), ConnectError>> {
        let routes = self.routes();
        let mut found = false;
        let mut failed = None;
        for gateway in &routes.gateways {
            match &gateway.standing {
                Standing::Found => found = true,
                Standing::Untried => return None,
                Standing::Failed(error) => failed = Some(error.clone()),
            }
            // Waiting cures nothing.
            if let Some(twins @ ConnectError::SameGateway { .. }) = failed {
                return Some(Err(twins));
            }
        }
        match (found, failed) {
            // A gateway that was named is enough to begin with.
            (true, _) if routes.told || !self.settings.gateways.is_empty() => Some(Ok(())),
            (false, Some(error)) if !self.settings.resolves => Some(Err(error)),
            _ => None,
        }
    }

    /// Why there is no gateway yet, as far as one said.
    pub(crate) fn last_failure(&self) -> Option<ConnectError> {
        let routes = self.routes();
        let mut gateways = routes.gateways.iter();
        gateways.find_map(|gateway| match &gateway.standing {
            Standing::Failed(error) => Some(error.clone()),
            _ => None,
        })
    }

    /// Wakes those who wait for another [`Mesh::outlook`]. The caller creates this before it looks.
    pub(crate) fn outlook_changes(&self) -> &Notify {
        &self.outlook
    }

    /// Follows what a gateway has become: a new epoch, and with another number of shards
    /// new streams, to which goes what was not sent. Each of the streams given back needs a runner.
    pub(crate) fn adopt(
        &self,
        now: Duration,
        gateway: GatewayId,
        description: &Description,
    ) -> Result<Vec<Arc<Queue>>, ConnectError> {
        let mut told = Told::default();
        let mut routes = self.routes_mut();
        if routes.closed {
            // What there is to close is known: it gets no successors.
            return Ok(Vec::new());
        }
        let epoch = description.gateway.epoch;
        let twin = routes.router.twin(gateway, epoch);
        let twin = twin.and_then(|twin| routes.gateway(twin)).map(|twin| {
            let address = twin.address.to_string();
            (twin.id, address, twin.leaving.is_some())
        });
        let Some(adopted) = routes.gateway_mut(gateway) else {
            // It was removed meanwhile.
            return Ok(Vec::new());
        };
        let address = Arc::clone(&adopted.address);
        if let Some((_, twin, false)) = twin {
            return Err(ConnectError::SameGateway {
                first: twin.clone().min(address.to_string()),
                second: twin.max(address.to_string()),
            });
        }
        adopted.standing = Standing::Found;
        let common = adopted.common;
        let old = routes.router.route(gateway);
        let old = old.map_or(Vec::new(), |route| route.shards.clone());
        let dialled = match common {
            true => vec![0],
            false => self.dialled_shards(description.gateway.shards),
        };
        let known = old.iter().map(|queue| (queue.common, queue.shard));
        let same = known.eq(dialled.iter().map(|shard| (common, *shard)))
            && (self.presence.is_off() || self.epoch_of(&routes, gateway) == Some(epoch));
        let shards = if same {
            old.clone()
        } else {
            let shards = dialled.into_iter();
            shards
                .map(|shard| self.queue(gateway, &address, shard, common))
                .collect()
        };
        let route = Route {
            epoch,
            shards: shards.clone(),
            whole: common || self.settings.streams == Streams::One,
            limits: description.gateway.limits.unwrap_or_default(),
        };
        routes.router.set(gateway, route);
        if let Some(at) = routes.position(&address) {
            routes.tell_leaving(at);
        }
        self.presence.adopted(gateway, description);
        let started = if same { Vec::new() } else { shards };
        if !same {
            self.move_over(&routes, gateway, &old, Change::Shards, &mut told);
            self.retire(old);
        }
        if let Some((twin, ..)) = twin {
            // The gateway has another address: nothing may go to both.
            self.remove(&mut routes, twin, &mut told);
        }
        self.dismiss(now, &mut routes, &mut told);
        drop(routes);
        self.tell(now, told);
        Ok(started)
    }

    /// The shards of a gateway there are to be streams to.
    fn dialled_shards(&self, shards: u32) -> Vec<u32> {
        match self.settings.streams {
            Streams::PerShard => (0..shards).collect(),
            // Always the same, so that the stream can resume.
            Streams::One => vec![shard_of(self.settings.service.as_bytes(), shards)],
        }
    }

    /// Lets those go that are to leave and cannot be reached or have had their time, once all others were
    /// tried and one was found: a command must have somewhere to go.
    fn dismiss(&self, now: Duration, routes: &mut Routes, told: &mut Told) {
        self.outlook.notify_waiters();
        let gateways = || routes.gateways.iter();
        let stays = || gateways().filter(|gateway| gateway.leaving.is_none());
        let untried = stays().any(|gateway| matches!(gateway.standing, Standing::Untried));
        let found = stays().any(|gateway| matches!(gateway.standing, Standing::Found));
        if routes.closed || untried || !found && stays().next().is_some() {
            return;
        }
        let leaving = gateways().filter(|gateway| {
            let until = gateway.leaving;
            until.is_some_and(|until| until <= now || !routes.is_reachable(gateway.id))
        });
        let leaving: Vec<_> = leaving.map(|gateway| gateway.id).collect();
        for gateway in leaving {
            self.remove(routes, gateway, told);
        }
    }

    fn remove(&self, routes: &mut Routes, gateway: GatewayId, told: &mut Told) {
        let at = routes.gateways.iter().position(|known| known.id == gateway);
        if let Some(at) = at {
            let removed = routes.gateways.remove(at);
            removed.wake.notify_one();
            told.notices.push((removed.address, What::GatewayRemoved));
        }
        self.presence.removed(gateway);
        if let Some(route) = routes.router.remove(gateway) {
            self.move_over(routes, gateway, &route.shards, Change::Removed, told);
            self.retire(route.shards);
        }
    }

    /// Moves what the streams of a gateway have not sent to where it goes now, in the order of the
    /// calls. No command comes in meanwhile: the routes are locked.
    fn move_over(
        &self,
        routes: &Routes,
        gateway: GatewayId,
        old: &[Arc<Queue>],
        change: Change,
        told: &mut Told,
    ) {
        let unsent = old.iter().flat_map(|queue| {
            let items = queue.drain().into_iter();
            items.map(|item| (item, Arc::clone(queue)))
        });
        // What was for this gateway alone goes where its users are now.
        let change_of = |item: &Item| match change {
            Change::Shards if self.is_located(item) => Change::Removed,
            change => change,
        };
        let router = &routes.router;
        let unsent = unsent.collect();
        let moved: Rerouted<'_, Arc<Queue>, _> =
            reroute(unsent, change_of, |change, body| {
                match (change, router.route(gateway)) {
                    (Change::Shards, Some(route)) => route.paths(body, router.limits()),
                    (_, route) => self.locate(routes, body, route.map(|_| gateway)).paths,
                }
            });
        for replan in moved.replans {
            self.expect(Some(replan.ticket), replan.come, replan.gone);
        }
        for (queue, item) in moved.items {
            if queue.lock().put(item) {
                queue.wake();
            }
        }
        told.returned.extend(moved.returned);
    }

    /// A stream that had to retire has ended. What its gateway gave back unread goes elsewhere, too.
    pub(crate) fn move_rest(&self, now: Duration, queue: &Arc<Queue>) {
        if queue.ending() != Ending::Retire || queue.lock().buffer.is_empty() {
            return;
        }
        let mut told = Told::default();
        let routes = self.routes_mut();
        let change = match routes.router.route(queue.gateway) {
            Some(_) => Change::Shards,
            None => Change::Removed,
        };
        let old = std::slice::from_ref(queue);
        self.move_over(&routes, queue.gateway, old, change, &mut told);
        drop(routes);
        self.tell(now, told);
    }

    fn epoch_of(&self, routes: &Routes, gateway: GatewayId) -> Option<u64> {
        routes.router.route(gateway).map(|route| route.epoch)
    }

    fn queue(
        &self,
        gateway: GatewayId,
        address: &Arc<str>,
        shard: u32,
        common: bool,
    ) -> Arc<Queue> {
        let index = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let bounds = self.settings.buffer;
        Arc::new(Queue::new(
            gateway,
            Arc::clone(address),
            shard,
            common,
            index,
            bounds,
        ))
    }

    /// The shards of these streams are no more, or their gateway.
    fn retire(&self, queues: Vec<Arc<Queue>>) {
        for queue in &queues {
            queue.end(Ending::Retire);
        }
        self.retired(queues);
    }

    /// A seed for what is random about one stream or seeker: different for each, and in each client.
    pub(crate) fn seed(&self, of: u64) -> u64 {
        let mut seed = [0; 8];
        seed.copy_from_slice(&self.session[..8]);
        u64::from_le_bytes(seed) ^ of
    }

    fn tell(&self, now: Duration, told: Told) {
        for (item, queue, reason) in told.returned {
            self.hand_back(now, &queue, item, reason);
        }
        for (address, what) in told.notices {
            self.notify(&Notice {
                gateway: address.to_string(),
                shard: 0,
                what,
            });
        }
    }
}

impl Gateway {
    fn new(id: GatewayId, endpoint: &Endpoint) -> Self {
        Self {
            id,
            address: endpoint.address.as_str().into(),
            told_epoch: endpoint.epoch,
            standing: Standing::Untried,
            leaving: None,
            common: false,
            wake: Arc::default(),
        }
    }

    pub(crate) fn wake(&self) -> &Arc<Notify> {
        &self.wake
    }
}

mod set;
