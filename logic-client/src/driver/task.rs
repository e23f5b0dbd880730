//! The task of one stream: sockets and timers for its state machine. No rules.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::sleep_until;

use crate::core::buffer::Batch;
use crate::core::link::Link;
use crate::core::stream::{Expected, Identity, Output, Rules, Stream};
use crate::driver::describe::{dial, unreachable};
use crate::driver::events::Delivery;
use crate::driver::mesh::Mesh;
use crate::driver::queue::{Ending, Queue};
use crate::driver::socket::{Alarm, Socket};
use crate::error::{ConnectError, GatewayError};
use crate::event::{Notice, What};

/// How long a stream to a shard that is no more waits for answers to what it has sent.
const RETIRE: Duration = Duration::from_secs(5);

/// Shards a gateway can have; numbers the streams of a session without gaps between versions.
const SHARDS: u32 = 1024;

/// Starts the task of `queue`. It ends when the queue does.
pub(crate) fn spawn(mesh: Arc<Mesh>, queue: Arc<Queue>) {
    let settings = &mesh.settings;
    let identity = Identity {
        service: settings.service.clone(),
        session: mesh.session,
        index: queue.gateway as u32 * SHARDS + queue.shard,
        shard: queue.shard,
        receive: settings.receive,
    };
    let rules = Rules {
        pace: settings.pace,
        welcome: settings.attempt_timeout,
        receipts: settings.max_receipts,
    };
    let seed = mesh.seed(queue.gateway, queue.shard + 1);
    let stream = Stream::new(identity, rules, seed);
    let task = Task {
        mesh,
        queue,
        batch: Batch::default(),
        deliveries: VecDeque::new(),
    };
    tokio::spawn(task.run(stream));
}

struct Task {
    mesh: Arc<Mesh>,
    queue: Arc<Queue>,
    batch: Batch,
    /// Events on their way to the inbox, all at once.
    deliveries: VecDeque<Delivery>,
}

impl Task {
    async fn run(mut self, mut stream: Stream) {
        let mut since = Duration::ZERO;
        while !self.is_over() {
            let next = self.mesh.clock.instant(stream.next_attempt());
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.until_over() => break,
            }
            stream.connect();
            self.queue.publish(&stream);
            let connected = tokio::select! {
                connected = self.connect(since) => connected,
                () = self.until_over() => break,
            };
            let served = match connected {
                Ok((tcp, expected)) => self.serve(&mut stream, tcp, expected).await,
                Err(error) => Err(error),
            };
            let Err(error) = served else {
                break;
            };
            since = self.mesh.clock.now();
            self.queue.publish_error(error.clone());
            stream.lost(since, error);
            self.pass_on(&mut stream);
            self.queue.publish(&stream);
        }
        stream.end();
        self.pass_on(&mut stream);
        self.queue.publish(&stream);
        self.mesh.ended(&self.queue);
    }

    /// Whether there is no reason to connect (again).
    fn is_over(&self) -> bool {
        match self.queue.ending() {
            Ending::No => false,
            Ending::Close => self.queue.lock().buffer.is_empty(),
            Ending::Retire | Ending::Abandon => true,
        }
    }

    async fn until_over(&self) {
        while !self.is_over() {
            self.queue.sleep(false).await;
        }
    }

    /// Has the gateway described, follows what it has become, and dials the shard.
    async fn connect(&self, since: Duration) -> Result<(TcpStream, Expected), GatewayError> {
        let gateway = self.queue.gateway;
        let description = self.mesh.describe(gateway, since).await?;
        self.mesh
            .adopt(gateway, &description)
            .map_err(|error| match error {
                ConnectError::Gateway(error) => error,
                other => unreachable(&self.mesh.gateways[gateway].address, &other),
            })?;
        let Some(address) = description.addresses.get(self.queue.shard as usize) else {
            // Adopting has retired this stream.
            let address = &self.mesh.gateways[gateway].address;
            return Err(unreachable(address, &"the shard is no more"));
        };
        let tcp = dial(address, self.mesh.settings.attempt_timeout).await?;
        let expected = Expected {
            address: address.clone(),
            gateway_id: description.gateway.gateway_id.clone(),
            epoch: description.gateway.epoch,
            shards: description.gateway.shards,
        };
        Ok((tcp, expected))
    }

    /// Moves bytes until the stream has ended as wished, or broke.
    async fn serve(
        &mut self,
        stream: &mut Stream,
        tcp: TcpStream,
        expected: Expected,
    ) -> Result<(), GatewayError> {
        let address = expected.address.clone();
        let broken = |error: std::io::Error| unreachable(&address, &error);
        let clock = self.mesh.clock;
        let mut link = Link::open(stream, clock.now(), expected, self.mesh.settings.wire)?;
        let mut socket = Socket::new(tcp);
        let mut alarm = Alarm::new();
        let mut retire = None;
        loop {
            let now = clock.now();
            // What cannot be written any more is better kept than counted as unknown.
            let room = if socket.is_dead() { 0 } else { link.room() };
            let Some(mut busy) = self.obey(now, room, &mut link, &mut retire) else {
                return Ok(());
            };
            busy |= socket.read(&mut link, now).map_err(broken)?;
            let polled = link.poll(now);
            self.pass_on(link.stream());
            match polled {
                Ok(any) => busy |= any,
                Err(_) if link.is_finishing() => return Ok(()),
                Err(error) => return Err(error),
            }
            busy |= socket.write(&mut link);
            if busy {
                self.queue.publish(link.stream());
                // Others run, and meanwhile more commands come together.
                tokio::task::yield_now().await;
                continue;
            }
            if let Some(error) = socket.failure() {
                return Err(broken(error));
            }
            let deadline = link.next_deadline().into_iter().chain(retire).min();
            let deadline = deadline.map(|deadline| clock.instant(deadline));
            tokio::select! {
                ready = socket.ready(link.wants_bytes()) => ready.map_err(broken)?,
                () = self.queue.sleep(link.room() > 0) => {}
                () = alarm.ring(deadline) => {}
            }
        }
    }

    /// Does what the application wants; says whether that was anything, and `None` when the
    /// stream is to end at once. `retire` is when a stream that retires gives up.
    fn obey(
        &mut self,
        now: Duration,
        room: usize,
        link: &mut Link<'_>,
        retire: &mut Option<Duration>,
    ) -> Option<bool> {
        let taken = self.queue.take(now, room, &mut self.batch);
        if taken.any {
            link.commands(now, &mut self.batch);
        }
        if let Some(handled) = taken.handled {
            link.acknowledge(handled.run, handled.id, handled.credit);
        }
        match taken.ending {
            Ending::No => {}
            Ending::Close => {
                if taken.empty {
                    link.finish();
                }
            }
            Ending::Retire => {
                link.finish();
                if *retire.get_or_insert(now + RETIRE) <= now {
                    return None;
                }
            }
            Ending::Abandon => return None,
        }
        Some(taken.any || taken.handled.is_some())
    }

    /// Passes on what the stream has to tell.
    fn pass_on(&mut self, stream: &mut Stream) {
        while let Some(output) = stream.poll_output() {
            match output {
                Output::Event {
                    event,
                    run,
                    id,
                    credit,
                } => {
                    let from = Arc::clone(&self.queue);
                    self.deliveries.push_back(Delivery {
                        event,
                        from,
                        run,
                        id,
                        credit,
                    });
                }
                Output::Settled(ticket, answer) => self.mesh.settle(ticket, answer),
                Output::Notice(what) => self.notify(what),
            }
        }
        if !self.deliveries.is_empty() {
            self.mesh.inbox.put(&mut self.deliveries);
        }
    }

    fn notify(&self, what: What) {
        let notice = Notice {
            gateway: self.mesh.gateways[self.queue.gateway].address.clone(),
            shard: self.queue.shard,
            what,
        };
        match notice.what {
            What::Lost { .. } => tracing::warn!("{notice}"),
            // One a command would flood the log; they are counted.
            What::Rejected(_) => tracing::debug!("{notice}"),
            _ => tracing::info!("{notice}"),
        }
        if let Some(on_notice) = &self.mesh.settings.on_notice {
            on_notice(&notice);
        }
    }
}
