//! `h2` used directly, for what a gRPC client would never send.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use h2_stream::{Server, ServerEvent};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::START;

pub struct RawClient {
    pub server: Server,
    pub events: Vec<ServerEvent>,
    /// Messages are released as soon as they come.
    pub release: bool,
    pub now: Duration,
    pub requests: SendRequest<Bytes>,
    pub connection: Connection<DuplexStream, Bytes>,
    pub over: Option<Result<(), h2::Error>>,
    socket: DuplexStream,
}

/// What came back for a call.
pub struct Answer {
    pub head: Response<()>,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

impl Answer {
    /// `grpc-status`, of the trailers or of a head that is all there is.
    pub fn code(&self) -> &str {
        let value = self.trailers.get("grpc-status");
        let value = value.or_else(|| self.head.headers().get("grpc-status"));
        value.expect("a status").to_str().unwrap()
    }
}

impl RawClient {
    pub fn new(server: Server) -> Self {
        let (socket, theirs) = tokio::io::duplex(1 << 20);
        let handshake = pin!(h2::client::handshake(theirs));
        let Poll::Ready(Ok((requests, connection))) = handshake.poll(&mut cx()) else {
            panic!("the duplex has room");
        };
        Self {
            server,
            events: Vec::new(),
            release: true,
            now: START,
            requests,
            connection,
            over: None,
            socket,
        }
    }

    pub fn call(&mut self, request: Request<()>) -> (ResponseFuture, SendStream<Bytes>) {
        self.requests.send_request(request, false).unwrap()
    }

    /// Carries bytes both ways until both are silent.
    pub fn run(&mut self) {
        while self.step() {}
    }

    pub fn step(&mut self) -> bool {
        if self.over.is_none()
            && let Poll::Ready(result) = Pin::new(&mut self.connection).poll(&mut cx())
        {
            self.over = Some(result);
        }
        let mut buffer = vec![0; 64 << 10];
        let mut buffer = ReadBuf::new(&mut buffer);
        let _ = Pin::new(&mut self.socket).poll_read(&mut cx(), &mut buffer);
        let mut moved = !buffer.filled().is_empty();
        self.server.receive(self.now, buffer.filled());
        self.poll();
        let mut out = Vec::new();
        while self.server.has_output() && self.server.write_output(&mut out, 64 << 10) > 0 {}
        if !out.is_empty() {
            let written = Pin::new(&mut self.socket).poll_write(&mut cx(), &out);
            assert!(matches!(written, Poll::Ready(Ok(n)) if n == out.len()) || self.over.is_some());
            moved = true;
        }
        moved
    }

    fn poll(&mut self) {
        while let Some(event) = self.server.poll_event(self.now) {
            if let ServerEvent::Message { stream, credit, .. } = &event
                && self.release
            {
                self.server.release(*stream, *credit);
            }
            self.events.push(event);
        }
    }

    /// The answer, which must be complete by now.
    pub fn answer(&mut self, mut response: ResponseFuture) -> Answer {
        self.run();
        let Poll::Ready(response) = Pin::new(&mut response).poll(&mut cx()) else {
            panic!("no answer; events: {:?}", self.events);
        };
        let (parts, body) = response.expect("a response").into_parts();
        let (body, trailers) = drain(body);
        Answer {
            head: Response::from_parts(parts, ()),
            body,
            trailers,
        }
    }
}

fn drain(mut body: RecvStream) -> (Vec<u8>, HeaderMap) {
    let mut bytes = Vec::new();
    while let Poll::Ready(Some(chunk)) = body.poll_data(&mut cx()) {
        bytes.extend_from_slice(&chunk.expect("data"));
    }
    match body.poll_trailers(&mut cx()) {
        Poll::Ready(Ok(trailers)) => (bytes, trailers.unwrap_or_default()),
        other => panic!("the body has not ended: {other:?}"),
    }
}

/// A request as gRPC wants it.
pub fn request() -> Request<()> {
    Request::post("http://localhost:9000/t/M")
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

/// `message` with its prefix.
pub fn framed(flags: u8, message: &[u8]) -> Bytes {
    let mut bytes = vec![flags];
    bytes.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(message);
    bytes.into()
}

pub fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}
