//! What `adr` has shown.

use std::{fmt, str::FromStr};

use serde::Serialize;

use super::{Options, Sample, Samples, Way};
use crate::{cpu, figures::median};

/// How many messages are in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Flight {
    /// As many as come naturally: whoever gets an answer waits for it, a stream waits for nothing but room.
    Natural,
    /// So many: the next one is sent when one has arrived at its client.
    Equal(usize),
}

/// What a run has shown.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Callers.
    pub users: usize,
    /// Bytes of a message.
    pub payload: usize,
    /// Messages per measurement.
    pub messages: u64,
    /// How often each was measured.
    pub rounds: usize,
    /// CPUs: one for the load where there are several, the others for the gateway.
    pub cpus: usize,
    /// Of the machine, at the end.
    pub load_average: f64,
    /// One for each way and number in flight; medians over all rounds.
    pub rows: Vec<Row>,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// How pushes were made.
    pub way: Way,
    /// How many were to be in flight.
    pub flight: Flight,
    /// Delivered, from the first push to the last arrival.
    pub messages_per_second: f64,
    /// By REST's on kept connections in the same round; `None`: that was not measured.
    pub by_rest: Option<f64>,
    /// What the decision says, in messages per second.
    pub published: Option<f64>,
    /// From the caller to the WebSocket client, in microseconds.
    pub p50_micros: f64,
    /// As above.
    pub p99_micros: f64,
    /// Messages in flight on average: rate times mean latency (Little's law).
    pub in_flight: f64,
    /// CPU time of the gateway per message.
    pub gateway_micros: f64,
    /// CPU time of the queue and its consumer per message.
    pub between_micros: f64,
    /// CPU time of callers and clients per message.
    pub load_micros: f64,
}

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
    pub(super) fn new(options: &Options, cpus: usize, samples: &Samples) -> Self {
        let rest = |flight| {
            let mut all = samples.iter();
            let rest = all.find(|(way, at, _)| (*way, *at) == (Way::Rest, flight));
            rest.map(|(_, _, samples)| samples.as_slice())
        };
        let rows = samples
            .iter()
            .map(|(way, flight, own)| Row::of(*way, *flight, own, rest(*flight)));
        Self {
            users: options.users,
            payload: options.payload,
            messages: options.messages,
            rounds: options.rounds,
            cpus,
            load_average: cpu::load_average(),
            rows: rows.collect(),
        }
    }
}

impl Row {
    fn of(way: Way, flight: Flight, own: &[Sample], rest: Option<&[Sample]>) -> Self {
        let of = |value: fn(&Sample) -> f64| median(own.iter().map(value));
        let by_rest = rest.map(|rest| {
            let rounds = own.iter().zip(rest);
            median(rounds.map(|(own, rest)| own.messages_per_second / rest.messages_per_second))
        });
        Self {
            way,
            flight,
            messages_per_second: of(|sample| sample.messages_per_second),
            by_rest,
            published: way.published(),
            p50_micros: of(|sample| sample.latency.p50),
            p99_micros: of(|sample| sample.latency.p99),
            in_flight: of(|sample| sample.messages_per_second * sample.mean),
            gateway_micros: of(|sample| sample.gateway),
            between_micros: of(|sample| sample.between),
            load_micros: of(|sample| sample.load),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "adr: {} virtual users, {} B, {} messages; medians of {} rounds, {} CPUs, load {:.1}",
            self.users, self.payload, self.messages, self.rounds, self.cpus, self.load_average
        )?;
        let mut flight = None;
        for row in &self.rows {
            if flight.replace(row.flight) != Some(row.flight) {
                write!(
                    f,
                    "\n  {:<12} {:>10} {:>7} {:>9} {:>9} {:>9} {:>9} {:>10} {:>10} {:>8}",
                    format!("[{}]", row.flight),
                    "messages/s",
                    "times",
                    "published",
                    "p50 µs",
                    "p99 µs",
                    "in flight",
                    "gateway µs",
                    "between µs",
                    "load µs"
                )?;
            }
            let times = row
                .by_rest
                .map_or_else(String::new, |times| format!("{times:.2}"));
            let published = row
                .published
                .map_or_else(String::new, |rate| format!("{rate:.0}"));
            write!(
                f,
                "\n  {:<12} {:>10.0} {times:>7} {published:>9} {:>9.0} {:>9.0} {:>9.1} {:>10.1} {:>10.1} {:>8.1}",
                row.way,
                row.messages_per_second,
                row.p50_micros,
                row.p99_micros,
                row.in_flight,
                row.gateway_micros,
                row.between_micros,
                row.load_micros
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Latency;

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
        let row = Row::of(Way::Stream, Flight::Natural, &stream, Some(&rest));
        assert_eq!((row.by_rest, row.published), (Some(8.0), Some(18_943.0)));
        assert_eq!((row.messages_per_second, row.in_flight), (8_000.0, 10.0));
    }
}
