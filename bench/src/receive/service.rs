//! Messages from clients that come to a logic service.

use std::{net::SocketAddr, rc::Rc};

use anyhow::{Context, Error, Result, anyhow, bail};
use logic_client::{Event, Events, Kind, LogicClient};

use super::Intake;
use crate::clock;

/// Connects a logic service to the gateway at `grpc`; it takes what users `user-0` and on say, until something fails.
///
/// # Errors
/// The gateway cannot be reached.
pub async fn as_service(
    intake: Rc<Intake>,
    grpc: SocketAddr,
) -> Result<impl Future<Output = Error>> {
    let builder = LogicClient::builder().gateway(grpc.to_string());
    let builder = builder.service("upstream").receive_messages(true);
    let client = builder.connect().await?;
    let mut events = client.events().context("events were taken")?;
    Ok(async move {
        // Whoever drops the client has no events.
        let _client = client;
        match receive(&intake, &mut events).await {
            Ok(()) => anyhow!("the logic client is closed"),
            Err(error) => error,
        }
    })
}

async fn receive(intake: &Intake, events: &mut Events) -> Result<()> {
    while let Some(event) = events.next().await {
        match event {
            Event::Message(message) => {
                let user = message.user.as_deref();
                let digits = user.and_then(|user| user.strip_prefix("user-"));
                let user = digits.and_then(|digits| digits.parse().ok());
                let text = message.kind == Kind::Text;
                let user = user.context("a stranger")?;
                intake.take(user, text, &message.payload, clock::now());
                intake.tell();
            }
            Event::Closed(closed) => bail!("a client was closed: {closed:?}"),
            _ => {}
        }
    }
    Ok(())
}
