//! A descriptor whose readiness the runtime watches, and what it waits for.

use std::{
    fmt,
    future::Future,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use monoio::net::UnixStream;
use rustix::net::{Shutdown, shutdown};

use super::ready::{self, Token};

/// A descriptor of any kind: client, listener or bell.
///
/// monoio watches the readiness of its own socket types only. Its `UnixStream` is the one that is nothing but a descriptor
/// (a `TcpStream` carries 80 bytes of addresses), so that is what it believes all of ours to be.
pub(super) struct Fd {
    stream: Rc<UnixStream>,
    raw: RawFd,
}

/// Whether a descriptor waits, in one direction.
pub(super) enum Interest {
    /// Nobody wants to know.
    Idle,
    /// The runtime will say.
    Waiting(Pin<Box<dyn Future<Output = io::Result<()>>>>),
    /// It is ready: a token stands in the ready list, or the socket in a queue of the tick.
    Ready,
}

impl Fd {
    /// Registers with the runtime of this thread.
    ///
    /// # Errors
    /// epoll has no room (`fs.epoll.max_user_watches`).
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let raw = fd.as_raw_fd();
        let stream = Rc::new(UnixStream::from_std(fd.into())?);
        Ok(Self { stream, raw })
    }

    /// Begins to wait until it can be read; then `token` is in the ready list.
    ///
    /// Both runtimes answer by level: what can be read now is ready at once, so data may be left behind at will. (On
    /// epoll that is `relaxed = false`: monoio asks `poll` before it believes its cached edge.)
    pub(super) fn await_readable(&self, interest: &mut Interest, token: Token) {
        let stream = Rc::clone(&self.stream);
        interest.wait(token, async move { stream.readable(false).await });
    }

    /// Begins to wait until it can be written; then `token` is in the ready list.
    pub(super) fn await_writable(&self, interest: &mut Interest, token: Token) {
        let stream = Rc::clone(&self.stream);
        interest.wait(token, async move { stream.writable(false).await });
    }

    /// Ends the connection. A pending poll keeps the descriptor open until it completes: this makes it complete.
    pub(super) fn shutdown(&self, how: Shutdown) {
        // The only error is that the peer has ended it already.
        let _ = shutdown(self, how);
    }

    /// A descriptor of the same socket that is free of this thread's runtime. A pending poll may go on for the old one.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn detach(self) -> io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
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

impl fmt::Debug for Fd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fd {}", self.raw)
    }
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Waiting(_) => "waiting",
            Self::Ready => "ready",
        })
    }
}

impl Interest {
    /// Whether nobody wants to know.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    /// Whether it stands in line.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    /// Whether the runtime holds a poll for it.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }

    /// To be asked when its token was in the ready list: true if it is ready indeed, and now idle. A token may be
    /// stale, left by a socket that had the same slot before.
    pub(super) fn take_ready(&mut self, token: Token) -> bool {
        let ready = match self {
            Self::Idle => false,
            Self::Ready => true,
            Self::Waiting(wait) => {
                let waker = token.waker();
                // An error is no reason to tell them apart: the read or send that follows will say it better.
                wait.as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_ready()
            }
        };
        if ready {
            *self = Self::Idle;
        }
        ready
    }

    fn wait(&mut self, token: Token, wait: impl Future<Output = io::Result<()>> + 'static) {
        debug_assert!(self.is_idle());
        let mut wait: Pin<Box<dyn Future<Output = _>>> = Box::pin(wait);
        let waker = token.waker();
        *self = match wait.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => Self::Waiting(wait),
            Poll::Ready(_) => {
                ready::push(token);
                Self::Ready
            }
        };
    }
}
