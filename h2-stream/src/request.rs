//! What makes an HTTP request a gRPC call (gRPC over HTTP/2, "Requests").

use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode, request};

use crate::status::{Code, Status};
use crate::timeout;

pub(crate) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What the server has to know of a request, besides its metadata.
pub(crate) struct Call {
    pub(crate) timeout: Option<Duration>,
    pub(crate) gzip: bool,
}

/// Why a request is no call. The client must act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Method,
    ContentType,
    Timeout,
    Encoding,
}

/// How a refused request is answered.
pub(crate) enum Answer {
    /// It did not speak gRPC, so neither does the answer.
    Http(Response<()>),
    Grpc(Status),
}

pub(crate) fn check(head: &request::Parts) -> Result<Call, Refusal> {
    if head.method != Method::POST {
        return Err(Refusal::Method);
    }
    if !is_grpc(&head.headers) {
        return Err(Refusal::ContentType);
    }
    let gzip = encoding(&head.headers).ok_or(Refusal::Encoding)?;
    let timeout = match head.headers.get(GRPC_TIMEOUT) {
        Some(value) => Some(timeout::parse(value.as_bytes()).ok_or(Refusal::Timeout)?),
        None => None,
    };
    Ok(Call { timeout, gzip })
}

/// Whether messages may be gzip; `None` for an encoding that is not known.
pub(crate) fn encoding(headers: &HeaderMap) -> Option<bool> {
    match headers.get(GRPC_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Some(false),
        Some(b"gzip") => Some(true),
        Some(_) => None,
    }
}

/// `application/grpc`, also `+proto`, also with parameters.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(Ok(value)) = headers.get(CONTENT_TYPE).map(HeaderValue::to_str) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/grpc")
        || essence.eq_ignore_ascii_case("application/grpc+proto")
}

impl Refusal {
    pub(crate) fn answer(self) -> Answer {
        let mut response = Response::new(());
        match self {
            Self::Method => {
                *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
                let allowed = HeaderValue::from_static("POST");
                response.headers_mut().insert(ALLOW, allowed);
                Answer::Http(response)
            }
            Self::ContentType => {
                *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                Answer::Http(response)
            }
            Self::Timeout => Answer::Grpc(Status::new(Code::Internal, "malformed grpc-timeout")),
            Self::Encoding => {
                let message = "unknown grpc-encoding; known are identity and gzip";
                Answer::Grpc(Status::new(Code::Unimplemented, message))
            }
        }
    }
}
