//! The tick: what the runtime's main future does whenever something is ready or due.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    os::fd::AsFd,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    driver::{
        Clock, Seat,
        budget::Budget,
        mailbox::{Mailbox, Order, Port},
        spin::Spin,
        watch,
    },
    identity::SocketId,
    metrics::Metrics,
    shard::Shard,
    timesheet::{Rest, Timesheet},
};

use super::{
    accept::{Listener, Peers},
    pump::Pump,
    read::LINK_READ,
    ready,
    socket::{Fd, Interest},
    table::Table,
    timer::Timer,
};

/// The longest sleep: a shard that is alive shows it by ticking.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// One shard with its sockets.
pub(super) struct Reactor {
    pub(super) shard: Shard,
    pub(super) table: Table,
    /// `None`: closed.
    pub(super) listeners: Vec<Option<Listener>>,
    pub(super) mailbox: Mailbox,
    pub(super) bell: Fd,
    pub(super) bell_interest: Interest,
    pub(super) ports: Vec<Port>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) sheet: Rc<Timesheet>,
    pub(super) clock: Clock,
    /// All reads of all sockets go through this one buffer.
    pub(super) buffer: Box<[u8]>,
    pub(super) conn_bytes: usize,
    pub(super) budget: Budget,
    /// Links with data, in the order of their turns; their interest is `Ready`.
    pub(super) links: VecDeque<SocketId>,
    /// Sockets that were read in this tick, or are wanted again.
    pub(super) rearm: Vec<SocketId>,
    /// Something is left for the next tick, which must not wait.
    pub(super) again: bool,
    /// Sockets that were ready in this tick.
    pub(super) taken: u64,
    pump: Pump,
    timer: Timer,
    spin: Spin,
}

/// Runs a shard until it has drained or is stopped.
pub(super) async fn run(seat: Seat, up: impl FnOnce()) -> io::Result<()> {
    ready::clear();
    let tick = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    ready::on_ready(tick.clone());
    let mut reactor = Reactor::new(seat, Pump::start(tick))?;
    up();
    poll_fn(|cx| reactor.poll(cx)).await;
    reactor.hang_up();
    Ok(())
}

impl Reactor {
    fn new(seat: Seat, pump: Pump) -> io::Result<Self> {
        let tick = &seat.gateway.config.tick;
        let conn_bytes = tick.conn_bytes.max(1);
        let budget = Budget::new(tick.link_bytes.max(1));
        let spin = Spin::new(tick.spin_us);
        let mut listeners = vec![Some(Listener::new(
            Fd::new(seat.ws.into())?,
            Peers::Clients,
        ))];
        for grpc in seat.grpc {
            listeners.push(Some(Listener::new(Fd::new(grpc.into())?, Peers::Services)));
        }
        let bell = Fd::new(seat.mailbox.bell().as_fd().try_clone_to_owned()?)?;
        let metrics = Arc::clone(&seat.metrics);
        let shard = Shard::new(seat.gateway, metrics, seat.lanes, seat.seed);
        let mut reactor = Self {
            sheet: watch::start(&shard, seat.clock),
            shard,
            table: Table::default(),
            listeners,
            mailbox: seat.mailbox,
            bell,
            bell_interest: Interest::Idle,
            ports: seat.ports,
            metrics: seat.metrics,
            clock: seat.clock,
            buffer: vec![0; conn_bytes.max(LINK_READ)].into(),
            conn_bytes,
            budget,
            links: VecDeque::new(),
            rearm: Vec::new(),
            again: false,
            taken: 0,
            pump,
            timer: Timer::new(&seat.clock),
            spin,
        };
        reactor.await_bell();
        Ok(reactor)
    }

    /// One tick. Ready: the shard has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.now();
        self.sheet.begin(now);
        self.again = false;
        self.mailbox.bell().wake_up();
        if self.take_orders(now) {
            return Poll::Ready(());
        }
        if self.has_work() {
            self.spin.worked(now);
        }
        self.take_ready(now);
        let links = self.links.len();
        let taken = self.read_links(now);
        self.shard.tick(now);
        if taken > 0 {
            let took = self.now().saturating_sub(now);
            self.budget.spent(links, taken, took);
        }
        self.flush();
        self.act();
        // New sockets come after the actions: a slot that the shard gives anew is free here too by now.
        self.accept(now);
        self.adopt(now);
        self.rearm();
        self.ring_others();
        let ended = self.count(now);
        if self.shard.is_drained() {
            return Poll::Ready(());
        }
        let rest = self.rest(cx, ended);
        self.sheet.end(ended, rest, std::mem::take(&mut self.taken));
        Poll::Pending
    }

    /// Closes everything. The kernel takes a ring down by and by, and until then its pending polls keep listeners and
    /// connections open: they are shut down first.
    fn hang_up(&mut self) {
        for listener in self.listeners.drain(..).flatten() {
            listener.hang_up();
        }
        for socket in self.table.drain() {
            socket.hang_up();
        }
    }

    /// Follows orders. True: stop at once.
    fn take_orders(&mut self, now: Duration) -> bool {
        while let Some(order) = self.mailbox.next_order() {
            match order {
                Order::Drain(spread) => self.shard.drain(now, spread),
                Order::Stop => return true,
            }
        }
        false
    }

    /// The end of the tick.
    fn count(&self, started: Duration) -> Duration {
        let now = self.now();
        self.metrics.ticks.add(1);
        self.metrics
            .tick_nanos
            .record((now - started).as_nanos() as u64);
        self.metrics.heartbeat_nanos.set(now.as_nanos() as u64);
        now
    }

    /// Goes on after a look at the completions if something is left; sleeps otherwise, until the next deadline at most.
    fn rest(&mut self, cx: &mut Context<'_>, now: Duration) -> Rest {
        let deadline = self.next_deadline(now);
        if self.again || self.has_work() || deadline <= now || self.spin.goes_on(now) {
            self.pump.again();
            return Rest::GoesOn;
        }
        let bell = self.mailbox.bell();
        bell.fall_asleep();
        // What came before the bell knew is in the mailbox, or work in the lanes.
        if self.mailbox.is_empty() && !self.shard.has_work() {
            self.timer.wake_at(&self.clock, deadline, cx);
            Rest::Sleeps
        } else {
            bell.wake_up();
            self.pump.again();
            Rest::GoesOn
        }
    }

    fn has_work(&self) -> bool {
        self.shard.has_work() || !ready::is_empty() || !self.links.is_empty()
    }

    fn next_deadline(&self, now: Duration) -> Duration {
        let listeners = self.listeners.iter().flatten();
        listeners
            .filter_map(Listener::deadline)
            .chain(self.shard.next_deadline())
            .fold(now + HEARTBEAT, Duration::min)
    }
}
