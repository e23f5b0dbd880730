//! From addresses to names, and from stacks to a picture.

use std::{
    collections::{BTreeSet, HashMap},
    io,
};

use blazesym::{
    Pid,
    symbolize::{
        Input, Sym, Symbolizer,
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
    let user = user_names(&symbolizer, addresses(samples, |stack| &stack.user));
    let kernel = Source::Kernel(Kernel::default());
    let kernel = names(
        &symbolizer,
        &kernel,
        &addresses(samples, |stack| &stack.kernel),
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

/// Of this process. Debug information tells what was inlined; where it cannot be read, the symbol table has the functions.
fn user_names(symbolizer: &Symbolizer, mut addresses: Vec<u64>) -> Names {
    let mut known = Names::new();
    for debug_syms in [true, false] {
        let mut process = Process::new(Pid::Slf);
        process.debug_syms = debug_syms;
        // Needs no capability, unlike the links of map_files.
        process.map_files = false;
        known.extend(names(symbolizer, &Source::Process(process), &addresses));
        addresses.retain(|address| !known.contains_key(address));
    }
    known
}

/// The names of those that have one.
fn names(symbolizer: &Symbolizer, source: &Source<'_>, addresses: &[u64]) -> Names {
    let found = symbolizer.symbolize(source, Input::AbsAddr(addresses));
    let found = found.unwrap_or_default();
    let found = addresses.iter().zip(&found);
    found
        .filter_map(|(address, found)| Some((*address, in_order(found.as_sym()?))))
        .collect()
}

/// A function, and what is inlined into it.
fn in_order(symbol: &Sym<'_>) -> Vec<String> {
    let inlined = symbol.inlined.iter().map(|of| &of.name);
    let all = std::iter::once(&symbol.name).chain(inlined);
    // A semicolon parts the frames of a line.
    all.map(|name| name.replace(';', ":")).collect()
}

/// One line: the outermost function first, the kernel's with `_[k]`, which colours them.
fn folded(stack: &Stack, user: &Names, kernel: &Names) -> String {
    let own = looked_up(&stack.user).rev();
    let own = own.flat_map(|at| named(user, at, "?"));
    let system = looked_up(&stack.kernel).rev();
    let system = system.flat_map(|at| named(kernel, at, "[kernel]"));
    let system = system.map(|name| format!("{name}_[k]"));
    own.chain(system).collect::<Vec<_>>().join(";")
}

fn named(names: &Names, address: u64, unknown: &str) -> Vec<String> {
    let known = names.get(&address).cloned();
    known.unwrap_or_else(|| vec![unknown.to_owned()])
}
