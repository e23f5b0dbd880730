//! What a gateway says it is.

use std::net::SocketAddr;

use gateway_proto::v1::DescribeResponse;

use crate::error::GatewayError;

/// Most shards a connection's id has room for.
const MAX_SHARDS: u32 = 1024;

/// A gateway, and how to reach its shards.
#[derive(Clone, Debug)]
pub struct Description {
    pub(crate) gateway: DescribeResponse,
    /// One per shard.
    pub(crate) addresses: Vec<String>,
    /// Where it said so: its common port.
    pub(crate) common: Option<String>,
}

impl Description {
    /// Takes what the gateway at `address` answered. A shard's address that is a port alone means:
    /// at the host that was dialled. That is `peer`, to which the name led this time, for behind the
    /// name may be several gateways.
    ///
    /// # Errors
    /// The answer makes no sense.
    pub fn new(
        address: &str,
        peer: SocketAddr,
        gateway: DescribeResponse,
    ) -> Result<Self, GatewayError> {
        let protocol = |detail| {
            let address = address.to_owned();
            Err(GatewayError::Protocol { address, detail })
        };
        let shards = gateway.shards;
        if shards == 0 || shards > MAX_SHARDS || gateway.epoch == 0 {
            return protocol(format!(
                "{shards} shards (1 to {MAX_SHARDS}), epoch {}",
                gateway.epoch
            ));
        }
        if gateway.shard_addresses.len() != shards as usize {
            let given = gateway.shard_addresses.len();
            return protocol(format!("{given} addresses for {shards} shards"));
        }
        let full = |given: &String| match given.strip_prefix(':') {
            Some(port) if peer.is_ipv6() => format!("[{}]:{port}", peer.ip()),
            Some(port) => format!("{}:{port}", peer.ip()),
            None => given.clone(),
        };
        let addresses = gateway.shard_addresses.iter().map(full).collect();
        // Somebody who has no ports, as a simulator, has no such one either.
        let common = (peer.port() != 0).then(|| peer.to_string());
        Ok(Self {
            gateway,
            addresses,
            common,
        })
    }
}
