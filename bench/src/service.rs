//! A small logic service: answers every message of a client with its own name and what the client said.

use std::{convert::Infallible, io::Write};

use anyhow::Context;
use logic_client::{Event, LogicClient};

/// What it prints when it receives.
pub const READY: &str = "service ready";

/// Which service, and where.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Gateways, by their common gRPC addresses
    #[arg(long, required = true)]
    pub gateway: Vec<String>,
    /// The consumer group
    #[arg(long)]
    pub service: String,
    /// What each answer begins with
    #[arg(long)]
    pub name: String,
}

/// Answers until the process is killed. An event is acknowledged once the answer to it is written, so that whoever takes over
/// answers all that is not.
///
/// # Errors
/// No gateway can be reached.
pub fn run(options: &Options) -> anyhow::Result<Infallible> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let builder = LogicClient::builder().service(&options.service);
        let gateways = options.gateway.iter();
        let builder = gateways.fold(builder, |builder, gateway| builder.gateway(gateway));
        let client = builder.receive_messages(true).connect().await?;
        let mut events = client.events().context("events were taken")?;
        let mut stdout = std::io::stdout();
        writeln!(stdout, "{READY}")?;
        stdout.flush()?;
        loop {
            let event = events.next().await.context("the client is closed")?;
            let Event::Message(message) = event else {
                continue;
            };
            let said = message.text().unwrap_or("something that is no text");
            let answer = message.reply().text(format!("{} {said}", options.name));
            if let Err(error) = client.push_confirmed(answer).await {
                eprintln!("{}: no answer to {said:?}: {error}", options.name);
            }
        }
    })
}
