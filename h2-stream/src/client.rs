//! The client's side of a connection.

use std::collections::VecDeque;
use std::fmt;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::Reason;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE};
use http::response::Parts;
use http::{Method, Request, StatusCode, Uri, Version};

use crate::config::Config;
use crate::engine::{ClientEngine, Engine};
use crate::event::{ClientEvent, StreamId};
use crate::inbound::{Failure, Inbound, Step};
use crate::metadata::Metadata;
use crate::outbound::Outbound;
use crate::pipe::Pipe;
use crate::prefix::Violation;
use crate::request::GRPC_TIMEOUT;
use crate::status::{Code, GRPC_STATUS, Status};
use crate::transport::Transport;
use crate::{request, timeout};

const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// gRPC on one connection to a server, without io.
///
/// The counterpart of [`Server`](crate::Server), driven in the same way. Calls can be opened at
/// once; what they send waits for the server's settings inside.
pub struct Client {
    transport: Transport<ClientEngine>,
    events: VecDeque<ClientEvent>,
    authority: String,
    /// The end of the connection was told.
    told_end: bool,
}

/// Why a call could not be opened. Nothing of it was sent: it may be tried elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// As many calls are open as the server allows; one has to finish first.
    TooManyStreams,
    /// The connection is over, or going away.
    Closed,
    /// The method is not a path (`/package.Service/Method`), or the client's authority is not
    /// `host:port`.
    InvalidMethod,
}

impl Client {
    /// A connection that was just established to `authority` (`host:port`, as the server is
    /// to be called).
    #[must_use]
    pub fn new(config: Config, authority: &str, now: Duration) -> Self {
        let pipe = Pipe::new();
        let engine = ClientEngine::new(&config, pipe.clone());
        Self {
            transport: Transport::new(engine, pipe, config, now),
            events: VecDeque::new(),
            authority: authority.to_owned(),
            told_end: false,
        }
    }

    /// Takes all `bytes` the socket gave. Ask [`wants_bytes`](Self::wants_bytes) before
    /// reading the socket; whatever comes nevertheless is kept.
    pub fn receive(&mut self, now: Duration, bytes: &[u8]) {
        self.transport.receive(now, bytes);
    }

    /// False while enough unread bytes wait: leave the socket alone until events were polled.
    #[must_use]
    pub fn wants_bytes(&self) -> bool {
        self.transport.wants_bytes()
    }

    /// The server has closed its half of the socket. Takes effect behind the bytes before it.
    pub fn receive_eof(&mut self, _now: Duration) {
        self.transport.receive_eof();
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), whatever happens until then.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.transport.next_deadline()
    }

    /// Does what is due: keepalive, and the time of each call.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.transport.handle_keepalive(now);
        while let Some(id) = self.transport.streams.pop_expired(now) {
            self.transport.reset(id, Reason::CANCEL);
            let status = Status::new(Code::DeadlineExceeded, "the call's time is over");
            let id = StreamId(id);
            let told = false;
            self.events
                .push_back(ClientEvent::Finished { id, status, told });
        }
    }

    /// The next event. Ask until there is none after every input; what is not asked for stays
    /// with the server, as credit it does not get.
    pub fn poll_event(&mut self, _now: Duration) -> Option<ClientEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if let Some((id, step)) = self.transport.streams.next_step() {
                if let Some(event) = self.event_of(id, step) {
                    return Some(event);
                }
                continue;
            }
            if self.transport.streams.collect_woken() {
                continue;
            }
            if self.transport.wants_poll() {
                self.transport.poll(true, |engine, cx| engine.poll(cx));
                self.look_for_goaway();
                continue;
            }
            return self.end();
        }
    }

    /// Whether [`write_output`](Self::write_output) may have something. It is never false
    /// while there are bytes to send.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.transport.has_output()
    }

    /// Appends bytes for the socket to `out`, at most `max`, and says how many. Queued
    /// messages leave here, as large DATA frames.
    pub fn write_output(&mut self, out: &mut Vec<u8>, max: usize) -> usize {
        self.transport.write_output(out, max)
    }

    /// The connection is over: poll the events that are left, write the output that is left,
    /// then close the socket.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.transport.is_closed()
    }

    /// Why the connection is over, for the log.
    #[must_use]
    pub fn close_reason(&self) -> Option<&str> {
        self.transport.reason()
    }

    /// Opens a call of `method` (`/package.Service/Method`); `timeout` is told to the server
    /// and kept here too. The request's head leaves with the next output.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        &mut self,
        method: &str,
        metadata: Metadata,
        timeout: Option<Duration>,
        now: Duration,
    ) -> Result<StreamId, OpenError> {
        let request = self.request(method, metadata, timeout)?;
        let open = self.transport.streams.len();
        let engine = self.transport.engine().ok_or(OpenError::Closed)?;
        let requests = engine.requests().ok_or(OpenError::Closed)?;
        // h2 would queue what the server's limit leaves no room for.
        if open >= requests.current_max_send_streams() {
            return Err(OpenError::TooManyStreams);
        }
        match requests.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Err(OpenError::Closed),
            Poll::Pending => return Err(OpenError::TooManyStreams),
        }
        let (response, stream) = requests
            .send_request(request, false)
            .map_err(|_| OpenError::Closed)?;
        let id = stream.stream_id().as_u32();
        let streams = &mut self.transport.streams;
        let limit = self.transport.config.max_message;
        let inbound = Inbound::of_response(response, limit, streams.received_waker(id));
        let outbound = Outbound::of_request(stream, streams.writable_waker(id));
        let deadline = timeout.map(|timeout| now.saturating_add(timeout));
        streams.insert(id, inbound, outbound, deadline);
        self.transport.look_again();
        Ok(StreamId(id))
    }

    /// Queues a message on the call. False, and nothing queued, when the call is over or
    /// half-closed.
    pub fn send(&mut self, id: StreamId, message: &impl prost::Message) -> bool {
        self.transport.send(id.0, |out| out.push(message))
    }

    /// [`send`](Self::send) for a message that is encoded already.
    pub fn send_encoded(&mut self, id: StreamId, message: &[u8]) -> bool {
        self.transport.send(id.0, |out| out.push_encoded(message))
    }

    /// [`send`](Self::send) for whole messages that have their prefixes
    /// ([`append_message`](crate::append_message)): many for the price of one.
    pub fn send_framed(&mut self, id: StreamId, messages: &[u8]) -> bool {
        self.transport.send(id.0, |out| out.push_framed(messages))
    }

    /// Says, behind the queued messages, that no more will come.
    pub fn half_close(&mut self, id: StreamId) {
        self.transport.send(id.0, |out| {
            out.half_close();
            true
        });
    }

    /// Gives the call up at once (CANCEL). No more events of it come.
    pub fn reset(&mut self, id: StreamId) {
        self.transport.reset(id.0, Reason::CANCEL);
    }

    /// Bytes of the call that wait for credit or for [`write_output`](Self::write_output).
    #[must_use]
    pub fn queued(&self, id: StreamId) -> usize {
        self.transport.queued(id.0)
    }

    /// Whether the call can send and holds less than [`Config::send_buffer`]. More can be sent
    /// nevertheless, and costs memory.
    #[must_use]
    pub fn can_send(&self, id: StreamId) -> bool {
        self.transport.can_send(id.0)
    }

    /// Gives back the credit of a message that was handled ([`ClientEvent::Message`]). Does
    /// nothing when the call is over: its credit went back then.
    pub fn release(&mut self, id: StreamId, credit: usize) {
        self.transport.streams.release(id.0, credit);
    }

    /// Bytes of received messages that were not released, on all streams: as many as the server may send less.
    #[must_use]
    pub fn unreleased(&self) -> usize {
        self.transport.streams.unreleased()
    }

    /// Holds back the call's events; others go on. The server may send until its window is
    /// used up. Only a reset or the deadline is still told.
    pub fn pause(&mut self, id: StreamId) {
        self.transport.streams.pause(id.0);
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&mut self, id: StreamId) {
        self.transport.streams.resume(id.0);
    }

    /// Changes the flow-control windows, in bytes: of each stream, and of the connection. A
    /// smaller window takes effect as the server uses up the larger one.
    pub fn set_windows(&mut self, stream: u32, connection: u32) {
        self.transport.set_windows(stream, connection);
    }

    /// Number of calls that are open.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.transport.streams.len()
    }

    /// Ends the connection gracefully: open calls go on, no new ones are opened, and the
    /// connection is closed (GOAWAY) when the last one is finished.
    pub fn shutdown(&mut self) {
        self.transport.shutdown();
    }

    fn request(
        &self,
        method: &str,
        metadata: Metadata,
        timeout: Option<Duration>,
    ) -> Result<Request<()>, OpenError> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.authority.as_str())
            .path_and_query(method)
            .build()
            .map_err(|_| OpenError::InvalidMethod)?;
        let mut headers = metadata.into_headers();
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(
            GRPC_ACCEPT_ENCODING,
            HeaderValue::from_static("identity,gzip"),
        );
        if let Some(timeout) = timeout
            && let Ok(value) = HeaderValue::try_from(timeout::format(timeout))
        {
            headers.insert(GRPC_TIMEOUT, value);
        }
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }

    fn event_of(&mut self, id: u32, step: Step) -> Option<ClientEvent> {
        match step {
            Step::Head(head) => self.begin(id, *head),
            Step::Message(message, credit) => Some(ClientEvent::Message {
                id: StreamId(id),
                message,
                credit,
            }),
            Step::End(trailers) => {
                let told = Status::from_trailers(*trailers);
                let is_told = told.is_some();
                let none = || Status::new(Code::Unknown, "the server sent no status");
                self.finished(id, told.unwrap_or_else(none), is_told)
            }
            Step::Failed(failure) => {
                let status = self.status_of(&failure);
                self.finished(id, status, false)
            }
            Step::Pending => None,
        }
    }

    fn begin(&mut self, id: u32, head: Parts) -> Option<ClientEvent> {
        let headers = head.headers;
        if headers.contains_key(GRPC_STATUS) {
            // "Trailers-only": the response is over with its head.
            return self.finished(id, Status::from_trailers(headers).unwrap_or_default(), true);
        }
        if head.status != StatusCode::OK {
            return self.finished(id, Status::from_http(head.status), false);
        }
        if !request::is_grpc(&headers) {
            let status = Status::new(Code::Unknown, "the server's content type is not gRPC's");
            return self.finished(id, status, false);
        }
        match request::encoding(&headers) {
            Some(false) => {}
            Some(true) => self.transport.streams.open(id)?.inbound.accept_gzip(),
            None => {
                let status = Status::new(Code::Internal, "unknown grpc-encoding of the server");
                return self.finished(id, status, false);
            }
        }
        Some(ClientEvent::Headers {
            id: StreamId(id),
            metadata: Metadata::from_headers(headers),
        })
    }

    /// Forgets the call. If the server is still sending, or we are, it is reset.
    fn finished(&mut self, id: u32, status: Status, told: bool) -> Option<ClientEvent> {
        self.transport.streams.open(id)?;
        let reset = self.transport.streams.remove(id);
        self.transport.count_resets(usize::from(reset));
        let id = StreamId(id);
        Some(ClientEvent::Finished { id, status, told })
    }

    fn status_of(&self, failure: &Failure) -> Status {
        let code = match failure {
            Failure::Reset(reason) => return Status::from_reset(*reason),
            Failure::Lost => {
                let reason = self.transport.reason().unwrap_or("going away");
                let message = format!("the connection was lost: {reason}");
                return Status::new(Code::Unavailable, message);
            }
            Failure::Violation(Violation::TooLarge | Violation::TooMuchIncomplete) => {
                Code::ResourceExhausted
            }
            Failure::Violation(_) | Failure::Truncated => Code::Internal,
        };
        Status::new(code, failure.describe())
    }

    fn look_for_goaway(&mut self) {
        let engine = self.transport.engine();
        if let Some(reason) = engine.and_then(ClientEngine::take_goaway) {
            self.events.push_back(ClientEvent::GoAway { reason });
            self.transport.look_again();
        }
    }

    fn end(&mut self) -> Option<ClientEvent> {
        if self.told_end || !self.events.is_empty() || !self.transport.is_closed() {
            return None;
        }
        self.told_end = true;
        let reason = self.transport.reason().unwrap_or("closed").to_owned();
        Some(ClientEvent::ConnectionLost { reason })
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooManyStreams => "as many calls are open as the server allows",
            Self::Closed => "the connection is over or going away",
            Self::InvalidMethod => "not a method's path, or not an authority",
        })
    }
}

impl std::error::Error for OpenError {}
