//! Asks a gateway what it is.

use std::net::SocketAddr;
use std::time::Duration;

use gateway_proto::names;
use gateway_proto::v1::{DescribeRequest, DescribeResponse};
use h2_stream::{Client, ClientEvent, Config, Metadata};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::driver::Clock;
use crate::error::GatewayError;

/// Most bytes written or read at once.
const CHUNK: usize = 16 << 10;

/// Most shards a connection's id has room for.
const MAX_SHARDS: u32 = 1024;

/// A gateway, and how to reach its shards.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    pub(crate) gateway: DescribeResponse,
    /// One per shard.
    pub(crate) addresses: Vec<String>,
}

/// Dials `address` and calls `Describe`, all within `patience`.
pub(crate) async fn describe(
    clock: Clock,
    address: &str,
    patience: Duration,
) -> Result<Description, GatewayError> {
    let call = async {
        let mut tcp = dial(address, patience).await?;
        let peer = tcp
            .peer_addr()
            .map_err(|error| unreachable(address, &error))?;
        let gateway = call(clock, address, &mut tcp).await?;
        let addresses = addresses(address, peer, &gateway)?;
        Ok(Description { gateway, addresses })
    };
    timeout(patience, call)
        .await
        .map_err(|_| GatewayError::Silent {
            address: address.to_owned(),
            waiting_for: "Describe",
        })?
}

/// Connects to `address`.
pub(crate) async fn dial(address: &str, patience: Duration) -> Result<TcpStream, GatewayError> {
    let silent = || GatewayError::Silent {
        address: address.to_owned(),
        waiting_for: "a connection",
    };
    let connecting = timeout(patience, TcpStream::connect(address));
    let tcp = connecting.await.map_err(|_| silent())?;
    let tcp = tcp.map_err(|error| unreachable(address, &error))?;
    // Batches are joined here; the kernel must not wait for more.
    tcp.set_nodelay(true)
        .map_err(|error| unreachable(address, &error))?;
    Ok(tcp)
}

pub(crate) fn unreachable(address: &str, reason: &impl ToString) -> GatewayError {
    GatewayError::Unreachable {
        address: address.to_owned(),
        reason: reason.to_string(),
    }
}

async fn call(
    clock: Clock,
    address: &str,
    tcp: &mut TcpStream,
) -> Result<DescribeResponse, GatewayError> {
    let mut http = Client::new(Config::default(), address, clock.now());
    let call = http
        .open(names::DESCRIBE, Metadata::new(), None, clock.now())
        .map_err(|error| unreachable(address, &error))?;
    http.send(call, &DescribeRequest {});
    http.half_close(call);
    let mut answer = None;
    let mut bytes = Vec::with_capacity(CHUNK);
    loop {
        while http.has_output() && http.write_output(&mut bytes, CHUNK) > 0 {
            let written = tcp.write_all(&bytes).await;
            written.map_err(|error| unreachable(address, &error))?;
            bytes.clear();
        }
        let read = tcp.read_buf(&mut bytes).await;
        match read.map_err(|error| unreachable(address, &error))? {
            0 => http.receive_eof(clock.now()),
            _ => http.receive(clock.now(), &bytes),
        }
        bytes.clear();
        while let Some(event) = http.poll_event(clock.now()) {
            match event {
                ClientEvent::Message { message, .. } => {
                    let described = DescribeResponse::decode(message);
                    answer = Some(described.map_err(|error| protocol(address, &error))?);
                }
                ClientEvent::Finished { status, .. } if status.is_ok() => {
                    return answer.ok_or_else(|| protocol(address, &"Describe without an answer"));
                }
                ClientEvent::Finished { status, .. } => {
                    return Err(GatewayError::Ended {
                        address: address.to_owned(),
                        status: format!("{:?}: {}", status.code, status.message),
                    });
                }
                ClientEvent::ConnectionLost { reason } => {
                    return Err(unreachable(address, &reason));
                }
                _ => {}
            }
        }
    }
}

/// The shards' addresses; a port alone means: at the host that was dialled. That is the address
/// the name led to this time, for behind the name may be several gateways.
fn addresses(
    address: &str,
    peer: SocketAddr,
    gateway: &DescribeResponse,
) -> Result<Vec<String>, GatewayError> {
    let shards = gateway.shards;
    if shards == 0 || shards > MAX_SHARDS || gateway.epoch == 0 {
        let detail = format!(
            "{shards} shards (1 to {MAX_SHARDS}), epoch {}",
            gateway.epoch
        );
        return Err(protocol(address, &detail));
    }
    if gateway.shard_addresses.len() != shards as usize {
        let given = gateway.shard_addresses.len();
        let detail = format!("{given} addresses for {shards} shards");
        return Err(protocol(address, &detail));
    }
    let full = |given: &String| match given.strip_prefix(':') {
        Some(port) if peer.is_ipv6() => format!("[{}]:{port}", peer.ip()),
        Some(port) => format!("{}:{port}", peer.ip()),
        None => given.clone(),
    };
    Ok(gateway.shard_addresses.iter().map(full).collect())
}

fn protocol(address: &str, detail: &impl ToString) -> GatewayError {
    GatewayError::Protocol {
        address: address.to_owned(),
        detail: detail.to_string(),
    }
}
