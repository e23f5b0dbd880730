//! What a descriptor waits for.

use std::{fmt, task::Waker};

use super::ready::{self, Token};

/// A wait that the runtime holds.
pub(in crate::driver) trait Wait {
    /// To be asked when its waker was woken. A runtime that cannot tell says yes: the read or send that follows will find out.
    fn is_over(&mut self, waker: &Waker) -> bool;
}

/// Whether a descriptor waits, in one direction.
pub(in crate::driver) enum Interest<W> {
    /// Nobody wants to know.
    Idle,
    /// The runtime will say.
    Waiting(W),
    /// It is ready: a token stands in the ready list, or the socket in a queue of the tick.
    Ready,
}

impl<W: Wait> Interest<W> {
    /// Whether nobody wants to know.
    pub(in crate::driver) fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    /// Whether it stands in line.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    /// Whether the runtime holds a wait for it.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }

    /// Waits by `begin`, unless it does already; when that is over `token` is in the ready list.
    pub(in crate::driver) fn wait(
        &mut self,
        token: Token,
        begin: impl FnOnce(&Waker) -> Option<W>,
    ) {
        if !self.is_idle() {
            return;
        }
        *self = match begin(&token.waker()) {
            Some(wait) => Self::Waiting(wait),
            None => {
                ready::push(token);
                Self::Ready
            }
        };
    }

    /// To be asked when its token was in the ready list: true if it is ready indeed, and now idle. A token may be
    /// stale, left by a socket that had the same slot before.
    pub(in crate::driver) fn take_ready(&mut self, token: Token) -> bool {
        let ready = match self {
            Self::Idle => false,
            Self::Ready => true,
            Self::Waiting(wait) => wait.is_over(&token.waker()),
        };
        if ready {
            *self = Self::Idle;
        }
        ready
    }
}

impl<W> fmt::Debug for Interest<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Waiting(_) => "waiting",
            Self::Ready => "ready",
        })
    }
}
