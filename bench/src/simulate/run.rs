//! Many worlds, one after the other.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::{coverage::Coverage, world::live};

/// What to live through.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// How many worlds [default: 2000, or 1 with --seed]
    #[arg(long)]
    pub seeds: Option<u64>,
    /// The seed of the first world; without --seeds, of the only one
    #[arg(long)]
    pub seed: Option<u64>,
    /// Prints what happened in the only world even if it keeps all promises; of one that does not it is printed anyway
    #[arg(long)]
    pub trace: bool,
    /// Goes on after a world that failed, and lists them all
    #[arg(long)]
    pub keep_going: bool,
    /// A rule that does not hold: to see what a failure looks like
    #[cfg(debug_assertions)]
    #[arg(long, hide = true, value_enum)]
    pub without: Option<gateway_core::mutation::Rule>,
}

impl Options {
    fn worlds(&self) -> u64 {
        let usual = if self.seed.is_some() { 1 } else { 2_000 };
        self.seeds.unwrap_or(usual)
    }
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
    /// What happened, line by line, of the first one that failed.
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
    #[cfg(debug_assertions)]
    gateway_core::mutation::switch_off(options.without);
    for seed in first..first.saturating_add(options.worlds()) {
        let keep_lines = options.worlds() == 1;
        let outcome = live(seed, keep_lines);
        report.worlds += 1;
        report.lasted += outcome.lasted;
        report.coverage.merge(outcome.coverage);
        if options.trace && keep_lines && outcome.failure.is_none() {
            print!("{}", outcome.trace);
        }
        if let Some(what) = outcome.failure {
            // Lines cost most of a world's time: it is lived through again for them.
            let trace = match (report.failures.is_empty(), keep_lines) {
                (true, true) => outcome.trace.to_string(),
                (true, false) => live(seed, true).trace.to_string(),
                (false, _) => String::new(),
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
            let again = "ringway-bench simulate --seed";
            writeln!(
                f,
                "{} failed; to live through one again: {again} {seed}",
                self.failures.len()
            )?;
        }
        Ok(())
    }
}
