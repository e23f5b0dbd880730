//! gRPC's framing of messages: one byte of flags, four of length, then the message
//! (gRPC over HTTP/2, "Length-Prefixed-Message").

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::inflate::{self, InflateError};

/// Bytes before each message: one of flags, four of length (gRPC over HTTP/2, "Length-Prefixed-Message").
pub const PREFIX: usize = 5;

/// Why a message is refused. The peer must act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// The message has, or inflates to, more bytes than the limit.
    TooLarge,
    /// The flags byte is neither 0 nor 1.
    UnknownFlags,
    /// Marked compressed, without a `grpc-encoding`.
    NotAnnounced,
    /// Messages of the connection that have begun and not ended hold too much memory.
    TooMuchIncomplete,
    /// Marked compressed, but not gzip.
    NotGzip,
}

/// A whole message, and how much of the bytes that brought it was not credited yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    pub(crate) message: Bytes,
    pub(crate) credit: usize,
}

/// Cuts the bytes of a stream into messages.
///
/// A message that lies inside one chunk is a slice of it. Others are collected in memory that
/// grows with the bytes received, whatever length they announce.
pub(crate) struct Assembler {
    limit: usize,
    gzip: bool,
    chunk: Bytes,
    /// The beginning of a message whose end has not arrived.
    partial: BytesMut,
    /// Bytes that went from `chunk` to `partial` and are to be credited now.
    early: usize,
}

impl Assembler {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            gzip: false,
            chunk: Bytes::new(),
            partial: BytesMut::new(),
            early: 0,
        }
    }

    /// The peer announced `grpc-encoding: gzip`.
    pub(crate) fn accept_gzip(&mut self) {
        self.gzip = true;
    }

    /// Adds bytes. The chunk before must be used up: [`Assembler::next`] said `None`.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty());
        self.chunk = chunk;
    }

    /// Whether a message has begun and not ended.
    pub(crate) fn is_incomplete(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Bytes held of a message that has not ended.
    pub(crate) fn incomplete(&self) -> usize {
        self.partial.len()
    }

    /// Bytes of incomplete messages that arrived since the last call: to be credited at once.
    pub(crate) fn take_early_credit(&mut self) -> usize {
        std::mem::take(&mut self.early)
    }

    /// The next message, if it is an ordinary one: whole in the chunk, not compressed.
    pub(crate) fn next_slice(&mut self) -> Option<Whole> {
        let [0, length @ ..] = *self.chunk.first_chunk::<PREFIX>()? else {
            return None;
        };
        let length = u32::from_be_bytes(length) as usize;
        let size = PREFIX + length;
        if !self.partial.is_empty() || length > self.limit || self.chunk.len() < size {
            return None;
        }
        let mut message = self.chunk.split_to(size);
        message.advance(PREFIX);
        Some(Whole {
            message,
            credit: size,
        })
    }

    /// The next whole message, `None` when more bytes are needed.
    pub(crate) fn next(&mut self) -> Result<Option<Whole>, Violation> {
        match self.next_slice() {
            Some(whole) => Ok(Some(whole)),
            None => self.collect(),
        }
    }

    /// The slow way: into memory of its own.
    fn collect(&mut self) -> Result<Option<Whole>, Violation> {
        let mut taken = self.fill(PREFIX);
        if self.partial.len() >= PREFIX {
            let (flags, length) = self.check(&self.partial[..PREFIX])?;
            taken += self.fill(PREFIX + length);
            if self.partial.len() == PREFIX + length {
                let mut bytes = std::mem::take(&mut self.partial).freeze();
                bytes.advance(PREFIX);
                return self.whole(flags, bytes, taken).map(Some);
            }
        }
        self.early += taken;
        Ok(None)
    }

    /// Moves bytes from the chunk until `partial` has `wanted`; says how many.
    fn fill(&mut self, wanted: usize) -> usize {
        let missing = wanted.saturating_sub(self.partial.len());
        let taken = missing.min(self.chunk.len());
        if taken > 0 {
            self.partial.extend_from_slice(&self.chunk[..taken]);
            self.chunk.advance(taken);
        }
        taken
    }

    fn check(&self, mut prefix: &[u8]) -> Result<(u8, usize), Violation> {
        let flags = prefix.get_u8();
        let length = prefix.get_u32() as usize;
        match flags {
            0 => {}
            1 if self.gzip => {}
            1 => return Err(Violation::NotAnnounced),
            _ => return Err(Violation::UnknownFlags),
        }
        if length > self.limit {
            return Err(Violation::TooLarge);
        }
        Ok((flags, length))
    }

    fn whole(&self, flags: u8, bytes: Bytes, credit: usize) -> Result<Whole, Violation> {
        let message = match flags {
            0 => bytes,
            _ => inflate::gzip(&bytes, self.limit).map_err(|error| match error {
                InflateError::TooLarge => Violation::TooLarge,
                InflateError::Corrupt => Violation::NotGzip,
            })?,
        };
        Ok(Whole { message, credit })
    }
}

/// Appends a message with its prefix; false, and nothing appended, when it has 4 GiB or more.
pub(crate) fn append(buffer: &mut BytesMut, message: &impl prost::Message) -> bool {
    let start = buffer.len();
    buffer.put_slice(&[0; PREFIX]);
    // Not `encode`, which would measure the message once more: a growing buffer never lacks room.
    message.encode_raw(buffer);
    let fits = write_length(&mut buffer[start..]);
    if !fits {
        buffer.truncate(start);
    }
    fits
}

/// Appends a message with its prefix, for [`Client::send_framed`](crate::Client::send_framed); false,
/// and nothing appended, when it has 4 GiB or more.
pub fn append_message(buffer: &mut Vec<u8>, message: &impl prost::Message) -> bool {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; PREFIX]);
    message.encode_raw(buffer);
    let fits = write_length(&mut buffer[start..]);
    if !fits {
        buffer.truncate(start);
    }
    fits
}

/// Writes into its prefix how long a message is; false when that is too long.
fn write_length(framed: &mut [u8]) -> bool {
    let length = u32::try_from(framed.len() - PREFIX);
    if let Ok(length) = length {
        framed[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    }
    length.is_ok()
}

/// [`append`] for a message that is encoded already.
pub(crate) fn append_encoded(buffer: &mut BytesMut, message: &[u8]) -> bool {
    let Ok(length) = u32::try_from(message.len()) else {
        return false;
    };
    buffer.reserve(PREFIX + message.len());
    buffer.put_u8(0);
    buffer.put_u32(length);
    buffer.put_slice(message);
    true
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn framed(messages: &[Vec<u8>]) -> Bytes {
        let mut bytes = BytesMut::new();
        for message in messages {
            assert!(append_encoded(&mut bytes, message));
        }
        bytes.freeze()
    }

    #[test]
    fn message_inside_a_chunk_is_a_slice_of_it() {
        let chunk = framed(&[b"first".to_vec(), b"second".to_vec()]);
        let mut assembler = Assembler::new(100);
        assembler.push(chunk.clone());
        let first = assembler.next().unwrap().unwrap();
        assert_eq!(first.message.as_ptr(), chunk[PREFIX..].as_ptr());
        assert_eq!(first.credit, 10);
        assert_eq!(&assembler.next().unwrap().unwrap().message[..], b"second");
        assert_eq!(assembler.next(), Ok(None));
        assert_eq!(assembler.take_early_credit(), 0);
    }

    #[test]
    fn messages_are_framed_the_same_wherever_they_are_encoded() {
        let message = "a message".to_owned();
        let (mut bytes, mut vec) = (BytesMut::new(), Vec::new());
        assert!(append(&mut bytes, &message) && append_message(&mut vec, &message));
        assert_eq!(bytes, vec);
        let encoded = prost::Message::encode_to_vec(&message);
        assert_eq!(bytes, framed(&[encoded]));
    }

    #[test]
    fn memory_grows_with_what_came_not_with_what_is_announced() {
        // 2 GiB are announced, within the limit, and ten bytes come.
        let mut assembler = Assembler::new(usize::MAX);
        assembler.push(Bytes::from_static(&[0, 0x7f, 0xff, 0xff, 0xff]));
        assert_eq!(assembler.next(), Ok(None));
        for _ in 0..5 {
            assembler.push(Bytes::from_static(&[1]));
            assert_eq!(assembler.next(), Ok(None));
        }
        assert_eq!(assembler.incomplete(), 10);
        assert!(assembler.partial.capacity() < 1000);
    }

    #[test]
    fn length_beyond_the_limit_is_refused_by_its_prefix() {
        let prefix = [0, 0, 0, 0, 101];
        for cut in 0..=PREFIX {
            let mut assembler = Assembler::new(100);
            assembler.push(Bytes::copy_from_slice(&prefix[..cut]));
            if cut < PREFIX {
                assert_eq!(assembler.next(), Ok(None));
                assembler.push(Bytes::copy_from_slice(&prefix[cut..]));
            }
            assert_eq!(assembler.next(), Err(Violation::TooLarge));
        }
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_messages_and_all_credit(
            messages in vec(vec(any::<u8>(), 0..50), 0..20),
            cuts in vec(1..30usize, 1..10),
        ) {
            let bytes = framed(&messages);
            let mut rest = bytes.clone();
            let mut assembler = Assembler::new(50);
            let (mut got, mut credit) = (Vec::new(), 0);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                assembler.push(rest.split_to((*cut).min(rest.len())));
                while let Some(whole) = assembler.next().unwrap() {
                    got.push(whole.message.to_vec());
                    credit += whole.credit;
                }
                credit += assembler.take_early_credit();
            }
            prop_assert_eq!(got, messages);
            prop_assert_eq!(credit, bytes.len());
            prop_assert!(!assembler.is_incomplete());
        }
    }
}
