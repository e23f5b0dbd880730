//! Pushes by plain gRPC, as a service without our client makes them: unary calls, or one stream for each caller.

use std::net::SocketAddr;

use anyhow::Context;
use futures_util::stream;
use gateway_proto::{
    names,
    v1::{MessageRequest, MessageResponse, PayloadKind, message_request::Target},
};
use hyper::http::uri::PathAndQuery;
use tokio::{sync::mpsc, task::JoinHandle};
use tonic::{
    Request,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// Messages between a caller and its stream; HTTP/2 slows the stream down, and that the caller.
const QUEUE: usize = 16;

type Codec = ProstCodec<MessageRequest, MessageResponse>;

/// A connection of its own.
pub(super) async fn channel(gateway: SocketAddr) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{gateway}"))?;
    let channel = endpoint.tcp_nodelay(true).connect().await;
    channel.with_context(|| format!("no gateway at {gateway}"))
}

/// One call of `Push`, to its answer.
pub(super) async fn push(channel: &Channel, user: &str, payload: Vec<u8>) -> anyhow::Result<()> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await?;
    let request = Request::new(message(user, payload));
    let method = PathAndQuery::from_static(names::PUSH);
    grpc.unary(request, method, Codec::default()).await?;
    Ok(())
}

/// A `PushStream` that is open.
pub(super) struct Stream {
    messages: mpsc::Sender<MessageRequest>,
    answer: JoinHandle<Result<(), tonic::Status>>,
}

impl Stream {
    pub(super) fn open(channel: Channel) -> Self {
        let (messages, waiting) = mpsc::channel(QUEUE);
        let waiting = stream::unfold(waiting, async |mut waiting: mpsc::Receiver<_>| {
            waiting.recv().await.map(|message| (message, waiting))
        });
        let answer = tokio::spawn(async move {
            let mut grpc = Grpc::new(channel);
            let ready = grpc.ready().await;
            ready.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
            let method = PathAndQuery::from_static(names::PUSH_STREAM);
            let request = Request::new(waiting);
            let answer = grpc.client_streaming(request, method, Codec::default());
            answer.await.map(drop)
        });
        Self { messages, answer }
    }

    pub(super) async fn push(&self, user: &str, payload: Vec<u8>) -> anyhow::Result<()> {
        let sent = self.messages.send(message(user, payload)).await;
        sent.ok().context("a stream has ended")
    }

    /// Ends the stream, and waits for its answer.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        drop(self.messages);
        Ok(self.answer.await??)
    }
}

fn message(user: &str, payload: Vec<u8>) -> MessageRequest {
    MessageRequest {
        target: Some(Target::UserId(user.to_owned())),
        payload: payload.into(),
        kind: PayloadKind::Binary.into(),
        delivery: None,
    }
}
