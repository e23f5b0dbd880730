//! The server: `PushStream` and `/ws?user=`, as one writes it who knows the crates and minds what they cost.
//!
//! - One thread, as it is measured on one core: `current_thread` spares wake-ups between workers.
//! - Read buffers of 4 KiB instead of tungstenite's 128 KiB; HTTP/2 windows of 1 and 16 MiB; `TCP_NODELAY`.
//! - A task and a bounded queue per connection. What waits in the queue is written together.
//! - Payloads are never copied between the gRPC message and the WebSocket frame's buffer, and never serialised twice.

use std::{convert::Infallible, io::Write, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use dashmap::DashMap;
use futures_util::{SinkExt, StreamExt};
use gateway_proto::v1::{MessageRequest, MessageResponse, PayloadKind, message_request::Target};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc::{self, error::TrySendError},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        Message, Utf8Bytes,
        handshake::server::{ErrorResponse, Request, Response},
        http::StatusCode,
        protocol::WebSocketConfig,
    },
};
use tonic::{
    Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

use service::gateway_service_server::{GatewayService, GatewayServiceServer};

/// The service `ringway.v1.GatewayService` with its `PushStream` only, as generated.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod service {
    include!(concat!(env!("OUT_DIR"), "/ringway.v1.GatewayService.rs"));
}

/// What it prints when it listens, before the addresses for clients and for services.
pub(super) const READY: &str = "tonic ready ";
/// What it is made of.
pub(super) const VERSIONS: &str = "0.14 and 0.30, one thread, read buffers of 4 KiB";

/// Messages that wait for a connection; one that has more is closed.
const QUEUE: usize = 1024;
const READ_BUFFER: usize = 4 << 10;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// The queues of everybody's connections.
type Users = DashMap<String, Vec<mpsc::Sender<Message>>>;

/// Serves until the process is killed.
///
/// # Errors
/// It cannot listen.
pub fn serve() -> anyhow::Result<Infallible> {
    crate::clients::check_descriptors(0)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let users = Arc::new(Users::new());
        let (ws, grpc) = (listen().await?, listen().await?);
        println!("{READY}{} {}", ws.local_addr()?, grpc.local_addr()?);
        std::io::stdout().flush()?;
        let gateway = Gateway {
            users: Arc::clone(&users),
        };
        tokio::spawn(accept(ws, users));
        Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .add_service(GatewayServiceServer::new(gateway))
            .serve_with_incoming(TcpIncoming::from(grpc).with_nodelay(Some(true)))
            .await?;
        anyhow::bail!("no more services come")
    })
}

/// With the backlog of the gateway.
async fn listen() -> std::io::Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    socket.listen(4096)
}

struct Gateway {
    users: Arc<Users>,
}

#[tonic::async_trait]
impl GatewayService for Gateway {
    async fn push_stream(
        &self,
        request: tonic::Request<Streaming<MessageRequest>>,
    ) -> Result<tonic::Response<MessageResponse>, Status> {
        let mut stream = request.into_inner();
        let mut response = MessageResponse::default();
        while let Some(push) = stream.message().await? {
            self.push(push, &mut response);
        }
        Ok(tonic::Response::new(response))
    }
}

impl Gateway {
    fn push(&self, push: MessageRequest, counts: &mut MessageResponse) {
        let binary = push.kind() == PayloadKind::Binary;
        let Some(message) = frame(push.payload, binary) else {
            counts.rejected += 1;
            return;
        };
        counts.accepted += 1;
        let before = counts.delivered;
        match push.target {
            Some(Target::UserId(user)) => self.deliver(&user, &message, counts),
            Some(Target::Users(users)) => {
                for user in &users.user_ids {
                    self.deliver(user, &message, counts);
                }
            }
            Some(Target::Everyone(_)) => {
                for mut queues in self.users.iter_mut() {
                    send(queues.value_mut(), &message, counts);
                }
            }
            _ => {}
        }
        if counts.delivered == before {
            counts.no_target += 1;
        }
    }

    fn deliver(&self, user: &str, message: &Message, counts: &mut MessageResponse) {
        if let Some(mut queues) = self.users.get_mut(user) {
            send(&mut queues, message, counts);
        }
    }
}

/// A connection that is gone is forgotten, one that is too slow is closed: its queue ends.
fn send(queues: &mut Vec<mpsc::Sender<Message>>, message: &Message, counts: &mut MessageResponse) {
    queues.retain(|queue| match queue.try_send(message.clone()) {
        Ok(()) => {
            counts.delivered += 1;
            true
        }
        Err(TrySendError::Full(_)) => {
            counts.dropped += 1;
            false
        }
        Err(TrySendError::Closed(_)) => false,
    });
}

fn frame(payload: Bytes, binary: bool) -> Option<Message> {
    match binary {
        true => Some(Message::Binary(payload)),
        false => Some(Message::Text(Utf8Bytes::try_from(payload).ok()?)),
    }
}

async fn accept(listener: TcpListener, users: Arc<Users>) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => drop(tokio::spawn(serve_client(socket, Arc::clone(&users)))),
            // Out of descriptors: some will be free again.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// The life of a connection.
async fn serve_client(socket: TcpStream, users: Arc<Users>) {
    let mut name = None;
    // Its type is tungstenite's.
    #[allow(clippy::result_large_err)]
    let identify = |request: &Request, response: Response| match user_of(request) {
        Some(user) => {
            name = Some(user);
            Ok(response)
        }
        None => {
            let mut refusal = ErrorResponse::new(Some("who are you?".into()));
            *refusal.status_mut() = StatusCode::UNAUTHORIZED;
            Err(refusal)
        }
    };
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
    let _ = socket.set_nodelay(true);
    let accepted = accept_hdr_async_with_config(socket, identify, Some(config)).await;
    let (Ok(client), Some(name)) = (accepted, name) else {
        return;
    };
    let (queue, waiting) = mpsc::channel(QUEUE);
    users.entry(name.clone()).or_default().push(queue);
    talk(client, waiting).await;
    // The queue of this connection is closed now: `waiting` is gone.
    users.remove_if_mut(&name, |_, queues| {
        queues.retain(|queue| !queue.is_closed());
        queues.is_empty()
    });
}

/// Until one side has enough.
async fn talk(client: WebSocketStream<TcpStream>, mut waiting: mpsc::Receiver<Message>) {
    let (mut sink, mut stream) = client.split();
    loop {
        tokio::select! {
            message = waiting.recv() => {
                let Some(message) = message else { break };
                if write(&mut sink, message, &mut waiting).await.is_err() {
                    break;
                }
            }
            said = stream.next() => match said {
                Some(Ok(message)) if !message.is_close() => {}
                _ => break,
            }
        }
    }
}

/// All that waits in one go.
async fn write<S: SinkExt<Message> + Unpin>(
    sink: &mut S,
    first: Message,
    waiting: &mut mpsc::Receiver<Message>,
) -> Result<(), S::Error> {
    sink.feed(first).await?;
    while let Ok(message) = waiting.try_recv() {
        sink.feed(message).await?;
    }
    sink.flush().await
}

fn user_of(request: &Request) -> Option<String> {
    let query = request.uri().query()?;
    let user = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("user="))?;
    Some(user.to_owned())
}
