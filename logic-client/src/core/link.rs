//! One connection of a stream: bytes to frames and back.

use std::time::Duration;

use gateway_proto::names;
use gateway_proto::v1::GatewayFrame;
use h2_stream::{Client, ClientEvent, Code, Config, Metadata, StreamId};
use prost::Message as _;

use crate::core::stream::{Ending, Expected, Loss, Stream};
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

/// An `Exchange` call on a connection of its own. What is said on it is the [`Stream`]'s; each method
/// gets the one that speaks here.
pub(crate) struct Link {
    run: u64,
    http: Client,
    call: StreamId,
    address: String,
    finishing: bool,
}

impl Link {
    /// Credit that the gateway has not got back.
    #[cfg(feature = "simulation")]
    pub(crate) fn unreleased(&self) -> usize {
        self.http.unreleased()
    }

    /// On a connection that was just made.
    pub(crate) fn open(
        stream: &mut Stream,
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
        let (run, hello) = stream.connected(now, expected);
        http.send(call, &hello);
        Ok(Self {
            run,
            http,
            call,
            address,
            finishing: false,
        })
    }

    /// The number of this connection among those of its stream.
    pub(crate) fn run(&self) -> u64 {
        self.run
    }

    /// How many bytes of new commands are wanted; 0: none now, or none on this connection.
    pub(crate) fn room(&self, stream: &Stream) -> usize {
        match stream.takes_commands() {
            true => self.room_for_any(stream),
            false => 0,
        }
    }

    fn room_for_any(&self, stream: &Stream) -> usize {
        if stream.open_run() != Some(self.run) || self.finishing {
            return 0;
        }
        SEND_AHEAD.saturating_sub(self.http.queued(self.call))
    }

    /// Sends again what the gateway has not taken, as far as there is room; says whether that was
    /// anything.
    pub(crate) fn resend(&mut self, stream: &mut Stream, now: Duration) -> bool {
        let room = self.room_for_any(stream);
        let Self { http, call, .. } = self;
        stream.resend(now, room, |outgoing| outgoing.send(http, *call))
    }

    /// Sends what came out of the buffer into the stream's inbox.
    pub(crate) fn commands(&mut self, stream: &mut Stream, now: Duration) {
        let Self { http, call, .. } = self;
        stream.commands(now, |outgoing| outgoing.send(http, *call));
    }

    /// The application has handled events of `credit` bytes that came on this connection.
    pub(crate) fn release(&mut self, credit: usize) {
        self.http.release(self.call, credit);
    }

    /// Sends the acknowledgement of events, if there is one and this is where it goes.
    pub(crate) fn send_ack(&mut self, stream: &mut Stream) {
        if stream.open_run() == Some(self.run)
            && let Some(frame) = stream.poll_ack()
        {
            self.http.send(self.call, &frame);
        }
    }

    /// No command will follow: ends the call once everything is answered.
    pub(crate) fn finish(&mut self, stream: &Stream) {
        if !self.finishing && stream.is_open() && stream.is_quiet() {
            self.finishing = true;
            self.http.half_close(self.call);
            self.http.shutdown();
        }
    }

    pub(crate) fn is_finishing(&self) -> bool {
        self.finishing
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
        self.http.next_deadline()
    }

    /// Takes in what has come; says whether that was anything.
    ///
    /// # Errors
    /// The link is over; the caller tells the stream ([`Stream::lost`]).
    pub(crate) fn poll(&mut self, stream: &mut Stream, now: Duration) -> Result<bool, Loss> {
        if self.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.http.handle_timeout(now);
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
                        Loss::broken(GatewayError::Protocol { address, detail })
                    })?;
                    let credit = stream
                        .receive(now, self.run, frame, credit)
                        .map_err(Loss::broken)?;
                    self.http.release(self.call, credit);
                }
                ClientEvent::Finished { status, told, .. } => {
                    let ending = match status.code {
                        Code::Unavailable if told => Ending::Clean,
                        Code::Aborted if told => Ending::Replaced,
                        Code::AlreadyExists if told => Ending::Refused,
                        _ => Ending::Broken,
                    };
                    let error = self.ended(stream, status.code, &status.message);
                    return Err(Loss { error, ending });
                }
                ClientEvent::ConnectionLost { reason } => {
                    let address = self.address.clone();
                    return Err(Loss::broken(GatewayError::Unreachable { address, reason }));
                }
                // The call goes on until the gateway ends it.
                _ => {}
            }
        }
        Ok(any)
    }

    fn ended(&self, stream: &Stream, code: Code, message: &str) -> GatewayError {
        let address = self.address.clone();
        match code {
            Code::Unavailable => {
                let reason = message.to_owned();
                GatewayError::Unreachable { address, reason }
            }
            // What a gateway says when `Hello` expected another shard.
            Code::FailedPrecondition if !stream.is_open() => GatewayError::LoadBalanced {
                address,
                expected: stream.expectation(),
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
