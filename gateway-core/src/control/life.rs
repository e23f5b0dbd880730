//! Where a gateway is in its life, for all on the control thread that follow it.

use std::{future::Future, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Handle,
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

/// Where a gateway is in its life. It only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// Its shards are not all up yet.
    Starting,
    /// It takes clients.
    Ready,
    /// It goes away: no new client should be sent here.
    Draining,
    /// Its shards have ended. The process ends once those that follow have said good-bye, or [`FAREWELL`] is over.
    Ended,
}

/// How long the process waits, after its shards have ended, for what still runs on the control thread.
pub const FAREWELL: Duration = Duration::from_secs(3);

/// Moves a life forward.
#[derive(Debug)]
pub(super) struct Course(watch::Sender<Life>);

/// Tasks beside the admin port, which end after the life does.
#[derive(Debug)]
pub(super) struct Followers {
    handle: Handle,
    tasks: Vec<JoinHandle<()>>,
}

impl Course {
    /// A life that begins.
    pub(super) fn start() -> Self {
        Self(watch::Sender::new(Life::Starting))
    }

    pub(super) fn now(&self) -> Life {
        *self.0.borrow()
    }

    pub(super) fn follow(&self) -> watch::Receiver<Life> {
        self.0.subscribe()
    }

    /// Goes on to `life`, unless it is there already, or further.
    pub(super) fn advance(&self, life: Life) {
        self.0.send_if_modified(|now| {
            let forward = *now < life;
            *now = life.max(*now);
            forward
        });
    }
}

impl Followers {
    /// They run on `handle`.
    pub(super) fn on(handle: Handle) -> Self {
        Self {
            handle,
            tasks: Vec::new(),
        }
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.handle
    }

    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(self.handle.spawn(task));
    }

    pub(super) fn take(&mut self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut self.tasks)
    }
}

/// Waits until all have ended, for at most [`FAREWELL`].
pub(super) async fn farewell(followers: Vec<JoinHandle<()>>) {
    let until = Instant::now() + FAREWELL;
    for follower in followers {
        match timeout_at(until, follower).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "a task of the control thread failed"),
            Err(_) => tracing::warn!("a task of the control thread does not end in time"),
        }
    }
}
