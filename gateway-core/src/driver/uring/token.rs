//! What a completion is about: the user data that its request carries.

use crate::identity::{ConnId, ShardIndex};

/// Which request completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Nobody waits for it.
    Nothing,
    /// The time of a sleep is over.
    Alarm,
    /// The mailbox's bell can be read.
    Bell,
    /// Another ring of the shard has completions.
    Ring(u32),
    /// A listener for services has connections.
    Listener(u32),
    /// A pending accept of clients.
    Accept(u32),
    /// A direct descriptor becomes an ordinary one, to move away.
    Leave(u32),
    /// The send of that number in this tick.
    Send(u32),
    /// A client's bytes.
    Receive(Key),
    /// A client's socket has room.
    Room(Key),
    /// A link can be read.
    LinkReadable(Key),
    /// A link's socket has room.
    LinkRoom(Key),
}

/// A socket by place and generation: a completion that comes late names a socket that is gone, never a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// The place in the shard's slab, below 2^24.
    pub(super) place: u32,
    /// Which of the place's sockets it is.
    pub(super) generation: u32,
}

impl Key {
    /// A client's.
    pub(super) fn of(conn: ConnId) -> Self {
        Self {
            place: conn.slot() as u32,
            generation: conn.generation(),
        }
    }

    /// The client's id on its shard.
    pub(super) fn conn(self, shard: ShardIndex) -> ConnId {
        ConnId::new(shard, self.place, self.generation)
    }
}

impl Token {
    /// Kind (8 bits), place or number (24), generation (32), from the top.
    pub(super) fn pack(self) -> u64 {
        let (kind, place, generation) = match self {
            Self::Nothing => (0, 0, 0),
            Self::Alarm => (11, 0, 0),
            Self::Bell => (1, 0, 0),
            Self::Ring(at) => (2, at, 0),
            Self::Listener(at) => (3, at, 0),
            Self::Accept(at) => (4, at, 0),
            Self::Leave(at) => (5, at, 0),
            Self::Send(at) => (6, at, 0),
            Self::Receive(key) => (7, key.place, key.generation),
            Self::Room(key) => (8, key.place, key.generation),
            Self::LinkReadable(key) => (9, key.place, key.generation),
            Self::LinkRoom(key) => (10, key.place, key.generation),
        };
        debug_assert!(place < 1 << 24);
        kind << 56 | u64::from(place) << 32 | u64::from(generation)
    }

    /// The token that was packed.
    pub(super) fn unpack(packed: u64) -> Self {
        let at = (packed >> 32) as u32 & 0xff_ffff;
        let key = Key {
            place: at,
            generation: packed as u32,
        };
        match packed >> 56 {
            1 => Self::Bell,
            2 => Self::Ring(at),
            3 => Self::Listener(at),
            4 => Self::Accept(at),
            5 => Self::Leave(at),
            6 => Self::Send(at),
            7 => Self::Receive(key),
            8 => Self::Room(key),
            9 => Self::LinkReadable(key),
            10 => Self::LinkRoom(key),
            11 => Self::Alarm,
            _ => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        let key = Key {
            place: (1 << 24) - 1,
            generation: u32::MAX,
        };
        for token in [
            Token::Nothing,
            Token::Alarm,
            Token::Bell,
            Token::Ring(3),
            Token::Listener(2),
            Token::Accept(63),
            Token::Leave(1),
            Token::Send(4095),
            Token::Receive(key),
            Token::Room(key),
            Token::LinkReadable(key),
            Token::LinkRoom(key),
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }

    #[test]
    fn a_key_gives_the_conn_back() {
        let conn = ConnId::new(5, 4_194_303, 0xdead_beef);
        assert_eq!(Key::of(conn).conn(5), conn);
    }
}
