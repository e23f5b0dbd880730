//! What all shards of a gateway share: fixed before the first shard starts, never changed.

use std::net::{Ipv6Addr, SocketAddr};

use gateway_proto::v1::{self, Capability};

use crate::{
    config::Config,
    ws::{Identify, UpgradeConfig},
};

/// What all shards of a gateway share.
pub struct Gateway {
    /// The name of this gateway.
    pub id: String,
    /// This run of the process: random, never 0.
    pub epoch: u64,
    /// The version of the gateway.
    pub version: &'static str,
    /// What moves the bytes, for people.
    pub driver: String,
    /// The gRPC address of each shard.
    pub shard_addresses: Vec<String>,
    /// All settings.
    pub config: Config,
    /// What the handshake needs of them.
    pub upgrade: UpgradeConfig,
    /// Who a client is.
    pub identify: Box<dyn Identify>,
}

/// What this version grants of what a stream may ask for.
pub const CAPABILITIES: [Capability; 5] = [
    Capability::Receipts,
    Capability::ClientAck,
    Capability::Resume,
    Capability::Directory,
    Capability::Query,
];

/// "host:port", with the brackets an IPv6 address needs. Without a host: ":port".
#[must_use]
pub fn host_and_port(host: &str, port: u16) -> String {
    match host.trim_matches(['[', ']']).parse::<Ipv6Addr>() {
        Ok(ip) => SocketAddr::from((ip, port)).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}

impl Gateway {
    /// The answer to `Describe`.
    #[must_use]
    pub fn describe(&self) -> v1::DescribeResponse {
        v1::DescribeResponse {
            gateway_id: self.id.clone(),
            epoch: self.epoch,
            version: self.version.to_owned(),
            driver: self.driver.clone(),
            shards: self.shard_addresses.len() as u32,
            shard_addresses: self.shard_addresses.clone(),
            limits: Some(self.limits()),
            capabilities: self.capabilities(),
        }
    }

    /// What is granted of [`CAPABILITIES`]: all but what is switched off.
    #[must_use]
    pub fn capabilities(&self) -> Vec<i32> {
        let off = (!self.config.directory.enabled).then_some(Capability::Directory);
        let granted = CAPABILITIES.into_iter().filter(|of| Some(*of) != off);
        granted.map(i32::from).collect()
    }

    /// The limits that logic services are told.
    #[must_use]
    pub fn limits(&self) -> v1::Limits {
        let limits = &self.config.limits;
        let clamp = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        v1::Limits {
            max_message_bytes: clamp(self.config.grpc.max_message_bytes),
            max_payload_bytes: clamp(limits.max_payload_bytes),
            max_users_per_push: clamp(limits.max_users_per_push),
            max_batch: clamp(limits.max_batch),
            max_topics_per_user: clamp(limits.max_topics_per_user),
        }
    }
}
