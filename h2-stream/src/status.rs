use std::fmt;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::metadata::Metadata;

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Everything but printable ASCII without `%` (gRPC over HTTP/2, "Status-Message").
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// How a call ended, as gRPC numbers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// Success.
    Ok = 0,
    /// The caller gave up.
    Cancelled = 1,
    /// An error that says nothing of its kind.
    #[default]
    Unknown = 2,
    /// The request can never succeed.
    InvalidArgument = 3,
    /// The time the caller gave is over.
    DeadlineExceeded = 4,
    /// What was asked for is not there.
    NotFound = 5,
    /// What was to be made is there already.
    AlreadyExists = 6,
    /// The caller is known, but must not do this.
    PermissionDenied = 7,
    /// A limit is reached: a quota, a size, memory.
    ResourceExhausted = 8,
    /// Not in the present state of things.
    FailedPrecondition = 9,
    /// Lost against a concurrent call.
    Aborted = 10,
    /// Past the end of a range.
    OutOfRange = 11,
    /// There is no such method, or not with this encoding.
    Unimplemented = 12,
    /// Something is broken.
    Internal = 13,
    /// Not now; try again.
    Unavailable = 14,
    /// Data is lost or corrupt.
    DataLoss = 15,
    /// The caller is not known.
    Unauthenticated = 16,
}

/// The end of a call: a code, a message for people, and metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// How it ended.
    pub code: Code,
    /// Why, for people; any text (percent-encoded on the wire).
    pub message: String,
    /// Sent in the same trailers.
    pub metadata: Metadata,
}

impl Code {
    /// The code with this number; a number gRPC does not define is [`Code::Unknown`].
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::Cancelled,
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            9 => Self::FailedPrecondition,
            10 => Self::Aborted,
            11 => Self::OutOfRange,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            14 => Self::Unavailable,
            15 => Self::DataLoss,
            16 => Self::Unauthenticated,
            _ => Self::Unknown,
        }
    }
}

impl Status {
    /// Success, without a message.
    #[must_use]
    pub fn ok() -> Self {
        Self::new(Code::Ok, "")
    }

    /// A status without metadata.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            metadata: Metadata::new(),
        }
    }

    /// The answer to a method that is not there.
    #[must_use]
    pub fn unimplemented() -> Self {
        Self::new(Code::Unimplemented, "no such method")
    }

    /// Whether the call succeeded.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.code == Code::Ok
    }

    /// The trailers that carry it.
    pub(crate) fn into_trailers(self) -> HeaderMap {
        let mut headers = self.metadata.into_headers();
        headers.insert(GRPC_STATUS, HeaderValue::from(self.code as u16));
        if !self.message.is_empty() {
            let encoded = utf8_percent_encode(&self.message, ENCODED).to_string();
            if let Ok(value) = HeaderValue::try_from(encoded) {
                headers.insert(GRPC_MESSAGE, value);
            }
        }
        headers
    }

    /// Reads trailers; `None` when they carry no status.
    pub(crate) fn from_trailers(headers: HeaderMap) -> Option<Self> {
        let number = headers.get(GRPC_STATUS)?.to_str().ok();
        let code = Code::from_number(number.and_then(|text| text.parse().ok()).unwrap_or(2));
        let message = headers.get(GRPC_MESSAGE).map_or_else(String::new, |value| {
            let encoded = String::from_utf8_lossy(value.as_bytes());
            percent_decode_str(&encoded)
                .decode_utf8_lossy()
                .into_owned()
        });
        let metadata = Metadata::from_headers(headers);
        Some(Self {
            code,
            message,
            metadata,
        })
    }

    /// What a response that is not gRPC means (gRPC, "HTTP to gRPC status code mapping").
    pub(crate) fn from_http(status: http::StatusCode) -> Self {
        let code = match status.as_u16() {
            400 | 431 => Code::Internal,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::Unimplemented,
            429 | 502..=504 => Code::Unavailable,
            _ => Code::Unknown,
        };
        Self::new(code, format!("the server answered HTTP {status}"))
    }

    /// What a RST_STREAM of the server means (gRPC over HTTP/2, "Errors").
    pub(crate) fn from_reset(reason: h2::Reason) -> Self {
        let code = match reason {
            h2::Reason::REFUSED_STREAM => Code::Unavailable,
            h2::Reason::CANCEL => Code::Cancelled,
            h2::Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
            h2::Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
            _ => Code::Internal,
        };
        Self::new(code, format!("the server reset the stream: {reason}"))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_percent_encoded_as_grpc_wants_it() {
        let status = Status::new(Code::Internal, "50% of \u{e4}\n~ ");
        let trailers = status.clone().into_trailers();
        assert_eq!(trailers["grpc-message"], "50%25 of %C3%A4%0A~ ");
        assert_eq!(trailers["grpc-status"], "13");
        assert_eq!(Status::from_trailers(trailers), Some(status));
    }

    #[test]
    fn broken_escapes_of_others_are_read_as_they_are() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "5".parse().unwrap());
        trailers.insert("grpc-message", "100% %zz %C3".parse().unwrap());
        let status = Status::from_trailers(trailers).unwrap();
        assert_eq!(
            (status.code, status.message.as_str()),
            (Code::NotFound, "100% %zz \u{fffd}")
        );
    }

    #[test]
    fn unknown_codes_are_unknown_and_no_code_is_no_status() {
        for text in ["17", "-1", "x", "99999999999"] {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", text.parse().unwrap());
            assert_eq!(Status::from_trailers(trailers).unwrap().code, Code::Unknown);
        }
        assert_eq!(Status::from_trailers(HeaderMap::new()), None);
        assert!((0..=16).all(|n| Code::from_number(n) as u32 == n));
    }
}
