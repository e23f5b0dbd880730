//! The receiving half of a stream: from DATA frames to messages, and the credit for them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::response::Parts;
use http::{HeaderMap, Response};

use crate::prefix::{Assembler, Violation, Whole};

/// The next thing a stream has to say.
pub(crate) enum Step {
    /// The head of a response; client side.
    Head(Box<Parts>),
    Message(Bytes, usize),
    /// The peer sends no more; with its trailers.
    End(Box<HeaderMap>),
    Failed(Failure),
    /// Nothing now; the waker will be used.
    Pending,
}

/// Why a stream ended before its end.
pub(crate) enum Failure {
    Violation(Violation),
    /// The stream ended inside a message.
    Truncated,
    Reset(Reason),
    /// The connection ended.
    Lost,
}

pub(crate) struct Inbound {
    body: Body,
    assembler: Assembler,
    waker: Waker,
    /// Bytes that arrived while the stream was held; they have no credit.
    held: BytesMut,
    paused: bool,
    /// Trailers that arrived while the stream was held.
    trailers: Option<Box<HeaderMap>>,
    ended: bool,
    /// Bytes taken from `h2` that nobody gave back.
    unreleased: usize,
    /// Bytes given back, but not yet told to `h2`.
    owed: usize,
}

enum Body {
    /// The client waits for the response's head.
    Awaited(ResponseFuture),
    Open(RecvStream),
    /// Nobody listens any more.
    Dropped,
}

impl Inbound {
    pub(crate) fn of_request(body: RecvStream, limit: usize, waker: Waker) -> Self {
        Self::new(Body::Open(body), limit, waker)
    }

    pub(crate) fn of_response(response: ResponseFuture, limit: usize, waker: Waker) -> Self {
        Self::new(Body::Awaited(response), limit, waker)
    }

    fn new(body: Body, limit: usize, waker: Waker) -> Self {
        Self {
            body,
            assembler: Assembler::new(limit),
            waker,
            held: BytesMut::new(),
            paused: false,
            trailers: None,
            ended: false,
            unreleased: 0,
            owed: 0,
        }
    }

    pub(crate) fn accept_gzip(&mut self) {
        self.assembler.accept_gzip();
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(crate) fn pause(&mut self) {
        self.paused = true;
    }

    pub(crate) fn resume(&mut self) {
        self.paused = false;
    }

    /// Whether the peer has ended its half.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Bytes held of a message that has not ended.
    pub(crate) fn incomplete(&self) -> usize {
        self.assembler.incomplete()
    }

    /// Whether `h2` is to be told of given-back bytes.
    pub(crate) fn owes(&self) -> bool {
        self.owed > 0
    }

    /// The next message, if it is an ordinary one that is here already. This is nearly always
    /// so when many come; it changes no credit and no count.
    #[inline]
    pub(crate) fn next_slice(&mut self) -> Option<Step> {
        if self.paused {
            return None;
        }
        let whole = self.assembler.next_slice()?;
        Some(Step::Message(whole.message, whole.credit))
    }

    /// The next step. A stream that is held only takes over what `h2` has: DATA frames waiting
    /// there would cost memory by their number, here only by their length.
    pub(crate) fn next(&mut self) -> Step {
        if self.ended {
            return Step::Pending;
        }
        loop {
            if !self.paused {
                match self.cut() {
                    Ok(Some(whole)) => return Step::Message(whole.message, whole.credit),
                    Ok(None) => {}
                    Err(violation) => return Step::Failed(Failure::Violation(violation)),
                }
            }
            match self.pull() {
                Pull::Chunk => {}
                Pull::Head(head) => return Step::Head(head),
                // A held stream keeps its end, and what it has when the connection ends.
                Pull::End | Pull::Failed(Failure::Lost) if self.paused => return Step::Pending,
                Pull::End => return self.end(),
                Pull::Pending => return Step::Pending,
                Pull::Failed(failure) => return Step::Failed(failure),
            }
        }
    }

    /// Gives back the credit of `bytes`, at most what was taken.
    pub(crate) fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.unreleased);
        self.unreleased -= bytes;
        self.owed += bytes;
    }

    /// Credit that was not given back.
    pub(crate) fn unreleased(&self) -> usize {
        self.unreleased
    }

    /// Tells `h2` what was given back; it sends WINDOW_UPDATE when it is worth a frame.
    pub(crate) fn settle(&mut self) {
        let owed = std::mem::take(&mut self.owed);
        if let Body::Open(body) = &mut self.body
            && owed > 0
        {
            // Refused only when more is returned than taken, which `release` excludes.
            let _ = body.flow_control().release_capacity(owed);
        }
    }

    /// Stops listening: all credit goes back, what still comes is thrown away by `h2`.
    pub(crate) fn drop_body(&mut self) {
        if let Body::Open(body) = &self.body {
            self.ended |= body.is_end_stream();
        }
        self.release(self.unreleased);
        self.settle();
        self.body = Body::Dropped;
        self.held = BytesMut::new();
        self.assembler = Assembler::new(0);
    }

    fn cut(&mut self) -> Result<Option<Whole>, Violation> {
        if let Some(whole) = self.assembler.next()? {
            return Ok(Some(whole));
        }
        self.settle_early();
        if self.held.is_empty() {
            return Ok(None);
        }
        self.assembler.push(self.held.split().freeze());
        let whole = self.assembler.next()?;
        self.settle_early();
        Ok(whole)
    }

    /// Bytes of an incomplete message go back on arrival, or a message larger than the window
    /// would wait for itself.
    fn settle_early(&mut self) {
        let early = self.assembler.take_early_credit();
        if early > 0 {
            self.release(early);
        }
    }

    fn pull(&mut self) -> Pull {
        if self.trailers.is_some() {
            return Pull::End;
        }
        let mut cx = Context::from_waker(&self.waker);
        let body = match &mut self.body {
            Body::Awaited(response) => match Pin::new(response).poll(&mut cx) {
                Poll::Ready(Ok(response)) => return self.open(response),
                Poll::Ready(Err(error)) => return Pull::Failed(error.into()),
                Poll::Pending => return Pull::Pending,
            },
            Body::Open(body) => body,
            Body::Dropped => return Pull::Pending,
        };
        match body.poll_data(&mut cx) {
            Poll::Ready(Some(Ok(chunk))) => self.take(chunk),
            Poll::Ready(Some(Err(error))) => Pull::Failed(error.into()),
            Poll::Ready(None) => match body.poll_trailers(&mut cx) {
                Poll::Ready(Ok(trailers)) => {
                    self.trailers = Some(Box::new(trailers.unwrap_or_default()));
                    Pull::End
                }
                Poll::Ready(Err(error)) => Pull::Failed(error.into()),
                Poll::Pending => Pull::Pending,
            },
            Poll::Pending => Pull::Pending,
        }
    }

    fn open(&mut self, response: Response<RecvStream>) -> Pull {
        let (head, body) = response.into_parts();
        self.body = Body::Open(body);
        Pull::Head(Box::new(head))
    }

    fn take(&mut self, chunk: Bytes) -> Pull {
        self.unreleased += chunk.len();
        if self.paused {
            self.held.extend_from_slice(&chunk);
        } else {
            self.assembler.push(chunk);
        }
        Pull::Chunk
    }

    fn end(&mut self) -> Step {
        self.ended = true;
        if self.assembler.is_incomplete() {
            return Step::Failed(Failure::Truncated);
        }
        Step::End(self.trailers.take().unwrap_or_default())
    }
}

/// What `h2` had for us.
enum Pull {
    /// A chunk, which is with the assembler now, or held.
    Chunk,
    Head(Box<Parts>),
    End,
    Failed(Failure),
    Pending,
}

impl Failure {
    /// For the status message.
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Self::Violation(Violation::TooLarge) => "message larger than the limit",
            Self::Violation(Violation::TooMuchIncomplete) => "too many incomplete messages",
            Self::Violation(Violation::UnknownFlags) => "unknown flags before a message",
            Self::Violation(Violation::NotAnnounced) => "compressed message without grpc-encoding",
            Self::Violation(Violation::NotGzip) => "compressed message is not gzip",
            Self::Truncated => "the stream ended inside a message",
            Self::Reset(_) => "the stream was reset",
            Self::Lost => "the connection was lost",
        }
    }
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_reset() => Self::Reset(reason),
            _ => Self::Lost,
        }
    }
}
