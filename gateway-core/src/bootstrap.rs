//! From settings to running shards: lanes, listeners, pinned threads; and their end.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    config::{self, Config},
    driver::{
        self, Chosen, Clock, Driver, DriverError, Seat,
        mailbox::{Mailbox, Order, Port, mailbox},
        placement::{Host, Placement, PlacementError, place},
    },
    gateway::{Gateway, host_and_port},
    identity::{MAX_SLOTS, ShardIndex},
    lanes::lanes,
    metrics::Metrics,
    ws::{Identify, Page, QueryUser, RefuseMode, UpgradeConfig},
};

mod listeners;
mod threads;

use listeners::Listeners;
use threads::Threads;

/// What a gateway has beyond its settings.
#[derive(Default)]
pub struct Extras {
    /// Static pages served on the WebSocket port.
    pub pages: Vec<Page>,
}

/// A running gateway. Dropping it leaves the shards running; see [`Running::join`].
pub struct Running {
    /// Where clients connect.
    pub ws: SocketAddr,
    /// Where logic services connect: the common port.
    pub grpc: SocketAddr,
    /// The gRPC port of each shard.
    pub shard_grpc: Vec<SocketAddr>,
    /// What the shards share.
    pub gateway: Arc<Gateway>,
    /// What the shards count, in order.
    pub metrics: Vec<Arc<Metrics>>,
    /// The clock of [`Metrics::heartbeat_nanos`].
    pub clock: Clock,
    threads: Threads,
    remote: Remote,
}

/// Drains or stops a gateway from any thread.
#[derive(Clone, Debug)]
pub struct Remote(Vec<Port>);

/// The thread of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its id, as in `/proc/self/task`.
    pub id: i32,
    /// The CPU it is pinned to. `None`: it runs anywhere.
    pub core: Option<usize>,
}

/// Why a gateway does not start. Every one names the setting that the operator must change.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A setting is out of range.
    #[error("{key} = {value}: {allowed}")]
    Setting {
        /// Its name.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would be allowed.
        allowed: &'static str,
    },
    /// Shards cannot be placed as configured.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// There is no such driver here.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// An address cannot be listened on.
    #[error("{key}: cannot listen on {address}{}", of_shard(*.shard))]
    Listen {
        /// The setting it comes from.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// Whose port it is, if a shard's own.
        shard: Option<ShardIndex>,
        /// What the kernel says.
        #[source]
        error: io::Error,
    },
    /// The kernel refuses what every start needs: random numbers, descriptors, threads.
    #[error("cannot {what}{}", of_shard(*.shard))]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// For which shard.
        shard: Option<ShardIndex>,
        /// What the kernel says.
        #[source]
        error: io::Error,
    },
    /// A shard ended before it was up.
    #[error("shard {shard} did not start ({setting}): {reason}")]
    Shard {
        /// Which one.
        shard: ShardIndex,
        /// The setting that decides what it needed.
        setting: &'static str,
        /// Why.
        reason: String,
    },
}

/// A shard that ended although nobody asked it to: a defect of ours, or a kernel that gave out.
#[derive(Debug, thiserror::Error)]
#[error("shard {shard} failed: {reason}")]
pub struct ShardFailed {
    /// Which one.
    pub shard: ShardIndex,
    /// Why.
    pub reason: String,
}

/// Starts a gateway: when this returns, every shard accepts.
///
/// # Errors
/// A setting that cannot be followed, with its name; nothing keeps running then.
pub fn start(config: Config, extras: Extras) -> Result<Running, BootError> {
    check(&config)?;
    raise_descriptor_limit();
    let placement = place(&config.shards, &Host::detect())?;
    let Chosen { driver, why, lacks } = driver::choose(&config.shards)?;
    let shards = placement.shards();
    let listeners = Listeners::bind(&config, shards)?;
    let gateway = Arc::new(gateway(config, extras, driver, &listeners)?);
    log_start(&gateway, &placement, &listeners);
    log_driver(driver, &why, lacks.as_deref());

    let clock = Clock::start();
    let (ws, grpc) = (listeners.ws_address, listeners.grpc_address);
    let shard_grpc = listeners.shard_addresses.clone();
    let (ports, mailboxes) = mailboxes(shards, &gateway.config.lanes)?;
    let metrics: Vec<_> = (0..shards)
        .map(|shard| Arc::new(Metrics::new(shard)))
        .collect();
    let mut seats = Vec::new();
    for (((lanes, mailbox), (ws, grpc)), metrics) in lanes(shards, &gateway.config.lanes)
        .into_iter()
        .zip(mailboxes)
        .zip(listeners.per_shard())
        .zip(&metrics)
    {
        seats.push(Seat {
            gateway: Arc::clone(&gateway),
            metrics: Arc::clone(metrics),
            lanes,
            mailbox,
            ports: ports.clone(),
            ws,
            grpc,
            clock,
            seed: random()?,
        });
    }
    let remote = Remote(ports);
    Ok(Running {
        ws,
        grpc,
        shard_grpc,
        gateway,
        metrics,
        clock,
        threads: Threads::start(driver, seats, &placement.cores, remote.clone())?,
        remote,
    })
}

impl Running {
    /// Ends all shards at once.
    pub fn stop_now(&self) {
        self.remote.stop_now();
    }

    /// Something that can drain and stop the gateway while [`Running::join`] waits.
    #[must_use]
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// The shards' threads, in order.
    #[must_use]
    pub fn threads(&self) -> &[Thread] {
        &self.threads.threads
    }

    /// Waits for all shards to end.
    ///
    /// # Errors
    /// A shard failed. The others are stopped then: a gateway that lacks the users of one shard is none.
    pub fn join(self) -> Result<(), ShardFailed> {
        self.threads.join()
    }
}

impl Remote {
    /// Begins to go away: WebSockets are no longer accepted, logic services are told, clients are closed spread over
    /// `spread`. [`Running::join`] returns when it is done. Only the first call counts.
    pub fn drain(&self, spread: Duration) {
        self.order(Order::Drain(spread));
    }

    /// As [`Running::stop_now`].
    pub fn stop_now(&self) {
        self.order(Order::Stop);
    }

    fn order(&self, order: Order) {
        for port in &self.0 {
            port.order(order);
        }
    }
}

/// What cannot be checked setting by setting.
fn check(config: &Config) -> Result<(), BootError> {
    for (key, listen) in [
        ("grpc.listen", config.grpc.listen),
        ("admin.listen", config.admin.listen),
    ] {
        if !config.gateway.insecure && !listen.ip().is_loopback() {
            return Err(BootError::Setting {
                key,
                value: listen.to_string(),
                allowed: "beyond loopback anyone could use it: needs gateway.insecure = true, as nothing is authenticated yet",
            });
        }
    }
    if config.limits.max_connections > MAX_SLOTS as usize {
        return Err(BootError::Setting {
            key: "limits.max_connections",
            value: config.limits.max_connections.to_string(),
            allowed: "at most 4194304",
        });
    }
    Ok(())
}

fn gateway(
    config: Config,
    extras: Extras,
    driver: Driver,
    listeners: &Listeners,
) -> Result<Gateway, BootError> {
    let host = &config.grpc.advertise_host;
    let shard_addresses = listeners
        .shard_addresses
        .iter()
        .map(|address| host_and_port(host, address.port()))
        .collect();
    let id = match config.gateway.id.as_str() {
        "" => rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        id => id.to_owned(),
    };
    Ok(Gateway {
        id,
        epoch: random()?.max(1),
        version: env!("CARGO_PKG_VERSION"),
        driver: driver.to_string(),
        shard_addresses,
        upgrade: upgrade(&config.ws, extras.pages),
        identify: identify(&config),
        config,
    })
}

fn upgrade(ws: &config::Ws, pages: Vec<Page>) -> UpgradeConfig {
    UpgradeConfig {
        paths: ws.paths.clone(),
        subprotocols: ws.subprotocols.clone(),
        max_header_bytes: ws.max_header_bytes,
        origins: ws.origins.clone(),
        pages,
        refuse: match ws.refuse {
            config::Refuse::Close => RefuseMode::Close,
            config::Refuse::Http => RefuseMode::Http,
        },
        event_headers: ws.event_headers.clone(),
        secret_params: ws.secret_params.clone(),
        ..Default::default()
    }
}

/// Beyond loopback anyone could claim to be anyone.
fn identify(config: &Config) -> Box<dyn Identify> {
    let trusted = config.gateway.insecure || config.ws.listen.ip().is_loopback();
    Box::new(QueryUser { trusted })
}

fn mailboxes(
    shards: ShardIndex,
    config: &config::Lanes,
) -> Result<(Vec<Port>, Vec<Mailbox>), BootError> {
    let pairs = (0..shards).map(|shard| {
        mailbox(config.sockets).map_err(|error| BootError::Kernel {
            what: "make an eventfd",
            shard: Some(shard),
            error,
        })
    });
    Ok(pairs.collect::<Result<Vec<_>, _>>()?.into_iter().unzip())
}

fn random() -> Result<u64, BootError> {
    getrandom::u64().map_err(|error| BootError::Kernel {
        what: "get random numbers",
        shard: None,
        error: error.into(),
    })
}

/// Every connection is a descriptor, and the usual soft limit of 1,024 is for programs that use `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the soft limit of descriptors to the hard one");
    }
}

fn log_start(gateway: &Gateway, placement: &Placement, listeners: &Listeners) {
    for (shard, (core, grpc)) in placement
        .cores
        .iter()
        .zip(&listeners.shard_addresses)
        .enumerate()
    {
        let core = core.map_or_else(|| "any".to_owned(), |core| core.to_string());
        tracing::info!(shard, core, %grpc, why = placement.why, "shard");
    }
    tracing::info!(
        id = gateway.id,
        epoch = format_args!("{:016x}", gateway.epoch),
        driver = gateway.driver,
        shards = placement.shards(),
        ws = %listeners.ws_address,
        grpc = %listeners.grpc_address,
        "gateway starts"
    );
}

fn log_driver(driver: Driver, why: &str, lacks: Option<&str>) {
    match lacks {
        None => tracing::info!(%driver, why, "driver"),
        Some(lacks) => tracing::warn!(
            %driver, why, lacks, "driver: not the best there is, every connection and message costs more"
        ),
    }
}

fn of_shard(shard: Option<ShardIndex>) -> String {
    shard.map_or_else(String::new, |shard| format!(" for shard {shard}"))
}
