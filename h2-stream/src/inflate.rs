//! gzip in incoming messages.

use std::io::Read;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;

pub(crate) enum InflateError {
    /// More bytes than the limit came out; the rest was not looked at.
    TooLarge,
    Corrupt,
}

/// Inflates `bytes`, to at most `limit` bytes.
pub(crate) fn gzip(bytes: &[u8], limit: usize) -> Result<Bytes, InflateError> {
    let mut out = Vec::new();
    // One byte more than allowed tells "exactly the limit" from "more".
    MultiGzDecoder::new(bytes)
        .take(limit as u64 + 1)
        .read_to_end(&mut out)
        .map_err(|_| InflateError::Corrupt)?;
    if out.len() > limit {
        return Err(InflateError::TooLarge);
    }
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn exactly_the_limit_passes_and_one_more_does_not() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&[7; 1000]).unwrap();
        let bytes = encoder.finish().unwrap();
        assert!(matches!(gzip(&bytes, 1000), Ok(out) if out[..] == [7; 1000]));
        assert!(matches!(gzip(&bytes, 999), Err(InflateError::TooLarge)));
        assert!(matches!(
            gzip(&bytes[..bytes.len() - 1], 1000),
            Err(InflateError::Corrupt)
        ));
        assert!(matches!(gzip(b"", 1000), Err(InflateError::Corrupt)));
    }
}
