//! Messages that come to WebSocket clients.

use std::{convert::Infallible, io, rc::Rc, time::Duration};

use anyhow::{Error, Result, bail};
use tokio::io::unix::AsyncFd;

use super::Intake;
use crate::{
    clients::{Clients, Event},
    clock,
    peers::Opener,
};

/// Whose connection is over, and the code and reason of the Close.
type Closed = (usize, Option<u16>, String);

/// Takes what comes to `clients`, each message as `opener` finds it, until something fails.
pub async fn from_clients(
    intake: Rc<Intake>,
    mut clients: Clients,
    mut opener: Box<Opener>,
) -> Error {
    match receive(&intake, &mut clients, &mut opener).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn receive(
    intake: &Intake,
    clients: &mut Clients,
    opener: &mut Opener,
) -> Result<Infallible> {
    // What took its place is unsafe, and asks that the descriptor stay open: an `OwnedFd` does.
    #[allow(deprecated)]
    let readiness = AsyncFd::new(clients.readiness().try_clone_to_owned()?)?;
    loop {
        let mut ready = readiness.readable().await?;
        loop {
            let (came, closed) = take(intake, clients, opener)?;
            if let Some((client, code, reason)) = closed {
                bail!("client {client} was closed with {code:?} {reason:?}");
            }
            if !came {
                break;
            }
            intake.tell();
            tokio::task::yield_now().await;
        }
        ready.clear_ready();
    }
}

/// Takes what has arrived. Says whether there was anything, and who was closed.
fn take(
    intake: &Intake,
    clients: &mut Clients,
    opener: &mut Opener,
) -> io::Result<(bool, Option<Closed>)> {
    let (now, mut closed) = (clock::now(), None);
    let came = clients.receive(Duration::ZERO, |client, event| match event {
        Event::Message { text, payload } => opener(client, text, payload, &mut |text, message| {
            intake.take(client, text, message, now);
        }),
        Event::Closed { code, reason } => closed = Some((client, code, reason.to_owned())),
    })?;
    Ok((came, closed))
}
