//! What people see first.

use anyhow::Result;

use super::{Results, bars::Bars, lines::Lines};
use crate::figures::Side;

/// Sections of unicast, by connections.
const BY_CONNECTIONS: [(&str, f64); 4] = [
    ("unicast-100", 100.0),
    ("unicast-1000", 1_000.0),
    ("unicast-4000", 4_000.0),
    ("unicast-10000", 10_000.0),
];

/// Every chart of which there is something to show: its file's name, and its SVG.
pub(super) fn all(results: &Results) -> Result<Vec<(&'static str, String)>> {
    let mut charts = Vec::new();
    let mut bars = |file, chart: Bars| -> Result<()> {
        if !chart.groups.is_empty() {
            charts.push((file, chart.draw()?));
        }
        Ok(())
    };
    bars("cost.svg", cost(results))?;
    bars("other-servers.svg", other_servers(results))?;
    bars("adr.svg", adr(results))?;
    bars("memory.svg", memory(results))?;
    bars("handshakes.svg", handshakes(results))?;
    for (file, section, rate) in [
        ("latency-5000.svg", "latency-5000", "5,000"),
        ("latency-20000.svg", "latency-20000", "20,000"),
        ("latency-50000.svg", "latency-50000", "50,000"),
    ] {
        if let Some(chart) = latency(results, section, rate) {
            charts.push((file, chart.draw()?));
        }
    }
    let throughput = throughput(results);
    if !throughput.lines.is_empty() {
        charts.push(("throughput.svg", throughput.draw()?));
    }
    Ok(charts)
}

fn cost(results: &Results) -> Bars {
    let sections = [
        ("unicast-100", "128 B to single users, 100 connections"),
        ("unicast-1000", "128 B to single users, 1,000 connections"),
        ("unicast-10000", "128 B to single users, 10,000 connections"),
        (
            "unicast-1200B",
            "1,200 B to single users, 1,000 connections",
        ),
        (
            "multicast",
            "128 B to 100 users at a time, 1,000 connections",
        ),
        ("broadcast", "128 B to everyone, 10,000 connections"),
    ];
    Bars {
        title: "CPU time of the server per delivered message, in µs".into(),
        subtitle:
            "Shorter is better. limit: only send(2), one message each; limit-joined: as many each as ringway joins; \
             ringway-plain: pushed to as tonic is."
                .into(),
        groups: groups(results, &sections, |side| {
            side.median.get("server_micros_per_message")
        }),
    }
}

fn other_servers(results: &Results) -> Bars {
    let sections = [("other-servers", "128 B to single users, 1,000 connections")];
    Bars {
        title: "CPU time per delivered message of servers that others have written, in µs".into(),
        subtitle: "Shorter is better. All processes of a server together; what each can do, and how it is pushed to, differs."
            .into(),
        groups: groups(results, &sections, |side| {
            side.median.get("server_micros_per_message")
        }),
    }
}

fn adr(results: &Results) -> Bars {
    let sections = [
        ("adr-natural", "as many in flight as come naturally"),
        ("adr-10", "10 in flight"),
        ("adr-60", "60 in flight"),
    ];
    let mut groups = groups(results, &sections, |side| {
        side.median.get("messages_per_second")
    });
    for (_, bars) in &mut groups {
        for (name, _) in bars {
            // The number in flight is the group's.
            if let Some((way, _)) = name.split_once(" (") {
                *name = way.to_owned();
            }
        }
    }
    Bars {
        title: "Pushes per second from 10 callers to WebSocket clients, 1,200 B, by way to push"
            .into(),
        subtitle: "Longer is better. rest: HTTP/1.1 and JSON; stream: gRPC; client: logic-client; queue: Redis Streams and a consumer."
            .into(),
        groups,
    }
}

fn memory(results: &Results) -> Bars {
    let sections = [("idle", "10,000 connections")];
    Bars {
        title: "Memory of an idle connection, in bytes of user space".into(),
        subtitle: "Shorter is better. What the process holds more with 10,000 connections than without, by \
                   connection."
            .into(),
        groups: groups(results, &sections, |side| side.median.get("bytes_per_connection")),
    }
}

fn handshakes(results: &Results) -> Bars {
    Bars {
        title: "Handshakes per second of server CPU".into(),
        subtitle:
            "Longer is better. TCP accept and WebSocket upgrade, 256 at a time, connections kept."
                .into(),
        groups: groups(results, &[("connect", "10,000 connections")], |side| {
            side.median.get("handshakes_per_core_second")
        }),
    }
}

fn groups(
    results: &Results,
    sections: &[(&str, &str)],
    value: impl Fn(&Side) -> Option<f64>,
) -> Vec<(String, Vec<(String, f64)>)> {
    let groups = sections.iter().filter_map(|(section, title)| {
        let sides = results.get(*section)?.findings.sides.iter();
        let bars = sides.filter_map(|side| Some((side.name.clone(), value(side)?)));
        Some(((*title).to_owned(), bars.collect::<Vec<_>>()))
    });
    groups.filter(|(_, bars)| !bars.is_empty()).collect()
}

fn latency(results: &Results, section: &str, rate: &str) -> Option<Lines> {
    let findings = &results.get(section)?.findings;
    let quantiles = [
        "p50_micros",
        "p90_micros",
        "p99_micros",
        "p999_micros",
        "max_micros",
    ];
    let lines = findings.sides.iter().map(|side| {
        let known = quantiles.iter().enumerate();
        let points = known.filter_map(|(at, name)| {
            // At 1, 10, 100, …: the axis is logarithmic.
            Some((10_f64.powi(at as i32), side.median.get(name)?))
        });
        (side.name.clone(), points.collect())
    });
    Some(Lines {
        title: format!("{rate} messages/s to 1,000 connections: from when due to when received"),
        across: "share of messages that are faster".into(),
        up: "µs (lower is better)".into(),
        places: &["half", "90 %", "99 %", "99.9 %", "all"],
        lines: lines.collect(),
    })
}

fn throughput(results: &Results) -> Lines {
    let mut lines: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for (section, connections) in BY_CONNECTIONS {
        let Some(result) = results.get(section) else {
            continue;
        };
        for side in &result.findings.sides {
            let Some(value) = side.median.get("messages_per_second") else {
                continue;
            };
            let point = (connections, value);
            match lines.iter_mut().find(|(name, _)| *name == side.name) {
                Some((_, points)) => points.push(point),
                None => lines.push((side.name.clone(), vec![point])),
            }
        }
    }
    Lines {
        title: "Messages per second by connections, server on one core, load on another".into(),
        across: "connections".into(),
        up: "messages/s (higher is better)".into(),
        places: &[],
        lines,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        benchmarks::Kept,
        figures::{Figures, Findings, Sample},
        verify::Faults,
    };

    #[test]
    fn ways_to_push_are_grouped_by_how_many_are_in_flight() {
        let mut figures = Figures::default();
        figures.set("messages_per_second", 1_000.0);
        let sample = Sample {
            about: String::new(),
            figures,
            faults: Faults::default(),
        };
        let sides = vec![("stream (10)".to_owned(), vec![sample])];
        let kept = Kept {
            command: "adr".to_owned(),
            findings: Findings::of("adr", BTreeMap::new(), sides),
        };
        let results = Results::from([("adr-10".to_owned(), kept)]);
        let group = (
            "10 in flight".to_owned(),
            vec![("stream".to_owned(), 1_000.0)],
        );
        assert_eq!(adr(&results).groups, [group]);
        let charts = all(&results).unwrap();
        assert!(charts.iter().any(|(file, _)| *file == "adr.svg"));
    }
}
