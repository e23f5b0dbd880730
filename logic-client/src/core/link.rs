//! One connection of a stream: bytes to frames and back.

use std::time::Duration;

use gateway_proto::names;
use gateway_proto::v1::{GatewayFrame, LogicFrame};
use h2_stream::{Client, ClientEvent, Code, Config, Metadata, StreamId};
use prost::Message as _;

use crate::core::buffer::Batch;
use crate::core::stream::{Expected, Stream};
use crate::error::GatewayError;

/// Bytes that may wait in a connection for the gateway's credit and for the socket: enough for
/// long writes. What waits here is counted as sent.
const SEND_AHEAD: usize = 128 << 10;

/// What the owner of a link decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire {
    /// Bytes of client events the gateway may send ahead of the application.
    pub(crate) event_window: u32,
    /// Silence after which a PING goes out, and again until the link counts as dead.
    pub(crate) keepalive: Duration,
}

/// An `Exchange` call on a connection of its own, and the [`Stream`] that speaks on it.
pub(crate) struct Link<'a> {
    stream: &'a mut Stream,
    http: Client,
    call: StreamId,
    address: String,
    finishing: bool,
}

impl<'a> Link<'a> {
    /// On a connection that was just made.
    pub(crate) fn open(
        stream: &'a mut Stream,
        now: Duration,
        expected: Expected,
        wire: Wire,
    ) -> Result<Self, GatewayError> {
        let address = expected.address.clone();
        let mut http = Client::new(config(wire), &address, now);
        let call = http
            .open(names::EXCHANGE, Metadata::new(), None, now)
            .map_err(|error| GatewayError::Unreachable {
                address: address.clone(),
                reason: error.to_string(),
            })?;
        http.send(call, &stream.connected(now, expected));
        Ok(Self {
            stream,
            http,
            call,
            address,
            finishing: false,
        })
    }

    /// How many bytes of commands are wanted; 0: none now.
    pub(crate) fn room(&self) -> usize {
        if !self.stream.is_open() || self.finishing {
            return 0;
        }
        SEND_AHEAD.saturating_sub(self.http.queued(self.call))
    }

    /// Sends what came out of the buffer.
    pub(crate) fn commands(&mut self, now: Duration, batch: &mut Batch) {
        let Self {
            stream, http, call, ..
        } = self;
        stream.commands(now, batch, |frame| {
            http.send(*call, frame);
        });
    }

    /// The application has handled events of connection `run` up to `id`, of `credit` bytes.
    pub(crate) fn acknowledge(&mut self, run: u64, id: u64, credit: usize) {
        if run == self.stream.run() {
            self.stream.acknowledge(run, id);
            self.http.release(self.call, credit);
            if let Some(frame) = self.stream.poll_ack() {
                self.send(&frame);
            }
        }
    }

    /// No command will follow: ends the call once everything is answered.
    pub(crate) fn finish(&mut self) {
        if !self.finishing && self.stream.is_open() && self.stream.is_quiet() {
            self.finishing = true;
            self.http.half_close(self.call);
            self.http.shutdown();
        }
    }

    pub(crate) fn is_finishing(&self) -> bool {
        self.finishing
    }

    pub(crate) fn stream(&mut self) -> &mut Stream {
        self.stream
    }

    pub(crate) fn receive(&mut self, now: Duration, bytes: &[u8]) {
        self.http.receive(now, bytes);
    }

    pub(crate) fn receive_eof(&mut self, now: Duration) {
        self.http.receive_eof(now);
    }

    pub(crate) fn wants_bytes(&self) -> bool {
        self.http.wants_bytes()
    }

    pub(crate) fn has_output(&self) -> bool {
        self.http.has_output()
    }

    /// Appends bytes for the socket to `out`, at most `max`.
    pub(crate) fn write_output(&mut self, out: &mut Vec<u8>, max: usize) -> usize {
        self.http.write_output(out, max)
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let deadlines = [self.http.next_deadline(), self.stream.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Takes in what has come; says whether that was anything.
    ///
    /// # Errors
    /// The link is over; the caller tells the stream ([`Stream::lost`]).
    pub(crate) fn poll(&mut self, now: Duration) -> Result<bool, GatewayError> {
        if self.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.http.handle_timeout(now);
            self.stream.handle_timeout(now)?;
        }
        let mut any = false;
        while let Some(event) = self.http.poll_event(now) {
            any = true;
            match event {
                ClientEvent::Message {
                    message, credit, ..
                } => {
                    let frame = GatewayFrame::decode(message).map_err(|error| {
                        let address = self.address.clone();
                        let detail = format!("bytes that are no frame: {error}");
                        GatewayError::Protocol { address, detail }
                    })?;
                    let credit = self.stream.receive(now, frame, credit)?;
                    self.http.release(self.call, credit);
                }
                ClientEvent::Finished { status, .. } => {
                    return Err(self.ended(status.code, &status.message));
                }
                ClientEvent::ConnectionLost { reason } => {
                    let address = self.address.clone();
                    return Err(GatewayError::Unreachable { address, reason });
                }
                // The call goes on until the gateway ends it.
                _ => {}
            }
        }
        Ok(any)
    }

    fn send(&mut self, frame: &LogicFrame) {
        self.http.send(self.call, frame);
    }

    fn ended(&self, code: Code, message: &str) -> GatewayError {
        let address = self.address.clone();
        match code {
            Code::Unavailable => {
                let reason = message.to_owned();
                GatewayError::Unreachable { address, reason }
            }
            // What a gateway says when `Hello` expected another shard.
            Code::FailedPrecondition if !self.stream.is_open() => GatewayError::LoadBalanced {
                address,
                expected: self.stream.expectation(),
                found: message.to_owned(),
            },
            _ => {
                let status = format!("{code:?}: {message}");
                GatewayError::Ended { address, status }
            }
        }
    }
}

/// Limits and windows of a connection.
pub(crate) fn config(wire: Wire) -> Config {
    Config {
        stream_window: wire.event_window,
        connection_window: wire.event_window.saturating_mul(2).min((1 << 31) - 1),
        keepalive_interval: Some(wire.keepalive),
        keepalive_timeout: wire.keepalive,
        ..Config::default()
    }
}
