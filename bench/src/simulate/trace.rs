//! What happened, for people and for the proof that a seed always leads to the same.

use std::{
    collections::VecDeque,
    fmt::{self, Write},
    hash::Hasher,
    time::Duration,
};

/// Most lines kept: enough to see what led to a failure.
const MOST_LINES: usize = 4_000;

/// A hash of everything that happened, and, if wanted, the newest lines about it.
#[derive(Debug)]
pub struct Trace {
    hash: Fnv,
    lines: Option<VecDeque<String>>,
    events: u64,
}

impl Trace {
    /// Lines cost most of a world's time: they are kept only where somebody will read them.
    #[must_use]
    pub fn new(keep_lines: bool) -> Self {
        Self {
            hash: Fnv(0xcbf2_9ce4_8422_2325),
            lines: keep_lines.then(VecDeque::new),
            events: 0,
        }
    }

    /// Something happened. `facts` go into the hash; `line` tells them, and is empty where nobody wants to read it.
    pub fn note(&mut self, now: Duration, facts: [u64; 3], line: impl FnOnce() -> String) {
        self.events += 1;
        self.hash.write_u64(now.as_nanos() as u64);
        for fact in facts {
            self.hash.write_u64(fact);
        }
        if let Some(lines) = &mut self.lines {
            let line = line();
            if line.is_empty() {
                return;
            }
            if lines.len() >= MOST_LINES {
                lines.pop_front();
            }
            let mut text = String::new();
            let written = write!(text, "{:>12.6}  {}", now.as_secs_f64(), line);
            debug_assert!(written.is_ok(), "writing to a string cannot fail");
            lines.push_back(text);
        }
    }

    /// The same for two runs in which the same happened at the same times.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    /// How much happened.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.lines.iter().flatten() {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

/// FNV-1a over 64-bit words; the standard hashers promise no stable result.
#[derive(Debug)]
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0 ^ word)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(23);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_events_changes_the_hash_and_keeping_lines_does_not() {
        let hash = |keep, facts: [u64; 2]| {
            let mut trace = Trace::new(keep);
            for fact in facts {
                trace.note(Duration::ZERO, [fact, 0, 0], || fact.to_string());
            }
            trace.hash()
        };
        assert_eq!(hash(true, [1, 2]), hash(false, [1, 2]));
        assert_ne!(hash(false, [1, 2]), hash(false, [2, 1]));
    }

    #[test]
    fn only_the_newest_lines_are_kept() {
        let mut trace = Trace::new(true);
        for at in 0..2 * MOST_LINES {
            trace.note(Duration::from_secs(at as u64), [0; 3], || {
                format!("event {at}")
            });
        }
        let text = trace.to_string();
        assert_eq!(text.lines().count(), MOST_LINES);
        assert!(text.ends_with(&format!("event {}\n", 2 * MOST_LINES - 1)));
    }
}
