//! Why a client is turned away, and how it is told: one table for statuses, close codes and labels.

use std::time::Duration;

use super::close::{CloseCode, encode_close};
use super::upgrade::{UpgradeRequest, write_accept};

/// How refusals are told that are a matter of policy, not of protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RefuseMode {
    /// Accept, then close with a code: browsers hide the status of a refused handshake from the page.
    #[default]
    Close,
    /// Answer 4xx or 5xx.
    Http,
}

/// Why a handshake is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// The bytes are not HTTP.
    Garbage,
    /// The bytes begin a TLS handshake.
    Tls,
    /// The request's head is over the limit in bytes or in headers.
    HeaderTooLarge,
    /// HTTP, but not HTTP/1.1.
    HttpVersion,
    /// Neither GET nor, for a page, HEAD.
    BadMethod,
    /// A target that is no path, or not exactly one Host.
    BadRequest,
    /// The request has a body.
    Body,
    /// The request's head did not arrive in time.
    Timeout,
    /// Nothing is served at this path.
    Path,
    /// A plain request where a WebSocket is served.
    NoUpgrade,
    /// `Sec-WebSocket-Version` is not 13.
    BadVersion,
    /// `Sec-WebSocket-Key` is missing, doubled, or not 16 bytes in base64.
    BadKey,
    /// Policy: the origin is not allowed.
    Origin,
    /// Policy: the user id is not 1-256 bytes of UTF-8, or is given twice.
    BadUser,
    /// Policy: no right to be that user.
    Unauthorised,
    /// Policy: the gateway is full.
    Overload,
    /// Policy: the gateway drains.
    Draining,
}

impl RefusalReason {
    /// All reasons.
    pub const ALL: [RefusalReason; 17] = [
        RefusalReason::Garbage,
        RefusalReason::Tls,
        RefusalReason::HeaderTooLarge,
        RefusalReason::HttpVersion,
        RefusalReason::BadMethod,
        RefusalReason::BadRequest,
        RefusalReason::Body,
        RefusalReason::Timeout,
        RefusalReason::Path,
        RefusalReason::NoUpgrade,
        RefusalReason::BadVersion,
        RefusalReason::BadKey,
        RefusalReason::Origin,
        RefusalReason::BadUser,
        RefusalReason::Unauthorised,
        RefusalReason::Overload,
        RefusalReason::Draining,
    ];

    /// The close code in [`RefuseMode::Close`]; `None` for what is always answered in HTTP.
    pub const fn close_code(self) -> Option<CloseCode> {
        self.row().1
    }

    /// The HTTP status.
    pub const fn status(self) -> u16 {
        self.row().0
    }

    /// The metrics label.
    pub const fn label(self) -> &'static str {
        self.row().2
    }

    /// What the client is told, in the body of the answer or the reason of the close frame.
    pub const fn message(self) -> &'static str {
        self.row().3
    }

    const fn row(self) -> (u16, Option<CloseCode>, &'static str, &'static str) {
        use RefusalReason as R;
        match self {
            R::Garbage => (400, None, "garbage", "this is not HTTP"),
            R::Tls => (400, None, "tls", "this port speaks plain HTTP"),
            R::HeaderTooLarge => (431, None, "header_too_large", "request head too large"),
            R::HttpVersion => (505, None, "http_version", "this port speaks HTTP/1.1"),
            R::BadMethod => (405, None, "bad_method", "only GET is served here"),
            R::BadRequest => (
                400,
                None,
                "bad_request",
                "bad request target or Host header",
            ),
            R::Body => (413, None, "body", "a request body is not accepted"),
            R::Timeout => (408, None, "timeout", "the request took too long"),
            R::Path => (404, None, "path", "nothing is served at this path"),
            R::NoUpgrade => (426, None, "no_upgrade", "this path serves WebSocket only"),
            R::BadVersion => (426, None, "bad_version", "Sec-WebSocket-Version must be 13"),
            R::BadKey => (
                400,
                None,
                "bad_key",
                "Sec-WebSocket-Key must be 16 bytes in base64",
            ),
            R::Origin => (403, Some(CloseCode::Origin), "origin", "origin not allowed"),
            R::BadUser => (
                400,
                Some(CloseCode::BadRequest),
                "bad_user",
                "user must be given once, as 1-256 bytes of UTF-8",
            ),
            R::Unauthorised => (
                401,
                Some(CloseCode::Unauthorised),
                "unauthorised",
                "not authorised",
            ),
            R::Overload => (
                503,
                Some(CloseCode::Overload),
                "overload",
                "overloaded, try again later",
            ),
            R::Draining => (
                503,
                Some(CloseCode::Restart),
                "draining",
                "restarting, try again later",
            ),
        }
    }
}

/// A refused handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status: that of the reason.
    pub status: u16,
    /// Why.
    pub reason: RefusalReason,
    /// When to try again, if that helps. Told as whole seconds, rounded up, in `Retry-After`,
    /// or as `retry_after_ms=…` in the close reason.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal for good.
    pub const fn new(reason: RefusalReason) -> Refusal {
        Refusal {
            status: reason.status(),
            reason,
            retry_after: None,
        }
    }

    /// A refusal for now.
    pub const fn retry_after(reason: RefusalReason, after: Duration) -> Refusal {
        Refusal {
            retry_after: Some(after),
            ..Refusal::new(reason)
        }
    }

    /// The reason of the close frame.
    pub fn close_reason(&self) -> String {
        match self.retry_after {
            Some(after) => format!("retry_after_ms={}", after.as_millis()),
            None => self.reason.message().to_owned(),
        }
    }
}

impl From<RefusalReason> for Refusal {
    fn from(reason: RefusalReason) -> Refusal {
        Refusal::new(reason)
    }
}

/// Appends a complete HTTP/1.1 answer, after which the connection is closed.
pub fn write_refusal(refusal: &Refusal, out: &mut Vec<u8>) {
    let status = refusal.status;
    let phrase = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Refused");
    let body = refusal.reason.message();
    let mut head = format!(
        "HTTP/1.1 {status} {phrase}\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\n",
        body.len() + 1
    );
    // Headers that RFC 9110 asks of these statuses.
    head += match status {
        401 => "WWW-Authenticate: Bearer\r\n",
        405 => "Allow: GET, HEAD\r\n",
        426 => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        _ => "",
    };
    head += match status {
        426 => "Connection: close, Upgrade\r\n",
        _ => "Connection: close\r\n",
    };
    if let Some(after) = refusal.retry_after {
        let seconds = after.as_millis().div_ceil(1000).max(1);
        head += &format!("Retry-After: {seconds}\r\n");
    }
    out.extend_from_slice(format!("{head}\r\n{body}\n").as_bytes());
}

/// Appends the refusal of a request that was a valid upgrade, as the mode has it. True when it
/// ends with a close frame, whose answer the client still owes; false when it ends the connection.
pub fn refuse(
    mode: RefuseMode,
    request: &UpgradeRequest,
    refusal: &Refusal,
    out: &mut Vec<u8>,
) -> bool {
    match (mode, refusal.reason.close_code()) {
        (RefuseMode::Close, Some(code)) => {
            write_accept(request, out);
            encode_close(code, &refusal.close_reason(), out);
            true
        }
        _ => {
            write_refusal(refusal, out);
            false
        }
    }
}
