//! Times as people write them.

use std::time::Duration;

/// Reads 1500ms, 30s or 5m: from 1 ms to 49 days.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| "must be like 1500ms, 30s or 5m")?;
    let millis = match &text[digits.len()..] {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        _ => None,
    };
    let millis = millis.filter(|millis| (1..=u64::from(u32::MAX)).contains(millis));
    let millis = millis.ok_or("must be like 1500ms, 30s or 5m, from 1ms to 49 days")?;
    Ok(Duration::from_millis(millis))
}

/// As people read them: 350 ms, 12.5 s.
pub(super) fn shown(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        _ => format!("{}.{} s", millis / 1_000, millis % 1_000 / 100),
    }
}
