//! `ringway-bench`: what the gateway costs, measured.

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};
use gateway_bench::{gateway::Launch, unicast};

#[derive(Parser)]
#[command(
    name = "ringway-bench",
    version,
    about = "What the gateway costs, measured"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Messages for single users, as many as the gateway takes
    Unicast(unicast::Options),
    /// The gateway built in here, with the arguments of `ringway`: what the other commands start and measure
    #[command(disable_help_flag = true)]
    Gateway {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// The measurement could not be made.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Unicast(options) => unicast(&options).unwrap_or_else(|error| {
            eprintln!("ringway-bench: {error:#}");
            ExitCode::from(FAILED)
        }),
        Command::Gateway { arguments } => {
            let name = OsString::from("ringway");
            gateway_core::cli::run(std::iter::once(name).chain(arguments))
        }
    }
}

/// Fails with 1 if a message was lost, late or wrong.
fn unicast(options: &unicast::Options) -> anyhow::Result<ExitCode> {
    let report = unicast::run(options, Launch::bench(std::env::current_exe()?))?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(match report.faults.is_none() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
