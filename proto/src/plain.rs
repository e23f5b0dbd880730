//! The messages that nearly all traffic consists of, read where they lie: pushes for one user, with nothing else asked for.
//!
//! What holds more than a user, a payload and its kind, and what is wrong in any way, is for prost: the answer is `None`
//! then. What is read here prost reads alike; a test compares the two on whatever it can think of.

/// A part of the bytes that a message was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

/// A [`MessageRequest`](crate::v1::MessageRequest) for one user, in the bytes that it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// The user: UTF-8, of any length.
    pub user: Span,
    /// What the client gets.
    pub payload: Span,
    /// A [`PayloadKind`](crate::v1::PayloadKind), or a number that none of them has.
    pub kind: i32,
}

/// What a [`LogicFrame`](crate::v1::LogicFrame) has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// One push.
    Push(Plain),
    /// A batch of them.
    Batch(Vec<Plain>),
}

impl Span {
    /// The part of `bytes`, which must be those that the message was read from.
    #[must_use]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

impl Plain {
    /// Copies the push from the bytes it was read from behind others, where it is found again by what comes back. Together
    /// they must stay below 4 GiB.
    #[must_use]
    pub fn copy(&self, from: &[u8], to: &mut Vec<u8>) -> Self {
        let mut copy = |span: Span| {
            let start = to.len() as u32;
            to.extend_from_slice(span.of(from));
            let end = to.len() as u32;
            Span { start, end }
        };
        Self {
            user: copy(self.user),
            payload: copy(self.payload),
            kind: self.kind,
        }
    }
}

/// Reads a [`LogicFrame`](crate::v1::LogicFrame): its sequence and its pushes.
#[must_use]
pub fn frame(bytes: &[u8]) -> Option<(u64, Body)> {
    let mut reader = Reader::of(bytes)?;
    let (mut sequence, mut body) = (None, None);
    while let Some(key) = reader.key() {
        match key {
            SEQUENCE if sequence.is_none() => sequence = Some(reader.varint()?),
            PUSH if body.is_none() => body = Some(Body::Push(reader.nested()?.request()?)),
            BATCH if body.is_none() => body = Some(Body::Batch(reader.nested()?.batch()?)),
            _ => return None,
        }
    }
    Some((sequence.unwrap_or_default(), body?))
}

/// Reads a [`MessageRequest`](crate::v1::MessageRequest).
#[must_use]
pub fn request(bytes: &[u8]) -> Option<Plain> {
    Reader::of(bytes)?.request()
}

/// Reads a [`PushBatch`](crate::v1::PushBatch).
#[must_use]
pub fn batch(bytes: &[u8]) -> Option<Vec<Plain>> {
    Reader::of(bytes)?.batch()
}

// Keys of fields: number << 3 | wire type (0: varint, 2: bytes). All numbers here are below 16, so keys are single bytes.
const SEQUENCE: u8 = 1 << 3;
const PUSH: u8 = 3 << 3 | 2;
const BATCH: u8 = 4 << 3 | 2;
const MESSAGES: u8 = 1 << 3 | 2;
const USER: u8 = 1 << 3 | 2;
const PAYLOAD: u8 = 6 << 3 | 2;
const KIND: u8 = 7 << 3;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        u32::try_from(bytes.len()).is_ok().then_some(Self {
            bytes,
            at: 0,
            end: bytes.len(),
        })
    }

    /// Reads to the end; each field at most once, in any order.
    fn request(mut self) -> Option<Plain> {
        let (mut user, mut payload, mut kind) = (None, None, None);
        while let Some(key) = self.key() {
            match key {
                USER if user.is_none() => user = Some(self.span()?),
                PAYLOAD if payload.is_none() => payload = Some(self.span()?),
                // As prost does: what is too large for an enum is cut.
                KIND if kind.is_none() => kind = Some(self.varint()? as i32),
                _ => return None,
            }
        }
        let user = user?;
        std::str::from_utf8(user.of(self.bytes)).ok()?;
        Some(Plain {
            user,
            payload: payload.unwrap_or(Span { start: 0, end: 0 }),
            kind: kind.unwrap_or_default(),
        })
    }

    fn batch(mut self) -> Option<Vec<Plain>> {
        let mut messages = Vec::new();
        while let Some(key) = self.key() {
            match key {
                MESSAGES => messages.push(self.nested()?.request()?),
                _ => return None,
            }
        }
        Some(messages)
    }

    fn key(&mut self) -> Option<u8> {
        (self.at < self.end).then(|| self.byte())
    }

    fn nested(&mut self) -> Option<Self> {
        let span = self.span()?;
        Some(Self {
            bytes: self.bytes,
            at: span.start as usize,
            end: span.end as usize,
        })
    }

    fn span(&mut self) -> Option<Span> {
        let start = {
            let length = usize::try_from(self.varint()?).ok()?;
            let start = self.at;
            self.at = start.checked_add(length).filter(|end| *end <= self.end)?;
            start
        };
        // Both fit: `of` has seen to it.
        Some(Span {
            start: start as u32,
            end: self.at as u32,
        })
    }

    /// At most ten bytes, of which the last one is 0 or 1.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            if self.at == self.end {
                return None;
            }
            let byte = self.byte();
            if shift == 63 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn byte(&mut self) -> u8 {
        let byte = self.bytes[self.at];
        self.at += 1;
        byte
    }
}
