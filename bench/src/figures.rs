//! What was measured, by name: medians over rounds, ratios within rounds.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{cpu, machine::Machine, report::Latency, verify::Faults};

/// Figures that are known by name, in the order in which people read them: name, unit, decimals.
const KNOWN: &[(&str, &str, usize)] = &[
    ("messages_per_second", "messages/s", 0),
    (
        "server_micros_per_message",
        "µs of server CPU per message",
        3,
    ),
    ("server_cores", "cores of the server", 2),
    ("load_cores", "cores of the load", 2),
    ("receiving_cores", "of them of its process that receives", 2),
    ("load_cpus", "CPUs of the load", 0),
    ("times_rest", "times as many as by REST", 2),
    (
        "published_messages_per_second",
        "messages/s, as published",
        0,
    ),
    ("in_flight", "messages in flight", 1),
    (
        "between_micros_per_message",
        "µs of CPU per message between callers and server",
        1,
    ),
    (
        "load_micros_per_message",
        "µs of CPU per message of the load",
        1,
    ),
    ("messages_per_send", "messages per send", 2),
    ("crossings", "crossed to another shard", 0),
    ("handshakes_per_second", "handshakes/s", 0),
    (
        "server_micros_per_handshake",
        "µs of server CPU per handshake",
        2,
    ),
    (
        "handshakes_per_core_second",
        "handshakes per second of server CPU",
        0,
    ),
    ("bytes_per_connection", "B per idle connection", 0),
    ("rss_mib", "MiB RSS", 1),
    ("p50_micros", "µs p50", 0),
    ("p90_micros", "µs p90", 0),
    ("p99_micros", "µs p99", 0),
    ("p999_micros", "µs p99.9", 0),
    ("max_micros", "µs at most", 0),
];

/// Whoever uses so much of a core is the bottleneck.
const FULL: f64 = 0.95;

/// Figures by name. Durations, sizes and rates have their unit in the name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Figures(BTreeMap<String, f64>);

/// One measurement of one peer.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What was measured, with its version.
    pub about: String,
    /// What came out.
    pub figures: Figures,
    /// What went wrong with messages.
    pub faults: Faults,
}

/// What a scenario has shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Findings {
    /// Its name on the command line.
    pub scenario: String,
    /// How it was set up.
    pub settings: BTreeMap<String, serde_json::Value>,
    /// Where it ran.
    pub machine: Machine,
    /// In the order of the command line; the first one is what the others are compared with.
    pub sides: Vec<Side>,
}

/// What a peer, or one way to do something, has shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Side {
    /// Which one.
    pub name: String,
    /// What it is, with its version.
    pub about: String,
    /// Figure by figure, the median of all rounds.
    pub median: Figures,
    /// The first side's figure by this one's, in the same round: the median of all rounds. Empty for the first side.
    pub first_by_this: Figures,
    /// Every round.
    pub rounds: Vec<Figures>,
    /// What went wrong with messages, all rounds together.
    pub faults: Faults,
    /// What to mind when reading the figures.
    pub notes: Vec<String>,
}

impl Figures {
    /// Sets a figure.
    pub fn set(&mut self, name: &str, value: f64) {
        self.0.insert(name.to_owned(), value);
    }

    /// Sets a figure that may not be known.
    pub fn set_if(&mut self, name: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    /// Sets the figures of a latency.
    pub fn set_latency(&mut self, latency: &Latency) {
        self.set("p50_micros", latency.p50);
        self.set("p90_micros", latency.p90);
        self.set("p99_micros", latency.p99);
        self.set("p999_micros", latency.p999);
        self.set("max_micros", latency.max);
    }

    /// A figure, if it is there.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// The names of all figures, in the order in which people read them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        known_first(self).map(|(name, ..)| name)
    }

    /// Name by name, the median of all that have it.
    #[must_use]
    pub fn median(rounds: &[Self]) -> Self {
        let names = rounds.iter().flat_map(|round| round.0.keys());
        let of = |name: &String| median(rounds.iter().filter_map(|round| round.get(name)));
        Self(names.map(|name| (name.clone(), of(name))).collect())
    }

    /// Name by name, these by `others`, where both have it and the division makes sense.
    #[must_use]
    pub fn by(&self, others: &Self) -> Self {
        let both = self.0.iter().filter_map(|(name, value)| {
            let other = others.get(name).filter(|other| *other != 0.0)?;
            Some((name.clone(), value / other))
        });
        Self(both.collect())
    }
}

impl Findings {
    /// Of some sides, each with the samples of all rounds.
    #[must_use]
    pub fn of(
        scenario: &str,
        settings: BTreeMap<String, serde_json::Value>,
        sides: Vec<(String, Vec<Sample>)>,
    ) -> Self {
        let first: Vec<_> = match sides.first() {
            Some((_, samples)) => samples
                .iter()
                .map(|sample| sample.figures.clone())
                .collect(),
            None => Vec::new(),
        };
        let sides = sides.into_iter().enumerate();
        Self {
            scenario: scenario.to_owned(),
            settings,
            machine: Machine::here(),
            sides: sides
                .map(|(at, (name, samples))| Side::of(name, samples, (at > 0).then_some(&first)))
                .collect(),
        }
    }

    /// No message was lost, late or wrong.
    #[must_use]
    pub fn is_faultless(&self) -> bool {
        self.sides.iter().all(|side| side.faults.is_none())
    }

    /// The scenario, and how it was set up.
    #[must_use]
    pub fn title(&self) -> String {
        let settings = self.settings.iter();
        let settings: Vec<_> = settings
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        format!("{}: {}", self.scenario, settings.join(", "))
    }

    /// A figure of one side by that of another one, in the same round: the median of all rounds.
    #[must_use]
    pub fn ratio(&self, one: &str, other: &str, figure: &str) -> Option<f64> {
        let rounds = self.side(one)?.rounds.iter().zip(&self.side(other)?.rounds);
        let ratios: Vec<_> = rounds
            .filter_map(|(one, other)| one.by(other).get(figure))
            .collect();
        (!ratios.is_empty()).then(|| median(ratios.into_iter()))
    }

    /// A side by its name.
    #[must_use]
    pub fn side(&self, name: &str) -> Option<&Side> {
        self.sides.iter().find(|side| side.name == name)
    }
}

impl Side {
    fn of(name: String, samples: Vec<Sample>, first: Option<&Vec<Figures>>) -> Self {
        let about = samples.first().map(|sample| sample.about.clone());
        let faults = samples.iter().map(|sample| sample.faults).sum();
        let rounds: Vec<_> = samples.into_iter().map(|sample| sample.figures).collect();
        let ratios = first.into_iter().flatten().zip(&rounds);
        let ratios: Vec<_> = ratios.map(|(first, this)| first.by(this)).collect();
        let median = Figures::median(&rounds);
        Self {
            name,
            about: about.unwrap_or_default(),
            notes: notes(&median),
            first_by_this: Figures::median(&ratios),
            median,
            rounds,
            faults,
        }
    }
}

/// Where the load is the bottleneck, the figures are those of a server that is not.
fn notes(figures: &Figures) -> Vec<String> {
    let mut notes = Vec::new();
    let Some(server) = figures.get("server_cores").filter(|cores| *cores < FULL) else {
        return notes;
    };
    let (load, receiving) = (figures.get("load_cores"), figures.get("receiving_cores"));
    let cpus = figures.get("load_cpus").unwrap_or(1.0);
    // Of two processes with a CPU each, one may be full alone.
    let pushing = load
        .zip(receiving)
        .map(|(load, receiving)| load - receiving);
    let full = [
        ("the load", load, cpus),
        ("of the load what receives", receiving, 1.0),
        ("of the load what pushes", pushing, 1.0),
    ];
    let mut full = full.into_iter().filter_map(|(who, cores, cpus)| {
        let cores = cores.filter(|cores| *cores > FULL * cpus)?;
        Some((who, cores, cpus))
    });
    if let Some((who, cores, cpus)) = full.next() {
        let whose = match cpus {
            1.0 => "its core".to_owned(),
            cpus => format!("its {cpus:.0} cores"),
        };
        notes.push(format!(
            "{who} saturates first ({cores:.2} of {whose}, the server {server:.2}): with a faster load the server \
             would have more to do at once, and the cost of each would fall"
        ));
    }
    notes
}

/// Not a number: there are none.
#[must_use]
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    match (values.get(values.len() / 2), values.len() % 2) {
        (Some(upper), 0) => (values[values.len() / 2 - 1] + upper) / 2.0,
        (Some(middle), _) => *middle,
        (None, _) => f64::NAN,
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title())?;
        for side in &self.sides {
            write!(f, "\n\n{side}")?;
        }
        write!(
            f,
            "\n\n{}, load average {:.1}",
            self.machine,
            cpu::load_average()
        )
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.about)?;
        if self.rounds.len() > 1 {
            write!(f, "; medians of {} rounds", self.rounds.len())?;
        }
        for (name, unit, decimals, value) in known_first(&self.median) {
            write!(f, "\n  {value:>14.decimals$} {unit}")?;
            if let Some(ratio) = self.first_by_this.get(name) {
                write!(f, "   (the first: {ratio:.2} times as much)")?;
            }
        }
        let Faults {
            missing,
            late,
            damaged,
            astray,
        } = self.faults;
        write!(
            f,
            "\n  {missing:>14} missing, {late} late or twice, {damaged} damaged, {astray} astray"
        )?;
        for note in &self.notes {
            write!(f, "\n  note: {note}")?;
        }
        Ok(())
    }
}

/// Name, unit, decimals and value of each figure.
fn known_first(figures: &Figures) -> impl Iterator<Item = (&str, &str, usize, f64)> {
    let is_known = |name: &str| KNOWN.iter().any(|(known, ..)| *known == name);
    let known = KNOWN
        .iter()
        .filter_map(|(name, unit, decimals)| Some((*name, *unit, *decimals, figures.get(name)?)));
    let rest = figures.0.iter().filter(move |(name, _)| !is_known(name));
    known.chain(rest.map(|(name, value)| (name.as_str(), name.as_str(), 2, *value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cost: f64) -> Sample {
        let mut figures = Figures::default();
        figures.set("server_micros_per_message", cost);
        Sample {
            about: String::new(),
            figures,
            faults: Faults::default(),
        }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine was half as fast in the second round: that concerns both sides.
        let ours = [1.0, 2.0, 1.0].map(sample).to_vec();
        let theirs = [4.0, 8.0, 4.0].map(sample).to_vec();
        let sides = vec![("ours".into(), ours), ("theirs".into(), theirs)];
        let findings = Findings::of("unicast", BTreeMap::new(), sides);
        let theirs = findings.side("theirs").unwrap();
        let cost = |figures: &Figures| figures.get("server_micros_per_message");
        assert_eq!(cost(&theirs.first_by_this), Some(0.25));
        assert_eq!(cost(&theirs.median), Some(4.0));
        assert_eq!(cost(&findings.sides[0].first_by_this), None);
        let ratio = |one, other| findings.ratio(one, other, "server_micros_per_message");
        assert_eq!(ratio("theirs", "ours"), Some(4.0));
        assert_eq!(ratio("theirs", "nobody's"), None);
        assert_eq!(median([4.0, 1.0].into_iter()), 2.5);
    }

    #[test]
    fn a_load_that_saturates_first_is_named() {
        let mut slow_load = sample(1.0);
        slow_load.figures.set("load_cores", 0.99);
        slow_load.figures.set("server_cores", 0.8);
        let mut slow_server = slow_load.clone();
        slow_server.figures.set("server_cores", 1.0);
        let sides = vec![
            ("a".into(), vec![slow_load]),
            ("b".into(), vec![slow_server]),
        ];
        let findings = Findings::of("unicast", BTreeMap::new(), sides);
        assert_eq!(findings.sides[0].notes.len(), 1);
        assert!(findings.sides[1].notes.is_empty());
    }

    #[test]
    fn of_two_processes_of_load_the_full_one_is_named() {
        let notes_of = |receiving: Option<f64>| {
            let mut figures = Figures::default();
            figures.set("server_cores", 0.8);
            figures.set("load_cores", 1.5);
            figures.set("load_cpus", 2.0);
            figures.set_if("receiving_cores", receiving);
            notes(&figures).join("")
        };
        assert_eq!(notes_of(Some(0.75)), "", "a core each, and neither is full");
        assert!(notes_of(Some(0.99)).starts_with("of the load what receives saturates"));
        assert!(notes_of(Some(0.51)).starts_with("of the load what pushes saturates"));
        assert_eq!(
            notes_of(None),
            "",
            "several that do the same share two cores"
        );
    }
}
