//! What the kernel's errors mean, whichever driver meets them.

use std::time::Duration;

use rustix::io::Errno;

use crate::shard::Closed;

/// How long a listener rests after an error that passes only when others give something back: at first, and at most.
const REST: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(640));

/// What an error of a read or a send means.
pub(super) fn ended(error: Errno) -> Closed {
    match error {
        Errno::CONNRESET | Errno::PIPE | Errno::TIMEDOUT => Closed::Reset,
        _ => Closed::Failed,
    }
}

/// The label of an accept that failed.
pub(super) fn accept_reason(error: Errno) -> &'static str {
    match error {
        Errno::MFILE | Errno::NFILE => "descriptors",
        Errno::NOBUFS | Errno::NOMEM => "memory",
        // The connection was gone before it was taken: Linux passes its network errors on (accept(2)).
        Errno::CONNABORTED
        | Errno::PERM
        | Errno::PROTO
        | Errno::NOPROTOOPT
        | Errno::OPNOTSUPP
        | Errno::NETDOWN
        | Errno::NETUNREACH
        | Errno::NONET
        | Errno::HOSTDOWN
        | Errno::HOSTUNREACH => ABORTED,
        _ => "other",
    }
}

/// The label of an accept whose connection was gone: no reason to rest.
pub(super) const ABORTED: &str = "aborted";

/// How long a listener rests: longer each time, until something works again.
#[derive(Debug)]
pub(super) struct Rest(Duration);

impl Rest {
    /// Something worked.
    pub(super) fn is_over(&mut self) {
        self.0 = REST.0;
    }

    /// How long to rest after this error. Only the first of a row is logged.
    pub(super) fn after(&mut self, shard: u16, error: Errno) -> Duration {
        let rest = self.0;
        if rest == REST.0 {
            tracing::warn!(
                shard,
                %error,
                "cannot accept; connections wait in the backlog until it works again"
            );
        }
        self.0 = (rest * 2).min(REST.1);
        rest
    }
}

impl Default for Rest {
    fn default() -> Self {
        Self(REST.0)
    }
}
