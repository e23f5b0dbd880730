//! WebSocket frames (RFC 6455) out of a stream of bytes, from either side.

use crate::wire;

/// Bytes of one direction, from the end of the HTTP head on.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    at: usize,
    in_head: bool,
    /// The first line of the head, once it has come whole.
    status: Option<String>,
}

impl Frames {
    /// A request or an answer comes first.
    #[must_use]
    pub fn behind_head() -> Self {
        Self {
            in_head: true,
            ..Self::default()
        }
    }

    /// Bytes have come.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.in_head
            && let Some(end) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&self.bytes[..end]);
            self.status = head.lines().next().map(str::to_owned);
            self.bytes.drain(..end + 4);
            self.in_head = false;
        }
    }

    /// The first line of the head: once.
    pub fn take_status(&mut self) -> Option<String> {
        self.status.take()
    }

    /// The next frame: opcode and payload. Masks are those of our own clients: zero.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        if self.in_head {
            return None;
        }
        let rest = &self.bytes[self.at..];
        match wire::parse_any(rest) {
            Some(frame) => {
                self.at += frame.end;
                Some((frame.opcode, frame.payload.to_vec()))
            }
            None => {
                self.bytes.drain(..self.at);
                self.at = 0;
                None
            }
        }
    }
}
