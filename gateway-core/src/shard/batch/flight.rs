//! A batch on its way: what the kernel is offered, and how far it has taken it.

use bytes::Bytes;

use super::Batch;

/// A frame that is too long to be copied for everybody who gets it.
#[derive(Debug)]
pub(super) struct Shared {
    /// So many of the batch's own bytes go before it, and so many messages.
    pub(super) at: usize,
    pub(super) messages: usize,
    pub(super) frame: Bytes,
}

/// What was sent: of the own bytes, of the shared frames, and of the next of these; and the messages in it, as far as they
/// were told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flown {
    pub(super) own: usize,
    pub(super) frames: usize,
    pub(super) part: usize,
    pub(super) messages: usize,
}

/// What is left of a flight when the kernel took some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// More of what it was offered.
    Rest,
    /// What it was not offered yet: the next bytes lie elsewhere.
    Next,
}

impl Batch {
    /// The next bytes of a flight that are still to be sent: those that lie together.
    #[inline]
    fn unsent(&self) -> &[u8] {
        let Flown {
            own, frames, part, ..
        } = self.flown;
        match self.shared.get(frames) {
            None => &self.bytes[own..],
            Some(next) if next.at == own => &next.frame[part..],
            Some(next) => &self.bytes[own..next.at],
        }
    }

    /// [`Batch::unsent`] is the kernel's until it was taken.
    pub fn offer(&mut self) -> &[u8] {
        self.offered = true;
        self.unsent()
    }

    /// Whether it was offered, and not all was taken.
    pub fn is_offered(&self) -> bool {
        self.offered
    }

    /// `n` of [`Batch::unsent`] were sent.
    #[inline]
    pub fn fly(&mut self, n: usize) -> Left {
        if !self.shared.is_empty() {
            return self.fly_on(n);
        }
        self.flown.own += n;
        if self.flown.own < self.bytes.len() {
            Left::Rest
        } else {
            Left::Nothing
        }
    }

    /// The same among shared frames.
    fn fly_on(&mut self, n: usize) -> Left {
        let offered = self.unsent().len();
        let flown = &mut self.flown;
        match self.shared.get(flown.frames) {
            Some(next) if next.at == flown.own => {
                flown.part += n;
                if flown.part >= next.frame.len() {
                    flown.frames += 1;
                    flown.part = 0;
                }
            }
            _ => flown.own += n,
        }
        if n < offered {
            Left::Rest
        } else if flown.own >= self.bytes.len() && flown.frames >= self.shared.len() {
            Left::Nothing
        } else {
            self.offered = false;
            Left::Next
        }
    }

    /// Messages that were sent since this was asked last.
    pub fn take_sent(&mut self) -> usize {
        let Flown {
            own, frames, part, ..
        } = self.flown;
        let sent = match self.shared.get(frames) {
            Some(next) if next.at == own && part == 0 => next.messages,
            None if own >= self.bytes.len() => self.messages(),
            _ => frames
                .checked_sub(1)
                .map_or(0, |last| self.shared[last].messages + 1),
        };
        sent - std::mem::replace(&mut self.flown.messages, sent)
    }
}
