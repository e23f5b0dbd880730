//! The gateway, pushed to by its own client, or by the plain one that pushes to its peers.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use futures_util::future::LocalBoxFuture;
use logic_client::{LogicClient, Push, TryPushError};

use super::{Audience, Counters, Door, Peer, Pusher, Stage, generic::Generic};
use crate::{
    gateway::{self, Gateway},
    metrics::Metrics,
};

/// A gateway, ours or one that runs already.
pub struct Ringway {
    /// Where clients connect.
    pub ws: SocketAddr,
    /// Where services connect.
    pub grpc: SocketAddr,
    /// Where it tells how it is, if that is known.
    pub admin: Option<SocketAddr>,
    /// Its process, if that is known.
    pub pid: Option<u32>,
    /// If it is ours.
    pub own: Option<Gateway>,
    /// Pushed to through `PushStream` by a client that knows nothing of it.
    plain: bool,
    audience: Audience,
}

impl Ringway {
    /// Starts a gateway.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(stage: &Stage) -> anyhow::Result<Self> {
        let launch = stage.launch.clone().shards(stage.shards);
        let own = launch.on(&stage.places.server).start()?;
        Ok(Self {
            ws: own.ws,
            grpc: own.grpc,
            admin: Some(own.admin),
            pid: Some(own.pid()),
            own: Some(own),
            plain: false,
            audience: stage.audience.clone(),
        })
    }

    /// The same, pushed to as its peers are: what is compared then are servers, not clients.
    #[must_use]
    pub fn plainly(self) -> Self {
        Self {
            plain: true,
            ..self
        }
    }

    /// One that runs already.
    #[must_use]
    pub fn running(
        [ws, grpc]: [SocketAddr; 2],
        admin: Option<SocketAddr>,
        pid: Option<u32>,
        audience: Audience,
    ) -> Self {
        Self {
            ws,
            grpc,
            admin,
            pid,
            own: None,
            plain: false,
            audience,
        }
    }
}

impl Peer for Ringway {
    fn about(&self) -> String {
        let about = gateway::about(self.admin);
        match self.plain {
            true => format!("{about}, pushed to by a plain client"),
            false => about,
        }
    }

    fn pids(&self) -> Vec<u32> {
        self.pid.into_iter().collect()
    }

    fn door(&self, user: &str) -> Door {
        Door::of(user, self.ws)
    }

    fn services(&self) -> Option<SocketAddr> {
        Some(self.grpc)
    }

    fn pusher(&self) -> LocalBoxFuture<'_, anyhow::Result<Box<dyn Pusher>>> {
        Box::pin(async {
            if self.plain {
                let pusher = Generic::push_stream(self.grpc, self.audience.clone()).await?;
                return Ok(Box::new(pusher) as Box<dyn Pusher>);
            }
            let builder = LogicClient::builder().gateway(self.grpc.to_string());
            let client = builder.connect().await.context("no logic client")?;
            let pusher: Box<dyn Pusher> = Box::new(Mesh::new(client, &self.audience));
            Ok(pusher)
        })
    }

    fn counters(&self) -> anyhow::Result<Counters> {
        let Some(admin) = self.admin else {
            return Ok(Counters::default());
        };
        let metrics = Metrics::read(admin)?;
        let crossed = |kind| metrics.sum("ringway_crossings_total", &[kind]);
        Ok(Counters {
            messages: Some(metrics.sum("ringway_messages_out_total", &["to=\"client\""])),
            sends: Some(metrics.sum("ringway_sends_total", &[])),
            crossings: Some(crossed("kind=\"push\"") + crossed("kind=\"command\"")),
        })
    }
}

/// Pushes through `logic-client`.
struct Mesh {
    client: LogicClient,
    /// The push to each target, still without payload.
    pushes: Vec<Push>,
    /// Taken, but the buffer was full.
    waiting: Option<Push>,
    failed: Option<anyhow::Error>,
}

impl Mesh {
    fn new(client: LogicClient, audience: &Audience) -> Self {
        let push = |target| match audience.names(target) {
            _ if audience.is_everyone() => Push::everyone(),
            [user] => Push::user(user),
            users => Push::users(users),
        };
        Self {
            client,
            pushes: (0..audience.targets()).map(push).collect(),
            waiting: None,
            failed: None,
        }
    }
}

impl Pusher for Mesh {
    fn push(&mut self, target: usize, payload: Vec<u8>) -> bool {
        match self
            .client
            .try_push(self.pushes[target].clone().binary(payload))
        {
            Ok(()) => return true,
            Err(TryPushError::Full(push)) => self.waiting = Some(push),
            Err(error) => self.failed = Some(error.into()),
        }
        false
    }

    fn flush(&mut self) -> LocalBoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async {
            if let Some(failed) = self.failed.take() {
                return Err(failed);
            }
            if let Some(push) = self.waiting.take() {
                self.client.push(push).await?;
            }
            Ok(())
        })
    }

    fn finish(self: Box<Self>) -> LocalBoxFuture<'static, anyhow::Result<()>> {
        Box::pin(async move {
            match self.client.stats().total().rejected() {
                0 => Ok(()),
                rejected => bail!("the gateway rejected {rejected} pushes"),
            }
        })
    }
}
