//! A list of users, as `ringway.v1.Users` has it. prost would make a `String` of each user; most names fit where they are
//! listed, so that a list of any length costs one allocation.

use compact_str::CompactString;
use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut},
    encoding::{
        DecodeContext, WireType, encode_key, encode_varint, encoded_len_varint, skip_field, string,
    },
};

/// A user in a list. Up to 24 bytes lie in place.
pub type UserId = CompactString;

/// Several users: `ringway.v1.Users`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Users {
    /// User ids; the order does not matter.
    pub user_ids: Vec<UserId>,
}

impl Message for Users {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        for user in &self.user_ids {
            encode_key(USER_IDS, WireType::LengthDelimited, buf);
            encode_varint(user.len() as u64, buf);
            buf.put_slice(user.as_bytes());
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != USER_IDS {
            return skip_field(wire_type, tag, buf, context);
        }
        let short = short_string(buf.chunk()).filter(|_| wire_type == WireType::LengthDelimited);
        let user = if let Some(user) = short {
            let length = user.len();
            let user = UserId::new(user);
            buf.advance(1 + length);
            user
        } else {
            // Long, in pieces, or wrong: prost knows what to say.
            let mut user = String::new();
            string::merge(wire_type, &mut user, buf, context)?;
            user.into()
        };
        self.user_ids.push(user);
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        let users = self.user_ids.iter();
        let length = |user: &UserId| encoded_len_varint(user.len() as u64) + user.len();
        // Each has a key of one byte.
        users.map(|user| 1 + length(user)).sum()
    }

    fn clear(&mut self) {
        self.user_ids.clear();
    }
}

/// The field `user_ids`.
const USER_IDS: u32 = 1;

/// The string whose length is the first byte, if it lies here as a whole.
fn short_string(bytes: &[u8]) -> Option<&str> {
    let (length, rest) = bytes.split_first()?;
    // The upper half says that the length has a second byte.
    let bytes = rest
        .get(..usize::from(*length))
        .filter(|_| *length < 0x80)?;
    std::str::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What prost itself makes of the schema.
    #[derive(Clone, PartialEq, Message)]
    struct Derived {
        #[prost(string, repeated, tag = "1")]
        user_ids: Vec<String>,
    }

    fn users() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec(prop_oneof![".{0,30}", "[a-z]{100,200}"], 0..20)
    }

    fn same(read: Result<Users, DecodeError>, derived: Result<Derived, DecodeError>) {
        let read = read.map(|users| users.user_ids.iter().map(ToString::to_string).collect());
        let derived = derived.map(|users| users.user_ids);
        // Where it went wrong is told of fields that are derived alone.
        assert_eq!(read.ok(), derived.ok());
    }

    proptest! {
        #[test]
        fn is_written_and_read_as_prost_does(users in users()) {
            let derived = Derived { user_ids: users };
            let bytes = derived.encode_to_vec();
            let read = Users::decode(&*bytes).unwrap();
            prop_assert_eq!(read.encoded_len(), bytes.len());
            prop_assert_eq!(read.encode_to_vec(), bytes.clone());
            same(Ok(read), Derived::decode(&*bytes));
        }

        #[test]
        fn in_pieces_or_damaged_it_is_read_as_prost_does(
            users in users(), cut in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte: u8, end in any::<prop::sample::Index>()
        ) {
            let mut bytes = Derived { user_ids: users }.encode_to_vec();
            prop_assume!(!bytes.is_empty());
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(end.index(bytes.len()) + 1);
            let pieces = || {
                let (first, second) = bytes.split_at(cut.index(bytes.len()));
                first.chain(second)
            };
            same(Users::decode(pieces()), Derived::decode(pieces()));
        }
    }
}
