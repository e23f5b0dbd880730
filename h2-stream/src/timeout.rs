//! `grpc-timeout`: at most eight digits and a unit.

use std::time::Duration;

const MAX_DIGITS: usize = 8;
const MAX_VALUE: u128 = 99_999_999;

/// Nanoseconds of each unit, the finest first.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// `None` when the text breaks the rules.
pub(crate) fn parse(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'n' => Some(Duration::from_nanos(value)),
        b'u' => Some(Duration::from_micros(value)),
        b'm' => Some(Duration::from_millis(value)),
        b'S' => Some(Duration::from_secs(value)),
        b'M' => Some(Duration::from_secs(value * 60)),
        b'H' => Some(Duration::from_secs(value * 3600)),
        _ => None,
    }
}

/// The finest unit that fits, rounded up.
pub(crate) fn format(timeout: Duration) -> String {
    let nanos = timeout.as_nanos();
    for (unit, size) in UNITS {
        let value = nanos.div_ceil(size);
        if value <= MAX_VALUE {
            return format!("{value}{}", char::from(unit));
        }
    }
    format!("{MAX_VALUE}H")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read() {
        let cases = [
            ("1n", Duration::from_nanos(1)),
            ("2u", Duration::from_micros(2)),
            ("3m", Duration::from_millis(3)),
            ("4S", Duration::from_secs(4)),
            ("5M", Duration::from_secs(300)),
            ("6H", Duration::from_secs(21_600)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
            ("0S", Duration::ZERO),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text.as_bytes()), Some(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "S",
            "5",
            "5s",
            "123456789S",
            "+5S",
            " 5S",
            "5 S",
            "\u{661}S",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn written_in_the_finest_unit_that_fits_and_never_shorter() {
        assert_eq!(format(Duration::from_nanos(99_999_999)), "99999999n");
        assert_eq!(format(Duration::from_nanos(100_000_001)), "100001u");
        assert_eq!(format(Duration::from_secs(20)), "20000000u");
        assert_eq!(format(Duration::MAX), "99999999H");
        for secs in [0, 1, 59, 3600, 1_000_000] {
            let timeout = Duration::from_secs(secs);
            assert_eq!(parse(format(timeout).as_bytes()), Some(timeout));
        }
    }
}
