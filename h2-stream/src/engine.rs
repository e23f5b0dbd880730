//! `h2`'s two kinds of connection, behind one trait.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::server::{self, SendResponse};
use h2::{PingPong, Reason, RecvStream};
use http::Request;

use crate::config::Config;
use crate::pipe::Pipe;

/// One side's connection type of `h2`.
pub(crate) trait Engine {
    /// Moves the connection on; ready when it is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>>;

    /// The handle for PINGs: once, when the connection is open.
    fn take_pings(&mut self) -> Option<PingPong>;

    /// Begins a graceful end; false when the connection never opened.
    fn shutdown(&mut self) -> bool;

    /// Sets the windows of streams and of the connection; false to be asked again later.
    fn set_windows(&mut self, stream: u32, connection: u32) -> bool;
}

/// What a poll of the connection may be ready with.
pub(crate) trait Ending {
    /// Why the connection is over, if this says so.
    fn end(&self) -> Option<String>;
}

/// Bytes of a stream that may wait inside `h2` for room in the output: enough for frames to
/// follow each other without a gap.
const H2_SEND_BUFFER: usize = 64 << 10;

/// The settings both builders of `h2` share; they have no common trait.
macro_rules! configure {
    ($builder:expr, $config:expr) => {
        $builder
            .initial_window_size($config.stream_window())
            .initial_connection_window_size($config.connection_window())
            .max_concurrent_streams($config.max_streams)
            .max_header_list_size($config.max_header_list)
            .max_frame_size($config.max_frame_size.clamp(16 << 10, (1 << 24) - 1))
            .data_frame_budget($config.data_frame_budget)
            .max_send_buffer_size(H2_SEND_BUFFER)
            // Counts decide how long a reset stream is remembered, not the clock in h2.
            .reset_stream_duration(Duration::MAX)
            .max_concurrent_reset_streams($config.max_resets.saturating_mul(2))
            .max_pending_accept_reset_streams($config.max_pending_resets)
    };
}

/// The server's connection: first the client's preface, then frames.
pub(crate) enum ServerEngine {
    Handshake(Box<server::Handshake<Pipe, Bytes>>),
    Open(Box<Open>),
}

pub(crate) struct Open {
    connection: server::Connection<Pipe, Bytes>,
    pings: Option<PingPong>,
}

/// What [`ServerEngine::poll_accept`] found.
pub(crate) enum Accepted {
    Request(Box<Request<RecvStream>>, SendResponse<Bytes>),
    Over(Result<(), h2::Error>),
}

impl ServerEngine {
    pub(crate) fn new(config: &Config, pipe: Pipe) -> Self {
        let mut builder = h2::server::Builder::new();
        configure!(builder, config);
        Self::Handshake(Box::new(builder.handshake(pipe)))
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// Ends at once; false when the connection never opened.
    pub(crate) fn abort(&mut self) -> bool {
        let Self::Open(open) = self else { return false };
        open.connection.abrupt_shutdown(Reason::NO_ERROR);
        true
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<&mut Open, h2::Error>> {
        if let Self::Handshake(handshake) = self {
            let mut connection = ready!(Pin::new(&mut **handshake).poll(cx))?;
            let pings = connection.ping_pong();
            *self = Self::Open(Box::new(Open { connection, pings }));
        }
        match self {
            Self::Open(open) => Poll::Ready(Ok(open)),
            Self::Handshake(_) => Poll::Pending,
        }
    }

    pub(crate) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Accepted> {
        let open = match ready!(self.poll_open(cx)) {
            Ok(open) => open,
            Err(error) => return Poll::Ready(Accepted::Over(Err(error))),
        };
        Poll::Ready(match ready!(open.connection.poll_accept(cx)) {
            Some(Ok((request, respond))) => Accepted::Request(Box::new(request), respond),
            Some(Err(error)) => Accepted::Over(Err(error)),
            None => Accepted::Over(Ok(())),
        })
    }
}

impl Ending for Accepted {
    fn end(&self) -> Option<String> {
        match self {
            Self::Request(..) => None,
            Self::Over(result) => result.end(),
        }
    }
}

impl Engine for ServerEngine {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let open = ready!(self.poll_open(cx))?;
        open.connection.poll_closed(cx)
    }

    fn take_pings(&mut self) -> Option<PingPong> {
        match self {
            Self::Handshake(_) => None,
            Self::Open(open) => open.pings.take(),
        }
    }

    fn shutdown(&mut self) -> bool {
        let Self::Open(open) = self else { return false };
        open.connection.graceful_shutdown();
        true
    }

    fn set_windows(&mut self, stream: u32, connection: u32) -> bool {
        let Self::Open(open) = self else { return false };
        open.connection.set_target_window_size(connection);
        open.connection.set_initial_window_size(stream).is_ok()
    }
}

/// The client's connection.
pub(crate) struct ClientEngine {
    connection: client::Connection<Pipe, Bytes>,
    /// Opens calls; `None` when no more are to be opened.
    requests: Option<SendRequest<Bytes>>,
    pings: Option<PingPong>,
}

impl ClientEngine {
    pub(crate) fn new(config: &Config, pipe: Pipe) -> Self {
        let mut builder = h2::client::Builder::new();
        configure!(builder, config).enable_push(false);
        let handshake = pin!(builder.handshake(pipe));
        let Poll::Ready(Ok((requests, mut connection))) =
            handshake.poll(&mut Context::from_waker(Waker::noop()))
        else {
            unreachable!("the empty pipe has room for the preface, so h2 neither waits nor fails");
        };
        let pings = connection.ping_pong();
        Self {
            connection,
            requests: Some(requests),
            pings,
        }
    }
}

impl ClientEngine {
    /// Opens calls, unless the connection goes away.
    pub(crate) fn requests(&mut self) -> Option<&mut SendRequest<Bytes>> {
        self.requests.as_mut()
    }

    /// What the server said when it went away; told once.
    pub(crate) fn take_goaway(&mut self) -> Option<String> {
        let mut cx = Context::from_waker(Waker::noop());
        match self.requests.as_mut()?.poll_ready(&mut cx) {
            Poll::Ready(Err(error)) if error.is_go_away() && error.is_remote() => {
                self.requests = None;
                Some(error.to_string())
            }
            _ => None,
        }
    }
}

impl Engine for ClientEngine {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        Pin::new(&mut self.connection).poll(cx)
    }

    fn take_pings(&mut self) -> Option<PingPong> {
        self.pings.take()
    }

    fn shutdown(&mut self) -> bool {
        // It ends when the last call does.
        self.requests = None;
        true
    }

    fn set_windows(&mut self, stream: u32, connection: u32) -> bool {
        self.connection.set_target_window_size(connection);
        self.connection.set_initial_window_size(stream).is_ok()
    }
}

impl Ending for Result<(), h2::Error> {
    fn end(&self) -> Option<String> {
        Some(match self {
            Ok(()) => "closed".to_owned(),
            Err(error) => error.to_string(),
        })
    }
}
