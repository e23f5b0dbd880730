//! `ringway config`: all settings, as a file.

use std::{io::Write, process::ExitCode};

use clap::Args;

use super::{not_started, settings::Settings};
use crate::config::as_toml;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: Settings,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let (config, origins) = match arguments.settings.load() {
        Ok(loaded) => loaded,
        Err(error) => return not_started(error),
    };
    let version = env!("CARGO_PKG_VERSION");
    let text = as_toml(&config, &origins);
    // A reader that has seen enough (`| head`) is no error.
    let _ = write!(
        std::io::stdout(),
        "# All settings of ringway {version}.\n\n{text}"
    );
    ExitCode::SUCCESS
}
