//! The server's side of a connection.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Request;

use crate::config::Config;
use crate::engine::{Accepted, Engine, ServerEngine};
use crate::event::{CloseReason, Counters, ServerEvent, StreamId};
use crate::inbound::{Failure, Inbound, Step};
use crate::metadata::Metadata;
use crate::outbound::{self, Outbound};
use crate::pipe::Pipe;
use crate::prefix::Violation;
use crate::request::{self, Answer, Refusal};
use crate::status::{Code, Status};
use crate::transport::Transport;

/// gRPC on one connection of a client, without io.
///
/// Give it the bytes of the socket ([`receive`](Self::receive)) and the time, take events
/// ([`poll_event`](Self::poll_event)) and bytes for the socket
/// ([`write_output`](Self::write_output)). Times are durations since any start that never
/// go back. See the [crate's page](crate) for the loop.
pub struct Server {
    transport: Transport<ServerEngine>,
    events: VecDeque<ServerEvent>,
    counters: Counters,
    /// When the client must have said the preface; `None` once it has.
    handshake: Option<Duration>,
    now: Duration,
}

impl Server {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(config: Config, now: Duration) -> Self {
        let pipe = Pipe::new();
        let engine = ServerEngine::new(&config, pipe.clone());
        Self {
            handshake: Some(now.saturating_add(config.handshake_timeout)),
            transport: Transport::new(engine, pipe, config, now),
            events: VecDeque::new(),
            counters: Counters::default(),
            now,
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

    /// The client has closed its half of the socket. Takes effect behind the bytes before it.
    pub fn receive_eof(&mut self, _now: Duration) {
        self.transport.receive_eof();
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), whatever happens until then.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let handshake = self.handshake.filter(|_| !self.transport.is_closed());
        let others = self.transport.next_deadline();
        handshake.into_iter().chain(others).min()
    }

    /// Does what is due: keepalive, the handshake's time, and `grpc-timeout` of each stream.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.handshake.is_some_and(|deadline| deadline <= now) {
            self.handshake = None;
            self.counters.protocol_errors += 1;
            self.transport.close("no HTTP/2 preface in time".to_owned());
        }
        if !self.transport.handle_keepalive(now) {
            self.counters.unanswered_pings += 1;
        }
        while let Some(id) = self.transport.streams.pop_expired(now) {
            self.expire(id);
        }
    }

    /// The next event. Ask until there is none after every input; what is not asked for stays
    /// with the client, as credit it does not get.
    pub fn poll_event(&mut self, now: Duration) -> Option<ServerEvent> {
        self.now = now;
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
            if !self.transport.wants_poll() {
                return None;
            }
            if let Some(event) = self.accept() {
                return Some(event);
            }
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

    /// Queues a message on the stream, behind the response's head if that was not sent. False,
    /// and nothing queued, when the stream is gone or finished.
    pub fn send(&mut self, stream: StreamId, message: &impl prost::Message) -> bool {
        self.transport.send(stream.0, |out| out.push(message))
    }

    /// [`send`](Self::send) for a message that is encoded already.
    pub fn send_encoded(&mut self, stream: StreamId, message: &[u8]) -> bool {
        self.transport
            .send(stream.0, |out| out.push_encoded(message))
    }

    /// Sends the response's head without waiting for a message: a client of a bidirectional
    /// stream may wait for it.
    pub fn start(&mut self, stream: StreamId) {
        self.transport.send(stream.0, |out| {
            out.start();
            true
        });
    }

    /// Bytes of the stream that wait for credit or for [`write_output`](Self::write_output).
    #[must_use]
    pub fn queued(&self, stream: StreamId) -> usize {
        self.transport.queued(stream.0)
    }

    /// Whether the stream is open and holds less than [`Config::send_buffer`]. More can be
    /// sent nevertheless, and costs memory.
    #[must_use]
    pub fn can_send(&self, stream: StreamId) -> bool {
        self.transport.can_send(stream.0)
    }

    /// Ends the stream behind its queued messages. No more events of it come. A client that
    /// is still sending is told to stop.
    pub fn finish(&mut self, stream: StreamId, status: Status) {
        if let Some(open) = self.transport.streams.open(stream.0) {
            open.outbound.finish(status);
            self.transport.streams.finish(stream.0);
        }
    }

    /// Gives back the credit of a message that was handled ([`ServerEvent::Message`]). Does
    /// nothing when the stream is gone: its credit went back then.
    pub fn release(&mut self, stream: StreamId, credit: usize) {
        self.transport.streams.release(stream.0, credit);
    }

    /// Bytes of received messages that were not released, on all streams: as many as the client may send less.
    #[must_use]
    pub fn unreleased(&self) -> usize {
        self.transport.streams.unreleased()
    }

    /// Holds back the stream's events; others go on. The client may send until its window is
    /// used up. Only the stream's reset or deadline is still told.
    pub fn pause(&mut self, stream: StreamId) {
        self.transport.streams.pause(stream.0);
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&mut self, stream: StreamId) {
        self.transport.streams.resume(stream.0);
    }

    /// Changes the flow-control windows, in bytes: of each stream, and of the connection. A
    /// smaller window takes effect as the client uses up the larger one.
    pub fn set_windows(&mut self, stream: u32, connection: u32) {
        self.transport.set_windows(stream, connection);
    }

    /// Number of streams that are open or have something to send.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.transport.streams.len()
    }

    /// What was refused, and what went wrong, since the connection began.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Ends the connection gracefully (GOAWAY): open streams go on, requests that were on
    /// their way are taken, the client opens no new ones. It is closed when the last stream
    /// is finished.
    pub fn shutdown(&mut self, _now: Duration) {
        self.transport.shutdown();
    }

    /// Ends the connection at once (GOAWAY, without waiting for streams). Write the output
    /// that is left, then close the socket.
    pub fn abort(&mut self) {
        if self.transport.engine().is_some_and(ServerEngine::abort) {
            // At once, before the streams could take it for a reset of theirs.
            self.transport.poll(false, Engine::poll);
            self.transport.look_again();
        } else {
            self.transport.close("aborted".to_owned());
        }
    }

    fn accept(&mut self) -> Option<ServerEvent> {
        let polled = self.transport.poll(true, ServerEngine::poll_accept);
        if self
            .transport
            .engine()
            .is_some_and(|engine| engine.is_open())
        {
            self.handshake = None;
        }
        let (request, respond) = match polled? {
            Accepted::Request(request, respond) => (request, respond),
            Accepted::Over(end) => {
                self.counters.protocol_errors += u64::from(end.is_err());
                return None;
            }
        };
        // There may be another one behind it.
        self.transport.look_again();
        self.admit(*request, respond)
    }

    fn admit(
        &mut self,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> Option<ServerEvent> {
        let (head, body) = request.into_parts();
        let call = match request::check(&head) {
            Ok(call) => call,
            Err(refusal) => {
                self.refuse(refusal, &body, respond);
                return None;
            }
        };
        let id = respond.stream_id().as_u32();
        let streams = &mut self.transport.streams;
        let limit = self.transport.config.max_message;
        let mut inbound = Inbound::of_request(body, limit, streams.received_waker(id));
        if call.gzip {
            inbound.accept_gzip();
        }
        let outbound = Outbound::of_response(respond, streams.writable_waker(id));
        let deadline = call.timeout.map(|timeout| self.now.saturating_add(timeout));
        streams.insert(id, inbound, outbound, deadline);
        self.counters.requests += 1;
        Some(ServerEvent::Request {
            stream: StreamId(id),
            method: head.uri.path().to_owned(),
            metadata: Metadata::from_headers(head.headers),
            deadline,
        })
    }

    /// Answers a request that is no call. Dropping its handles tells a client that is still
    /// sending to stop.
    fn refuse(&mut self, refusal: Refusal, body: &RecvStream, mut respond: SendResponse<Bytes>) {
        *match refusal {
            Refusal::Method => &mut self.counters.wrong_method,
            Refusal::ContentType => &mut self.counters.wrong_content_type,
            Refusal::Timeout => &mut self.counters.bad_timeout,
            Refusal::Encoding => &mut self.counters.unknown_encoding,
        } += 1;
        let response = match refusal.answer() {
            Answer::Http(response) => response,
            Answer::Grpc(status) => outbound::head(status.into_trailers()),
        };
        // Refused only when the client has reset the stream by now.
        let _ = respond.send_response(response, true);
        self.transport
            .count_resets(usize::from(!body.is_end_stream()));
    }

    fn event_of(&mut self, id: u32, step: Step) -> Option<ServerEvent> {
        let stream = StreamId(id);
        match step {
            Step::Message(message, credit) => Some(ServerEvent::Message {
                stream,
                message,
                credit,
            }),
            // A client's trailers say nothing in gRPC.
            Step::End(_) => Some(ServerEvent::HalfClosed { stream }),
            Step::Failed(failure) => self.fail(id, &failure),
            // A request has no response's head.
            Step::Head(_) | Step::Pending => None,
        }
    }

    /// Ends a stream that broke, with an answer if there is someone to hear it.
    fn fail(&mut self, id: u32, failure: &Failure) -> Option<ServerEvent> {
        let stream = StreamId(id);
        self.transport.streams.open(id)?;
        let (reason, status) = verdict(failure);
        match status {
            Some(status) => self.finish(stream, status),
            None => {
                self.transport.streams.remove(id);
            }
        }
        self.count(reason);
        Some(ServerEvent::Closed { stream, reason })
    }

    /// The call's time is over. An answer that has begun cannot be followed by a status: it
    /// may be cut inside a message.
    fn expire(&mut self, id: u32) {
        let Some(queued) = self
            .transport
            .streams
            .get(id)
            .map(|stream| stream.outbound.queued())
        else {
            return;
        };
        let open = self.transport.streams.open(id).is_some();
        if open && queued == 0 {
            let status = Status::new(Code::DeadlineExceeded, "the call's time is over");
            self.finish(StreamId(id), status);
        } else {
            self.transport.reset(id, Reason::CANCEL);
        }
        if open {
            let reason = CloseReason::DeadlineExceeded;
            self.count(reason);
            let stream = StreamId(id);
            self.events
                .push_back(ServerEvent::Closed { stream, reason });
        }
    }

    fn count(&mut self, reason: CloseReason) {
        *match reason {
            CloseReason::Reset(_) => &mut self.counters.reset_by_client,
            CloseReason::DeadlineExceeded => &mut self.counters.deadline_exceeded,
            CloseReason::MessageTooLarge => &mut self.counters.message_too_large,
            CloseReason::BadMessage => &mut self.counters.bad_message,
            CloseReason::Truncated => &mut self.counters.truncated,
            CloseReason::ConnectionLost => &mut self.counters.lost,
        } += 1;
    }
}

/// What a failure is called, and what the client is told.
fn verdict(failure: &Failure) -> (CloseReason, Option<Status>) {
    match failure {
        Failure::Reset(reason) => (CloseReason::Reset((*reason).into()), None),
        Failure::Lost => (CloseReason::ConnectionLost, None),
        Failure::Truncated => {
            let status = Status::new(Code::InvalidArgument, failure.describe());
            (CloseReason::Truncated, Some(status))
        }
        Failure::Violation(Violation::TooLarge | Violation::TooMuchIncomplete) => {
            let status = Status::new(Code::ResourceExhausted, failure.describe());
            (CloseReason::MessageTooLarge, Some(status))
        }
        Failure::Violation(_) => {
            let status = Status::new(Code::Internal, failure.describe());
            (CloseReason::BadMessage, Some(status))
        }
    }
}
