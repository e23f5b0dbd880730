//! What `adr` has shown.

use std::{fmt, str::FromStr};

use serde::Serialize;
use serde_json::Value;

use super::{Options, Sample, Samples, Way};
use crate::{
    figures::{self, Figures, Findings},
    verify::Faults,
};

/// How many messages are in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Flight {
    /// As many as come naturally: whoever gets an answer waits for it, a stream waits for nothing but room.
    Natural,
    /// So many: the next one is sent when one has arrived at its client.
    Equal(usize),
}

/// What a run has shown: a side for each way and number in flight.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Report(pub Findings);

/// The columns of the table: figure, title, decimals.
const COLUMNS: [(&str, &str, usize); 9] = [
    ("messages_per_second", "messages/s", 0),
    (TIMES_REST, "times", 2),
    (PUBLISHED, "published", 0),
    ("p50_micros", "p50 µs", 0),
    ("p99_micros", "p99 µs", 0),
    ("in_flight", "in flight", 1),
    ("server_micros_per_message", "gateway µs", 1),
    ("between_micros_per_message", "between µs", 1),
    ("load_micros_per_message", "load µs", 1),
];
/// Messages per second by those of REST on kept connections, in the same round.
const TIMES_REST: &str = "times_rest";
/// What the decision says.
const PUBLISHED: &str = "published_messages_per_second";

impl Flight {
    /// How many callers that are.
    pub(super) fn lanes(self, users: usize) -> usize {
        match self {
            Self::Natural => users,
            Self::Equal(messages) => messages,
        }
    }
}

impl FromStr for Flight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "natural" => Ok(Self::Natural),
            number => number
                .parse()
                .map(Self::Equal)
                .map_err(|_| "allowed: natural, or a number".to_owned()),
        }
    }
}

impl fmt::Display for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Natural => f.write_str("natural"),
            Self::Equal(messages) => write!(f, "{messages}"),
        }
    }
}

impl Report {
    pub(super) fn new(options: &Options, about: &str, samples: &Samples) -> Self {
        let mut settings = options.subject.settings();
        settings.extend([
            ("users".into(), options.users.into()),
            ("payload".into(), options.payload.into()),
            ("messages".into(), options.messages.into()),
            ("rounds".into(), options.rounds.into()),
            ("in_flight".into(), in_words(&options.in_flight)),
            ("ways".into(), in_words(&options.ways)),
        ]);
        let rest = |flight| {
            let mut all = samples.iter();
            let rest = all.find(|(way, at, _)| (*way, *at) == (Way::Rest, flight));
            rest.map_or(&[][..], |(_, _, samples)| samples)
        };
        let sides = samples.iter().map(|(way, flight, own)| {
            let samples = own.iter().enumerate().map(|(round, sample)| {
                let mut figures = sample.figures(*way);
                let rest = rest(*flight).get(round);
                let times = rest.map(|rest| sample.messages_per_second / rest.messages_per_second);
                figures.set_if(TIMES_REST, times);
                figures::Sample {
                    about: about.to_owned(),
                    figures,
                    // One that went wrong ends the run.
                    faults: Faults::default(),
                }
            });
            let name = match flight {
                Flight::Natural => way.to_string(),
                Flight::Equal(messages) => format!("{way} ({messages})"),
            };
            (name, samples.collect())
        });
        Self(Findings::of("adr", settings, sides.collect()))
    }
}

impl Sample {
    fn figures(&self, way: Way) -> Figures {
        let mut figures = Figures::default();
        let cores = |micros| micros * self.messages_per_second / 1e6;
        figures.set("messages_per_second", self.messages_per_second);
        figures.set_if(PUBLISHED, way.published());
        figures.set_latency(&self.latency);
        // Little's law.
        figures.set("in_flight", self.messages_per_second * self.mean);
        figures.set("server_micros_per_message", self.gateway);
        figures.set("server_cores", cores(self.gateway));
        figures.set("between_micros_per_message", self.between);
        figures.set("load_micros_per_message", self.load);
        // They share a CPU.
        figures.set("load_cores", cores(self.load + self.between));
        figures
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.0.machine;
        write!(f, "{}\n  {:<16}", self.0.title(), "")?;
        for (_, title, _) in COLUMNS {
            write!(f, " {title:>10}")?;
        }
        for side in &self.0.sides {
            write!(f, "\n  {:<16}", side.name)?;
            for (figure, _, decimals) in COLUMNS {
                match side.median.get(figure) {
                    Some(value) => write!(f, " {value:>10.decimals$}")?,
                    None => write!(f, " {:>10}", "")?,
                }
            }
        }
        for side in &self.0.sides {
            for note in &side.notes {
                write!(f, "\n  note: {}: {note}", side.name)?;
            }
        }
        let about = self.0.sides.first().map_or("", |side| &side.about);
        write!(
            f,
            "\n{about}; {machine}, load average {:.1}",
            machine.load_average
        )
    }
}

fn in_words(all: &[impl fmt::Display]) -> Value {
    let words: Vec<_> = all.iter().map(ToString::to_string).collect();
    words.join(",").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{report::Latency, setup::Subject};

    #[test]
    fn a_flight_is_natural_or_a_number() {
        for flight in [Flight::Natural, Flight::Equal(60)] {
            assert_eq!(flight.to_string().parse(), Ok(flight));
        }
        assert!("many".parse::<Flight>().is_err());
        assert_eq!(Flight::Natural.lanes(10), 10);
        assert_eq!(Flight::Equal(60).lanes(10), 60);
    }

    #[test]
    fn ways_are_compared_with_rest_round_by_round() {
        let sample = |rate: f64| Sample {
            messages_per_second: rate,
            latency: Latency {
                p50: 1.0,
                p90: 1.5,
                p99: 2.0,
                p999: 3.0,
                max: 4.0,
            },
            mean: 10.0 / rate,
            gateway: 1.0,
            between: 0.0,
            load: 1.0,
        };
        // The machine was half as fast in the second round: that concerns both.
        let rest = [1_000.0, 500.0, 1_000.0].map(sample);
        let stream = [8_000.0, 4_000.0, 8_000.0].map(sample);
        let samples = vec![
            (Way::Rest, Flight::Natural, rest.to_vec()),
            (Way::Stream, Flight::Natural, stream.to_vec()),
        ];
        let options = Options {
            subject: Subject::default(),
            ways: vec![Way::Rest, Way::Stream],
            users: 10,
            payload: 64,
            messages: 1,
            in_flight: vec![Flight::Natural],
            rounds: 3,
            json: false,
        };
        let report = Report::new(&options, "ringway", &samples);
        let stream = &report.0.side("stream").unwrap().median;
        assert_eq!(stream.get(TIMES_REST), Some(8.0));
        assert_eq!(stream.get(PUBLISHED), Some(18_943.0));
        assert_eq!(stream.get("in_flight"), Some(10.0));
        assert_eq!(stream.get("server_cores"), Some(0.008));
        let table = report.to_string();
        assert!(table.contains("8000       8.00      18943"), "{table}");
        // What `report` reads.
        let json = serde_json::to_string(&report).unwrap();
        let findings: Findings = serde_json::from_str(&json).unwrap();
        assert_eq!(findings.sides.len(), 2);
    }
}
