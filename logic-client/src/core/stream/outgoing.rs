//! Commands as they go on the wire.

use bytes::{Buf, BufMut};
use gateway_proto::v1::logic_frame::Body;
use h2_stream::{Client, StreamId};
use prost::encoding::{DecodeContext, WireType, skip_field, uint64};
use prost::{DecodeError, Message};

use crate::core::buffer::Item;

/// What goes out on a connection.
#[derive(Debug)]
pub(crate) enum Outgoing<'a> {
    /// Whole frames with their gRPC prefixes.
    Frames(&'a [u8]),
    /// A frame that is still to be encoded.
    Large(&'a Numbered<'a>),
}

impl Outgoing<'_> {
    pub(crate) fn send(&self, http: &mut Client, call: StreamId) {
        match self {
            Outgoing::Frames(frames) => http.send_framed(call, frames),
            Outgoing::Large(frame) => http.send(call, *frame),
        };
    }
}

/// A `LogicFrame` whose body stays where it is.
#[derive(Debug)]
pub(crate) struct Numbered<'a> {
    pub(crate) sequence: u64,
    pub(crate) body: &'a Body,
}

/// The field of the number in `LogicFrame`.
const SEQUENCE: u32 = 1;

impl<'a> From<&'a Item> for Numbered<'a> {
    fn from(item: &'a Item) -> Self {
        Self {
            sequence: item.sequence,
            body: &item.body,
        }
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
impl Outgoing<'_> {
    /// What a gateway sees.
    pub(crate) fn frames(&self) -> Vec<LogicFrame> {
        let encoded;
        let mut rest = match self {
            Outgoing::Frames(frames) => *frames,
            Outgoing::Large(frame) => {
                encoded = frame.encode_to_vec();
                return vec![LogicFrame::decode(&encoded[..]).unwrap()];
            }
        };
        let mut frames = Vec::new();
        while let Some((prefix, more)) = rest.split_first_chunk::<{ h2_stream::PREFIX }>() {
            let [0, length @ ..] = *prefix else {
                panic!("compressed: {prefix:?}");
            };
            let (frame, more) = more.split_at(u32::from_be_bytes(length) as usize);
            frames.push(LogicFrame::decode(frame).unwrap());
            rest = more;
        }
        frames
    }
}

#[cfg(test)]
use gateway_proto::v1::LogicFrame;

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
        let frame = LogicFrame {
            sequence: 300,
            body: Some(body.clone()),
        };
        let bytes = numbered.encode_to_vec();
        assert_eq!(bytes, frame.encode_to_vec());
        assert_eq!(bytes.len(), numbered.encoded_len());
        assert_eq!(Outgoing::Large(&numbered).frames(), [frame]);
    }
}
