//! What both sides of a connection share: the pipe, the streams, and polling `h2` by hand.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::Reason;

use crate::config::{Config, MAX_WINDOW};
use crate::engine::{Ending, Engine};
use crate::keepalive::{Keepalive, Verdict};
use crate::outbound::Outbound;
use crate::pipe::Pipe;
use crate::prefix::PREFIX;
use crate::streams::Streams;
use crate::wake::Flag;

pub(crate) struct Transport<E> {
    pub(crate) streams: Streams,
    pub(crate) config: Config,
    pub(crate) keepalive: Keepalive,
    /// `None` when the connection is over.
    engine: Option<E>,
    pipe: Pipe,
    woken: Arc<Flag>,
    waker: Waker,
    /// There is input `h2` has not seen.
    unseen: bool,
    /// The socket has ended.
    eof: bool,
    /// `h2` may see the end of the input.
    ending: bool,
    /// Windows to be set as soon as `h2` can.
    windows: Option<(u32, u32)>,
    /// Streams that ended by a RST_STREAM of ours.
    resets: usize,
    reason: Option<String>,
}

impl<E: Engine> Transport<E> {
    /// `engine` was made with a clone of `pipe`.
    pub(crate) fn new(engine: E, pipe: Pipe, config: Config, now: Duration) -> Self {
        let woken = Arc::new(Flag::default());
        Self {
            streams: Streams::new(config.max_incomplete.max(config.max_message + PREFIX)),
            keepalive: Keepalive::new(&config, now),
            config,
            engine: Some(engine),
            pipe,
            waker: Waker::from(Arc::clone(&woken)),
            woken,
            // The first poll sends our side of the handshake.
            unseen: true,
            eof: false,
            ending: false,
            windows: None,
            resets: 0,
            reason: None,
        }
    }

    pub(crate) fn receive(&mut self, now: Duration, bytes: &[u8]) {
        if self.engine.is_some() && !bytes.is_empty() {
            self.keepalive.heard(now);
            self.pipe.push_input(bytes);
            self.unseen = true;
        }
    }

    pub(crate) fn receive_eof(&mut self) {
        self.eof = true;
        self.unseen = true;
    }

    pub(crate) fn wants_bytes(&self) -> bool {
        self.engine.is_some() && !self.eof && self.pipe.unread() < self.config.receive_buffer
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.engine.is_none()
    }

    /// Why the connection is over.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    pub(crate) fn engine(&mut self) -> Option<&mut E> {
        self.engine.as_mut()
    }

    pub(crate) fn has_output(&self) -> bool {
        self.pipe.has_output()
            || self.engine.is_some() && (self.woken.is_set() || self.streams.has_work())
    }

    /// See [`Server::write_output`](crate::Server::write_output).
    pub(crate) fn write_output(&mut self, out: &mut Vec<u8>, max: usize) -> usize {
        let before = out.len();
        if self.pipe.lend(out, max) {
            self.drive();
            self.pipe.take_back(out);
        }
        out.len() - before
    }

    /// Lets `h2` write until it has nothing more, or the pipe is full.
    fn drive(&mut self) {
        loop {
            self.streams.settle();
            self.streams.collect_woken();
            let resets = self.streams.flush();
            self.count_resets(resets);
            self.poll(false, |engine, cx| engine.poll(cx));
            let more = self.woken.is_set() || self.streams.has_work();
            if self.engine.is_none() || self.pipe.is_full() || !more {
                break;
            }
        }
        // With room to answer, `h2` may read on.
        self.unseen |= self.pipe.unread() > 0;
    }

    /// Whether polling `h2` for reading could bring something.
    pub(crate) fn wants_poll(&mut self) -> bool {
        if self.engine.is_none() {
            return false;
        }
        if self.eof && !self.ending && !self.unseen && self.pipe.unread() == 0 {
            // Everything before the end was taken over.
            self.pipe.end_input();
            self.ending = true;
            return true;
        }
        std::mem::take(&mut self.unseen) | self.woken.is_set()
    }

    /// Polls with `poll`; the connection is over when that is ready with an end.
    pub(crate) fn poll<T>(
        &mut self,
        reading: bool,
        poll: impl FnOnce(&mut E, &mut Context<'_>) -> Poll<T>,
    ) -> Option<T>
    where
        T: Ending,
    {
        let engine = self.engine.as_mut()?;
        self.pipe.allow_reading(reading);
        self.woken.take();
        let mut cx = Context::from_waker(&self.waker);
        let polled = poll(engine, &mut cx);
        if let Some(pings) = engine.take_pings() {
            self.keepalive.start(Some(pings));
        }
        self.apply_windows();
        let Poll::Ready(value) = polled else {
            return None;
        };
        if let Some(reason) = value.end() {
            self.close(reason);
        }
        Some(value)
    }

    /// The connection is over. What waits in the pipe is still to be written.
    pub(crate) fn close(&mut self, reason: String) {
        if self.engine.take().is_some() {
            self.reason = Some(reason);
            self.streams.lose();
        }
    }

    /// Queues something on a stream; false when the stream is gone or finished.
    pub(crate) fn send(&mut self, id: u32, push: impl FnOnce(&mut Outbound) -> bool) -> bool {
        let Some(stream) = self.streams.open(id) else {
            return false;
        };
        if self.engine.is_none() {
            return false;
        }
        let pushed = push(&mut stream.outbound);
        self.streams.mark_sendable(id);
        pushed
    }

    pub(crate) fn queued(&self, id: u32) -> usize {
        self.streams
            .get(id)
            .map_or(0, |stream| stream.outbound.queued())
    }

    pub(crate) fn can_send(&self, id: u32) -> bool {
        self.streams.get(id).is_some_and(|stream| {
            stream.outbound.is_open() && stream.outbound.queued() < self.config.send_buffer
        })
    }

    /// Ends a stream in both directions at once.
    pub(crate) fn reset(&mut self, id: u32, reason: Reason) {
        if let Some(stream) = self.streams.get_mut(id) {
            stream.outbound.reset(reason);
            self.streams.remove(id);
            self.count_resets(1);
            self.wake();
        }
    }

    pub(crate) fn shutdown(&mut self) {
        if self.engine.as_mut().is_some_and(Engine::shutdown) {
            self.look_again();
        } else {
            self.close("shut down".to_owned());
        }
    }

    pub(crate) fn set_windows(&mut self, stream: u32, connection: u32) {
        self.windows = Some((stream.min(MAX_WINDOW), connection.min(MAX_WINDOW)));
        self.apply_windows();
    }

    /// `h2` may have to wait for its handshake, or for the settings before these.
    fn apply_windows(&mut self) {
        if let (Some(engine), Some((stream, connection))) = (&mut self.engine, self.windows)
            && engine.set_windows(stream, connection)
        {
            self.windows = None;
            self.wake();
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.engine.as_ref()?;
        let keepalive = self.keepalive.next_deadline();
        let streams = self.streams.next_deadline();
        keepalive.into_iter().chain(streams).min()
    }

    /// False when that ends the connection.
    pub(crate) fn handle_keepalive(&mut self, now: Duration) -> bool {
        let reading = self.wants_bytes();
        let mut cx = Context::from_waker(&self.waker);
        let lost =
            self.engine.is_some() && self.keepalive.handle(now, reading, &mut cx) == Verdict::Lost;
        if lost {
            self.close("no answer to a PING".to_owned());
        }
        !lost
    }

    /// A connection that reset many streams goes away before `h2` forgets the first of them.
    pub(crate) fn count_resets(&mut self, resets: usize) {
        let before = self.resets;
        self.resets += resets;
        if before < self.config.max_resets && self.resets >= self.config.max_resets {
            self.shutdown();
        }
    }

    /// `h2` is to be polled, for reading too, although it did not ask for it.
    pub(crate) fn look_again(&mut self) {
        self.unseen = true;
        self.wake();
    }

    fn wake(&self) {
        self.waker.wake_by_ref();
    }
}
