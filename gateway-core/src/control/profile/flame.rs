//! From addresses to names, and from stacks to a picture.

use std::{
    collections::{BTreeSet, HashMap},
    io,
};

use blazesym::{
    Pid,
    symbolize::{
        Input, Symbolized, Symbolizer,
        source::{Kernel, Process, Source},
    },
};
use inferno::flamegraph::{self, Options};

use super::sample::{Samples, Stack};

/// Names by address, those of one address from the outermost to the innermost inlined function.
type Names = HashMap<u64, Vec<String>>;

/// The flame graph, as SVG.
///
/// # Errors
/// There is nothing to draw.
pub(super) fn draw(title: &str, samples: &Samples) -> io::Result<Vec<u8>> {
    let symbolizer = Symbolizer::new();
    let mut process = Process::new(Pid::Slf);
    // Needs no capability, unlike the links of map_files.
    process.map_files = false;
    let process = Source::Process(process);
    let user = names(
        &symbolizer,
        &process,
        addresses(samples, |stack| &stack.user),
        "?",
    );
    let kernel = Source::Kernel(Kernel::default());
    let kernel = names(
        &symbolizer,
        &kernel,
        addresses(samples, |stack| &stack.kernel),
        "[kernel]",
    );
    let mut lines: Vec<_> = (samples.stacks.iter())
        .map(|(stack, count)| format!("{} {count}", folded(stack, &user, &kernel)))
        .collect();
    lines.sort_unstable();
    let mut options = Options::default();
    let mut svg = Vec::new();
    options.title = title.to_owned();
    options.subtitle = subtitle(samples);
    options.count_name = "samples".to_owned();
    options.deterministic = true;
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)?;
    Ok(svg)
}

fn subtitle(samples: &Samples) -> Option<String> {
    let mut notes = Vec::new();
    if samples.without_kernel {
        notes.push(
            "without the kernel's part: the host hides it (kernel.perf_event_paranoid)".to_owned(),
        );
    }
    if samples.lost > 0 {
        notes.push(format!("{} samples lost", samples.lost));
    }
    (!notes.is_empty()).then(|| notes.join("; "))
}

/// Every address once.
fn addresses(samples: &Samples, of: impl Fn(&Stack) -> &Vec<u64>) -> Vec<u64> {
    let all: BTreeSet<_> = samples
        .stacks
        .keys()
        .flat_map(|stack| looked_up(of(stack)))
        .collect();
    all.into_iter().collect()
}

/// Where each function was: all but the innermost address are where it goes on after a call, which may lie behind its end.
fn looked_up(addresses: &[u64]) -> impl DoubleEndedIterator<Item = u64> + '_ {
    let inside = |(at, address): (usize, &u64)| address.saturating_sub(u64::from(at > 0));
    addresses.iter().enumerate().map(inside)
}

/// What has no name gets `unknown`.
fn names(
    symbolizer: &Symbolizer,
    source: &Source<'_>,
    addresses: Vec<u64>,
    unknown: &str,
) -> Names {
    let found = symbolizer.symbolize(source, Input::AbsAddr(addresses.as_slice()));
    let found = found.unwrap_or_default();
    let mut names: Names = (addresses.iter().zip(&found))
        .map(|(address, found)| (*address, in_order(found, unknown)))
        .collect();
    for address in addresses {
        names
            .entry(address)
            .or_insert_with(|| vec![unknown.to_owned()]);
    }
    names
}

fn in_order(found: &Symbolized<'_>, unknown: &str) -> Vec<String> {
    match found {
        Symbolized::Sym(symbol) => {
            let inlined = symbol.inlined.iter().map(|of| &of.name);
            let all = std::iter::once(&symbol.name).chain(inlined);
            // A semicolon parts the frames of a line.
            all.map(|name| name.replace(';', ":")).collect()
        }
        Symbolized::Unknown(_) => vec![unknown.to_owned()],
    }
}

/// One line: the outermost function first, the kernel's with `_[k]`, which colours them.
fn folded(stack: &Stack, user: &Names, kernel: &Names) -> String {
    let user = looked_up(&stack.user)
        .rev()
        .flat_map(|at| &user[&at])
        .cloned();
    let kernel = looked_up(&stack.kernel).rev().flat_map(|at| &kernel[&at]);
    let kernel = kernel.map(|name| format!("{name}_[k]"));
    user.chain(kernel).collect::<Vec<_>>().join(";")
}
