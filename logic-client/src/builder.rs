//! How a client is set up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::client::LogicClient;
use crate::core::backoff::Pace;
use crate::core::buffer::Bounds;
use crate::core::link::Wire;
use crate::driver::mesh::Mesh;
use crate::driver::queue::{Ending, Queue};
use crate::error::{ConnectError, GatewayError};
use crate::event::{Notice, NoticeFn};
use crate::stats::StreamState;

/// Sets up a [`LogicClient`]. Everything but [`Builder::gateway`] has a default.
#[derive(Clone)]
#[must_use = "a builder does nothing until it connects"]
pub struct Builder {
    settings: Settings,
    connect_timeout: Duration,
}

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) gateways: Vec<String>,
    pub(crate) service: String,
    pub(crate) receive: bool,
    pub(crate) buffer: Bounds,
    pub(crate) pace: Pace,
    pub(crate) wire: Wire,
    /// For one attempt to have a gateway described, to dial, to be welcomed: each.
    pub(crate) attempt_timeout: Duration,
    pub(crate) max_receipts: usize,
    pub(crate) on_notice: Option<NoticeFn>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        let settings = Settings {
            gateways: Vec::new(),
            service: String::new(),
            receive: false,
            buffer: Bounds {
                items: 65_536,
                bytes: 16 << 20,
            },
            pace: Pace {
                base: Duration::from_millis(50),
                cap: Duration::from_secs(5),
                stable: Duration::from_secs(10),
            },
            wire: Wire {
                event_window: 1 << 20,
                keepalive: Duration::from_secs(10),
            },
            attempt_timeout: Duration::from_secs(5),
            max_receipts: 65_536,
            on_notice: None,
        };
        Self {
            settings,
            connect_timeout: Duration::from_secs(10),
        }
    }

    /// Adds a gateway: "host:port" of its common gRPC port. Name every gateway itself; an address
    /// that is load-balanced over several is an error.
    pub fn gateway(mut self, address: impl Into<String>) -> Self {
        self.settings.gateways.push(address.into());
        self
    }

    /// The consumer group of this process, 1 to 256 bytes: what clients do reaches each service
    /// once. Needed to receive messages.
    pub fn service(mut self, service: impl Into<String>) -> Self {
        self.settings.service = service.into();
        self
    }

    /// Whether this client receives what clients do; see
    /// [`LogicClient::events`](crate::LogicClient::events). Default: no.
    pub fn receive_messages(mut self, receive: bool) -> Self {
        self.settings.receive = receive;
        self
    }

    /// How many commands, and how many bytes of them, may wait for each stream; then
    /// [`push`](crate::LogicClient::push) waits. Default: 65,536 and 16 MiB, each at least 1.
    pub fn buffer(mut self, commands: usize, bytes: usize) -> Self {
        self.settings.buffer = Bounds {
            items: commands,
            bytes,
        };
        self
    }

    /// How long to wait before a stream is opened again: a random time up to `base`, doubled with
    /// every failure up to `cap`. Default: 50 ms, 5 s.
    pub fn backoff(mut self, base: Duration, cap: Duration) -> Self {
        self.settings.pace.base = base;
        self.settings.pace.cap = cap;
        self
    }

    /// How long a stream must have been open for its waits to begin at `base` again. Default: 10 s.
    pub fn stable_after(mut self, stable: Duration) -> Self {
        self.settings.pace.stable = stable;
        self
    }

    /// After how much silence a gateway is asked whether it is there; after as much silence again
    /// the stream counts as broken. Default: 10 s.
    pub fn keepalive(mut self, interval: Duration) -> Self {
        self.settings.wire.keepalive = interval;
        self
    }

    /// How many bytes of events each stream's gateway may send ahead of the application.
    /// Default: 1 MiB; 64 KiB to 1 GiB.
    pub fn event_window(mut self, bytes: u32) -> Self {
        self.settings.wire.event_window = bytes;
        self
    }

    /// How many receipts may be awaited on each stream; more fail with
    /// [`PushError::TooManyReceipts`](crate::PushError::TooManyReceipts). Default: 65,536.
    pub fn max_receipts(mut self, receipts: usize) -> Self {
        self.settings.max_receipts = receipts;
        self
    }

    /// How long [`Builder::connect`] tries. Default: 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long each step of one attempt may take: describing, dialling, being welcomed.
    /// Default: 5 s.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.settings.attempt_timeout = timeout;
        self
    }

    /// Calls `notice` when a stream opens, breaks or drains, and when a gateway refuses a command.
    /// It is called on the stream's task: be quick, and do not block.
    pub fn on_notice(mut self, notice: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        self.settings.on_notice = Some(Arc::new(notice));
        self
    }

    /// Has every gateway described and opens a stream to each of its shards. Gateways that cannot
    /// be reached are tried again in the background ([`Stats::missing`](crate::Stats::missing)), if
    /// there is at least one that can.
    ///
    /// # Errors
    /// A setting that cannot work; an address that is load-balanced, or leads to the same
    /// gateway as another; no gateway in time. See [`ConnectError`].
    ///
    /// # Panics
    /// Outside a tokio runtime with time and io enabled.
    pub async fn connect(self) -> Result<LogicClient, ConnectError> {
        self.check()?;
        let mut session = [0; 16];
        getrandom::fill(&mut session).map_err(|error| ConnectError::Random(error.to_string()))?;
        let mesh = Arc::new(Mesh::new(self.settings, session));
        // From here on the client ends the streams when it is dropped.
        let client = LogicClient::new(Arc::clone(&mesh));
        let opened = timeout(self.connect_timeout, async {
            describe_all(&mesh).await?;
            open_all(&mesh.queues()).await
        });
        opened.await.unwrap_or_else(|_| Err(last_error(&mesh)))?;
        Ok(client)
    }

    fn check(&self) -> Result<(), ConnectError> {
        let settings = &self.settings;
        let wrong = |setting, problem: &str| {
            let problem = problem.to_owned();
            Err(ConnectError::Setting { setting, problem })
        };
        if settings.gateways.is_empty() {
            return wrong("gateway", "name at least one gateway");
        }
        for address in &settings.gateways {
            let port = address
                .rsplit_once(':')
                .map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(1..))) {
                return wrong("gateway", &format!("{address:?} is not \"host:port\""));
            }
        }
        if settings.service.len() > gateway_proto::names::MAX_NAME_BYTES {
            return wrong("service", "at most 256 bytes are allowed");
        }
        if settings.receive && settings.service.is_empty() {
            return wrong("service", "needed to receive messages");
        }
        if settings.buffer.items == 0 || settings.buffer.bytes == 0 {
            return wrong("buffer", "at least 1 command and 1 byte");
        }
        if !(64 << 10..=1 << 30).contains(&settings.wire.event_window) {
            return wrong("event_window", "64 KiB to 1 GiB are allowed");
        }
        if settings.pace.base.is_zero() || settings.pace.base > settings.pace.cap {
            return wrong("backoff", "base must be above 0 and at most cap");
        }
        if settings.wire.keepalive.is_zero() {
            return wrong("keepalive", "must be above 0");
        }
        Ok(())
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.settings;
        f.debug_struct("Builder")
            .field("gateways", &settings.gateways)
            .field("service", &settings.service)
            .field("receive_messages", &settings.receive)
            .finish_non_exhaustive()
    }
}

/// Asks all gateways at once, and goes on seeking those that do not answer, if any does.
async fn describe_all(mesh: &Arc<Mesh>) -> Result<(), ConnectError> {
    let ask = |gateway| {
        let mesh = Arc::clone(mesh);
        tokio::spawn(async move { mesh.describe(gateway, Duration::ZERO).await })
    };
    let asked: Vec<_> = (0..mesh.gateways.len()).map(ask).collect();
    let mut missing = Vec::new();
    let mut error = None;
    for (gateway, asked) in asked.into_iter().enumerate() {
        // The task neither panics nor is it aborted, unless the runtime shuts down.
        match asked.await {
            Ok(Ok(description)) => mesh.adopt(gateway, &description)?,
            Ok(Err(failed)) => {
                tracing::warn!(error = %failed, "a gateway cannot be used yet");
                missing.push(gateway);
                error = Some(failed);
            }
            Err(_) => missing.push(gateway),
        }
    }
    match error {
        Some(error) if missing.len() == mesh.gateways.len() => Err(error.into()),
        _ => {
            missing.into_iter().for_each(|gateway| mesh.seek(gateway));
            Ok(())
        }
    }
}

/// Waits until every stream is open; a load balancer on the way is an error at once.
async fn open_all(queues: &[Arc<Queue>]) -> Result<(), ConnectError> {
    for queue in queues {
        loop {
            let progress = queue.progress().notified();
            {
                let state = queue.lock();
                if let Some(error @ GatewayError::LoadBalanced { .. }) = &state.report.error {
                    return Err(error.clone().into());
                }
                let open = matches!(
                    state.report.state,
                    StreamState::Open | StreamState::Draining | StreamState::Ended
                );
                // Retired: the gateway has changed, and new streams were made.
                if open || state.ending >= Ending::Retire {
                    break;
                }
            }
            progress.await;
        }
    }
    Ok(())
}

/// Why not all streams are open: a load balancer first of all.
fn last_error(mesh: &Mesh) -> ConnectError {
    let queues = mesh.queues();
    let errors = queues
        .iter()
        .filter_map(|queue| queue.lock().report.error.clone());
    let weight = |error: &GatewayError| matches!(error, GatewayError::LoadBalanced { .. });
    let silent = || GatewayError::Silent {
        address: mesh
            .gateways
            .first()
            .map_or(String::new(), |gateway| gateway.address.clone()),
        waiting_for: "open streams to all shards",
    };
    errors.max_by_key(weight).unwrap_or_else(silent).into()
}
