//! The in-memory socket `h2` reads from and writes to.

use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What `h2` may leave in the pipe between two calls of `write_output`, in bytes.
const OUTPUT_BETWEEN_CALLS: usize = 16 << 10;

/// An empty input buffer larger than this is given back to the allocator.
const INPUT_KEPT: usize = 64 << 10;

/// One end is given to `h2`, its clone stays with the connection.
///
/// It never wakes anyone: whoever changes it polls `h2` afterwards.
#[derive(Clone, Default)]
pub(crate) struct Pipe(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    input: Vec<u8>,
    /// How much of `input` `h2` has read.
    read: usize,
    /// `h2` may read; closed while it is polled only to write.
    reading: bool,
    /// The end of the input is to be seen once it is read.
    eof: bool,
    output: Vec<u8>,
    /// `output` takes no byte beyond this length.
    limit: usize,
    /// `h2` had more to write than `limit` allowed.
    full: bool,
}

impl Pipe {
    pub(crate) fn new() -> Self {
        let pipe = Self::default();
        pipe.lock().limit = OUTPUT_BETWEEN_CALLS;
        pipe
    }

    pub(crate) fn push_input(&self, bytes: &[u8]) {
        let mut state = self.lock();
        // Half of the buffer is read: move the rest instead of growing.
        if state.read > 0 && state.read * 2 >= state.input.len() {
            let read = mem::take(&mut state.read);
            state.input.drain(..read);
        }
        state.input.extend_from_slice(bytes);
    }

    pub(crate) fn unread(&self) -> usize {
        let state = self.lock();
        state.input.len() - state.read
    }

    /// Lets `h2` see the end of the input.
    pub(crate) fn end_input(&self) {
        self.lock().eof = true;
    }

    pub(crate) fn allow_reading(&self, allow: bool) {
        self.lock().reading = allow;
    }

    /// Whether `h2` found no room for something it wanted to write.
    pub(crate) fn is_full(&self) -> bool {
        self.lock().full
    }

    pub(crate) fn has_output(&self) -> bool {
        let state = self.lock();
        !state.output.is_empty() || state.full
    }

    /// Moves what waits in the pipe to `out`, at most `max` bytes. If there is room left, `h2`
    /// writes straight into `out` until [`Pipe::take_back`], and the answer is true.
    pub(crate) fn lend(&self, out: &mut Vec<u8>, max: usize) -> bool {
        let mut state = self.lock();
        let end = out.len().saturating_add(max);
        let moved = state.output.len().min(max);
        out.extend_from_slice(&state.output[..moved]);
        state.output.drain(..moved);
        if out.len() >= end {
            return false;
        }
        mem::swap(&mut state.output, out);
        state.limit = end;
        state.full = false;
        true
    }

    /// Ends a [`Pipe::lend`] that said true.
    pub(crate) fn take_back(&self, out: &mut Vec<u8>) {
        let mut state = self.lock();
        mem::swap(&mut state.output, out);
        state.limit = OUTPUT_BETWEEN_CALLS;
    }

    // One thread at a time uses a connection: the lock is never contended.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        if !state.reading {
            return Poll::Pending;
        }
        let unread = &state.input[state.read..];
        if unread.is_empty() {
            // Reading nothing says "the end".
            return if state.eof {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            };
        }
        let taken = unread.len().min(buffer.remaining());
        buffer.put_slice(&unread[..taken]);
        state.read += taken;
        if state.read == state.input.len() {
            state.forget_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        let taken = bytes
            .len()
            .min(state.limit.saturating_sub(state.output.len()));
        if taken == 0 && !bytes.is_empty() {
            state.full = true;
            return Poll::Pending;
        }
        state.output.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl State {
    fn forget_read(&mut self) {
        self.read = 0;
        self.input.clear();
        self.input.shrink_to(INPUT_KEPT);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn write(pipe: &mut Pipe, bytes: &[u8]) -> Option<usize> {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(pipe).poll_write(&mut cx, bytes) {
            Poll::Ready(written) => Some(written.unwrap()),
            Poll::Pending => None,
        }
    }

    #[test]
    fn output_between_calls_comes_first_and_is_bounded() {
        let mut pipe = Pipe::new();
        assert_eq!(write(&mut pipe, &[1; 20_000]), Some(OUTPUT_BETWEEN_CALLS));
        assert_eq!(write(&mut pipe, &[2]), None);
        assert!(pipe.is_full());
        let mut out = vec![0];
        assert!(!pipe.lend(&mut out, 10), "no room for h2");
        assert_eq!(out, [&[0][..], &[1; 10]].concat());
        assert!(pipe.lend(&mut out, OUTPUT_BETWEEN_CALLS));
        assert_eq!(write(&mut pipe, &[2; 20]), Some(10));
        assert_eq!(write(&mut pipe, &[2]), None);
        pipe.take_back(&mut out);
        assert_eq!(out.len(), 1 + 10 + OUTPUT_BETWEEN_CALLS);
        assert!(out.ends_with(&[1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]));
        assert!(pipe.has_output(), "h2 was not through");
    }

    #[test]
    fn input_is_read_only_when_allowed_and_ends_behind_the_last_byte() {
        let mut pipe = Pipe::new();
        pipe.push_input(b"abc");
        pipe.end_input();
        let mut cx = Context::from_waker(Waker::noop());
        let mut memory = [0; 2];
        let mut read = |pipe: &mut Pipe| {
            let mut buffer = ReadBuf::new(&mut memory);
            let ready = Pin::new(pipe).poll_read(&mut cx, &mut buffer).is_ready();
            ready.then(|| buffer.filled().to_vec())
        };
        assert_eq!(read(&mut pipe), None);
        pipe.allow_reading(true);
        assert_eq!(read(&mut pipe), Some(b"ab".to_vec()));
        assert_eq!(pipe.unread(), 1);
        assert_eq!(read(&mut pipe), Some(b"c".to_vec()));
        assert_eq!(read(&mut pipe), Some(Vec::new()), "the end");
    }
}
