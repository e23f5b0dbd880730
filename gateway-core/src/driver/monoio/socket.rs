//! A descriptor whose readiness monoio watches.

use std::{
    future::Future,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    pin::Pin,
    rc::Rc,
    task::{Context, Waker},
};

use monoio::net::UnixStream;

use crate::driver::runtime::{Stream, Wait, Watched};

/// A descriptor of any kind: client, listener or bell.
///
/// monoio watches the readiness of its own socket types only. Its `UnixStream` is the one that is nothing but a descriptor
/// (a `TcpStream` carries 80 bytes of addresses), so that is what it believes all of ours to be.
pub(super) struct Fd {
    stream: Rc<UnixStream>,
    raw: RawFd,
}

/// A poll operation that monoio holds.
pub(super) struct Poll(Pin<Box<dyn Future<Output = io::Result<()>>>>);

impl Watched for Fd {
    type Wait = Poll;

    /// # Errors
    /// epoll has no room (`fs.epoll.max_user_watches`).
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let raw = fd.as_raw_fd();
        let stream = Rc::new(UnixStream::from_std(fd.into())?);
        Ok(Self { stream, raw })
    }

    // (On epoll, `relaxed = false`: monoio asks `poll` before it believes its cached edge.)
    fn await_readable(&mut self, waker: &Waker) -> Option<Poll> {
        let stream = Rc::clone(&self.stream);
        Poll::begin(async move { stream.readable(false).await }, waker)
    }
}

impl Stream for Fd {
    fn await_writable(&mut self, waker: &Waker) -> Option<Poll> {
        let stream = Rc::clone(&self.stream);
        Poll::begin(async move { stream.writable(false).await }, waker)
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `raw` is the descriptor of `stream`, which keeps it open at least as long as `self` lives.
        #[allow(unsafe_code)]
        unsafe {
            BorrowedFd::borrow_raw(self.raw)
        }
    }
}

impl Poll {
    fn begin(poll: impl Future<Output = io::Result<()>> + 'static, waker: &Waker) -> Option<Self> {
        let mut poll = Self(Box::pin(poll));
        (!poll.is_over(waker)).then_some(poll)
    }
}

impl Wait for Poll {
    // An error is no reason to tell them apart: the read or send that follows will say it better.
    fn is_over(&mut self, waker: &Waker) -> bool {
        let mut context = Context::from_waker(waker);
        self.0.as_mut().poll(&mut context).is_ready()
    }
}
