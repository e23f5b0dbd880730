//! Many worlds, one after the other.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use super::{
    coverage::Coverage,
    world::{Outcome, live},
};

/// What to live through.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How many worlds
    #[arg(long, default_value_t = 2_000)]
    pub seeds: u64,
    /// The seed of the first world; without --seeds, of the only one
    #[arg(long)]
    pub seed: Option<u64>,
    /// Prints what happened in a world that failed (or in the only one), line by line
    #[arg(long)]
    pub trace: bool,
    /// Goes on after a world that failed, and lists them all
    #[arg(long)]
    pub keep_going: bool,
}

/// What came of it.
pub struct Report {
    /// Worlds that were lived through.
    pub worlds: u64,
    /// How long that took.
    pub took: Duration,
    /// How long they lasted, in their own time.
    pub lasted: Duration,
    /// What they came by.
    pub coverage: Coverage,
    /// The worlds that failed: one, unless all were wanted.
    pub failures: Vec<Failure>,
}

/// A world in which a promise was broken.
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// The promise.
    pub what: String,
    /// What happened, line by line; empty unless asked for.
    pub trace: String,
}

/// Lives through worlds until one fails.
#[must_use]
pub fn run(options: &Options) -> Report {
    let began = Instant::now();
    let first = options.seed.unwrap_or(1);
    let mut report = Report {
        worlds: 0,
        took: Duration::ZERO,
        lasted: Duration::ZERO,
        coverage: Coverage::default(),
        failures: Vec::new(),
    };
    for seed in first..first.saturating_add(options.seeds) {
        let keep_lines = options.trace && options.seeds == 1;
        let (failure, trace) = match attempt(seed, keep_lines) {
            Ok(outcome) => {
                report.lasted += outcome.lasted;
                report.coverage.merge(outcome.coverage);
                (outcome.failure, outcome.trace.to_string())
            }
            Err(panic) => (Some(format!("panic: {panic}")), String::new()),
        };
        report.worlds += 1;
        if keep_lines && failure.is_none() {
            print!("{trace}");
        }
        if let Some(what) = failure {
            let trace = match options.trace && trace.is_empty() {
                true => again(seed),
                false => trace,
            };
            report.failures.push(Failure { seed, what, trace });
            if !options.keep_going {
                break;
            }
        }
    }
    report.took = began.elapsed();
    report
}

fn attempt(seed: u64, keep_lines: bool) -> Result<Outcome, String> {
    catch_unwind(AssertUnwindSafe(|| live(seed, keep_lines))).map_err(|panic| message(&*panic))
}

/// What happened in a world, line by line.
fn again(seed: u64) -> String {
    match attempt(seed, true) {
        Ok(outcome) => outcome.trace.to_string(),
        Err(_) => "a panic has taken the trace with it".into(),
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".into())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        writeln!(f, "{}", self.coverage)?;
        writeln!(
            f,
            "{} worlds in {seconds:.1} s ({:.1} a second), {:.0} s of their time",
            self.worlds,
            self.worlds as f64 / seconds.max(1e-9),
            self.lasted.as_secs_f64()
        )?;
        for Failure { seed, what, trace } in &self.failures {
            write!(f, "{trace}")?;
            writeln!(f, "seed {seed} failed: {what}")?;
        }
        if let Some(Failure { seed, .. }) = self.failures.first() {
            let again = "ringway-bench simulate --seeds 1 --trace --seed";
            writeln!(
                f,
                "{} failed; to live through one again: {again} {seed}",
                self.failures.len()
            )?;
        }
        Ok(())
    }
}
