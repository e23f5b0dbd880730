//! Descriptors whose readiness glommio tells.
//!
//! glommio has no call for that alone. A connection that is made of a descriptor is polled at once, and a read that finds
//! nothing polls it again: what is read and sent here goes through glommio's own connections for that.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use rustix::{io::Errno, net::Shutdown};

use crate::driver::runtime::{Stream, Wait, Watched};

/// A connection.
pub(super) struct Socket(TcpStream);

/// A poll that glommio holds, and whose end it does not tell before a call is made.
pub(super) struct Asked;

/// A listening socket, which glommio takes for a connection, too: as such it can be polled.
pub(super) struct Door(TcpStream);

impl Watched for Socket {
    type Wait = Asked;

    fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(polled(fd)))
    }

    fn await_readable(&mut self, waker: &Waker) -> Option<Asked> {
        // Without a system call if it is polled already, as it is after a read that left room in its buffer.
        read(&mut self.0, &mut [], waker)
            .is_pending()
            .then_some(Asked)
    }
}

impl Stream for Socket {
    fn await_writable(&mut self, _: &Waker) -> Option<Asked> {
        // `send` does not end before it is full.
        Some(Asked)
    }

    fn recv(&mut self, buffer: &mut [u8], waker: &Waker) -> Result<usize, Errno> {
        match read(&mut self.0, buffer, waker) {
            Poll::Ready(Ok(n)) => Ok(n),
            Poll::Ready(Err(error)) => Err(errno(&error)),
            Poll::Pending => Err(Errno::AGAIN),
        }
    }

    fn send(&mut self, bytes: &[u8], waker: &Waker) -> Result<usize, Errno> {
        let mut context = Context::from_waker(waker);
        let mut sent = 0;
        while sent < bytes.len() {
            match Pin::new(&mut self.0).poll_write(&mut context, &bytes[sent..]) {
                Poll::Ready(Ok(n)) => sent += n,
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => (),
                Poll::Ready(Err(error)) => return Err(errno(&error)),
                Poll::Pending if sent == 0 => return Err(Errno::AGAIN),
                Poll::Pending => break,
            }
        }
        Ok(sent)
    }

    fn hang_up(self, _: bool) {
        // It may be polled without having been asked to.
        self.shut_down(Shutdown::Both);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        descriptor(&self.0)
    }
}

impl Wait for Asked {
    fn is_over(&mut self, _: &Waker) -> bool {
        true
    }
}

impl Watched for Door {
    type Wait = Asked;

    fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(polled(fd)))
    }

    fn await_readable(&mut self, waker: &Waker) -> Option<Asked> {
        if read(&mut self.0, &mut [], waker).is_pending() {
            return Some(Asked);
        }
        // The poll is over, and nothing is left of it: a listener cannot be read. A read that found nothing would begin the next
        // one, and there is none: so the connection is made anew, of the same descriptor.
        //
        // SAFETY: the descriptor is open and ours. Its former owner is forgotten, which leaks no more than its weak reference
        // to the executor.
        #[allow(unsafe_code)]
        let polled = unsafe { TcpStream::from_raw_fd(self.0.as_raw_fd()) };
        mem::forget(mem::replace(&mut self.0, polled));
        read(&mut self.0, &mut [], waker)
            .is_pending()
            .then_some(Asked)
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        descriptor(&self.0)
    }
}

/// A connection in the eyes of glommio, which polls it from now on.
fn polled(fd: OwnedFd) -> TcpStream {
    // SAFETY: the descriptor is open and ours, and now the connection's.
    #[allow(unsafe_code)]
    unsafe {
        TcpStream::from_raw_fd(fd.into_raw_fd())
    }
}

fn read(stream: &mut TcpStream, buffer: &mut [u8], waker: &Waker) -> Poll<io::Result<usize>> {
    Pin::new(stream).poll_read(&mut Context::from_waker(waker), buffer)
}

fn descriptor(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: it is the descriptor of the connection, which keeps it open at least as long as it is borrowed.
    #[allow(unsafe_code)]
    unsafe {
        BorrowedFd::borrow_raw(stream.as_raw_fd())
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
