//! A command with its number, as it goes on the wire.

use bytes::{Buf, BufMut};
#[cfg(test)]
use gateway_proto::v1::LogicFrame;
use gateway_proto::v1::logic_frame::Body;
use prost::encoding::{DecodeContext, WireType, skip_field, uint64};
use prost::{DecodeError, Message};

/// A `LogicFrame` whose body stays where it is.
#[derive(Debug)]
pub(crate) struct Numbered<'a> {
    pub(crate) sequence: u64,
    pub(crate) body: &'a Body,
}

/// The field of the number in `LogicFrame`.
const SEQUENCE: u32 = 1;

impl Numbered<'_> {
    #[cfg(test)]
    pub(crate) fn to_frame(&self) -> LogicFrame {
        super::frame(self.sequence, self.body.clone())
    }
}

impl Message for Numbered<'_> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        uint64::encode(SEQUENCE, &self.sequence, buf);
        self.body.encode(buf);
    }

    fn encoded_len(&self) -> usize {
        uint64::encoded_len(SEQUENCE, &self.sequence) + self.body.encoded_len()
    }

    /// It is only written: a borrowed body takes nothing in.
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, tag, buf, context)
    }

    fn clear(&mut self) {
        self.sequence = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::Push;

    #[test]
    fn is_written_as_the_frame_it_stands_for() {
        let push = Push::user("alice").text("hi").conflate("key");
        let body = Body::Push(push.request);
        let numbered = Numbered {
            sequence: 300,
            body: &body,
        };
        let bytes = numbered.encode_to_vec();
        assert_eq!(bytes, numbered.to_frame().encode_to_vec());
        assert_eq!(bytes.len(), numbered.encoded_len());
        assert_eq!(LogicFrame::decode(&bytes[..]).unwrap(), numbered.to_frame());
    }
}
