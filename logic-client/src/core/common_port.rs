//! When the ports of a gateway's shards are out of reach, and its common port is not: a firewall that
//! opens one port only, or addresses advertised that lead nowhere.
//!
//! Then one stream to the whole gateway takes the place of those to its shards. It is second best:
//! the kernel deals it to any shard, which passes on what is for others, and it cannot resume, for a
//! new connection comes to another shard. From time to time that stream looks whether a shard
//! answers at its own port. When one does, there are streams to all shards again; they begin when what
//! the one has sent is acknowledged, so that nothing overtakes it.

use std::time::Duration;

use crate::core::mesh::Mesh;
use crate::core::router::GatewayId;
use crate::event::{Notice, What};
use crate::stats::StreamState;

/// About how often a stream to a common port looks for the shards' own.
pub(crate) const LOOK: Duration = Duration::from_secs(30);

/// What speaks against a shard's port since it was reached last.
#[derive(Debug, Default)]
pub(crate) struct Doubts(u32);

impl Doubts {
    /// So many are enough. The gateway itself has answered between any two.
    const ENOUGH: u32 = 2;

    /// Somebody refuses, or nobody answers. Once may as well be a gateway that is just being restarted, or a network that broke
    /// in between: then the session is to be resumed, which the common port can't.
    pub(crate) fn failed(&mut self) {
        self.0 += 1;
    }

    pub(crate) fn reached(&mut self) {
        self.0 = 0;
    }

    pub(crate) fn are_enough(&self) -> bool {
        self.0 >= Self::ENOUGH
    }
}

impl Mesh {
    /// A shard of the gateway cannot be dialled. Unless another can, its common port is used from the
    /// next [`Mesh::adopt`] on; says whether it is.
    pub(crate) fn out_of_reach(&self, gateway: GatewayId) -> bool {
        let mut routes = self.routes_mut();
        let open = routes.router.route(gateway).is_some_and(|route| {
            let mut states = route.shards.iter().map(|queue| queue.lock().report.state);
            states.any(|state| matches!(state, StreamState::Open | StreamState::Draining))
        });
        let turned = !open && routes.set_common(gateway, true);
        drop(routes);
        if turned {
            self.tell_of(gateway, What::CommonPort);
        }
        turned
    }

    /// A shard of the gateway was dialled: from the next [`Mesh::adopt`] on, all are.
    pub(crate) fn within_reach(&self, gateway: GatewayId) {
        let turned = self.routes_mut().set_common(gateway, false);
        if turned {
            self.tell_of(gateway, What::ShardPorts);
        }
    }

    fn tell_of(&self, gateway: GatewayId, what: What) {
        let routes = self.routes();
        let mut gateways = routes.gateways.iter();
        let known = gateways.find(|known| known.id == gateway);
        let gateway = known.map(|known| known.address.to_string());
        drop(routes);
        if let Some(gateway) = gateway {
            self.notify(&Notice {
                gateway,
                shard: 0,
                what,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use gateway_proto::v1::Scope;

    use super::*;
    use crate::core::world::World;
    use crate::push::Push;

    const SECOND: Duration = Duration::from_secs(1);

    /// One gateway of two shards, whose ports among `blocked` are out of reach.
    fn world(blocked: &[u32]) -> World {
        let mut world = World::new(|builder| builder);
        world.boot("a", 1, 2);
        block(&mut world, blocked);
        world.resolve(&["a"]);
        world.run(SECOND * 5);
        world
    }

    fn block(world: &mut World, shards: &[u32]) {
        world.gateways.get_mut("a").unwrap().blocked = shards.to_vec();
    }

    fn turns(world: &World) -> (usize, usize) {
        let to_common = world.noticed(|what| *what == What::CommonPort);
        (to_common, world.noticed(|what| *what == What::ShardPorts))
    }

    #[test]
    fn shards_out_of_reach_are_spoken_to_through_the_common_port_and_again_when_they_are_not() {
        let mut world = world(&[0, 1]);
        assert!(world.is_open(1) && world.mesh.stats().streams[0].common_port);
        let (_, hello) = &world.gateways["a"].hellos[0];
        assert_eq!(hello.scope(), Scope::Gateway);
        assert_eq!(hello.expected_shard_plus_one, 0);
        assert!(world.try_push(Push::user("alice").text("one")));
        assert!(world.try_push(Push::everyone().text("all")));
        assert_eq!(world.gateways["a"].texts(), ["one", "all"]);
        world.run(LOOK * 3);
        assert_eq!(turns(&world), (1, 0), "said once");

        block(&mut world, &[]);
        world.run(LOOK * 5 / 4);
        assert!(world.is_open(2));
        assert!(!world.mesh.stats().streams.iter().any(|one| one.common_port));
        assert_eq!(turns(&world), (1, 1));
        assert!(world.try_push(Push::everyone().text("each")));
        let texts = world.gateways["a"].texts();
        assert_eq!(texts, ["one", "all", "each", "each"], "once on each shard");
        assert_eq!(world.back(), []);
    }

    #[test]
    fn a_gateway_of_which_one_shard_can_be_reached_keeps_its_streams() {
        let mut world = world(&[1]);
        world.run(LOOK * 2);
        assert_eq!(turns(&world), (0, 0));
        let open = |state| state == StreamState::Open;
        let streams = world.mesh.stats().streams;
        assert_eq!(streams.len(), 2);
        assert!(open(streams[0].state) && !open(streams[1].state));
    }

    #[test]
    fn nothing_overtakes_what_went_through_the_common_port() {
        let mut world = world(&[0, 1]);
        world.gateways.get_mut("a").unwrap().acks = false;
        assert!(world.try_push(Push::user("alice").text("one")));
        block(&mut world, &[]);
        while turns(&world).1 == 0 {
            world.run(SECOND);
        }
        assert!(world.try_push(Push::user("alice").text("two")));
        world.run(SECOND);
        assert_eq!(world.gateways["a"].texts(), ["one"]);
        world.gateways.get_mut("a").unwrap().acks = true;
        world.run(SECOND * 6);
        assert_eq!(world.gateways["a"].texts(), ["one", "two"]);
        assert!(world.is_open(2));
        assert_eq!(world.back(), []);
    }

    #[test]
    fn what_waited_for_shards_that_go_out_of_reach_goes_through_the_common_port() {
        let mut world = world(&[]);
        assert!(world.is_open(2));
        world.vanish("a");
        world.run(SECOND * 30);
        assert!(world.try_push(Push::user("alice").text("one")));
        assert!(world.try_push(Push::everyone().text("all")));
        world.boot("a", 2, 2);
        block(&mut world, &[0, 1]);
        world.run(SECOND * 10);
        assert!(world.is_open(1));
        assert_eq!(turns(&world), (1, 0));
        assert_eq!(world.gateways["a"].texts(), ["one", "all"]);
        assert_eq!(world.back(), []);
    }
}
