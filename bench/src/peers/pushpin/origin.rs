//! Whom Pushpin asks about each WebSocket: it is to be subscribed to the channel that its path names.

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_EXTENSIONS},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::oneshot};

/// WebSocket events as an HTTP body, see Pushpin's "WebSocket-over-HTTP".
const EVENTS: &str = "application/websocket-events";

/// A thread that answers; it ends when this is dropped.
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    over: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Origin {
    pub(super) fn start() -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (over, ended) = oneshot::channel();
        let thread = thread::Builder::new().name("origin".into());
        let thread = thread.spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    served = serve(listener) => {
                        if let Err(error) = served {
                            eprintln!("ringway-bench: Pushpin's origin: {error}");
                        }
                    }
                    _ = ended => {}
                }
            });
        })?;
        Ok(Self {
            address,
            over: Some(over),
            thread: Some(thread),
        })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            // It does not panic.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (socket, _) = listener.accept().await?;
        let connection = http1::Builder::new();
        // A connection that breaks concerns only who made it.
        tokio::spawn(connection.serve_connection(TokioIo::new(socket), service_fn(answer)));
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let channel = request.uri().path().trim_start_matches('/').to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let events = match body.starts_with(b"OPEN") {
        true => {
            let subscribe = format!("c:{{\"type\":\"subscribe\",\"channel\":\"{channel}\"}}");
            format!("OPEN\r\nTEXT {:X}\r\n{subscribe}\r\n", subscribe.len())
        }
        false => String::new(),
    };
    let mut response = Response::new(Full::new(Bytes::from(events)));
    let head = response.headers_mut();
    head.insert(CONTENT_TYPE, HeaderValue::from_static(EVENTS));
    head.insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static("grip"));
    Ok(response)
}
