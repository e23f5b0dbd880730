//! `ringway-bench`: what the gateway costs, measured.

use std::{ffi::OsString, fmt::Display, process::ExitCode};

use clap::{Parser, Subcommand};
use gateway_bench::{fleet, gateway::Launch, hol, mesh, service, simulate, unicast};
use serde::Serialize;

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
    /// Gateways, clients and services on virtual time, from seeds, with everything that can go wrong
    Simulate(simulate::Options),
    /// Latency of those who have nothing to do with it, before and while somebody is in trouble
    Hol(hol::Options),
    /// One logic service and many gateways, by the mesh and by REST
    Fleet(fleet::Options),
    /// What a push costs both sides, with what the mesh does for it and without
    Mesh(mesh::Options),
    /// Takes pushes by REST: what `fleet` compares with
    #[command(hide = true)]
    RestReceiver,
    /// A logic service that answers what clients say: what tests start and kill
    #[command(hide = true)]
    Service(service::Options),
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
    let measured = match Arguments::parse().command {
        Command::Unicast(options) => unicast(&options),
        Command::Hol(options) => hol(&options),
        Command::Fleet(options) => fleet(&options),
        Command::Mesh(options) => mesh(&options),
        Command::RestReceiver => fleet::rest::serve().map(|never| match never {}),
        Command::Service(options) => service::run(&options).map(|never| match never {}),
        Command::Simulate(options) => return simulate(&options),
        Command::Gateway { arguments } => {
            let name = OsString::from("ringway");
            return gateway_core::cli::run(std::iter::once(name).chain(arguments));
        }
    };
    measured.unwrap_or_else(|error| {
        eprintln!("ringway-bench: {error:#}");
        ExitCode::from(FAILED)
    })
}

/// Fails with 1 if a message was lost, late or wrong.
fn unicast(options: &unicast::Options) -> anyhow::Result<ExitCode> {
    let report = unicast::run(options, launch()?)?;
    print(&report, options.json)?;
    Ok(exit_code(report.faults.is_none()))
}

/// Fails with 1 if a message to a witness was lost, late or wrong.
fn hol(options: &hol::Options) -> anyhow::Result<ExitCode> {
    let report = hol::run(options, &launch()?)?;
    print(&report, options.json)?;
    Ok(exit_code(report.is_faultless()))
}

/// Messages that are lost, late or wrong are an error.
fn fleet(options: &fleet::Options) -> anyhow::Result<ExitCode> {
    let report = fleet::run(options, &launch()?, &std::env::current_exe()?)?;
    print(&report, options.json)?;
    Ok(ExitCode::SUCCESS)
}

/// Messages that are lost, late or wrong are an error.
fn mesh(options: &mesh::Options) -> anyhow::Result<ExitCode> {
    print(&mesh::run(options, &launch()?)?, options.json)?;
    Ok(ExitCode::SUCCESS)
}

fn launch() -> anyhow::Result<Launch> {
    Ok(Launch::bench(std::env::current_exe()?))
}

fn print(report: &(impl Display + Serialize), json: bool) -> anyhow::Result<()> {
    match json {
        true => println!("{}", serde_json::to_string_pretty(report)?),
        false => println!("{report}"),
    }
    Ok(())
}

fn exit_code(faultless: bool) -> ExitCode {
    match faultless {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Fails with 1 if a promise was broken.
fn simulate(options: &simulate::Options) -> ExitCode {
    let report = simulate::run(options);
    print!("{report}");
    exit_code(report.failures.is_empty())
}
