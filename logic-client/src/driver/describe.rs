//! Asks a gateway what it is.

use std::sync::Arc;
use std::time::Duration;

use gateway_proto::names;
use gateway_proto::v1::{DescribeRequest, DescribeResponse};
use h2_stream::{Client, ClientEvent, Config, Metadata};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::core::description::Description;
use crate::core::runner::unreachable;
use crate::driver::Clock;
use crate::error::GatewayError;

/// Most bytes written or read at once.
const CHUNK: usize = 16 << 10;

type Answer = Result<Arc<Description>, GatewayError>;

/// One gateway, and what it said last. The lock is held while it is asked: all its streams that
/// want to know share one answer.
#[derive(Debug)]
pub(crate) struct Gateway {
    address: String,
    learned: Mutex<Option<(Duration, Answer)>>,
}

impl Gateway {
    pub(crate) fn new(address: String) -> Arc<Self> {
        Arc::new(Self {
            address,
            learned: Mutex::new(None),
        })
    }

    /// What the gateway is, asked at `since` or later. The caller decides how long that may take.
    pub(crate) async fn describe(&self, clock: Clock, since: Duration) -> Answer {
        let mut learned = self.learned.lock().await;
        if let Some((at, answer)) = &*learned
            && *at >= since
        {
            return answer.clone();
        }
        let answer = describe(clock, &self.address).await.map(Arc::new);
        *learned = Some((clock.now(), answer.clone()));
        answer
    }
}

/// Connects to `address`.
pub(crate) async fn dial(address: &str) -> Result<TcpStream, GatewayError> {
    let connected = TcpStream::connect(address).await;
    let tcp = connected.map_err(|error| unreachable(address, &error))?;
    // Batches are joined here; the kernel must not wait for more.
    tcp.set_nodelay(true)
        .map_err(|error| unreachable(address, &error))?;
    Ok(tcp)
}

/// Dials `address` and calls `Describe`.
async fn describe(clock: Clock, address: &str) -> Result<Description, GatewayError> {
    let mut tcp = dial(address).await?;
    let peer = tcp
        .peer_addr()
        .map_err(|error| unreachable(address, &error))?;
    let gateway = call(clock, address, &mut tcp).await?;
    Description::new(address, peer, gateway)
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

fn protocol(address: &str, detail: &impl ToString) -> GatewayError {
    GatewayError::Protocol {
        address: address.to_owned(),
        detail: detail.to_string(),
    }
}
