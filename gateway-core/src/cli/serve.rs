//! `ringway serve`, and what `demo` shares with it: a gateway from its start to its end.

use std::{io::Write, process::ExitCode, sync::Arc, thread};

use anyhow::anyhow;
use clap::Args;
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

use super::{FAILED, NOT_STARTED, settings::Settings, signals::Signals};
use crate::{
    bootstrap::{self, Extras, Running},
    config::Config,
    control::{Control, Registrant, Subject},
    metrics::{DROPS, Metrics},
};

/// Exit codes of everything that runs a gateway.
pub(super) const EXIT_CODES: &str = "\
The first SIGTERM or SIGINT drains (as `ringway drain` does), a second one ends at once.

Exit codes:
  0  drained
  1  a second signal ended it before, or a shard failed
  2  not started: wrong flags or settings, or a resource that is not there";

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Arguments {
    /// What is logged, for example: debug, or info,gateway_core::driver=debug.
    #[arg(
        long,
        value_name = "FILTER",
        env = "RINGWAY_LOG",
        default_value = "info"
    )]
    log: String,
    #[command(flatten)]
    settings: Settings,
}

/// Something that the operator must change before a gateway can run.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
struct NotStarted(anyhow::Error);

/// Loads the settings, starts the log, and runs what the subcommand is about.
pub(super) fn run(
    arguments: &Arguments,
    command: impl FnOnce(Config) -> anyhow::Result<()>,
) -> ExitCode {
    let result = prepare(arguments).map_err(not_started).and_then(command);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringway: {error:#}");
            ExitCode::from(match error.is::<NotStarted>() {
                true => NOT_STARTED,
                false => FAILED,
            })
        }
    }
}

/// A gateway and nothing else.
pub(super) fn serve(config: Config) -> anyhow::Result<()> {
    host(config, Extras::default(), |_| Ok(()))
}

/// Runs a gateway until a signal, or a call of the admin port, has drained it. `started` is called when every shard
/// accepts, before the gateway says that it is ready.
///
/// # Errors
/// The gateway cannot start, `started` fails, or a shard does.
pub(super) fn host(
    config: Config,
    extras: Extras,
    started: impl FnOnce(&Running) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let signals = Signals::catch().map_err(|error| not_started(error.into()))?;
    let admin = config.admin.listen;
    let mut control = Control::start(&config.admin)
        .map_err(|error| not_started(anyhow!("admin.listen: cannot listen on {admin}: {error}")))?;
    let running = bootstrap::start(config, extras).map_err(|error| not_started(error.into()))?;
    let registrant = Registrant::of(&running.gateway, running.grpc)
        .map_err(|error| anyhow!("registry.etcd: {error}"))
        .and_then(|registrant| started(&running).map(|()| registrant));
    match registrant {
        Ok(Some(registrant)) => control.register(registrant),
        Ok(None) => {}
        Err(error) => {
            running.stop_now();
            // The error that counts is the one at hand.
            let _ = running.join();
            return Err(not_started(error));
        }
    }
    control.ready(subject(&running));
    announce(&running, &control);
    wait(running, &control, signals)
}

fn prepare(arguments: &Arguments) -> anyhow::Result<Config> {
    let (config, _) = arguments.settings.load()?;
    let filter = EnvFilter::builder()
        .parse(&arguments.log)
        .map_err(|error| anyhow!("--log = {:?}: {error}; allowed: debug, or info,gateway_core::driver=debug and the like", arguments.log))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init()
        .map_err(|error| anyhow!("cannot start the log: {error}"))?;
    Ok(config)
}

fn not_started(error: anyhow::Error) -> anyhow::Error {
    NotStarted(error).into()
}

fn subject(running: &Running) -> Subject {
    let (gateway, clock, remote) = (&running.gateway, running.clock, running.remote());
    Subject {
        metrics: running.metrics.clone(),
        threads: (running.threads().iter())
            .map(|thread| (thread.id, thread.core))
            .collect(),
        clock: Box::new(move || clock.now()),
        id: gateway.id.clone(),
        epoch: gateway.epoch,
        version: gateway.version.to_owned(),
        driver: gateway.driver.clone(),
        drain_settings: gateway.config.drain.clone(),
        drain: Box::new(move |spread| remote.drain(spread)),
        shard_grpc: running.shard_grpc.clone(),
        max_push_bytes: gateway.config.grpc.max_message_bytes,
    }
}

/// For whoever started this process: scripts and tests wait for this line. That nobody reads it is no error.
fn announce(running: &Running, control: &Control) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(
        stdout,
        "ringway ready ws={} grpc={} admin={} shards={}",
        running.ws,
        running.grpc,
        control.address(),
        running.metrics.len()
    );
    let _ = stdout.flush();
}

/// The last word: nobody looks at the metrics of a process that has ended, and what it counted last is to be known.
fn take_leave(metrics: &[Arc<Metrics>]) {
    let total = |count: &dyn Fn(&Metrics) -> u64| -> u64 {
        metrics.iter().map(|metrics| count(metrics)).sum()
    };
    let dropped = |reason: &str| {
        total(&|metrics| {
            let mut drops = metrics.drops.iter();
            drops
                .find(|(known, _)| *known == reason)
                .map_or(0, |(_, count)| count)
        })
    };
    let mut line = format!(
        "ringway ended pushes={} written={}",
        total(&|metrics| metrics.messages_in_logic.get()),
        total(&|metrics| metrics.messages_out_client.get()),
    );
    for reason in DROPS {
        line += &format!(" {reason}={}", dropped(reason));
    }
    let mut stdout = std::io::stdout().lock();
    // As above.
    let _ = writeln!(stdout, "{line}");
}

fn wait(running: Running, control: &Control, signals: Signals) -> anyhow::Result<()> {
    let drain = || match control.drain() {
        true => tracing::info!("a second signal ends the process at once"),
        false => tracing::info!("drains already; one more signal ends the process at once"),
    };
    let at_once = || {
        tracing::warn!("ended by a second signal before the drain was over");
        std::process::exit(FAILED.into());
    };
    thread::scope(|scope| {
        let (ended, over) = oneshot::channel();
        thread::Builder::new()
            .name("signals".into())
            .spawn_scoped(scope, || signals.watch(drain, at_once, over))?;
        let metrics = running.metrics.clone();
        let end = running.join();
        // Lets go of the thread of signals.
        drop(ended);
        end?;
        take_leave(&metrics);
        Ok(())
    })
}
