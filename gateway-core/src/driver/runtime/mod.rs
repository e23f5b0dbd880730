//! A shard on an asynchronous runtime: what such drivers have in common.
//!
//! There is no task per connection. The runtime's main future *is* the tick; each socket that waits has one pending poll
//! operation, whose waker is the socket's number (`ready.rs`). Reading and sending are nonblocking calls: by measurement the
//! ring makes a send no cheaper, and an idle connection needs no buffer that way, only its pending poll.
//!
//! What is particular to a runtime is behind three traits: [`Runtime`] has the tick polled, [`Watched`] is a descriptor whose
//! readiness it tells, and [`Stream`] one that it reads and writes.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    task::{Context, Waker},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown},
};

use super::{Clock, mailbox::Bell};

mod accept;
mod interest;
mod read;
mod ready;
mod run;
mod send;
mod table;

pub(super) use interest::{Interest, Wait};
pub(super) use ready::Token;
pub(super) use run::run;

/// What polls the tick.
pub(super) trait Runtime: Sized {
    /// A connection.
    type Stream: Stream;
    /// A listening socket.
    type Listener: Watched;

    /// Begins on this thread, within its runtime. From now on the bell wakes the tick, by [`Token::Bell`] if it likes.
    ///
    /// # Errors
    /// The kernel refuses a registration.
    fn start(tick: &Waker, clock: Clock, bell: &Bell) -> io::Result<Self>;

    /// [`Token::Bell`] was in the ready list.
    fn bell_rang(&mut self, bell: &Bell);

    /// Has the tick polled again once the runtime has looked for completions.
    fn again(&mut self, cx: &mut Context<'_>);

    /// Has the tick polled at `deadline` at the latest.
    fn wake_at(&mut self, deadline: Duration, cx: &mut Context<'_>);

    /// The tick has ended. It is not to be woken any more.
    fn end(self, bell: &Bell);
}

/// A descriptor whose readiness the runtime tells.
pub(super) trait Watched: AsFd + Sized {
    /// A wait that is pending.
    type Wait: Wait;

    /// Registers with the runtime of this thread.
    ///
    /// # Errors
    /// The kernel has no room for it.
    fn new(fd: OwnedFd) -> io::Result<Self>;

    /// Begins to wait until it can be read: `waker` is woken then. `None`: it can be read now.
    ///
    /// It tells levels: what can be read now is ready at once, so data may be left behind at will.
    fn await_readable(&mut self, waker: &Waker) -> Option<Self::Wait>;

    /// Ends the connection, or what it is.
    fn shut_down(&self, how: Shutdown) {
        // The only error is that the peer has ended it already.
        let _ = shutdown(self, how);
    }
}

/// A connection.
pub(super) trait Stream: Watched {
    /// As [`Watched::await_readable`], for room. Only after a [`send`](Self::send) that found too little.
    fn await_writable(&mut self, waker: &Waker) -> Option<Self::Wait>;

    /// Reads what is there. `AGAIN`: nothing is; `waker` may be woken when something comes.
    ///
    /// # Errors
    /// The kernel's.
    fn recv(&mut self, buffer: &mut [u8], _waker: &Waker) -> Result<usize, Errno> {
        recv(self, buffer, RecvFlags::DONTWAIT).map(|(_, n)| n)
    }

    /// Sends what there is room for. `AGAIN`: there is none; `waker` may be woken when there is.
    ///
    /// # Errors
    /// The kernel's.
    fn send(&mut self, bytes: &[u8], _waker: &Waker) -> Result<usize, Errno> {
        send(self, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
    }

    /// Closes it. `waits`: something is pending.
    fn hang_up(self, waits: bool) {
        // A pending poll holds the descriptor open until it completes: this makes it complete.
        if waits {
            self.shut_down(Shutdown::Both);
        }
    }

    /// A descriptor of the same socket that is free of this thread's runtime. A pending poll may go on for the old one.
    ///
    /// # Errors
    /// No descriptor is left.
    fn detach(self) -> io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }
}
