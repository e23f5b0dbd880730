//! What a session keeps while something has come in part.

use super::Violation;
use crate::ws::frames::{Header, MAX_CLIENT_HEADER, Opcode, unmask};

/// A whole message or control frame that did not come in one piece.
pub(super) type Whole = (Opcode, Vec<u8>);

/// What has come in part: of a header, of a frame, of a message.
#[derive(Debug, Default)]
pub(super) struct Partial {
    /// The first bytes of a header.
    head: [u8; MAX_CLIENT_HEADER],
    head_length: u8,
    /// The frame whose payload is coming.
    frame: Option<Frame>,
    /// The data message that has begun; control frames may stand between its fragments.
    pub(super) message: Option<Message>,
    /// The payload so far of a control frame.
    control: Vec<u8>,
}

#[derive(Debug)]
struct Frame {
    header: Header,
    received: u64,
}

#[derive(Debug)]
pub(super) struct Message {
    /// Text or Binary.
    opcode: Opcode,
    pub(super) data: Vec<u8>,
    /// So much of the data of a text message is known to be UTF-8.
    checked: usize,
    pub(super) fragments: u32,
}

impl Partial {
    pub(super) fn is_idle(&self) -> bool {
        self.head_length == 0 && self.frame.is_none() && self.message.is_none()
    }

    pub(super) fn is_mid_frame(&self) -> bool {
        self.frame.is_some()
    }

    /// Bytes of memory.
    pub(super) fn holds(&self) -> usize {
        let message = self.message.as_ref();
        size_of::<Partial>()
            + self.control.capacity()
            + message.map_or(0, |message| message.data.capacity())
    }

    /// The next header and how much of the input it took. The bytes of a header that is not yet
    /// whole are kept.
    pub(super) fn read_header(
        &mut self,
        bytes: &[u8],
    ) -> Result<Option<(Header, usize)>, Violation> {
        let had = usize::from(self.head_length);
        let more = bytes.len().min(MAX_CLIENT_HEADER - had);
        self.head[had..had + more].copy_from_slice(&bytes[..more]);
        let found = Header::decode(&self.head[..had + more])?;
        self.head_length = if found.is_some() {
            0
        } else {
            (had + more) as u8
        };
        Ok(found.map(|(header, taken)| (header, taken - had)))
    }

    /// Begins a frame that has been admitted.
    pub(super) fn begin(&mut self, header: Header) {
        if !header.opcode.is_control() {
            let message = self.message.get_or_insert_with(|| Message {
                opcode: header.opcode,
                data: Vec::new(),
                checked: 0,
                fragments: 0,
            });
            message.fragments += 1;
        }
        self.frame = Some(Frame {
            header,
            received: 0,
        });
    }

    /// Takes what the input has of the frame under way. Gives the number of bytes, and the control
    /// frame or the message that they complete.
    pub(super) fn take(&mut self, bytes: &mut [u8]) -> Result<(usize, Option<Whole>), Violation> {
        let Some(frame) = &mut self.frame else {
            return Ok((0, None));
        };
        let header = frame.header;
        let missing = header.length - frame.received;
        let taken =
            usize::try_from(missing).map_or(bytes.len(), |missing| missing.min(bytes.len()));
        let payload = &mut bytes[..taken];
        unmask(payload, header.mask, frame.received as usize);
        frame.received += taken as u64;
        let ends = frame.received == header.length;
        if ends {
            self.frame = None;
        }
        if header.opcode.is_control() {
            append(&mut self.control, payload, missing);
            let whole = ends.then(|| (header.opcode, std::mem::take(&mut self.control)));
            return Ok((taken, whole));
        }
        if let Some(message) = &mut self.message {
            let last = if header.fin { missing } else { u64::MAX };
            append(&mut message.data, payload, last);
            message.check()?;
        }
        let whole = if ends && header.fin {
            self.message.take()
        } else {
            None
        };
        Ok((taken, whole.map(|message| (message.opcode, message.data))))
    }
}

impl Message {
    /// Fails as soon as the text can no longer become UTF-8, also within a frame.
    fn check(&mut self) -> Result<(), Violation> {
        if self.opcode != Opcode::Text {
            return Ok(());
        }
        match simdutf8::compat::from_utf8(&self.data[self.checked..]) {
            Ok(_) => self.checked = self.data.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(Violation::InvalidUtf8),
        }
        Ok(())
    }
}

/// Appends to a buffer that doubles as bytes come, but not beyond the `missing` bytes (of which
/// these are the first) that will fill it.
fn append(buffer: &mut Vec<u8>, bytes: &[u8], missing: u64) {
    if bytes.len() > buffer.capacity() - buffer.len() {
        let missing = usize::try_from(missing).unwrap_or(usize::MAX);
        let room = buffer.capacity().min(missing).max(bytes.len());
        buffer.reserve_exact(room);
    }
    buffer.extend_from_slice(bytes);
}
