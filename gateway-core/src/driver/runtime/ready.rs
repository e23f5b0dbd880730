//! Which sockets are ready: wakers that are numbers.
//!
//! A runtime usually finds the code that waits for a socket through a task per socket. The tick knows its sockets by number,
//! so the waker of a pending poll is just that number: waking appends it to the thread's ready list and flags the tick.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    ptr,
    task::{RawWaker, RawWakerVTable, Waker},
};

/// What is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) enum Token {
    /// The bell rang.
    Bell,
    /// A listener has connections.
    Listener(usize),
    /// A socket can be read.
    Read(Slot),
    /// A socket can be written.
    Write(Slot),
}

/// A place in the table of sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) enum Slot {
    /// Of a client.
    Conn(usize),
    /// Of a logic service.
    Link(usize),
}

thread_local! {
    static READY: RefCell<VecDeque<Token>> = const { RefCell::new(VecDeque::new()) };
    static TICK: Cell<Option<Waker>> = const { Cell::new(None) };
}

/// Says whom to wake when something is ready: the tick.
pub(super) fn on_ready(tick: Waker) {
    TICK.set(Some(tick));
}

/// Adds to the ready list without waking the tick: for the tick itself.
pub(super) fn push(token: Token) {
    READY.with_borrow_mut(|ready| ready.push_back(token));
}

/// Takes the next token, in order of arrival.
pub(super) fn pop() -> Option<Token> {
    READY.with_borrow_mut(VecDeque::pop_front)
}

/// Whether nothing is ready.
pub(super) fn is_empty() -> bool {
    READY.with_borrow(VecDeque::is_empty)
}

/// Forgets everything: a thread that runs one shard after another (tests do) must not mix them.
pub(super) fn clear() {
    READY.with_borrow_mut(VecDeque::clear);
    TICK.set(None);
}

impl Token {
    /// A waker that adds this token to the ready list of the thread it is woken on.
    pub(in crate::driver) fn waker(self) -> Waker {
        // SAFETY: the vtable's functions only turn the pointer back into the number it is; nothing is dereferenced,
        // owned or freed, so cloning, dropping and sending it elsewhere are harmless.
        #[allow(unsafe_code)]
        unsafe {
            Waker::from_raw(raw(self.pack()))
        }
    }

    fn pack(self) -> usize {
        match self {
            Self::Bell => 0,
            Self::Listener(at) => at << 3 | 1,
            Self::Read(Slot::Conn(at)) => at << 3 | 2,
            Self::Write(Slot::Conn(at)) => at << 3 | 3,
            Self::Read(Slot::Link(at)) => at << 3 | 4,
            Self::Write(Slot::Link(at)) => at << 3 | 5,
        }
    }

    fn unpack(packed: usize) -> Self {
        let at = packed >> 3;
        match packed & 7 {
            1 => Self::Listener(at),
            2 => Self::Read(Slot::Conn(at)),
            3 => Self::Write(Slot::Conn(at)),
            4 => Self::Read(Slot::Link(at)),
            5 => Self::Write(Slot::Link(at)),
            _ => Self::Bell,
        }
    }
}

const VTABLE: RawWakerVTable = RawWakerVTable::new(
    |packed| raw(packed.addr()),
    |packed| wake(packed.addr()),
    |packed| wake(packed.addr()),
    |_| (),
);

fn raw(packed: usize) -> RawWaker {
    RawWaker::new(ptr::without_provenance(packed), &VTABLE)
}

fn wake(packed: usize) {
    push(Token::unpack(packed));
    if let Some(tick) = TICK.take() {
        tick.wake_by_ref();
        TICK.set(Some(tick));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakers_keep_their_token() {
        clear();
        let tokens = [
            Token::Bell,
            Token::Listener(2),
            Token::Read(Slot::Conn(4_194_303)),
            Token::Write(Slot::Conn(0)),
            Token::Read(Slot::Link(1)),
            Token::Write(Slot::Link(u32::MAX as usize)),
        ];
        for token in tokens {
            let waker = token.waker();
            let copy = waker.clone();
            drop(waker);
            copy.wake();
        }
        let ready: Vec<_> = std::iter::from_fn(pop).collect();
        assert_eq!(ready, tokens);
        assert!(is_empty());
    }
}
