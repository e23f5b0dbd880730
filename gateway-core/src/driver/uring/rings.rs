//! The rings of a shard. A table of direct descriptors holds at most as many as the process may have ordinary ones, so a
//! shard with more connections has several rings.
//!
//! It sleeps on the first ring only. The others ring an eventfd each, which the first one polls: a `DEFER_TASKRUN` ring's
//! own descriptor must not be polled from another ring.

use std::{io, os::fd::OwnedFd};

use rustix::{
    event::{EventfdFlags, PollFlags, eventfd},
    io::{Errno, read},
};

use super::{
    ring::{Completion, Ring, Shape, Sleep},
    token::Token,
};

/// Most rings of a shard: 8 bits of a [`Place`].
const MOST: usize = 1 << 8;

/// A place in the table of one of the rings: ring (8 bits) and number (24).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u32);

/// All rings of a shard.
pub(super) struct Rings {
    shape: Shape,
    rings: Vec<Ring>,
    /// The eventfds of all but the first.
    bells: Vec<OwnedFd>,
    /// Whose completions are taken next.
    turn: usize,
}

impl Place {
    fn new(ring: usize, number: u32) -> Self {
        debug_assert!(ring < MOST && number < 1 << 24);
        Self((ring as u32) << 24 | number)
    }

    fn ring(self) -> usize {
        (self.0 >> 24) as usize
    }

    /// The place's number in the table of its ring.
    pub(super) fn number(self) -> u32 {
        self.0 & 0xff_ffff
    }
}

impl Rings {
    /// One ring to begin with.
    ///
    /// # Errors
    /// As [`Ring::new`].
    pub(super) fn new(shape: Shape) -> io::Result<Self> {
        Ok(Self {
            shape,
            rings: vec![Ring::new(shape)?],
            bells: Vec::new(),
            turn: 0,
        })
    }

    /// The ring that is slept on: for everything that has no place.
    pub(super) fn first(&mut self) -> &mut Ring {
        &mut self.rings[0]
    }

    /// The ring of a place.
    pub(super) fn of(&mut self, place: Place) -> &mut Ring {
        &mut self.rings[place.ring()]
    }

    /// The ring of that number.
    pub(super) fn at(&mut self, ring: usize) -> &mut Ring {
        &mut self.rings[ring]
    }

    /// Takes a free place. When there is none, builds one more ring.
    ///
    /// # Errors
    /// There are too many rings, or the kernel allows no more.
    pub(super) fn take_place(&mut self) -> io::Result<Place> {
        for (at, ring) in self.rings.iter_mut().enumerate() {
            if let Some(number) = ring.take_place() {
                return Ok(Place::new(at, number));
            }
        }
        let at = self.grow()?;
        let number = self.rings[at].take_place();
        Ok(Place::new(at, number.ok_or(Errno::NFILE)?))
    }

    /// Gives back a place in which nothing is.
    pub(super) fn give_place(&mut self, place: Place) {
        self.of(place).give_place(place.number());
    }

    /// Whether one more request can be made of any ring that must not wait.
    pub(super) fn have_room(&mut self) -> bool {
        self.rings.iter_mut().all(Ring::has_room)
    }

    /// Enters every ring that has something to hand over or to take; with `sleep`, not before a ring has completions, or its
    /// time is over.
    ///
    /// # Errors
    /// As [`Ring::enter`].
    pub(super) fn enter(&mut self, mut sleep: Option<Sleep>) -> io::Result<()> {
        let Some((first, others)) = self.rings.split_first_mut() else {
            return Ok(());
        };
        for ring in others {
            if ring.has_news() {
                ring.enter(None)?;
            }
            // An enter that does not wait does 20 pieces of work at most (since Linux 6.14), and no bell rings for the
            // rest.
            if ring.has_completions() || ring.has_news() {
                sleep = None;
            }
        }
        match sleep {
            Some(_) => first.enter(sleep),
            None if first.has_news() => first.enter(None),
            None => Ok(()),
        }
    }

    /// Whether a ring has something to take, as far as can be seen without a system call.
    pub(super) fn have_news(&mut self) -> bool {
        self.rings.iter_mut().any(Ring::has_news)
    }

    /// The next completion, and its ring. Rings take turns.
    pub(super) fn next(&mut self) -> Option<(usize, Completion)> {
        for _ in 0..self.rings.len() {
            let at = self.turn % self.rings.len();
            if let Some(completion) = self.rings[at].next() {
                return Some((at, completion));
            }
            self.turn = at + 1;
        }
        None
    }

    /// Whether completions wait to be taken.
    pub(super) fn have_completions(&self) -> bool {
        self.rings.iter().any(Ring::has_completions)
    }

    /// The sends that were not done in full, of all rings: by number, with the result.
    pub(super) fn take_short(&mut self) -> impl Iterator<Item = (u32, i32)> + '_ {
        self.rings.iter_mut().flat_map(Ring::take_short)
    }

    /// Another ring has rung its bell: silences it. What the ring has is taken in the next [`Rings::enter`].
    pub(super) fn rang(&mut self, ring: u32) {
        if let Some(bell) = self.bells.get((ring as usize).wrapping_sub(1)) {
            let _ = read(bell, &mut [0; 8]);
        }
    }

    /// Waits for another ring's bell.
    pub(super) fn await_bell(&mut self, ring: u32) {
        if let Some(bell) = self.bells.get((ring as usize).wrapping_sub(1)) {
            self.rings[0].poll(bell, PollFlags::IN, true, Token::Ring(ring));
        }
    }

    /// Ends everything.
    pub(super) fn hang_up(&mut self) {
        self.rings.iter_mut().for_each(Ring::hang_up);
    }

    fn grow(&mut self) -> io::Result<usize> {
        let at = self.rings.len();
        if at == MOST {
            return Err(Errno::NFILE.into());
        }
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let ring = Ring::new(self.shape)?;
        ring.ring_with(&bell)?;
        self.rings.push(ring);
        self.bells.push(bell);
        self.await_bell(at as u32);
        Ok(at)
    }
}
