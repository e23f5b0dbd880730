//! What the gateway is meant to cost, and whether it does.

use super::Results;
use crate::figures::Findings;

/// A line of the table.
pub(super) struct Target {
    /// What is measured.
    pub(super) what: &'static str,
    /// The section that measures it.
    pub(super) section: &'static str,
    /// What must hold.
    pub(super) checks: &'static [Check],
}

/// One condition.
pub(super) enum Check {
    /// A figure of a side is at most this.
    AtMost(&'static str, &'static str, f64),
    /// A figure of a side is at least this.
    AtLeast(&'static str, &'static str, f64),
    /// A side's figure is at most so many times that of another one, in the same round.
    ByAtMost([&'static str; 2], &'static str, f64),
}

/// How a condition came out.
pub(super) struct Verdict {
    /// What was asked for.
    pub(super) asked: String,
    /// What was found.
    pub(super) found: String,
    /// Held, missed and by how much, or not measured.
    pub(super) verdict: String,
}

const COST: &str = "server_micros_per_message";
const BY_TONIC: [&str; 2] = ["ringway", "tonic"];
/// Pushed to by the same client: what is compared are servers.
const PLAIN_BY_TONIC: [&str; 2] = ["ringway-plain", "tonic"];
const BY_LIMIT: [&str; 2] = ["ringway", "limit"];
use Check::{AtLeast, AtMost, ByAtMost};

/// In the order of the page.
pub(super) const TARGETS: &[Target] = &[
    Target {
        what: "unicast, 128 B, 1,000 connections, 4,096 in flight",
        section: "unicast-1000",
        checks: &[
            AtMost("ringway", COST, 0.9),
            ByAtMost(BY_TONIC, COST, 0.40),
            ByAtMost(PLAIN_BY_TONIC, COST, 0.40),
        ],
    },
    Target {
        what: "unicast, 128 B, 10,000 connections, 4,096 in flight",
        section: "unicast-10000",
        checks: &[
            ByAtMost(BY_TONIC, COST, 0.6),
            ByAtMost(PLAIN_BY_TONIC, COST, 0.6),
            ByAtMost(BY_LIMIT, COST, 1.25),
        ],
    },
    Target {
        what: "unicast, 1,200 B, 1,000 connections",
        section: "unicast-1200B",
        checks: &[ByAtMost(BY_TONIC, COST, 0.5)],
    },
    Target {
        what: "broadcast to 10,000 connections",
        section: "broadcast",
        checks: &[ByAtMost(BY_LIMIT, COST, 1.15)],
    },
    Target {
        what: "20,000 messages/s steady, 1,000 connections",
        section: "latency-20000",
        checks: &[
            ByAtMost(BY_TONIC, "p50_micros", 1.0),
            ByAtMost(PLAIN_BY_TONIC, "p50_micros", 1.0),
        ],
    },
    Target {
        what: "idle connection, user space, all included",
        section: "idle",
        checks: &[
            AtMost("ringway", "bytes_per_connection", 512.0),
            AtMost("ringway-monoio", "bytes_per_connection", 1024.0),
        ],
    },
    Target {
        what: "handshakes on one core",
        section: "connect",
        checks: &[
            AtLeast("ringway", "handshakes_per_core_second", 50_000.0),
            AtMost("ringway", "server_micros_per_handshake", 18.0),
        ],
    },
    Target {
        what: "100,000 connections in one process, each pushed to and answering, all back after a restart",
        section: "reconnect-storm",
        checks: &[
            AtLeast("ringway", "connections", 100_000.0),
            AtMost("ringway", "all_back_after_seconds", 10.0),
            AtMost("ringway", "refused_for_good", 0.0),
            AtMost("ringway", "rss_mib", 64.0),
        ],
    },
    Target {
        what: "crossing to another shard, 64 in a batch, against a push at its own",
        section: "crossing",
        checks: &[
            ByAtMost(["other-shard", "own-shard"], COST, 1.3),
            AtMost("common-port", "times_own_shards", 1.3),
        ],
    },
    Target {
        what: "2 shards against 1, by CPU accounting",
        section: "scaling",
        checks: &[AtLeast("several, a CPU each", "speedup", 1.9)],
    },
];

impl Target {
    /// How each of its conditions came out.
    pub(super) fn verdicts(&self, results: &Results) -> Vec<Verdict> {
        let result = results.get(self.section);
        let findings = result.map(|result| &result.findings);
        self.checks
            .iter()
            .map(|check| check.verdict(findings))
            .collect()
    }
}

impl Check {
    fn verdict(&self, findings: Option<&Findings>) -> Verdict {
        let (side, figure, limit, most) = match *self {
            AtMost(side, figure, limit) | ByAtMost([side, _], figure, limit) => {
                (side, figure, limit, true)
            }
            AtLeast(side, figure, limit) => (side, figure, limit, false),
        };
        let value = findings.and_then(|findings| match self {
            ByAtMost([one, other], ..) => findings.ratio(one, other, figure),
            _ => findings.side(side)?.median.get(figure),
        });
        let bound = if most { "≤" } else { "≥" };
        let name = figure.replace('_', " ");
        let asked = match self {
            ByAtMost([_, other], ..) => format!("{name} {bound} {limit} × {other}"),
            _ => format!("{name} {bound} {}", number(limit)),
        };
        let asked = match side {
            "ringway" => asked,
            side => format!("{side}: {asked}"),
        };
        let Some(value) = value else {
            return Verdict {
                asked,
                found: "—".into(),
                verdict: "not measured".into(),
            };
        };
        let held = if most { value <= limit } else { value >= limit };
        let missed = 100.0 * (value / limit - 1.0).abs();
        Verdict {
            asked,
            found: number(value),
            verdict: match held {
                true => "held".into(),
                false => format!("**missed** by {missed:.0} %"),
            },
        }
    }
}

/// With as many digits as mean something.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 100.0 => thousands(value.round()),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if value < 0.0 {
        format!("-{grouped}")
    } else {
        grouped
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        benchmarks::sections::SECTIONS,
        figures::{Figures, Sample},
        verify::Faults,
    };

    #[test]
    fn every_target_has_a_section() {
        for target in TARGETS {
            let found = SECTIONS
                .iter()
                .find(|section| section.name == target.section);
            let section = found.unwrap_or_else(|| panic!("{}", target.what));
            for check in target.checks {
                if let ByAtMost([one, other @ ("tonic" | "limit")], ..) = check {
                    let (_, against) = section.arguments.split_once("--against ").unwrap();
                    let has = |side: &str| against.split(',').any(|peer| peer == side);
                    assert!(has(other), "{}", section.name);
                    assert!(*one == "ringway" || has(one), "{}", section.name);
                }
            }
        }
    }

    #[test]
    fn a_miss_says_by_how_much() {
        let sample = |cost| {
            let mut figures = Figures::default();
            figures.set(COST, cost);
            vec![Sample {
                about: String::new(),
                figures,
                faults: Faults::default(),
            }]
        };
        let sides = vec![
            ("ringway".into(), sample(1.35)),
            ("tonic".into(), sample(2.7)),
        ];
        let findings = Findings::of("unicast", BTreeMap::new(), sides);
        let verdict = |check: &Check| check.verdict(Some(&findings)).verdict;
        assert_eq!(verdict(&AtMost("ringway", COST, 0.9)), "**missed** by 50 %");
        assert_eq!(verdict(&ByAtMost(BY_TONIC, COST, 0.5)), "held");
        assert_eq!(verdict(&ByAtMost(BY_LIMIT, COST, 1.25)), "not measured");
    }

    #[test]
    fn numbers_have_the_digits_that_mean_something() {
        let shown = [0.0, 0.0123, 0.456, 12.34, 999.6, 1_234_567.0].map(number);
        assert_eq!(shown, ["0", "0.0123", "0.46", "12.3", "1,000", "1,234,567"]);
    }
}
