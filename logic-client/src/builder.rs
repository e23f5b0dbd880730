//! How a client is set up.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use crate::client::LogicClient;
use crate::core::backoff::Pace;
use crate::core::buffer::Bounds;
use crate::core::link::Wire;
use crate::core::mesh::Mesh;
use crate::core::returned::{Returned, ReturnedFn};
use crate::core::stream::Entropy;
use crate::driver::connect::connect;
use crate::error::ConnectError;
use crate::event::{Notice, NoticeFn};
use crate::query::Locate;
use crate::resolver::Resolver;

/// Sets up a [`LogicClient`]. Everything has a default but where the gateways are: there must be a
/// [`Builder::gateway`] or a [`Builder::resolver`].
#[must_use = "a builder does nothing until it connects"]
pub struct Builder {
    settings: Settings,
    connect_timeout: Duration,
    resolver: Option<Box<dyn Resolver>>,
    /// Always drawn, but in tests of what happens when it is not.
    session: Option<[u8; 16]>,
}

/// How many streams a client has to each gateway; see [`Builder::streams`].
///
/// With G gateways of S shards and L processes that link this library there are G·S·L streams with
/// [`Streams::PerShard`] and G·L with [`Streams::One`]. For 100 gateways of 32 shards and 200
/// processes:
///
/// | | [`PerShard`](Self::PerShard) | [`One`](Self::One) |
/// | --- | --- | --- |
/// | streams in all | 640,000 | 20,000 |
/// | of each process | 3,200 | 100 |
/// | at each gateway | 6,400 | 200 |
/// | at each shard | 200 | 6 or 7 |
///
/// Each stream is a connection with its own buffers on both sides. So `PerShard` is for services that
/// push much: what they send arrives on the core that writes it out. `One` is for the many small
/// services beside them: what is for another shard than the one the stream leads to crosses a queue
/// between cores, and a topic push is handed to all of them by the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Streams {
    /// One to each shard.
    #[default]
    PerShard,
    /// One to each gateway, to the shard that the name of the service chooses: different services use
    /// different cores, and a stream that broke finds what it had begun. Needs a
    /// [`Builder::service`].
    One,
}

/// What becomes of a push when the buffer of a stream it is for is full; see
/// [`Builder::overflow`].
///
/// In any case a newer push takes the place of a waiting one with the same target and conflation
/// key, and less important ones give way to more important ones. What is sent and not
/// acknowledged takes room, too, and gives way to nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// [`push`](crate::LogicClient::push) waits until there is room.
    #[default]
    Wait,
    /// [`push`](crate::LogicClient::push) fails with [`PushError::Full`](crate::PushError::Full).
    Error,
    /// The oldest pushes that are not more important are handed back
    /// ([`ReturnReason::Displaced`](crate::ReturnReason::Displaced)). When even that makes no room,
    /// [`push`](crate::LogicClient::push) fails with [`PushError::Full`](crate::PushError::Full).
    DropOldest,
}

#[derive(Clone)]
pub(crate) struct Settings {
    /// Those that are always in the set.
    pub(crate) gateways: Vec<String>,
    /// There is a resolver, too.
    pub(crate) resolves: bool,
    pub(crate) service: String,
    pub(crate) receive: bool,
    pub(crate) streams: Streams,
    pub(crate) buffer: Bounds,
    pub(crate) pace: Pace,
    pub(crate) wire: Wire,
    /// For one attempt to have a gateway described, to dial, to be welcomed: each.
    pub(crate) attempt_timeout: Duration,
    pub(crate) max_receipts: usize,
    pub(crate) max_stream_age: Duration,
    pub(crate) leave_after: Duration,
    pub(crate) on_notice: Option<NoticeFn>,
    pub(crate) on_returned: Option<ReturnedFn>,
    pub(crate) resume: bool,
    pub(crate) resend_unknown: bool,
    pub(crate) overflow: Overflow,
    pub(crate) locate: Locate,
    pub(crate) directory_entries: usize,
    pub(crate) query_timeout: Duration,
    pub(crate) entropy: Entropy,
}

impl Builder {
    pub(crate) fn new() -> Self {
        let settings = Settings {
            gateways: Vec::new(),
            resolves: false,
            service: String::new(),
            receive: false,
            streams: Streams::PerShard,
            buffer: Bounds {
                items: 65_536,
                bytes: 16 << 20,
                age: Duration::from_secs(30),
                drop_oldest: false,
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
            max_stream_age: Duration::from_secs(30 * 60),
            leave_after: Duration::from_secs(60),
            on_notice: None,
            on_returned: None,
            resume: true,
            resend_unknown: false,
            overflow: Overflow::Wait,
            locate: Locate::default(),
            directory_entries: 10_000_000,
            query_timeout: Duration::from_secs(2),
            entropy: Arc::new(random_bytes),
        };
        Self {
            settings,
            connect_timeout: Duration::from_secs(10),
            resolver: None,
            session: None,
        }
    }

    /// Adds a gateway: "host:port" of its common gRPC port. Name every gateway itself; an address
    /// that is load-balanced over several is an error.
    pub fn gateway(mut self, address: impl Into<String>) -> Self {
        self.settings.gateways.push(address.into());
        self
    }

    /// Where gateways are found, beside those named with [`Builder::gateway`]; see
    /// [`resolver`](crate::resolver). The set may change at any time: gateways are added, removed, and
    /// replaced under the same address without a restart. Called twice, the last one counts.
    pub fn resolver(mut self, resolver: impl Resolver) -> Self {
        self.resolver = Some(Box::new(resolver));
        self.settings.resolves = true;
        self
    }

    /// The consumer group of this process, 1 to 256 bytes: what clients do reaches each service
    /// once. Needed to receive messages.
    pub fn service(mut self, service: impl Into<String>) -> Self {
        self.settings.service = service.into();
        self
    }

    /// Which gateways a push for a user goes to. Default: [`Locate::Everywhere`].
    pub fn locate(mut self, locate: Locate) -> Self {
        self.settings.locate = locate;
        self
    }

    /// How many users the directory has room for ([`Locate::Directory`]); a user on two gateways is two.
    /// Each takes about 100 bytes, and more if names are long. When it is full, pushes for users of a shard of which
    /// not all are known go to that shard, too, as with [`Locate::Everywhere`]; that ends with the next
    /// snapshot that has room ([`max_stream_age`](Self::max_stream_age)). It is told
    /// ([`What::DirectoryFull`](crate::What::DirectoryFull)) and counted ([`DirectoryStats::cut`](crate::DirectoryStats)).
    /// Default: 10,000,000.
    pub fn directory_entries(mut self, entries: usize) -> Self {
        self.settings.directory_entries = entries;
        self
    }

    /// How long a query waits for the answers of all gateways. Default: 2 s.
    pub fn query_timeout(mut self, timeout: Duration) -> Self {
        self.settings.query_timeout = timeout;
        self
    }

    /// Whether this client receives what clients do; see
    /// [`LogicClient::events`](crate::LogicClient::events). Default: no.
    pub fn receive_messages(mut self, receive: bool) -> Self {
        self.settings.receive = receive;
        self
    }

    /// How many streams there are to each gateway. Default: [`Streams::PerShard`].
    pub fn streams(mut self, streams: Streams) -> Self {
        self.settings.streams = streams;
        self
    }

    /// How many commands, and how many bytes of them, may wait for each stream; then
    /// [`push`](crate::LogicClient::push) waits. Default: 65,536 and 16 MiB, each at least 1.
    pub fn buffer(mut self, commands: usize, bytes: usize) -> Self {
        self.settings.buffer.items = commands;
        self.settings.buffer.bytes = bytes;
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
    /// the stream counts as broken. Default: 10 s, so that a link on which nothing arrives any more is
    /// found within 20 s.
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

    /// After what time, give or take a fifth, the connection of a stream is replaced by a new one, so
    /// that load spreads again after gateways were added or restarted. The new one takes over in
    /// order: nothing is lost, doubled or held up. Streams that cannot resume are not replaced.
    /// Default: 30 min; at least 1 s; [`Duration::MAX`]: never.
    pub fn max_stream_age(mut self, age: Duration) -> Self {
        self.settings.max_stream_age = age;
        self
    }

    /// How long a gateway that has left the set is still used, as long as it can be reached: while it
    /// drains, its users are there. If it comes back by then, nothing has happened. Zero: not at all; then
    /// a gateway that leaves and comes back while something is on its way to it may get that out of order.
    /// Default: 60 s.
    pub fn leave_after(mut self, time: Duration) -> Self {
        self.settings.leave_after = time;
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

    /// Calls `returned` with every push that is not sent after all, or that may not have arrived, each
    /// part of it on its own. A confirmed push ([`push_confirmed`](crate::LogicClient::push_confirmed)) is not handed back: its
    /// caller gets the answer. Called on a stream's task, or in the call that pushes and displaces
    /// others: be quick, and do not block. Default: they are counted
    /// ([`Counters::returned_for`](crate::Counters::returned_for)) and logged.
    pub fn on_returned(mut self, returned: impl Fn(Returned) + Send + Sync + 'static) -> Self {
        self.settings.on_returned = Some(Arc::new(returned));
        self
    }

    /// Whether a stream that broke goes on where it was: it keeps what it has sent until the gateway
    /// has taken it, and sends the rest again. Without, what was sent and not acknowledged when a
    /// stream breaks is counted as unknown, and not handed back. Default: yes.
    pub fn resume(mut self, resume: bool) -> Self {
        self.settings.resume = resume;
        self
    }

    /// Whether what may have been done or not is sent again, instead of being handed back as
    /// [`ReturnReason::Unknown`](crate::ReturnReason::Unknown). It may arrive twice. Default: no.
    pub fn resend_unknown(mut self, resend: bool) -> Self {
        self.settings.resend_unknown = resend;
        self
    }

    /// What becomes of a push for which a buffer has no room, also after less important ones gave way.
    /// Default: it waits.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.settings.buffer.drop_oldest = overflow == Overflow::DropOldest;
        self.settings.overflow = overflow;
        self
    }

    /// How long a push may wait in a buffer, and how long a broken stream keeps what it has sent,
    /// until it is handed back ([`ReturnReason::TooOld`](crate::ReturnReason::TooOld),
    /// [`ReturnReason::Unknown`](crate::ReturnReason::Unknown)). Default: 30 s.
    pub fn buffer_age(mut self, age: Duration) -> Self {
        self.settings.buffer.age = age;
        self
    }

    /// Where fresh random bytes come from, if not from the system.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn entropy(mut self, entropy: Entropy) -> Self {
        self.settings.entropy = entropy;
        self
    }

    /// Has every gateway described and opens a stream to each of its shards. Gateways that cannot
    /// be reached are tried again in the background ([`Stats::missing`](crate::Stats::missing)), if
    /// there is at least one that can. With a resolver, waits for the first set it tells, and for one
    /// of its gateways.
    ///
    /// # Errors
    /// A setting that cannot work; an address that is load-balanced, or leads to the same
    /// gateway as another; no gateway in time. See [`ConnectError`].
    ///
    /// # Panics
    /// Outside a tokio runtime with time and io enabled.
    pub async fn connect(self) -> Result<LogicClient, ConnectError> {
        self.check()?;
        let mut session = self.session.unwrap_or_default();
        if self.session.is_none() {
            getrandom::fill(&mut session)
                .map_err(|error| ConnectError::Random(error.to_string()))?;
        }
        let mesh = Arc::new(Mesh::new(self.settings, session));
        connect(mesh, self.resolver, self.connect_timeout).await
    }

    /// The session to begin with, instead of one that nobody else has.
    #[cfg(feature = "simulation")]
    pub(crate) fn session(mut self, session: [u8; 16]) -> Self {
        self.session = Some(session);
        self
    }

    /// The client without what drives it.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn mesh(mut self, session: [u8; 16]) -> Result<Arc<Mesh>, ConnectError> {
        self.settings.resolves = true;
        self.check()?;
        Ok(Arc::new(Mesh::new(self.settings, session)))
    }

    fn check(&self) -> Result<(), ConnectError> {
        let settings = &self.settings;
        let wrong = |setting, problem: &str| {
            let problem = problem.to_owned();
            Err(ConnectError::Setting { setting, problem })
        };
        if settings.gateways.is_empty() && !settings.resolves {
            return wrong("gateway", "name at least one gateway, or a resolver");
        }
        for (at, address) in settings.gateways.iter().enumerate() {
            if settings.gateways[..at].contains(address) {
                return Err(ConnectError::SameGateway {
                    first: address.clone(),
                    second: address.clone(),
                });
            }
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
        if settings.streams == Streams::One && settings.service.is_empty() {
            return wrong("service", "needed for one stream to each gateway");
        }
        if settings.buffer.items == 0 || settings.buffer.bytes == 0 {
            return wrong("buffer", "at least 1 command and 1 byte");
        }
        if settings.buffer.age.is_zero() {
            return wrong("buffer_age", "must be above 0");
        }
        if !(64 << 10..=1 << 30).contains(&settings.wire.event_window) {
            return wrong("event_window", "64 KiB to 1 GiB are allowed");
        }
        if settings.pace.base.is_zero() || settings.pace.base > settings.pace.cap {
            return wrong("backoff", "base must be above 0 and at most cap");
        }
        if settings.max_stream_age < Duration::from_secs(1) {
            return wrong("max_stream_age", "at least 1 s");
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

/// Fresh from the system, so that two processes of one image differ.
fn random_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // It has worked when the client was built. The standard library has its own source.
        let state = std::hash::RandomState::new();
        bytes[..8].copy_from_slice(&state.hash_one(0).to_le_bytes());
        bytes[8..].copy_from_slice(&state.hash_one(1).to_le_bytes());
    }
    bytes
}
