use std::fmt;

use bytes::Bytes;
use data_encoding::BASE64_NOPAD;
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Headers that belong to HTTP or gRPC themselves, besides everything that begins with `grpc-`.
const RESERVED: [&str; 10] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Keys and values that accompany a call: of the request, of the response's beginning, or of
/// its status.
///
/// Keys are case-insensitive. Values are printable ASCII, or any bytes when the key ends with
/// `-bin` (base64 on the wire). What HTTP and gRPC use themselves (`content-type`, `te`,
/// `grpc-…`) is not part of it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Metadata(
    // Boxed to keep the events small: most of them are messages.
    Box<HeaderMap>,
);

/// A key or value that cannot be sent: not ASCII, a key HTTP or gRPC use themselves, or a
/// text value for a `-bin` key (or the other way round). The caller must act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidMetadata;

impl Metadata {
    /// No metadata.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The first text value of `key`; `None` too when it is not ASCII.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    /// The first value of a `-bin` key, decoded; `None` too when it is not base64.
    #[must_use]
    pub fn get_bin(&self, key: &str) -> Option<Bytes> {
        if !is_binary(key) {
            return None;
        }
        // Values of one key may have been joined by commas on their way.
        let joined = self.0.get(key)?.as_bytes();
        let first = joined.split(|&byte| byte == b',').next()?;
        let unpadded = first.trim_ascii();
        let unpadded = unpadded.strip_suffix(b"=").unwrap_or(unpadded);
        let unpadded = unpadded.strip_suffix(b"=").unwrap_or(unpadded);
        BASE64_NOPAD.decode(unpadded).ok().map(Bytes::from)
    }

    /// Sets a text value in place of all values of `key`.
    ///
    /// # Errors
    /// See [`InvalidMetadata`].
    pub fn insert(&mut self, key: &str, value: &str) -> Result<(), InvalidMetadata> {
        if is_binary(key) || !value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return Err(InvalidMetadata);
        }
        self.set(key, value)
    }

    /// Sets the bytes of a `-bin` key in place of all its values.
    ///
    /// # Errors
    /// See [`InvalidMetadata`].
    pub fn insert_bin(&mut self, key: &str, value: &[u8]) -> Result<(), InvalidMetadata> {
        if !is_binary(key) {
            return Err(InvalidMetadata);
        }
        self.set(key, &BASE64_NOPAD.encode(value))
    }

    /// All keys and values as they are on the wire (`-bin` values in base64); values that are
    /// not ASCII are left out.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .filter_map(|(key, value)| Some((key.as_str(), value.to_str().ok()?)))
    }

    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left of `headers` without the reserved ones.
    pub(crate) fn from_headers(mut headers: HeaderMap) -> Self {
        let reserved: Vec<HeaderName> = headers
            .keys()
            .filter(|name| is_reserved(name.as_str()))
            .cloned()
            .collect();
        for name in reserved {
            headers.remove(name);
        }
        Self(Box::new(headers))
    }

    pub(crate) fn into_headers(self) -> HeaderMap {
        *self.0
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), InvalidMetadata> {
        let name = HeaderName::from_bytes(key.as_bytes()).map_err(|_| InvalidMetadata)?;
        if is_reserved(name.as_str()) {
            return Err(InvalidMetadata);
        }
        let value = HeaderValue::from_str(value).map_err(|_| InvalidMetadata)?;
        self.0.insert(name, value);
        Ok(())
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl fmt::Display for InvalidMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "metadata that cannot be sent: a reserved key, or a value that does not fit its key",
        )
    }
}

impl std::error::Error for InvalidMetadata {}

fn is_binary(key: &str) -> bool {
    key.len() >= 4 && key.as_bytes()[key.len() - 4..].eq_ignore_ascii_case(b"-bin")
}

fn is_reserved(name: &str) -> bool {
    name.starts_with("grpc-") || RESERVED.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_values_are_base64_with_or_without_padding() {
        let mut metadata = Metadata::new();
        metadata.insert_bin("x-bin", &[1, 2, 3, 4]).unwrap();
        assert_eq!(metadata.iter().next(), Some(("x-bin", "AQIDBA")));
        for text in ["AQIDBA", "AQIDBA==", "AQIDBA, AQ", "AQIDBA==,AQ"] {
            let mut headers = HeaderMap::new();
            headers.insert("x-bin", text.parse().unwrap());
            let metadata = Metadata::from_headers(headers);
            assert_eq!(
                metadata.get_bin("X-Bin").as_deref(),
                Some(&[1, 2, 3, 4][..])
            );
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-bin", "no base64!".parse().unwrap());
        assert_eq!(Metadata::from_headers(headers).get_bin("x-bin"), None);
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        let mut metadata = Metadata::new();
        for key in [
            "grpc-status",
            "GRPC-Timeout",
            "content-type",
            "te",
            "a b",
            "",
            ":path",
        ] {
            assert_eq!(metadata.insert(key, "x"), Err(InvalidMetadata), "{key}");
        }
        assert_eq!(metadata.insert("x", "\u{e4}"), Err(InvalidMetadata));
        assert_eq!(metadata.insert("x", "line\nbreak"), Err(InvalidMetadata));
        assert_eq!(metadata.insert("x-bin", "text"), Err(InvalidMetadata));
        assert_eq!(metadata.insert_bin("x", b"bytes"), Err(InvalidMetadata));
        assert!(metadata.is_empty());
    }

    #[test]
    fn keys_ignore_case_and_the_last_value_stays() {
        let mut metadata = Metadata::new();
        metadata.insert("Key", "one").unwrap();
        metadata.insert("key", "two").unwrap();
        assert_eq!((metadata.get("KEY"), metadata.len()), (Some("two"), 1));
    }
}
