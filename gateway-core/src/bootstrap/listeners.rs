//! The listening sockets of all shards, bound before the first shard starts.

use std::net::{SocketAddr, TcpListener};

use super::BootError;
use crate::{
    config::Config,
    driver::listen::{bind, bind_shared},
    identity::ShardIndex,
};

/// All listening sockets.
pub(super) struct Listeners {
    ws: Vec<TcpListener>,
    common: Vec<TcpListener>,
    own: Vec<TcpListener>,
    pub(super) ws_address: SocketAddr,
    pub(super) grpc_address: SocketAddr,
    pub(super) shard_addresses: Vec<SocketAddr>,
}

/// Logic services waiting to be accepted: they are few.
const GRPC_BACKLOG: u32 = 1024;

impl Listeners {
    pub(super) fn bind(config: &Config, shards: ShardIndex) -> Result<Self, BootError> {
        let refused = |key, address, shard| {
            move |error| BootError::Listen {
                key,
                address,
                shard,
                error,
            }
        };
        let count = usize::from(shards);
        let (ws, grpc) = (config.ws.listen, config.grpc.listen);
        let listeners =
            bind_shared(ws, config.ws.backlog, count).map_err(refused("ws.listen", ws, None))?;
        let common =
            bind_shared(grpc, GRPC_BACKLOG, count).map_err(refused("grpc.listen", grpc, None))?;
        let mut own = Vec::with_capacity(count);
        for shard in 0..shards {
            let address = shard_address(grpc, shard)?;
            own.push(bind(address, GRPC_BACKLOG).map_err(refused(
                "grpc.listen",
                address,
                Some(shard),
            ))?);
        }
        let address = |listener: &TcpListener| {
            listener.local_addr().map_err(|error| BootError::Kernel {
                what: "ask for a listener's address",
                shard: None,
                error,
            })
        };
        Ok(Self {
            ws_address: address(&listeners[0])?,
            grpc_address: address(&common[0])?,
            shard_addresses: own.iter().map(address).collect::<Result<_, _>>()?,
            ws: listeners,
            common,
            own,
        })
    }

    /// For each shard its WebSocket listener and its gRPC listeners.
    pub(super) fn per_shard(self) -> impl Iterator<Item = (TcpListener, Vec<TcpListener>)> {
        let grpc = self.common.into_iter().zip(self.own);
        self.ws
            .into_iter()
            .zip(grpc.map(|(common, own)| vec![common, own]))
    }
}

/// The gRPC address of a shard: the port `shard + 1` above the common one, or of the kernel's choice.
fn shard_address(grpc: SocketAddr, shard: ShardIndex) -> Result<SocketAddr, BootError> {
    let port = match grpc.port() {
        0 => Some(0),
        port => port.checked_add(shard + 1),
    };
    port.map(|port| SocketAddr::new(grpc.ip(), port))
        .ok_or(BootError::Setting {
            key: "grpc.listen",
            value: grpc.to_string(),
            allowed: "shard k listens on the port k + 1 above it, and ports end at 65535",
        })
}
