//! The page: verdicts first, then charts, then every section with its command.

use std::fmt::Write;

use super::{
    Kept, Results, sections,
    targets::{TARGETS, number},
};
use crate::figures::Side;

/// Charts, with what stands in for them where pictures are not shown.
const CHARTS: [(&str, &str); 9] = [
    ("cost.svg", "CPU time per delivered message, by server"),
    (
        "other-servers.svg",
        "CPU time per delivered message of servers that others have written",
    ),
    (
        "adr.svg",
        "Pushes per second by REST, unary gRPC, a gRPC stream and a message queue",
    ),
    (
        "throughput.svg",
        "Messages per second, by number of connections",
    ),
    ("memory.svg", "Memory of an idle connection, by server"),
    ("handshakes.svg", "Handshakes per second of CPU, by server"),
    ("latency-5000.svg", "Latency at 5,000 messages a second"),
    ("latency-20000.svg", "Latency at 20,000 messages a second"),
    ("latency-50000.svg", "Latency at 50,000 messages a second"),
];

const HONESTY: &str = "\
## How to read this

- Everything runs on one machine, over loopback. Server and load have a CPU each, which they do not share with each other, but with
  whatever else the machine does; sections measure sides by turns, each started anew, and tell medians. Trust ratios before figures:
  a ratio is taken within a round and told as the median of all rounds.
- CPU time is the server process's, user and system, of all its threads, from the kernel's scheduler statistics. **Loopback charges the
  receiver's half of TCP to the sender**: some 40 % of each `send` here is work that a real client's machine would do. What remains on a
  real network instead is the driver's and the interrupts' work, which is not in these figures.
- In a closed loop the cost per message depends on how much is joined, and so on which side is the bottleneck. The cores of the load are
  beside every figure. The load is one process on one core; where it saturates first, the server waits for it, joins less, and looks dearer
  than it is: a note says so, and sections called two-loads measure the same with a second process of load (those who receive, or half of
  those who shake hands). It has a CPU of its own where there are three; on two cores it shares the load's, and can only show what it costs.
- Latency is measured at a rate that does not depend on the server (open loop), from when a message was due until the client has read it.
  The load never sleeps meanwhile; as its cores count those turns in which a message was due or had come.
- `ringway` is pushed to by `logic-client`, which is acknowledged and resumes; `tonic` by a plain client, which does not know what has become
  of its messages. `ringway-plain` is the gateway pushed to by that same client: what it is compared with then is a server.
- `limit` is no gateway: it has no gRPC, no users, nothing but the sends. `limit-joined` sends as many messages at a time as the gateway
  joined in the same round. `tonic` is what one builds with tonic and tokio-tungstenite who knows both: `bench/src/peers/tonic`.
- Every payload is verified: whose, which one, every byte. A section in which one was lost, doubled, reordered or damaged fails, and is not here.
";

/// The whole page, in Markdown, with those of its charts that were drawn.
pub(super) fn page(results: &Results, charts: &[&str]) -> String {
    let mut page = String::from(
        "# Benchmarks\n\nWritten by `ringway-bench report`; the data is in [results.json](results.json). \
         `ringway-bench report --list` lists the sections, `--only NAME` runs one again.\n\n",
    );
    verdicts(&mut page, results);
    page.push_str("## At a glance\n\n");
    let shown = CHARTS.iter().filter(|(file, _)| charts.contains(file));
    for (file, about) in shown {
        let _ = writeln!(page, "![{about}]({file})\n");
    }
    page.push_str(HONESTY);
    page.push_str("\n## Section by section\n");
    for section in sections::all() {
        if let Some(result) = results.get(section.name) {
            describe(&mut page, section.name, result);
        }
    }
    page
}

fn verdicts(page: &mut String, results: &Results) {
    page.push_str(
        "## Targets\n\n| what | asked for | found | verdict |\n| --- | --- | --- | --- |\n",
    );
    for target in TARGETS {
        for verdict in target.verdicts(results) {
            let (what, asked) = (target.what, verdict.asked);
            let _ = writeln!(
                page,
                "| {what} | {asked} | {} | {} |",
                verdict.found, verdict.verdict
            );
        }
    }
    page.push('\n');
}

fn describe(page: &mut String, name: &str, result: &Kept) {
    let machine = &result.findings.machine;
    let commit = machine.commit.as_deref().unwrap_or("unknown");
    let _ = writeln!(
        page,
        "\n### {name}\n\n```sh\nringway-bench {}\n```\n\n{machine}; commit {commit}, {}, load average {:.1}.\n",
        result.command, machine.at, machine.load_average
    );
    table(page, &result.findings.sides);
    for side in &result.findings.sides {
        let _ = writeln!(page, "- {}: {}", side.name, side.about);
        for note in &side.notes {
            let _ = writeln!(page, "  - {note}");
        }
    }
}

/// Figures down, sides across; in brackets how many times the first side's figure is this one's.
fn table(page: &mut String, sides: &[Side]) {
    let names: Vec<_> = sides.iter().map(|side| side.name.as_str()).collect();
    let _ = writeln!(page, "| | {} |", names.join(" | "));
    let _ = writeln!(page, "| --- |{}", " --- |".repeat(sides.len()));
    let mut figures: Vec<&str> = Vec::new();
    for side in sides {
        for name in side.median.names() {
            if !figures.contains(&name) {
                figures.push(name);
            }
        }
    }
    for figure in figures {
        let cells = sides.iter().map(|side| match side.median.get(figure) {
            None => String::new(),
            Some(value) => match side.first_by_this.get(figure) {
                Some(ratio) => format!("{} ({} ×)", number(value), number(ratio)),
                None => number(value),
            },
        });
        let cells: Vec<_> = cells.collect();
        let _ = writeln!(
            page,
            "| {} | {} |",
            figure.replace('_', " "),
            cells.join(" | ")
        );
    }
    page.push_str("\nIn brackets: the first column's figure by this one's, in the same round.\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::benchmarks::charts;

    #[test]
    fn an_empty_folder_gives_a_page_that_says_so() {
        let results = Results::new();
        assert!(page(&results, &[]).contains("not measured"));
        assert!(charts::all(&results).unwrap().is_empty());
    }
}
