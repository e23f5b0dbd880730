//! The advice of `tuning/`: what is wanted, and why.

use std::ops::Not;

/// Sysctls, as sysctl.d(5) has them, each under a comment with bound, reason and source.
const SYSCTLS: &str = include_str!("../../../../tuning/99-ringway.conf");
/// Switches of the kernel, as tmpfiles.d(5) has them, under such comments too.
const SWITCHES: &str = include_str!("../../../../tuning/ringway-tmpfiles.conf");
/// Process limits, as limits.conf(5) has them, under such comments too.
const LIMITS: &str = include_str!("../../../../tuning/limits.conf");

/// One line of advice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Advice {
    /// The sysctl, or the limit's item (`nofile`).
    pub(super) key: String,
    pub(super) wanted: u64,
    pub(super) bound: Bound,
    /// The first sentence of the comment.
    pub(super) reason: String,
}

/// One line of advice about a file in which one of several words is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// The file.
    pub(super) path: String,
    pub(super) wanted: String,
    /// The first sentence of the comment.
    pub(super) reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    AtLeast,
    AtMost,
}

/// What `tuning/99-ringway.conf` says.
pub(super) fn sysctls() -> Vec<Advice> {
    parse(SYSCTLS, |line, comment| {
        let (key, value) = line.split_once('=')?;
        advice(key.trim(), value.trim(), comment)
    })
}

/// What `tuning/ringway-tmpfiles.conf` says.
pub(super) fn choices() -> Vec<Choice> {
    parse(SWITCHES, |line, comment| {
        let mut words = line.strip_prefix("w ")?.split_whitespace();
        Some(Choice {
            path: words.next()?.to_owned(),
            wanted: words.nth(4)?.to_owned(),
            reason: reason_of(comment.strip_prefix("exactly: ")?)?,
        })
    })
}

/// What `tuning/limits.conf` says about `item`.
pub(super) fn limit(item: &str) -> Option<Advice> {
    let limits = parse(LIMITS, |line, comment| {
        let mut words = line.split_whitespace().skip(2);
        advice(words.next()?, words.next()?, comment)
    });
    limits.into_iter().find(|advice| advice.key == item)
}

impl Advice {
    pub(super) fn is_followed_by(&self, actual: u64) -> bool {
        match self.bound {
            Bound::AtLeast => actual >= self.wanted,
            Bound::AtMost => actual <= self.wanted,
        }
    }

    /// "at least 65535".
    pub(super) fn wanted(&self) -> String {
        let bound = match self.bound {
            Bound::AtLeast => "at least",
            Bound::AtMost => "at most",
        };
        format!("{bound} {}", self.wanted)
    }
}

/// Each setting with the comment above it; a comment that a blank line parts from what follows belongs to nothing.
fn parse<T>(file: &str, setting: impl Fn(&str, &str) -> Option<T>) -> Vec<T> {
    let mut found = Vec::new();
    let mut comment = String::new();
    for line in file.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix('#') {
            comment.push_str(text);
            continue;
        }
        let comment = std::mem::take(&mut comment);
        found.extend(setting(line, comment.trim()));
    }
    found
}

fn advice(key: &str, value: &str, comment: &str) -> Option<Advice> {
    let (bound, reason) = match comment.split_once(": ")? {
        ("at least", reason) => (Bound::AtLeast, reason),
        ("at most", reason) => (Bound::AtMost, reason),
        _ => return None,
    };
    Some(Advice {
        key: key.to_owned(),
        wanted: value.parse().ok()?,
        bound,
        reason: reason_of(reason)?,
    })
}

/// The first sentence.
fn reason_of(comment: &str) -> Option<String> {
    let reason = comment.split(". ").next()?.split(" source: ").next()?;
    let reason = reason.trim_end_matches('.').to_owned();
    reason.is_empty().not().then_some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    // A line whose comment lacks bound, reason or source would silently not be checked.
    #[test]
    fn every_line_of_the_tuning_files_is_advice_with_a_source() {
        for (file, found) in [
            (SYSCTLS, sysctls().len()),
            (SWITCHES, choices().len()),
            (
                LIMITS,
                ["nofile", "memlock"].into_iter().filter_map(limit).count(),
            ),
        ] {
            let is_setting = |line: &&str| !line.is_empty() && !line.starts_with('#');
            assert_eq!(file.lines().filter(is_setting).count(), found);
            assert_eq!(file.matches("\n# source: ").count(), found);
            assert_eq!(file.matches("\n# measured: ").count(), found);
        }
    }

    #[test]
    fn every_group_of_the_unit_has_a_source_and_what_was_measured() {
        for unit in [
            include_str!("../../../../tuning/ringway.service"),
            include_str!("../../../../tuning/profiling.conf"),
        ] {
            let (_, service) = unit.split_once("[Service]\n").unwrap();
            let service = service.split("\n[").next().unwrap();
            for group in service.trim().split("\n\n") {
                for what in ["# source: ", "# measured: "] {
                    assert_eq!(group.matches(what).count(), 1, "{what}{group}");
                }
            }
        }
    }

    #[test]
    fn a_choice_is_read_with_its_file_and_word() {
        let all = choices();
        let path = "/sys/kernel/mm/transparent_hugepage/enabled";
        let choice = all.iter().find(|choice| choice.path == path).unwrap();
        assert_eq!(choice.wanted, "madvise");
        assert!(
            choice.reason.starts_with("\"always\" gives a whole"),
            "{}",
            choice.reason
        );
    }

    #[test]
    fn advice_is_read_with_its_bound_and_reason() {
        let all = sysctls();
        let advice = all
            .iter()
            .find(|advice| advice.key == "net.ipv4.tcp_slow_start_after_idle")
            .unwrap();
        assert_eq!(advice.bound, Bound::AtMost);
        assert!(advice.is_followed_by(0) && !advice.is_followed_by(1));
        assert!(advice.reason.starts_with("0 keeps the congestion window"));
        assert!(!advice.reason.contains("source"), "{}", advice.reason);
    }
}
