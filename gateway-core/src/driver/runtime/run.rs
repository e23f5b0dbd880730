//! The tick: what the runtime's main future does whenever something is ready or due.

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    driver::{
        Clock, Seat,
        mailbox::{Mailbox, Port},
        spin::Spin,
        tick::{HEARTBEAT, count, follow_orders},
        turns::{LINK_READ, Turns},
        watch,
    },
    identity::SocketId,
    metrics::Metrics,
    shard::Shard,
    timesheet::{Rest, Timesheet},
};

use super::{
    Runtime, Watched,
    accept::{Listener, Peers},
    ready,
    table::Table,
};

/// One shard with its sockets.
pub(super) struct Reactor<R: Runtime> {
    pub(super) shard: Shard,
    pub(super) table: Table<R::Stream>,
    /// `None`: closed.
    pub(super) listeners: Vec<Option<Listener<R::Listener>>>,
    pub(super) mailbox: Mailbox,
    pub(super) ports: Vec<Port>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) sheet: Rc<Timesheet>,
    pub(super) clock: Clock,
    /// All reads of all sockets go through this one buffer.
    pub(super) buffer: Box<[u8]>,
    pub(super) conn_bytes: usize,
    /// Links with data; their interest is `Ready`.
    pub(super) links: Turns<SocketId>,
    /// Sockets that were read in this tick, or are wanted again.
    pub(super) rearm: Vec<SocketId>,
    /// Something is left for the next tick, which must not wait.
    pub(super) again: bool,
    /// Sockets that were ready in this tick.
    pub(super) taken: u64,
    pub(super) runtime: R,
    spin: Spin,
}

/// Runs a shard until it has drained or is stopped.
///
/// # Errors
/// The kernel refuses a registration.
pub(in crate::driver) async fn run<R: Runtime>(seat: Seat, up: impl FnOnce()) -> io::Result<()> {
    ready::clear();
    let tick = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let runtime = R::start(&tick, seat.clock, seat.mailbox.bell())?;
    ready::on_ready(tick);
    let mut reactor = Reactor::new(seat, runtime)?;
    up();
    poll_fn(|cx| reactor.poll(cx)).await;
    reactor.hang_up();
    reactor.runtime.end(reactor.mailbox.bell());
    ready::clear();
    Ok(())
}

impl<R: Runtime> Reactor<R> {
    fn new(seat: Seat, runtime: R) -> io::Result<Self> {
        let tick = &seat.gateway.config.tick;
        let conn_bytes = tick.conn_bytes.max(1);
        let links = Turns::new(tick.link_bytes.max(1));
        let spin = Spin::new(tick.spin_us);
        let mut listeners = vec![Some(Listener::new(
            Watched::new(seat.ws.into())?,
            Peers::Clients,
        ))];
        for grpc in seat.grpc {
            let fd = Watched::new(grpc.into())?;
            listeners.push(Some(Listener::new(fd, Peers::Services)));
        }
        let metrics = Arc::clone(&seat.metrics);
        let shard = Shard::new(seat.gateway, metrics, seat.lanes, seat.seed);
        Ok(Self {
            sheet: watch::start(&shard, seat.clock),
            shard,
            table: Table::default(),
            listeners,
            mailbox: seat.mailbox,
            ports: seat.ports,
            metrics: seat.metrics,
            clock: seat.clock,
            buffer: vec![0; conn_bytes.max(LINK_READ)].into(),
            conn_bytes,
            links,
            rearm: Vec::new(),
            again: false,
            taken: 0,
            runtime,
            spin,
        })
    }

    /// One tick. Ready: the shard has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.now();
        self.sheet.begin(now);
        self.again = false;
        self.mailbox.bell().wake_up();
        if follow_orders(&self.mailbox, &mut self.shard, now) {
            return Poll::Ready(());
        }
        if self.has_work() {
            self.spin.worked(now);
        }
        self.take_ready(now);
        let taking = self.read_links(now);
        self.shard.tick(now);
        if taking.taken() > 0 {
            let took = self.now().saturating_sub(now);
            self.links.spent(&taking, took);
        }
        self.flush();
        self.act();
        // New sockets come after the actions: a slot that the shard gives anew is free here too by now.
        self.accept(now);
        self.adopt(now);
        self.rearm();
        self.ring_others();
        let ended = self.now();
        count(&self.metrics, now, ended);
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

    /// Goes on after a look at the completions if something is left; sleeps otherwise, until the next deadline at most.
    fn rest(&mut self, cx: &mut Context<'_>, now: Duration) -> Rest {
        let deadline = self.next_deadline(now);
        if self.again || self.has_work() || deadline <= now || self.spin.goes_on(now) {
            self.runtime.again(cx);
            return Rest::GoesOn;
        }
        let bell = self.mailbox.bell();
        bell.fall_asleep();
        // What came before the bell knew is in the mailbox, or work in the lanes.
        if self.mailbox.is_empty() && !self.shard.has_work() {
            self.runtime.wake_at(deadline, cx);
            Rest::Sleeps
        } else {
            bell.wake_up();
            self.runtime.again(cx);
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
