//! What a process of clients does: keeps everybody connected, checks and answers what comes, tells how things are.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    convert::Infallible,
    io::{self, Read, Write},
    mem::MaybeUninit,
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::bail;
use rustix::event::{
    Timespec,
    epoll::{self, EventData, EventFlags},
};

use super::{
    CLIENTS_OF_AN_ADDRESS, Options, Order, SOMEBODY, State,
    member::{Member, Turn},
};
use crate::{
    clients::{check_descriptors, user},
    simulate::rng::Rng,
    verify::{Checker, Ledger},
};

/// Marks the orders among the events of clients.
const ORDERS: u64 = u64::MAX;
const BATCH: usize = 512;
const READ: usize = 64 << 10;
/// Whoever comes back waits for a random time below the first, then twice as long, up to the last.
const BACKOFF: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(5)];
/// A handshake that takes longer is given up, and tried again.
const PATIENCE: Duration = Duration::from_secs(10);

/// Does what is ordered until nobody orders any more.
///
/// # Errors
/// More clients than descriptors.
pub fn run(options: &Options) -> anyhow::Result<Infallible> {
    check_descriptors(options.count)?;
    let mut work = Work::new(options)?;
    loop {
        work.turn()?;
    }
}

struct Work<'a> {
    options: &'a Options,
    epoll: OwnedFd,
    seats: Vec<Seat>,
    checker: Checker,
    /// Who may try to connect.
    waiting: VecDeque<usize>,
    /// Who may do so later, and who must be done by then.
    alarms: BinaryHeap<Reverse<(Instant, usize, u32)>>,
    /// Handshakes that are under way.
    shaking: usize,
    /// Whether everybody shall be connected.
    connected: bool,
    state: State,
    rng: Rng,
    buffer: Box<[u8]>,
    orders: Vec<u8>,
}

/// A user, with or without a client.
#[derive(Default)]
struct Seat {
    member: Option<Member>,
    /// Counted as connected.
    open: bool,
    /// Attempts since it was last connected.
    failures: u32,
    /// Changes when an attempt begins or ends: alarms from before are void.
    attempt: u32,
}

impl<'a> Work<'a> {
    fn new(options: &'a Options) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stdin = io::stdin();
        epoll::add(
            &epoll,
            stdin.as_fd(),
            EventData::new_u64(ORDERS),
            EventFlags::IN,
        )?;
        let last = options.first + options.count;
        Ok(Self {
            options,
            epoll,
            seats: (0..options.count).map(|_| Seat::default()).collect(),
            checker: Ledger::new(last, options.payload).split().1,
            waiting: VecDeque::new(),
            alarms: BinaryHeap::new(),
            shaking: 0,
            connected: false,
            state: State::default(),
            rng: Rng::new(options.first as u64 + 1),
            buffer: vec![0; READ].into(),
            orders: Vec::new(),
        })
    }

    fn turn(&mut self) -> anyhow::Result<()> {
        self.ring();
        while self.shaking < self.options.parallel
            && let Some(at) = self.waiting.pop_front()
        {
            self.begin(at);
        }
        let wait = self.alarms.peek().map(|Reverse((due, ..))| {
            Timespec::try_from(due.saturating_duration_since(Instant::now()))
        });
        let wait = wait.transpose()?;
        let mut room = [const { MaybeUninit::uninit() }; BATCH];
        let ready = match epoll::wait(&self.epoll, &mut room, wait.as_ref()) {
            Ok((ready, _)) => ready,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for event in &*ready {
            match event.data.u64() {
                ORDERS => self.listen()?,
                at => self.serve(at as usize),
            }
        }
        Ok(())
    }

    /// Whose time has come.
    fn ring(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((due, at, attempt))) = self.alarms.peek().copied() {
            if due > now {
                return;
            }
            self.alarms.pop();
            let seat = &self.seats[at];
            match seat.member {
                _ if seat.attempt != attempt => {}
                None => self.waiting.push_back(at),
                Some(_) if seat.open => {}
                Some(_) => self.end(at, Turn::Lost),
            }
        }
    }

    fn begin(&mut self, at: usize) {
        let (seat, options) = (&mut self.seats[at], self.options);
        if !self.connected || seat.member.is_some() {
            return;
        }
        seat.attempt += 1;
        self.state.attempts += 1;
        self.shaking += 1;
        let target = target(options, at);
        let begun = Member::begin(source(options, at), options.address, &target);
        let Ok(member) = begun else {
            self.end(at, Turn::Lost);
            return;
        };
        let flags = match member.is_connecting() {
            true => EventFlags::IN | EventFlags::OUT,
            false => EventFlags::IN,
        };
        let data = EventData::new_u64(at as u64);
        let added = epoll::add(&self.epoll, &member.socket, data, flags);
        seat.member = Some(member);
        if added.is_err() {
            self.end(at, Turn::Lost);
            return;
        }
        let attempt = seat.attempt;
        let due = Instant::now() + PATIENCE;
        self.alarms.push(Reverse((due, at, attempt)));
    }

    fn serve(&mut self, at: usize) {
        let options = self.options;
        let Some(member) = &mut self.seats[at].member else {
            return;
        };
        if member.is_connecting() {
            let target = target(options, at);
            if member.ask(options.address, &target).is_err() {
                self.end(at, Turn::Lost);
                return;
            }
            if member.is_connecting() {
                return;
            }
            let data = EventData::new_u64(at as u64);
            // It is registered: that cannot fail.
            let _ = epoll::modify(&self.epoll, &member.socket, data, EventFlags::IN);
        }
        let checker = &mut self.checker;
        let turn = member.read(&mut self.buffer, |text, payload| {
            checker.check(options.first + at, text, payload);
            options.answer
        });
        match turn {
            Turn::Nothing => {}
            Turn::Opened => {
                self.shaking -= 1;
                self.state.open += 1;
                self.seats[at].failures = 0;
                self.seats[at].open = true;
            }
            over => self.end(at, over),
        }
    }

    /// A connection, or an attempt, is over.
    fn end(&mut self, at: usize, how: Turn) {
        let seat = &mut self.seats[at];
        seat.member = None;
        seat.attempt += 1;
        match std::mem::take(&mut seat.open) {
            true => {
                self.state.open -= 1;
                self.state.lost += 1;
            }
            false => self.shaking -= 1,
        }
        if how == Turn::Refused {
            self.state.refused += 1;
            return;
        }
        let [base, cap] = BACKOFF;
        let most = (base * 2_u32.pow(seat.failures.min(8))).min(cap);
        seat.failures += 1;
        let wait = most.mul_f64(self.rng.below(1 << 20) as f64 / f64::from(1 << 20));
        self.alarms
            .push(Reverse((Instant::now() + wait, at, seat.attempt)));
    }

    fn listen(&mut self) -> anyhow::Result<()> {
        let mut part = [0; 256];
        match io::stdin().lock().read(&mut part)? {
            0 => bail!("nobody orders any more"),
            n => self.orders.extend_from_slice(&part[..n]),
        }
        while let Some(end) = self.orders.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = self.orders.drain(..=end).collect();
            let word = String::from_utf8_lossy(&line);
            match Order::of(word.trim()) {
                Some(Order::Connect) => {
                    self.connected = true;
                    self.waiting.extend(0..self.seats.len());
                }
                Some(Order::Tell) => self.tell()?,
                Some(Order::Leave) => self.leave(),
                None => bail!("{word:?} is no order"),
            }
        }
        Ok(())
    }

    fn tell(&mut self) -> anyhow::Result<()> {
        self.state.received = self.checker.delivered();
        self.state.faults = self.checker.faults_so_far();
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", serde_json::to_string(&self.state)?)?;
        Ok(stdout.flush()?)
    }

    fn leave(&mut self) {
        self.connected = false;
        self.waiting.clear();
        self.alarms.clear();
        self.shaking = 0;
        self.state.open = 0;
        for seat in &mut self.seats {
            seat.failures = 0;
            seat.open = false;
            if let Some(member) = seat.member.take() {
                member.reset();
            }
        }
    }
}

/// Where a client comes from. The kernel looks for a free port one after the other: the fuller an address, the longer.
fn source(options: &Options, at: usize) -> Ipv4Addr {
    let [a, b, c, d] = options.source.octets();
    Ipv4Addr::new(a, b, c, d + (at / CLIENTS_OF_AN_ADDRESS) as u8)
}

/// Of the handshake of a client.
fn target(options: &Options, at: usize) -> String {
    options.target.replace(SOMEBODY, &user(options.first + at))
}
