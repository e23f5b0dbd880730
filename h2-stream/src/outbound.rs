//! The sending half of a stream: messages queue here and leave in large DATA frames.

use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response};

use crate::inbound::Failure;
use crate::prefix;
use crate::status::Status;

const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

pub(crate) struct Outbound {
    handle: Handle,
    /// Messages with their prefixes that `h2` has not got yet.
    queue: BytesMut,
    started: bool,
    end: End,
    waker: Waker,
}

enum Handle {
    /// A server that has not sent its response's head.
    Response(SendResponse<Bytes>),
    Stream(SendStream<Bytes>),
}

/// What follows the queued messages.
enum End {
    Open,
    /// A server's status.
    Status(Status),
    /// A client's END_STREAM.
    Half,
    /// Told to `h2`, or impossible because the stream is gone.
    Done,
}

impl Outbound {
    pub(crate) fn of_response(respond: SendResponse<Bytes>, waker: Waker) -> Self {
        Self::new(Handle::Response(respond), waker)
    }

    pub(crate) fn of_request(stream: SendStream<Bytes>, waker: Waker) -> Self {
        Self::new(Handle::Stream(stream), waker)
    }

    fn new(handle: Handle, waker: Waker) -> Self {
        Self {
            handle,
            queue: BytesMut::new(),
            started: false,
            end: End::Open,
            waker,
        }
    }

    /// Queues a message; false when the half is closed or the message is 4 GiB or more.
    pub(crate) fn push(&mut self, message: &impl prost::Message) -> bool {
        self.is_open() && prefix::append(&mut self.queue, message)
    }

    /// [`Outbound::push`] for an encoded message.
    pub(crate) fn push_encoded(&mut self, message: &[u8]) -> bool {
        self.is_open() && prefix::append_encoded(&mut self.queue, message)
    }

    /// [`Outbound::push`] for messages that have their prefixes.
    pub(crate) fn push_framed(&mut self, messages: &[u8]) -> bool {
        if self.is_open() {
            self.queue.extend_from_slice(messages);
        }
        self.is_open()
    }

    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Whether messages can be queued.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.end, End::Open)
    }

    /// Whether everything, also the end, was told to `h2`.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.end, End::Done)
    }

    /// The response's head goes out with the next flush, also without a message.
    pub(crate) fn start(&mut self) {
        self.started = true;
    }

    pub(crate) fn finish(&mut self, status: Status) {
        if self.is_open() {
            self.end = End::Status(status);
        }
    }

    pub(crate) fn half_close(&mut self) {
        if self.is_open() {
            self.end = End::Half;
        }
    }

    /// Ends the stream in both directions, without what is queued.
    pub(crate) fn reset(&mut self, reason: Reason) {
        self.queue = BytesMut::new();
        self.end = End::Done;
        match &mut self.handle {
            Handle::Response(response) => response.send_reset(reason),
            Handle::Stream(stream) => stream.send_reset(reason),
        }
    }

    /// Why the stream is gone, if it is; else the waker will tell.
    pub(crate) fn poll_reset(&mut self) -> Option<Failure> {
        let mut cx = Context::from_waker(&self.waker);
        let gone = match &mut self.handle {
            Handle::Response(response) => response.poll_reset(&mut cx),
            Handle::Stream(stream) => stream.poll_reset(&mut cx),
        };
        match gone {
            Poll::Ready(Ok(reason)) => Some(Failure::Reset(reason)),
            Poll::Ready(Err(_)) => Some(Failure::Lost),
            Poll::Pending => None,
        }
    }

    /// Gives `h2` what it grants room for. The waker tells when there is more room.
    pub(crate) fn flush(&mut self) {
        if self.try_flush().is_err() {
            // The stream is gone; the receiving half says why.
            self.queue = BytesMut::new();
            self.end = End::Done;
        }
    }

    fn try_flush(&mut self) -> Result<(), h2::Error> {
        if let Handle::Response(response) = &mut self.handle {
            let head = if !self.queue.is_empty() || self.started {
                let stream = response.send_response(head(HeaderMap::new()), false)?;
                Handle::Stream(stream)
            } else if let End::Status(status) = &mut self.end {
                let trailers = std::mem::take(status).into_trailers();
                response.send_response(head(trailers), true)?;
                self.end = End::Done;
                return Ok(());
            } else {
                return Ok(());
            };
            self.handle = head;
        }
        let Handle::Stream(stream) = &mut self.handle else {
            return Ok(());
        };
        while !self.queue.is_empty() {
            stream.reserve_capacity(self.queue.len());
            let mut room = stream.capacity();
            if room == 0 {
                let mut cx = Context::from_waker(&self.waker);
                match stream.poll_capacity(&mut cx) {
                    Poll::Ready(Some(granted)) => room = granted?,
                    Poll::Ready(None) => return Err(Reason::STREAM_CLOSED.into()),
                    Poll::Pending => return Ok(()),
                }
            }
            let part = self.queue.split_to(room.min(self.queue.len())).freeze();
            let last = self.queue.is_empty() && matches!(self.end, End::Half);
            stream.send_data(part, last)?;
            if last {
                self.end = End::Done;
            }
        }
        match &mut self.end {
            End::Open | End::Done => {}
            End::Half => {
                stream.send_data(Bytes::new(), true)?;
                self.end = End::Done;
            }
            End::Status(status) => {
                let trailers = std::mem::take(status).into_trailers();
                stream.send_trailers(trailers)?;
                self.end = End::Done;
            }
        }
        Ok(())
    }
}

/// The head of a gRPC response.
pub(crate) fn head(mut headers: HeaderMap) -> Response<()> {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(
        GRPC_ACCEPT_ENCODING,
        HeaderValue::from_static("identity,gzip"),
    );
    let mut response = Response::new(());
    *response.headers_mut() = headers;
    response
}
