//! Pushes by REST: `POST /v1/push` with JSON, on a connection that is kept or on a new one each time.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use bytes::Bytes;
use data_encoding::BASE64;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode,
    client::conn::http1::{SendRequest, handshake},
    header::{CONNECTION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;

/// One caller.
pub(super) struct Rest {
    admin: SocketAddr,
    /// `None`: each push makes one of its own.
    kept: Option<SendRequest<Full<Bytes>>>,
}

#[derive(Serialize)]
struct Body<'a> {
    user: &'a str,
    base64: String,
}

impl Rest {
    pub(super) async fn connect(admin: SocketAddr, keep: bool) -> anyhow::Result<Self> {
        let kept = match keep {
            true => Some(connection(admin).await?),
            false => None,
        };
        Ok(Self { admin, kept })
    }

    /// Pushes, and waits for the answer.
    pub(super) async fn push(&mut self, user: &str, payload: &[u8]) -> anyhow::Result<()> {
        let base64 = BASE64.encode(payload);
        let body = serde_json::to_vec(&Body { user, base64 })?;
        let mut request = Request::post("/v1/push")
            .header(HOST, self.admin.to_string())
            .header(CONTENT_TYPE, "application/json");
        let mut fresh = None;
        let requests = match &mut self.kept {
            Some(kept) => kept,
            None => {
                request = request.header(CONNECTION, "close");
                fresh.insert(connection(self.admin).await?)
            }
        };
        requests.ready().await?;
        let answer = requests
            .send_request(request.body(Full::new(body.into()))?)
            .await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status != StatusCode::OK {
            bail!("{status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(())
    }
}

async fn connection(admin: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let socket = TcpStream::connect(admin).await;
    let socket = socket.with_context(|| format!("no admin port at {admin}"))?;
    socket.set_nodelay(true)?;
    let (requests, connection) = handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    Ok(requests)
}
