//! `ringway drain`: sends a gateway away, tells how long that takes, and waits for it.

use std::{
    io::ErrorKind,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use serde::de::DeserializeOwned;

use super::{
    FAILED,
    duration::{duration, shown},
    http::{self, Answer},
};
use crate::control::{FAREWELL, Life, Load, Plan, Progress};

const REFUSED: u8 = 4;
const UNREACHABLE: u8 = 6;

/// How often a gateway is asked how far it is.
const POLL: Duration = Duration::from_millis(250);
/// How much later than announced a drain may be over.
const SPARE: Duration = Duration::from_secs(5);

const EXIT_CODES: &str = "\
Exit codes:
  0  the gateway drains (with --wait: it has drained; with --dry-run: it could)
  1  --wait: it has not drained in time
  2  wrong flags
  4  refused by the gateway
  6  unreachable: no gateway there, or no answer in time";

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Arguments {
    /// The gateway's admin port.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9900")]
    admin: String,
    /// Spread closing the clients over this time, for example 1500ms, 30s, 5m [default: as the gateway's settings say].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    spread: Option<Duration>,
    /// Only tell how long it would take, for how many connections and streams.
    #[arg(long)]
    dry_run: bool,
    /// Wait until the gateway is gone, and tell how far it is.
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Wait this long for an answer.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    timeout: Duration,
}

/// Why it does not drain.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot ask: {0}")]
    Unreachable(#[from] std::io::Error),
    #[error("{0}")]
    Refused(String),
    #[error("the answer is not one of a gateway of this version: {0}")]
    Strange(#[from] serde_json::Error),
    #[error(
        "it has not drained within {0}: look at its log; SIGTERM, twice if none came yet, ends it at once"
    )]
    Late(String),
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match arguments.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringway: {}: {error}", arguments.admin);
            ExitCode::from(match error {
                Failure::Unreachable(_) => UNREACHABLE,
                Failure::Refused(_) | Failure::Strange(_) => REFUSED,
                Failure::Late(_) => FAILED,
            })
        }
    }
}

impl Arguments {
    fn run(&self) -> Result<(), Failure> {
        // Before the drain begins: which run of the gateway it is.
        let before: Progress = answer(self.ask("GET", "/drain")?)?;
        let mut target = format!("/drain?dry_run={}", self.dry_run);
        if let Some(spread) = self.spread {
            target += &format!("&spread_ms={}", spread.as_millis());
        }
        let plan = match self.ask("POST", &target)? {
            Answer { status: 409, .. } if before.drain.is_some() && !self.dry_run => {
                println!("drains already");
                before.drain.map(|begun| begun.plan)
            }
            other => {
                let plan: Plan = answer(other)?;
                println!("{}", told(&plan, self.dry_run));
                Some(plan)
            }
        };
        match plan.filter(|_| self.wait) {
            Some(plan) => self.wait(&before.epoch, &plan),
            None => Ok(()),
        }
    }

    /// Until nobody answers any more, or another run of the gateway does.
    fn wait(&self, epoch: &str, plan: &Plan) -> Result<(), Failure> {
        let at_most = Duration::from_millis(plan.at_most_ms) + FAREWELL + SPARE;
        let deadline = Instant::now() + at_most;
        let mut shown_last = None;
        loop {
            match self.ask("GET", "/drain") {
                // The next run, which is not up yet.
                Ok(Answer { status: 503, .. }) => break,
                Ok(found) => {
                    let progress: Progress = answer(found)?;
                    if progress.epoch != epoch || progress.life == Life::Ended {
                        break;
                    }
                    if shown_last.replace(progress.load) != Some(progress.load) {
                        println!("left: {}", counts(&progress.load));
                    }
                }
                // Busy, not gone.
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                // Its admin port goes last.
                Err(_) => break,
            }
            if Instant::now() > deadline {
                return Err(Failure::Late(shown(at_most.as_millis() as u64)));
            }
            thread::park_timeout(POLL);
        }
        println!("drained");
        Ok(())
    }

    fn ask(&self, method: &str, target: &str) -> std::io::Result<Answer> {
        http::request(method, &self.admin, target, self.timeout)
    }
}

/// The answer to what was not refused.
fn answer<T: DeserializeOwned>(answer: Answer) -> Result<T, Failure> {
    match answer.status {
        200..300 => Ok(serde_json::from_str(&answer.body)?),
        404 | 405 => Err(Failure::Refused(
            "it knows no drains: is this the admin port of a gateway of this version?".to_owned(),
        )),
        _ => Err(Failure::Refused(answer.body.trim_end().to_owned())),
    }
}

fn told(plan: &Plan, dry_run: bool) -> String {
    let begins = if dry_run { "would drain" } else { "drains" };
    format!(
        "{begins} {} over {} ({}), at most {} in all",
        counts(&plan.load),
        shown(plan.spread_ms),
        plan.pace,
        shown(plan.at_most_ms),
    )
}

fn counts(load: &Load) -> String {
    let Load {
        connections,
        links,
        streams,
    } = load;
    format!("{connections} connections, {streams} streams on {links} links")
}
