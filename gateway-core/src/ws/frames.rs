//! Frames (RFC 6455 section 5): writing those of a server, reading the headers of a client's.

use super::session::Violation;

/// Longest header of a frame the gateway sends, in bytes.
pub const MAX_HEADER: usize = 10;

/// Longest header of a frame a client sends, in bytes: it carries a mask.
pub const MAX_CLIENT_HEADER: usize = MAX_HEADER + 4;

/// Longest payload of a control frame, in bytes (RFC 6455 section 5.5).
pub const MAX_CONTROL_PAYLOAD: usize = 125;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// What a frame carries (RFC 6455 section 11.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// More of a message.
    Continue = 0,
    /// A text message, or its first fragment.
    Text = 1,
    /// A binary message, or its first fragment.
    Binary = 2,
    /// The end of the conversation.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping, or says "still here".
    Pong = 10,
}

impl Opcode {
    /// Control frames may stand between the fragments of a message and are never fragmented.
    pub const fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }

    const fn from_bits(bits: u8) -> Option<Opcode> {
        Some(match bits {
            0 => Opcode::Continue,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }
}

/// Appends a whole, unmasked frame; `out` is reserved once, for exactly what is missing.
///
/// A control frame's payload must be at most [`MAX_CONTROL_PAYLOAD`] bytes.
pub fn encode(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    out.reserve(encoded_len(payload.len()));
    encode_header(opcode, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Appends the header of a whole, unmasked frame whose payload of `length` bytes follows.
pub fn encode_header(opcode: Opcode, length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(Head::new(opcode, length).bytes());
}

/// The header of a whole, unmasked frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head {
    bytes: [u8; MAX_HEADER],
    length: u8,
}

impl Head {
    /// That of a frame whose payload has `length` bytes.
    pub fn new(opcode: Opcode, length: usize) -> Self {
        debug_assert!(!opcode.is_control() || length <= MAX_CONTROL_PAYLOAD);
        let mut bytes = [0; MAX_HEADER];
        bytes[0] = FIN | opcode as u8;
        let length = if let Ok(short @ 0..LENGTH_16) = u8::try_from(length) {
            bytes[1] = short;
            2
        } else if let Ok(medium) = u16::try_from(length) {
            bytes[1] = LENGTH_16;
            bytes[2..4].copy_from_slice(&medium.to_be_bytes());
            4
        } else {
            bytes[1] = LENGTH_64;
            bytes[2..].copy_from_slice(&(length as u64).to_be_bytes());
            MAX_HEADER as u8
        };
        Self { bytes, length }
    }

    /// Its bytes; none for [`Head::default`].
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Bytes of a frame that carries `payload` bytes, as [`encode`] writes it.
pub const fn encoded_len(payload: usize) -> usize {
    payload
        + match payload {
            0..=125 => 2,
            126..=0xffff => 4,
            _ => MAX_HEADER,
        }
}

/// Takes the mask off a part of a payload that begins `offset` bytes into it
/// (RFC 6455 section 5.3). Masking is the same operation.
pub fn unmask(payload: &mut [u8], key: [u8; 4], offset: usize) {
    let key: [u8; 4] = std::array::from_fn(|i| key[(offset + i) % 4]);
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// The header of a frame from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) fin: bool,
    pub(super) opcode: Opcode,
    pub(super) mask: [u8; 4],
    /// Payload bytes announced, not yet there.
    pub(super) length: u64,
}

impl Header {
    /// Reads a header and says how many bytes it took; `None` when more bytes are needed.
    ///
    /// # Errors
    ///
    /// Whatever is wrong is told by the first byte that shows it, not when the header is complete.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<(Header, usize)>, Violation> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        if first & RESERVED != 0 {
            return Err(Violation::ReservedBits);
        }
        let fin = first & FIN != 0;
        let opcode = Opcode::from_bits(first & 0x0f).ok_or(Violation::ReservedOpcode)?;
        if opcode.is_control() && !fin {
            return Err(Violation::FragmentedControl);
        }
        let Some(&second) = bytes.get(1) else {
            return Ok(None);
        };
        if second & MASKED == 0 {
            return Err(Violation::Unmasked);
        }
        let short = second & !MASKED;
        if opcode.is_control() && usize::from(short) > MAX_CONTROL_PAYLOAD {
            return Err(Violation::OversizeControl);
        }
        let Some((length, at)) = decode_length(short, bytes)? else {
            return Ok(None);
        };
        let Some(mask) = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>) else {
            return Ok(None);
        };
        let header = Header {
            fin,
            opcode,
            mask: *mask,
            length,
        };
        Ok(Some((header, at + 4)))
    }
}

/// The payload length, and where it ends in the header.
fn decode_length(short: u8, bytes: &[u8]) -> Result<Option<(u64, usize)>, Violation> {
    let (length, least, end) = match short {
        LENGTH_16 => match bytes.get(2..4).and_then(<[u8]>::first_chunk::<2>) {
            Some(length) => (u64::from(u16::from_be_bytes(*length)), 126, 4),
            None => return Ok(None),
        },
        LENGTH_64 => match bytes.get(2..10).and_then(<[u8]>::first_chunk::<8>) {
            Some(length) => (u64::from_be_bytes(*length), 1 << 16, 10),
            None => return Ok(None),
        },
        short => (u64::from(short), 0, 2),
    };
    // Section 5.2: the shortest form that fits, and never the highest bit.
    if length < least || length >> 63 != 0 {
        return Err(Violation::BadLength);
    }
    Ok(Some((length, end)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;
    use tungstenite::protocol::frame::{FrameHeader, coding};

    fn theirs(opcode: Opcode) -> coding::OpCode {
        coding::OpCode::from(opcode as u8)
    }

    // The lengths at which the form of the header changes.
    #[test]
    fn what_is_encoded_is_read_by_tungstenite_and_reserved_once() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 65_537] {
            let payload = vec![7; length];
            let mut out = Vec::new();
            encode(Opcode::Binary, &payload, &mut out);
            assert_eq!(out.len(), encoded_len(length));
            assert!(out.capacity() <= out.len().max(8), "a Vec begins with 8");
            let mut cursor = Cursor::new(&out);
            let (header, announced) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
            assert!(header.is_final && header.mask.is_none());
            assert_eq!(header.opcode, theirs(Opcode::Binary));
            assert_eq!(announced, length as u64);
            assert_eq!(&out[cursor.position() as usize..], payload);
        }
    }

    proptest! {
        #[test]
        fn headers_of_tungstenite_are_read_alike_and_never_too_early(
            fin: bool, opcode in 0u8..3, mask: [u8; 4],
            length in prop_oneof![0u64..70_000, 0..1u64 << 63],
        ) {
            let opcode = Opcode::from_bits(opcode).unwrap();
            let mut bytes = Vec::new();
            let header = FrameHeader { is_final: fin, opcode: theirs(opcode), mask: Some(mask), ..FrameHeader::default() };
            header.format(length, &mut bytes).unwrap();
            for cut in 0..bytes.len() {
                prop_assert_eq!(Header::decode(&bytes[..cut]), Ok(None));
            }
            let expected = Header { fin, opcode, mask, length };
            prop_assert_eq!(Header::decode(&bytes), Ok(Some((expected, bytes.len()))));
        }

        #[test]
        fn unmasking_in_parts_is_unmasking_bytewise(
            payload: Vec<u8>, key: [u8; 4], cut: prop::sample::Index,
        ) {
            let expected: Vec<u8> =
                payload.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect();
            let cut = cut.index(payload.len() + 1);
            let mut parts = payload;
            unmask(&mut parts[..cut], key, 0);
            unmask(&mut parts[cut..], key, cut);
            prop_assert_eq!(parts, expected);
        }
    }
}
