//! `ringway-bench`: what the gateway costs, measured.

use std::{ffi::OsString, fmt::Display, process::ExitCode};

use clap::{Parser, Subcommand};
use gateway_bench::{
    adr, benchmarks, crossing, fanout, figures::Findings, fleet, gateway::Launch, handshakes, hol,
    idle, latency, mesh, peers, receive, scaling, service, simulate, storm, throng, unicast,
    upstream, verify::Wrong,
};
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
    /// Messages that name many users each, as many as the gateway takes
    Multicast(fanout::Multicast),
    /// Messages for everyone, as many as the gateway takes
    Broadcast(fanout::Broadcast),
    /// Messages for single users at a rate: how long they take from when they were due
    Latency(latency::Options),
    /// Messages from clients to a logic service, as many as the gateway takes
    Upstream(upstream::Options),
    /// Memory of connections that do nothing
    Idle(idle::Options),
    /// Handshakes, as many as the gateway takes
    Connect(handshakes::Options),
    /// The gateway is killed and started again: until all clients are back
    ReconnectStorm(storm::Options),
    /// Pushes that arrive at another shard than their user's
    Crossing(crossing::Options),
    /// What a second shard brings
    Scaling(scaling::Options),
    /// Gateways, clients and services on virtual time, from seeds, with everything that can go wrong
    Simulate(simulate::Options),
    /// Latency of those who have nothing to do with it, before and while somebody is in trouble
    Hol(hol::Options),
    /// One logic service and many gateways, by the mesh and by REST
    Fleet(fleet::Options),
    /// What a push costs both sides, with what the mesh does for it and without
    Mesh(mesh::Options),
    /// What a push costs a shard, without a kernel
    PushPath(push_path::Options),
    /// Many of these, and a page with charts
    Report(benchmarks::Options),
    /// The decision for streams, measured: pushes by REST, unary gRPC, a gRPC stream, a message queue
    Adr(adr::Options),
    /// Forwards from the message queue to the gateway: what `adr` compares with
    #[command(hide = true)]
    AdrConsumer(adr::queue::Consumer),
    /// A gateway of tonic and tokio-tungstenite: what others are compared with
    #[command(hide = true)]
    Tonic,
    /// Nothing but sends: what others are compared with
    #[command(hide = true)]
    Limit(peers::limit::Options),
    /// Nothing but handshakes: what others are compared with
    #[command(hide = true)]
    Greeter,
    /// Clients that come back: what others start more of than one process can have
    #[command(hide = true)]
    Throng(throng::Options),
    /// The receiving side of a load: what others start where those who receive have a process of their own
    #[command(hide = true)]
    Receive,
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
    let command = Arguments::parse().command;
    run(command).unwrap_or_else(|error| {
        eprintln!("ringway-bench: {error:#}");
        match error.is::<Wrong>() {
            true => ExitCode::FAILURE,
            false => ExitCode::from(FAILED),
        }
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe()?;
    let launch = Launch::bench(program.clone());
    match command {
        Command::Unicast(o) => found(o.setup.json, unicast::run(&o, &launch)),
        Command::Multicast(o) => found(o.setup.json, fanout::multicast(&o, &launch)),
        Command::Broadcast(o) => found(o.setup.json, fanout::broadcast(&o, &launch)),
        Command::Latency(o) => found(o.setup.json, latency::run(&o, &launch)),
        Command::Upstream(o) => found(o.setup.json, upstream::run(&o, &launch)),
        Command::Idle(o) => found(o.setup.json, idle::run(&o, &launch)),
        Command::Connect(o) => found(o.setup.json, handshakes::run(&o, &launch)),
        Command::ReconnectStorm(o) => found(o.setup.json, storm::run(&o, &launch)),
        Command::Crossing(o) => found(o.setup.json, crossing::run(&o, &launch)),
        Command::Scaling(o) => found(o.setup.json, scaling::run(&o, &launch)),
        Command::PushPath(options) => push_path::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Report(options) => benchmarks::run(&options, &program).map(|()| ExitCode::SUCCESS),
        Command::Hol(options) => {
            let report = hol::run(&options, &launch)?;
            print(&report, options.json)?;
            Ok(exit_code(report.is_faultless()))
        }
        // Messages that are lost, late or wrong are an error of these.
        Command::Adr(options) => told(options.json, adr::run(&options, &launch, &program)),
        Command::Fleet(options) => told(options.json, fleet::run(&options, &launch, &program)),
        Command::Mesh(options) => told(options.json, mesh::run(&options, &launch)),
        Command::Simulate(options) => {
            let report = simulate::run(&options);
            print!("{report}");
            Ok(exit_code(report.failures.is_empty()))
        }
        Command::Tonic => peers::tonic::serve().map(|never| match never {}),
        Command::Greeter => peers::greeter::serve().map(|never| match never {}),
        Command::Throng(options) => throng::run(&options).map(|never| match never {}),
        Command::Limit(options) => peers::limit::serve(&options).map(|never| match never {}),
        Command::AdrConsumer(options) => adr::queue::consume(&options).map(|never| match never {}),
        Command::Receive => receive::serve().map(|()| ExitCode::SUCCESS),
        Command::RestReceiver => fleet::rest::serve().map(|never| match never {}),
        Command::Service(options) => service::run(&options).map(|never| match never {}),
        Command::Gateway { arguments } => {
            let name = OsString::from("ringway");
            Ok(gateway_core::cli::run(
                std::iter::once(name).chain(arguments),
            ))
        }
    }
}

/// Fails with 1 if a message was lost, late or wrong.
fn found(json: bool, findings: anyhow::Result<Findings>) -> anyhow::Result<ExitCode> {
    let findings = findings?;
    print(&findings, json)?;
    Ok(exit_code(findings.is_faultless()))
}

/// What is an error if it is not as it should be.
fn told(json: bool, report: anyhow::Result<impl Display + Serialize>) -> anyhow::Result<ExitCode> {
    print(&report?, json)?;
    Ok(ExitCode::SUCCESS)
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
