//! Messages out of the bytes of one connection (RFC 6455 sections 5.4 to 5.6 and 8.1).
//!
//! A frame that lies whole in the input is delivered from there, without a copy. Only what is cut
//! by the end of the input, or fragmented by the client, is kept; the memory for it grows with the
//! bytes that came, never with those announced, and an idle session has none.

use super::close::{CloseCode, parse_close};
use super::frames::{Header, Opcode, unmask};
use partial::Partial;

mod partial;

#[cfg(test)]
mod tests;

/// How much one client may send at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimits {
    /// Bytes of a message, over all its fragments. Default 1 MiB.
    pub max_message: usize,
    /// Fragments of a message, the empty ones included. Default 131,072.
    pub max_fragments: u32,
}

impl Default for SessionLimits {
    fn default() -> SessionLimits {
        SessionLimits {
            max_message: 1 << 20,
            max_fragments: 1 << 17,
        }
    }
}

/// Something a client said. Borrowed from the input, or from the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// To be answered by a pong with the same payload, at most 125 bytes.
    Ping(&'a [u8]),
    /// The answer to a ping, or unasked for.
    Pong(&'a [u8]),
    /// The client's last word; nothing after it is read.
    Close {
        /// `None` when the client gave no code; otherwise one that may be echoed.
        code: Option<u16>,
        /// At most 123 bytes.
        reason: &'a str,
    },
}

/// What a client did wrong. Its connection ends with [`Violation::code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// Section 5.2: RSV bits belong to extensions, and none was agreed.
    #[error("reserved bits set without an extension")]
    ReservedBits,
    /// Section 5.2: opcodes 3-7 and 11-15.
    #[error("reserved opcode")]
    ReservedOpcode,
    /// Section 5.5: control frames are not fragmented.
    #[error("fragmented control frame")]
    FragmentedControl,
    /// Section 5.5: control frames carry at most 125 bytes.
    #[error("control frame over 125 bytes")]
    OversizeControl,
    /// Section 5.1: clients mask.
    #[error("unmasked frame")]
    Unmasked,
    /// Section 5.2: a length not in its shortest form, or with its highest bit set.
    #[error("bad frame length")]
    BadLength,
    /// Section 5.4: a continuation of nothing.
    #[error("continuation without a message")]
    UnexpectedContinuation,
    /// Section 5.4: a new message inside a fragmented one.
    #[error("message inside a fragmented message")]
    ExpectedContinuation,
    /// Section 5.5.1: a close payload of one byte.
    #[error("close frame of one byte")]
    BadClosePayload,
    /// Section 7.4: a close code that may not be sent.
    #[error("bad close code")]
    BadCloseCode,
    /// Section 8.1: text, or a close reason, that is not UTF-8.
    #[error("invalid UTF-8")]
    InvalidUtf8,
    /// A message over [`SessionLimits::max_message`].
    #[error("message too big")]
    TooBig,
    /// A message in more than [`SessionLimits::max_fragments`] fragments.
    #[error("too many fragments")]
    TooManyFragments,
}

impl Violation {
    /// The code to close with.
    pub const fn code(self) -> CloseCode {
        match self {
            Violation::InvalidUtf8 => CloseCode::InvalidUtf8,
            Violation::TooBig => CloseCode::TooBig,
            Violation::TooManyFragments => CloseCode::Policy,
            _ => CloseCode::Protocol,
        }
    }

    /// The metrics label.
    pub const fn label(self) -> &'static str {
        match self {
            Violation::ReservedBits => "reserved_bits",
            Violation::ReservedOpcode => "reserved_opcode",
            Violation::FragmentedControl => "fragmented_control",
            Violation::OversizeControl => "oversize_control",
            Violation::Unmasked => "unmasked",
            Violation::BadLength => "bad_length",
            Violation::UnexpectedContinuation => "unexpected_continuation",
            Violation::ExpectedContinuation => "expected_continuation",
            Violation::BadClosePayload => "bad_close_payload",
            Violation::BadCloseCode => "bad_close_code",
            Violation::InvalidUtf8 => "invalid_utf8",
            Violation::TooBig => "too_big",
            Violation::TooManyFragments => "too_many_fragments",
        }
    }
}

/// The receiving half of one connection, after its upgrade.
#[derive(Debug, Default)]
pub struct Session {
    partial: Option<Box<Partial>>,
    finished: bool,
}

impl Session {
    /// A session that has received nothing.
    pub fn new() -> Session {
        Session::default()
    }

    /// Takes bytes from the socket, unmasks them in place, and calls `on` for each event in order.
    ///
    /// Nothing is read after a close frame or a violation: what follows is thrown away, now and
    /// in later calls.
    ///
    /// # Errors
    ///
    /// The first rule the client broke. Events before it have been delivered.
    pub fn receive(
        &mut self,
        limits: &SessionLimits,
        bytes: &mut [u8],
        mut on: impl FnMut(Event<'_>),
    ) -> Result<(), Violation> {
        if self.finished {
            return Ok(());
        }
        let result = self.read(limits, bytes, &mut on);
        self.finished |= result.is_err();
        if self.finished
            || self
                .partial
                .as_ref()
                .is_some_and(|partial| partial.is_idle())
        {
            self.partial = None;
        }
        result
    }

    /// Bytes of memory held for what has come in part, for the shard's account.
    pub fn holds(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.holds())
    }

    /// Whether a frame or a fragmented message has begun and not ended.
    pub fn is_mid_message(&self) -> bool {
        self.partial.is_some()
    }

    /// Whether a close frame or a violation ended the session.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    fn read(
        &mut self,
        limits: &SessionLimits,
        mut bytes: &mut [u8],
        on: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Violation> {
        while !bytes.is_empty() && !self.finished {
            if !self.is_mid_frame() {
                let Some((header, taken)) = self.read_header(bytes)? else {
                    return Ok(());
                };
                bytes = &mut bytes[taken..];
                self.admit(limits, &header)?;
                let alone = header.fin && header.opcode != Opcode::Continue;
                if alone && header.length <= bytes.len() as u64 {
                    let (payload, rest) = bytes.split_at_mut(header.length as usize);
                    bytes = rest;
                    unmask(payload, header.mask, 0);
                    self.deliver(header.opcode, payload, on)?;
                    continue;
                }
                self.partial().begin(header);
            }
            let (taken, whole) = self.partial().take(bytes)?;
            bytes = &mut bytes[taken..];
            if let Some((opcode, payload)) = whole {
                self.deliver(opcode, &payload, on)?;
            }
        }
        Ok(())
    }

    /// The next header and how much of the input it took; a part of one is kept.
    fn read_header(&mut self, bytes: &[u8]) -> Result<Option<(Header, usize)>, Violation> {
        if self.partial.is_none()
            && let Some(found) = Header::decode(bytes)?
        {
            return Ok(Some(found));
        }
        self.partial().read_header(bytes)
    }

    /// Checks a header against the message under way and the limits, before any payload.
    fn admit(&self, limits: &SessionLimits, header: &Header) -> Result<(), Violation> {
        if header.opcode.is_control() {
            return Ok(());
        }
        let message = self
            .partial
            .as_ref()
            .and_then(|partial| partial.message.as_ref());
        let (before, fragments) = match (message, header.opcode) {
            (None, Opcode::Continue) => return Err(Violation::UnexpectedContinuation),
            (Some(message), Opcode::Continue) => (message.data.len(), message.fragments),
            (Some(_), _) => return Err(Violation::ExpectedContinuation),
            (None, _) => (0, 0),
        };
        if header.length > limits.max_message.saturating_sub(before) as u64 {
            return Err(Violation::TooBig);
        }
        if fragments >= limits.max_fragments {
            return Err(Violation::TooManyFragments);
        }
        Ok(())
    }

    /// Hands over a whole message or control frame.
    fn deliver(
        &mut self,
        opcode: Opcode,
        payload: &[u8],
        on: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Violation> {
        match opcode {
            Opcode::Text => {
                let text = simdutf8::basic::from_utf8(payload);
                on(Event::Text(text.map_err(|_| Violation::InvalidUtf8)?));
            }
            Opcode::Binary | Opcode::Continue => on(Event::Binary(payload)),
            Opcode::Ping => on(Event::Ping(payload)),
            Opcode::Pong => on(Event::Pong(payload)),
            Opcode::Close => {
                let (code, reason) = parse_close(payload)?;
                self.finished = true;
                on(Event::Close { code, reason });
            }
        }
        Ok(())
    }

    fn is_mid_frame(&self) -> bool {
        self.partial
            .as_ref()
            .is_some_and(|partial| partial.is_mid_frame())
    }

    fn partial(&mut self) -> &mut Partial {
        self.partial.get_or_insert_default()
    }
}
