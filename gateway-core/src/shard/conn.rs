//! What a shard keeps of one client connection.

use std::net::SocketAddr;

use thin_vec::ThinVec;

use super::{outbox::Outbox, registry::UserIndex, topics::Membership, upstream::Assignments};
use crate::ws::Session;

/// One client connection: two cache lines, of which a push and its send touch the first. Everything that an idle one does
/// not need is boxed or empty.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Conn {
    /// What is on its way to it.
    pub outbox: Outbox,
    /// How far it has come.
    pub phase: Phase,
    /// It stands in the queue of those whose send is urgent, or in that of the others; it may stand in both.
    pub queued: Queued,
    /// Something pending is urgent.
    pub urgent: bool,
    /// Its socket is not read.
    pub paused: bool,
    /// It has sent messages.
    pub chatty: bool,
    /// Whose it is. `None`: anonymous, or not known yet.
    pub user: Option<UserIndex>,
    /// What it has received in part.
    pub session: Session,
    /// Topics it belongs to.
    pub memberships: ThinVec<Membership>,
    /// The streams that get its events, if it is anonymous.
    pub assignments: Assignments,
    /// When something was heard from it last, in milliseconds of the shard's clock.
    pub heard_ms: u64,
    /// Its live entry among the deadlines; 0: none.
    pub armed_ms: u64,
    /// How many fan-outs had begun when it came: those do not reach it.
    pub born: u64,
}

/// The queues of those with something to send in which a connection stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// That of urgent sends.
    pub soon: bool,
    /// That of all others.
    pub later: bool,
}

/// How far a connection has come.
#[derive(Debug)]
pub enum Phase {
    /// Its request has not come whole.
    Handshaking(Box<Handshake>),
    /// Messages go to and fro.
    Open {
        /// When a ping was sent that has not been answered; 0: none.
        pinged_ms: u64,
    },
    /// The client has sent Close; what it sent before it is not acknowledged yet.
    Lingering(Box<Linger>),
    /// The last bytes are in the outbox.
    Closing {
        /// When it is cut off.
        until_ms: u64,
        /// What is still to come from the client.
        awaits: Awaits,
    },
    /// The last bytes were sent; the client's end is waited for.
    Finished {
        /// When it is cut off.
        until_ms: u64,
    },
}

/// A client's Close that is not answered yet.
#[derive(Debug)]
pub struct Linger {
    /// When the answer is sent in any case.
    pub until_ms: u64,
    /// What it said.
    pub close: ClientClose,
}

/// A client's Close.
#[derive(Debug, Default)]
pub struct ClientClose {
    /// `None`: it gave none.
    pub code: Option<u16>,
    /// At most 123 bytes.
    pub reason: Box<str>,
}

/// What is still to come from a client that is being closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaits {
    /// Its Close.
    Close,
    /// The end of its stream. Whatever comes before that is thrown away, so that the kernel does not answer it with a
    /// reset, which would take our last words with it.
    End,
    /// Nothing: both have sent their Close.
    Nothing,
}

/// A connection before its request has come whole. It can move to another shard.
#[derive(Debug)]
pub struct Handshake {
    /// The client's address.
    pub peer: SocketAddr,
    /// What it has sent.
    pub bytes: Vec<u8>,
    /// When it must be done, in milliseconds of the gateway's clock.
    pub until_ms: u64,
    /// It has been moved already: never again.
    pub moved: bool,
}

impl Conn {
    /// A connection that has just been accepted, or has moved here.
    pub fn new(handshake: Handshake) -> Self {
        Self {
            heard_ms: 0,
            phase: Phase::Handshaking(Box::new(handshake)),
            session: Session::new(),
            outbox: Outbox::default(),
            user: None,
            memberships: ThinVec::new(),
            assignments: ThinVec::new(),
            armed_ms: 0,
            born: 0,
            queued: Queued::default(),
            urgent: false,
            paused: false,
            chatty: false,
        }
    }

    /// Whether it is reached by pushes.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open { .. } | Phase::Lingering(_))
    }

    #[cfg(test)]
    pub fn for_tests() -> Self {
        Self::new(Handshake {
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            bytes: Vec::new(),
            until_ms: 0,
            moved: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn a_push_touches_one_cache_line_of_a_connection() {
        assert_eq!(size_of::<Conn>(), 128);
        assert!(offset_of!(Conn, user) + size_of::<Option<UserIndex>>() <= 64);
    }
}
