//! `ringway check`: what of this host or pod limits the gateway, and what to do about it.

use std::{
    fmt::{self, Write as _},
    io::Write,
    path::Path,
    process::ExitCode,
};

use clap::Args;

use super::{not_started, settings::Settings};
use crate::{
    config::Config,
    driver::placement::{Host, place},
};

mod advice;
mod cpus;
mod kernel;
mod ports;
mod resources;
#[cfg(test)]
mod tests;

const EXIT_CODES: &str = "\
Exit codes:
  0  a gateway with these settings can start here (there may be warnings)
  1  something prevents it
  2  wrong flags or settings";

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: Settings,
}

/// What was found out about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    level: Level,
    /// The thing.
    about: String,
    /// How it is.
    text: String,
    /// What to do. Empty: nothing.
    advice: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// As it should be.
    Ok,
    /// The gateway starts, but is limited.
    Warn,
    /// The gateway does not start.
    Fail,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let config = match arguments.settings.load() {
        Ok((config, _)) => config,
        Err(error) => return not_started(error),
    };
    let findings = look(&config);
    let mut page = String::new();
    for finding in &findings {
        let _ = writeln!(page, "{finding}");
    }
    let _ = write!(std::io::stdout(), "{page}");
    ExitCode::from(u8::from(
        findings.iter().any(|finding| finding.level == Level::Fail),
    ))
}

fn look(config: &Config) -> Vec<Finding> {
    let host = Host::detect();
    let mut findings = vec![kernel::driver(&config.shards)];
    let shards = match place(&config.shards, &host) {
        Ok(placement) => {
            let shards = placement.shards();
            findings.push(resources::cores(&placement));
            shards
        }
        Err(error) => {
            let text = error.to_string();
            findings.push(Finding::new(
                Level::Fail,
                "cores",
                text,
                "change the setting",
            ));
            1
        }
    };
    findings.push(resources::descriptors(config, shards));
    findings.push(resources::locked_memory());
    findings.push(resources::memory(config, shards));
    findings.extend(ports::free(config, shards));
    findings.extend(ports::ephemeral(config, shards));
    findings.push(kernel::backlog(config));
    findings.extend(kernel::sysctls());
    findings.extend(kernel::switches());
    let (root, allowed) = (Path::new("/"), host.allowed.len());
    findings.extend(cpus::set_aside(root, &config.shards.cores, allowed));
    findings.extend(cpus::queues(root, allowed));
    findings
}

impl Finding {
    fn new(level: Level, about: &str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            level,
            about: about.to_owned(),
            text: text.into(),
            advice: advice.into(),
        }
    }

    fn ok(about: &str, text: impl Into<String>) -> Self {
        Self::new(Level::Ok, about, text, "")
    }

    fn warn(about: &str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Level::Warn, about, text, advice)
    }

    fn fail(about: &str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Level::Fail, about, text, advice)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        write!(f, "{level:4}  {}: {}", self.about, self.text)?;
        match self.advice.as_str() {
            "" => Ok(()),
            advice => write!(f, "; {advice}"),
        }
    }
}
