//! The command line.

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

mod check;
mod config;
mod demo;
mod drain;
mod duration;
mod http;
mod push;
mod rpc;
mod serve;
mod settings;
mod signals;
mod top;

/// Something failed while running.
const FAILED: u8 = 1;
/// Wrong settings or flags, or a resource that is not there: nothing was started. Also clap's own code.
const NOT_STARTED: u8 = 2;

/// Ringway: a WebSocket push gateway.
#[derive(Debug, Parser)]
#[command(name = "ringway", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Serve(serve::Arguments),
    /// Run a gateway with a chat service and a page to try them with: open http://127.0.0.1:8080/.
    Demo(serve::Arguments),
    /// Push one message, from a script or by hand.
    Push(push::Arguments),
    /// Send a gateway away at a set pace, before it is stopped or restarted.
    Drain(drain::Arguments),
    /// Show live where the time of each shard goes, and who takes it.
    Top(top::Arguments),
    /// Tell what of this host or pod limits the gateway, and what to do.
    Check(check::Arguments),
    /// Print all settings with meaning, default and value, as a TOML file that can be saved and used.
    Config(config::Arguments),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Runs a command line, the program's name first.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Arguments::parse_from(arguments).command {
        Command::Serve(arguments) => serve::run(&arguments, serve::serve),
        Command::Demo(arguments) => serve::run(&arguments, demo::run),
        Command::Push(arguments) => push::run(&arguments),
        Command::Drain(arguments) => drain::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Config(arguments) => config::run(&arguments),
    }
}

/// One line about why nothing was started.
fn not_started(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("ringway: {error}");
    ExitCode::from(NOT_STARTED)
}
