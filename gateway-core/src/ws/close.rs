//! Close codes and close frames (RFC 6455 sections 5.5.1 and 7.4).

use super::frames::{self, MAX_CONTROL_PAYLOAD, Opcode};
use super::session::Violation;

/// Longest reason a close frame carries, in bytes: a control payload less the code.
pub const MAX_REASON: usize = MAX_CONTROL_PAYLOAD - 2;

/// Every close code the gateway sends of its own accord.
///
/// A logic service that disconnects a client may choose another one, see [`is_valid`].
/// Never sent: 1001, since browsers do not tell it apart from leaving the page; a drain is 1012.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// The conversation is over; also the answer to a close frame without a code.
    Normal = 1000,
    /// The client broke RFC 6455.
    Protocol = 1002,
    /// A text message or a close reason was not UTF-8.
    InvalidUtf8 = 1007,
    /// The client broke a rule of this gateway.
    Policy = 1008,
    /// A message over the size limit.
    TooBig = 1009,
    /// The gateway failed.
    Internal = 1011,
    /// The gateway drains or restarts; the reason may say `retry_after_ms=…`.
    Restart = 1012,
    /// The gateway is full; try again later.
    Overload = 1013,
    /// The handshake asked for something impossible, such as an invalid user id.
    BadRequest = 4400,
    /// The client may not be who it says it is.
    Unauthorised = 4401,
    /// The page's origin is not allowed.
    Origin = 4403,
    /// The client reads too slowly, or no longer answers.
    SlowClient = 4408,
    /// Another connection took this one's place.
    Replaced = 4409,
    /// No logic service is there to take the client's messages.
    NoService = 4503,
}

impl CloseCode {
    /// All codes, in rising order.
    pub const ALL: [CloseCode; 14] = [
        CloseCode::Normal,
        CloseCode::Protocol,
        CloseCode::InvalidUtf8,
        CloseCode::Policy,
        CloseCode::TooBig,
        CloseCode::Internal,
        CloseCode::Restart,
        CloseCode::Overload,
        CloseCode::BadRequest,
        CloseCode::Unauthorised,
        CloseCode::Origin,
        CloseCode::SlowClient,
        CloseCode::Replaced,
        CloseCode::NoService,
    ];

    /// The number on the wire.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The reason sent when there is nothing more exact to say.
    pub const fn reason(self) -> &'static str {
        match self {
            CloseCode::Normal => "",
            CloseCode::Protocol => "protocol error",
            CloseCode::InvalidUtf8 => "invalid UTF-8",
            CloseCode::Policy => "policy violation",
            CloseCode::TooBig => "message too big",
            CloseCode::Internal => "internal error",
            CloseCode::Restart => "restarting",
            CloseCode::Overload => "overloaded, try again later",
            CloseCode::BadRequest => "bad request",
            CloseCode::Unauthorised => "not authorised",
            CloseCode::Origin => "origin not allowed",
            CloseCode::SlowClient => "client too slow",
            CloseCode::Replaced => "replaced by another connection",
            CloseCode::NoService => "no logic service",
        }
    }

    /// The metrics label.
    pub const fn label(self) -> &'static str {
        match self {
            CloseCode::Normal => "normal",
            CloseCode::Protocol => "protocol",
            CloseCode::InvalidUtf8 => "invalid_utf8",
            CloseCode::Policy => "policy",
            CloseCode::TooBig => "too_big",
            CloseCode::Internal => "internal",
            CloseCode::Restart => "restart",
            CloseCode::Overload => "overload",
            CloseCode::BadRequest => "bad_request",
            CloseCode::Unauthorised => "unauthorised",
            CloseCode::Origin => "origin",
            CloseCode::SlowClient => "slow_client",
            CloseCode::Replaced => "replaced",
            CloseCode::NoService => "no_service",
        }
    }
}

impl From<CloseCode> for u16 {
    fn from(code: CloseCode) -> u16 {
        code.code()
    }
}

/// Whether a code may stand in a close frame (RFC 6455 section 7.4, with the later
/// registrations 1012-1014). 1004-1006 and 1015 never go over the wire.
pub const fn is_valid(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Appends a close frame. A reason over [`MAX_REASON`] bytes is cut between two characters.
pub fn encode_close(code: impl Into<u16>, reason: &str, out: &mut Vec<u8>) {
    let reason = &reason[..reason.floor_char_boundary(MAX_REASON)];
    let mut payload = [0; MAX_CONTROL_PAYLOAD];
    let length = 2 + reason.len();
    payload[..2].copy_from_slice(&code.into().to_be_bytes());
    payload[2..length].copy_from_slice(reason.as_bytes());
    frames::encode(Opcode::Close, &payload[..length], out);
}

/// Appends the answer to a client's close frame: its own code, or an empty one if it gave none.
pub fn encode_close_reply(received: Option<u16>, out: &mut Vec<u8>) {
    match received {
        Some(code) => encode_close(code, "", out),
        None => frames::encode(Opcode::Close, &[], out),
    }
}

/// Reads the payload of a received close frame: the code, if any, and the reason.
///
/// # Errors
///
/// A payload of one byte, a code that may not be sent, a reason that is not UTF-8.
pub(super) fn parse_close(payload: &[u8]) -> Result<(Option<u16>, &str), Violation> {
    match payload {
        [] => Ok((None, "")),
        [_] => Err(Violation::BadClosePayload),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !is_valid(code) {
                return Err(Violation::BadCloseCode);
            }
            let reason = simdutf8::basic::from_utf8(reason).map_err(|_| Violation::InvalidUtf8)?;
            Ok((Some(code), reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // The table stands in the proto too, for other languages; 1001 is there as a client's code.
    #[test]
    fn the_codes_are_those_of_the_proto_without_going_away() {
        use gateway_proto::v1::CloseCode as Proto;
        let codes: Vec<u16> = CloseCode::ALL.iter().map(|code| code.code()).collect();
        let named = |code: &u16| Proto::try_from(i32::from(*code)).is_ok();
        let proto: Vec<u16> = (1..=u16::MAX)
            .filter(|code| named(code) && *code != 1001)
            .collect();
        assert_eq!(codes, proto);
        assert!(codes.iter().all(|code| is_valid(*code)));
        assert!(
            CloseCode::ALL
                .iter()
                .all(|code| code.reason().len() <= MAX_REASON)
        );
    }

    #[test]
    fn codes_that_never_go_over_the_wire_are_not_valid() {
        for code in [
            0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535,
        ] {
            assert!(!is_valid(code), "{code}");
        }
        for code in [1000, 1003, 1007, 1011, 1014, 3000, 4999] {
            assert!(is_valid(code), "{code}");
        }
    }

    #[test]
    fn a_reply_echoes_the_code_and_an_empty_close_gets_an_empty_one() {
        let mut out = Vec::new();
        encode_close_reply(Some(4321), &mut out);
        encode_close_reply(None, &mut out);
        assert_eq!(out, [0x88, 2, 0x10, 0xe1, 0x88, 0]);
    }

    proptest! {
        // Reasons with characters of 1-4 bytes around the limit: cutting by bytes alone would
        // split one, and the client would have to answer 1007.
        #[test]
        fn a_long_reason_is_cut_between_characters(reason in "[aé€😀]{0,140}", code in 3000u16..5000) {
            let mut out = Vec::new();
            encode_close(code, &reason, &mut out);
            let payload = &out[2..];
            prop_assert_eq!(usize::from(out[1]), payload.len());
            let (received, kept) = parse_close(payload).unwrap();
            prop_assert_eq!(received, Some(code));
            prop_assert!(reason.starts_with(kept) && kept.len() <= MAX_REASON);
            prop_assert!(kept.len() == reason.len() || kept.len() > MAX_REASON - 4);
        }
    }
}
