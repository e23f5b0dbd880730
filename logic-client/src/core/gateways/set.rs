//! The gateways there are, and what each of them is.

use crate::core::gateways::Gateway;
use crate::core::mesh::Routes;
use crate::core::router::GatewayId;

impl Routes {
    pub(super) fn gateway(&self, gateway: GatewayId) -> Option<&Gateway> {
        self.gateways.iter().find(|known| known.id == gateway)
    }

    pub(crate) fn position(&self, address: &str) -> Option<usize> {
        let mut gateways = self.gateways.iter();
        gateways.position(|known| *known.address == *address)
    }

    pub(super) fn gateway_mut(&mut self, gateway: GatewayId) -> Option<&mut Gateway> {
        let mut gateways = self.gateways.iter_mut();
        gateways.find(|known| known.id == gateway)
    }

    /// Whether a gateway is to be reached through its common port; says whether that is a change.
    pub(crate) fn set_common(&mut self, gateway: GatewayId, common: bool) -> bool {
        let gateway = self.gateway_mut(gateway);
        gateway.is_some_and(|known| std::mem::replace(&mut known.common, common) != common)
    }

    /// Whether a stream of the gateway is open, or may be soon.
    pub(super) fn is_reachable(&self, gateway: GatewayId) -> bool {
        let route = self.router.route(gateway);
        let mut streams = route.iter().flat_map(|route| &route.shards);
        streams.any(|queue| queue.is_reachable())
    }

    /// Tells the streams of a gateway whether it is to leave, and when.
    pub(super) fn tell_leaving(&self, at: usize) {
        let gateway = &self.gateways[at];
        let route = self.router.route(gateway.id);
        for queue in route.iter().flat_map(|route| &route.shards) {
            queue.leave_at(gateway.leaving);
        }
    }

    /// The resolver says which run of a gateway there is. If that is news, and another than the
    /// streams know, they need not wait for silence to find out.
    pub(super) fn told_epoch(&mut self, at: usize, epoch: Option<u64>) {
        let gateway = &mut self.gateways[at];
        if epoch.is_none() || gateway.told_epoch == epoch {
            return;
        }
        gateway.told_epoch = epoch;
        let route = self.router.route(gateway.id);
        if let Some(route) = route.filter(|route| Some(route.epoch) != epoch) {
            route.shards.iter().for_each(|queue| queue.doubt());
        }
    }
}
