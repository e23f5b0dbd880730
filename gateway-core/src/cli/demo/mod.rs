//! `ringway demo`: a gateway, a chat service and a page to try them with, in one process.

mod chat;
mod counters;
mod exchange;
mod page;
mod service;

use std::{sync::mpsc, thread::JoinHandle};

use anyhow::{Context, anyhow, bail};
use tokio::sync::oneshot;

use super::serve;
use crate::{
    bootstrap::{Extras, Running},
    config::Config,
};

/// Longest message of a client: what conformance suites send, and something to spare.
const MAX_MESSAGE: usize = (16 << 20) + 1024;
/// What protobuf puts around a payload, at most.
const ENVELOPE: usize = 64 << 10;

/// Serves the demo until a signal ends it.
///
/// # Errors
/// As [`serve::host`], and a chat service that does not come up.
pub(super) fn run(config: Config) -> anyhow::Result<()> {
    let config = adapt(config);
    let max_message = config.grpc.max_message_bytes;
    let extras = Extras {
        pages: vec![page::page()],
    };
    let (over, ended) = oneshot::channel();
    let mut service = None;
    let served = serve::host(config, extras, |running| {
        service = Some(start_service(running, max_message, ended)?);
        println!("http://{}/", running.ws);
        Ok(())
    });
    drop(over);
    let Some(service) = service else {
        return served;
    };
    match service.join() {
        Ok(end) => served.and(end),
        Err(_) => bail!("the chat service panicked"),
    }
}

/// Two shards, if not told otherwise, a path for echoes, and room for their largest messages. Whoever ends a demo
/// does not want to wait.
fn adapt(mut config: Config) -> Config {
    let at_least = |limit: &mut usize, least: usize| *limit = (*limit).max(least);
    if config.shards.count == 0 {
        config.shards.count = 2;
    }
    config.drain.max_spread_ms = config.drain.max_spread_ms.min(500);
    config.drain.spread_ms = config.drain.spread_ms.min(500);
    config.drain.retry_after_ms = config.drain.retry_after_ms.min(2_000);
    config.ws.paths.push(chat::ECHO_PATH.to_owned());
    at_least(&mut config.ws.max_message_bytes, MAX_MESSAGE);
    at_least(&mut config.limits.max_payload_bytes, MAX_MESSAGE);
    at_least(&mut config.grpc.max_message_bytes, MAX_MESSAGE + ENVELOPE);
    at_least(&mut config.outbox.max_bytes, 4 * MAX_MESSAGE);
    at_least(&mut config.upstream.hard_limit_bytes, 4 * MAX_MESSAGE);
    at_least(&mut config.upstream.buffer_bytes, 2 * MAX_MESSAGE);
    config
}

/// Starts the chat service on a thread of its own, and waits until every shard has welcomed it.
fn start_service(
    running: &Running,
    max_message: usize,
    over: oneshot::Receiver<()>,
) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
    let (welcome, welcomed) = mpsc::channel();
    let (gateway, metrics) = (running.grpc, running.metrics.clone());
    let thread = std::thread::Builder::new()
        .name("chat-service".to_owned())
        .spawn(move || {
            let ready = move || {
                // Whoever waited has gone only if the process ends.
                let _ = welcome.send(());
            };
            service::run(gateway, max_message, metrics, ready, over)
        })
        .context("cannot start a thread for the chat service")?;
    if welcomed.recv().is_ok() {
        return Ok(thread);
    }
    // It has ended, and with it its sender.
    match thread.join() {
        Ok(Err(error)) => Err(error),
        _ => Err(anyhow!("the chat service did not start")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_operator_are_only_widened() {
        let mut config = Config::default();
        config.shards.count = 5;
        config.outbox.max_bytes = 1 << 30;
        let adapted = adapt(config);
        assert_eq!(
            (adapted.shards.count, adapted.outbox.max_bytes),
            (5, 1 << 30)
        );
        assert_eq!(adapt(Config::default()).shards.count, 2);
        assert!(adapted.check().is_ok(), "{:?}", adapted.check());
    }
}
