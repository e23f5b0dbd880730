//! What one builds with the usual crates: gRPC by tonic, WebSockets by tokio-tungstenite, a task per connection.

use std::{net::SocketAddr, process::Command};

use anyhow::Context;
use futures_util::future::LocalBoxFuture;

use super::{Audience, Door, Peer, Pusher, Stage, generic::Generic};
use crate::process::Process;

mod server;

pub use server::serve;

/// The process, and where it listens.
pub struct Tonic {
    process: Process,
    ws: SocketAddr,
    grpc: SocketAddr,
    audience: Audience,
}

impl Tonic {
    /// Starts it.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(stage: &Stage) -> anyhow::Result<Self> {
        let mut command = Command::new(&stage.program);
        command.arg("tonic");
        let mut process = Process::start(&mut command, &stage.places.server)?;
        let ready = process.says(server::READY)?;
        let (ws, grpc) = ready.split_once(' ').context("two addresses")?;
        Ok(Self {
            ws: ws.parse()?,
            grpc: grpc.parse()?,
            process,
            audience: stage.audience.clone(),
        })
    }
}

impl Peer for Tonic {
    fn about(&self) -> String {
        format!("tonic and tokio-tungstenite, {}", server::VERSIONS)
    }

    fn pids(&self) -> Vec<u32> {
        vec![self.process.pid()]
    }

    fn door(&self, user: &str) -> Door {
        Door::of(user, self.ws)
    }

    fn pusher(&self) -> LocalBoxFuture<'_, anyhow::Result<Box<dyn Pusher>>> {
        Box::pin(async {
            let pusher = Generic::push_stream(self.grpc, self.audience.clone()).await?;
            let pusher: Box<dyn Pusher> = Box::new(pusher);
            Ok(pusher)
        })
    }
}
