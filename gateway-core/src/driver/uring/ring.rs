//! One ring: the requests that a shard makes of the kernel, and what comes back.
//!
//! `SINGLE_ISSUER | DEFER_TASKRUN`: completions are made when the shard's thread asks for them, never by interrupting it.
//! Requests of the safe functions refer to no memory but the ring's own buffers; the unsafe ones say how long theirs must stay.

#![allow(unsafe_code, reason = "requests may refer to memory")]

use std::{
    collections::VecDeque,
    io,
    ops::Range,
    os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd},
    time::Duration,
};

use rustix::{
    event::PollFlags,
    io::Errno,
    net::{RecvFlags, SendFlags},
};
use uring::{
    IoUring, cqueue, opcode, squeue,
    types::{CancelBuilder, DestinationSlot, Fd, Fixed, Timespec},
};

use super::{
    alarm::Alarm,
    buffers::{BufferShape, Buffers, GROUP},
    token::Token,
};

/// Requests that fit before they must be handed over: what a tick makes at most, but for storms.
const REQUESTS: u32 = 1024;
/// How long the end of all requests is waited for.
const PATIENCE: Timespec = Timespec::new().sec(1);
/// How often the kernel may say that it cannot take requests now, before that is an error.
const REFUSALS: u32 = 1000;

/// What a ring is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Places for direct descriptors.
    pub(super) descriptors: u32,
    /// Its buffers.
    pub(super) buffers: BufferShape,
}

/// A ring with a table of direct descriptors and buffers to receive into.
pub(super) struct Ring {
    // The ring goes first: nothing may write to the buffers any more when they are freed.
    ring: IoUring,
    buffers: Buffers,
    alarm: Alarm,
    /// Places of the table that nobody has had so far, and those that were given back.
    unused: Range<u32>,
    free: Vec<u32>,
    /// Requests that found no room.
    waiting: VecDeque<squeue::Entry>,
    completed: VecDeque<Completion>,
    /// Sends that were not done in full: by number, with the result.
    short: Vec<(u32, i32)>,
}

/// The end of a request, or a part of one that goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    /// Which request.
    pub(super) token: Token,
    /// What a system call would have returned.
    pub(super) result: Result<u32, Errno>,
    /// More of the same request will come.
    pub(super) more: bool,
    /// The buffer that was filled; to be given back.
    pub(super) buffer: Option<u16>,
}

/// A sleep until something completes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sleep {
    /// When it begins, and when it is over at the latest, by the shard's clock.
    pub(super) now: Duration,
    pub(super) until: Duration,
}

/// What a send goes to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// A place in the ring's table.
    Direct(u32),
    /// An ordinary descriptor.
    Fd(RawFd),
}

impl Ring {
    /// Builds a ring for the calling thread.
    ///
    /// # Errors
    /// The kernel lacks something, or forbids it.
    pub(super) fn new(shape: Shape) -> io::Result<Self> {
        // Room for a completion of every fourth connection at once: the kernel keeps what finds none.
        let completions = (shape.descriptors / 4).next_power_of_two();
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(completions.clamp(REQUESTS * 2, 1 << 16))
            .build(REQUESTS)?;
        ring.submitter().register_files_sparse(shape.descriptors)?;
        let buffers = Buffers::register(&ring.submitter(), shape.buffers)?;
        Ok(Self {
            ring,
            buffers,
            alarm: Alarm::default(),
            unused: 0..shape.descriptors,
            free: Vec::new(),
            waiting: VecDeque::new(),
            completed: VecDeque::new(),
            short: Vec::new(),
        })
    }

    /// Takes a free place of the table.
    pub(super) fn take_place(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| self.unused.next())
    }

    /// Gives back a place in which nothing is, or will be.
    pub(super) fn give_place(&mut self, place: u32) {
        self.free.push(place);
    }

    /// The first `n` bytes of a buffer that a completion named.
    pub(super) fn filled(&mut self, buffer: u16, n: usize) -> &mut [u8] {
        self.buffers.filled(buffer, n)
    }

    /// Lets the kernel fill a buffer again.
    pub(super) fn give_buffer(&mut self, buffer: u16) {
        self.buffers.give_back(buffer);
    }

    // ---------------------------------------------------------------------------------------------------- requests --

    /// Receives from a place into buffers: once, or whenever something comes.
    pub(super) fn receive(&mut self, place: u32, again: bool, token: Token) {
        let entry = if again {
            opcode::RecvMulti::new(Fixed(place), GROUP).build()
        } else {
            // No address, and the length of whatever buffer it will be.
            let null = std::ptr::null_mut();
            let receive = opcode::Recv::new(Fixed(place), null, 0).buf_group(GROUP);
            receive.build().flags(squeue::Flags::BUFFER_SELECT)
        };
        self.push(entry.user_data(token.pack()));
    }

    /// Waits until a place can be written.
    pub(super) fn await_room(&mut self, place: u32, token: Token) {
        let entry = opcode::PollAdd::new(Fixed(place), events(PollFlags::OUT)).build();
        self.push(entry.user_data(token.pack()));
    }

    /// Waits until a descriptor can be read or written: once, or whenever it becomes so again. It may be closed meanwhile.
    pub(super) fn poll(&mut self, fd: &impl AsFd, what: PollFlags, again: bool, token: Token) {
        let entry = opcode::PollAdd::new(Fd(fd.as_fd().as_raw_fd()), events(what)).multi(again);
        self.push(entry.build().user_data(token.pack()));
    }

    /// Ends a request that is still pending: it completes with `ECANCELED`, unless it just completes otherwise.
    pub(super) fn cancel(&mut self, token: Token) {
        self.push(opcode::AsyncCancel::new(token.pack()).build().flags(QUIET));
    }

    /// Closes a place, which may be taken again by requests that follow.
    pub(super) fn close(&mut self, place: u32) {
        self.push(opcode::Close::new(Fixed(place)).build().flags(QUIET));
        self.free.push(place);
    }

    /// Shuts down writing.
    pub(super) fn finish(&mut self, place: u32) {
        const SHUT_WR: i32 = 1;
        let entry = opcode::Shutdown::new(Fixed(place), SHUT_WR).build();
        self.push(entry.flags(QUIET));
    }

    /// Makes an ordinary descriptor, close-on-exec, of what is in a place; it stays there too.
    pub(super) fn install(&mut self, place: u32, token: Token) {
        let entry = opcode::FixedFdInstall::new(Fixed(place), 0).build();
        self.push(entry.user_data(token.pack()));
    }

    /// Puts a descriptor into a place. An error shows in what follows: there is nobody in the place.
    ///
    /// # Safety
    /// `at` holds the descriptor until the next [`Ring::enter`] has returned.
    pub(super) unsafe fn adopt(&mut self, fd: OwnedFd, at: *const RawFd, place: u32) {
        let offset = place as i32;
        let update = opcode::FilesUpdate::new(at, 1).offset(offset).build();
        // Quiet on success, though its result is 1.
        self.push(update.flags(QUIET));
        let close = opcode::Close::new(Fd(fd.into_raw_fd())).build();
        self.push(close.flags(QUIET));
    }

    /// Accepts a connection into a place, when there is one.
    ///
    /// # Safety
    /// `address` points to `length` bytes, and both stay where they are until the request completes, or the ring is gone.
    pub(super) unsafe fn accept(
        &mut self,
        listener: &impl AsFd,
        place: u32,
        address: *mut u8,
        length: *mut u32,
        token: Token,
    ) {
        let target = DestinationSlot::try_from_slot_target(place).ok();
        let fd = Fd(listener.as_fd().as_raw_fd());
        let accept = opcode::Accept::new(fd, address.cast(), length).file_index(target);
        self.push(accept.build().user_data(token.pack()));
    }

    /// Sends what the socket has room for now; only if that is not all of it, a completion says how much.
    ///
    /// `MSG_DONTWAIT` makes a request that would have to wait fail at once (it is never retried, polled or handed to a
    /// worker), so the kernel reads `bytes` only while it is handed over. `MSG_WAITALL` makes a send in part a failure, and
    /// successes complete in silence.
    ///
    /// # Safety
    /// `bytes` stay where they are until [`Ring::enter`] has returned.
    pub(super) unsafe fn send(&mut self, to: Target, bytes: *const [u8], number: u32) {
        const FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
        let flags = (FLAGS.bits() | RecvFlags::WAITALL.bits()) as i32;
        let (start, length) = (bytes.cast::<u8>(), bytes.len() as u32);
        let entry = match to {
            Target::Direct(place) => opcode::Send::new(Fixed(place), start, length),
            Target::Fd(fd) => opcode::Send::new(Fd(fd), start, length),
        };
        let entry = entry.flags(flags).build().flags(QUIET);
        self.push(entry.user_data(Token::Send(number).pack()));
    }

    /// Whether one more request can be made that must not wait. If need be, hands over what is there.
    pub(super) fn has_room(&mut self) -> bool {
        if self.waiting.is_empty() && !self.ring.submission().is_full() {
            return true;
        }
        // What this does not hand over, the next one will.
        let _ = self.ring.submit();
        self.refill();
        self.waiting.is_empty() && !self.ring.submission().is_full()
    }

    // ------------------------------------------------------------------------------------------------- completions --

    /// Hands over all requests and takes what is complete; with `sleep`, not before something is, or its time is over.
    ///
    /// # Errors
    /// The kernel takes no more requests.
    pub(super) fn enter(&mut self, sleep: Option<Sleep>) -> io::Result<()> {
        if let Some(alarm) = sleep.and_then(|sleep| self.alarm.set(sleep.now, sleep.until)) {
            self.push(alarm);
        }
        let mut wants = usize::from(sleep.is_some());
        for _ in 0..REFUSALS {
            self.refill();
            let result = self.ring.submit_and_wait(std::mem::take(&mut wants));
            self.reap();
            let refused = match result.map_err(|error| Errno::from_io_error(&error)) {
                Ok(_) | Err(Some(Errno::INTR)) => false,
                Err(Some(Errno::AGAIN | Errno::BUSY | Errno::NOMEM)) => true,
                Err(error) => return Err(error.unwrap_or(Errno::IO).into()),
            };
            if self.waiting.is_empty() && self.ring.submission().is_empty() {
                return Ok(());
            }
            if refused {
                std::thread::yield_now();
            }
        }
        Err(Errno::BUSY.into())
    }

    /// Whether there is something to hand over or to take.
    pub(super) fn has_news(&mut self) -> bool {
        let submission = self.ring.submission();
        !submission.is_empty()
            || submission.taskrun()
            || submission.cq_overflow()
            || !self.waiting.is_empty()
    }

    /// The next completion, in order; sends apart.
    pub(super) fn next(&mut self) -> Option<Completion> {
        self.completed.pop_front()
    }

    /// Whether completions wait to be taken.
    pub(super) fn has_completions(&self) -> bool {
        !self.completed.is_empty()
    }

    /// The sends of the last [`Ring::enter`] that were not done in full.
    pub(super) fn take_short(&mut self) -> impl Iterator<Item = (u32, i32)> + '_ {
        self.short.drain(..)
    }

    /// A descriptor that can be read when a ring that nobody waits for has completions.
    ///
    /// # Errors
    /// The kernel refuses to register it.
    pub(super) fn ring_with(&self, eventfd: &OwnedFd) -> io::Result<()> {
        self.ring.submitter().register_eventfd(eventfd.as_raw_fd())
    }

    /// Ends all requests and closes the whole table, before this returns. (To close the ring does the same by and by, in the
    /// background, and meanwhile peers and ports would wait.)
    pub(super) fn hang_up(&mut self) {
        let _ = self.enter(None);
        let submitter = self.ring.submitter();
        // Nothing is pending, or the ring is closed in a moment anyway.
        let _ = submitter.register_sync_cancel(Some(PATIENCE), CancelBuilder::any());
        let _ = submitter.unregister_files();
        let _ = self.enter(None);
    }

    /// Adds a request, or keeps it until there is room.
    fn push(&mut self, entry: squeue::Entry) {
        if self.has_room() {
            self.offer(&entry);
        } else {
            self.waiting.push_back(entry);
        }
    }

    fn refill(&mut self) {
        while let Some(entry) = self.waiting.pop_front() {
            if !self.offer(&entry) {
                return self.waiting.push_front(entry);
            }
        }
    }

    fn offer(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: requests of the safe functions refer to no memory but the buffers and the alarm, which outlive the ring;
        // those of the unsafe ones to memory for which their callers answer.
        unsafe { self.ring.submission().push(entry).is_ok() }
    }

    /// Takes all completions there are, so that sends of which nothing is heard are known to be done.
    fn reap(&mut self) {
        loop {
            for entry in self.ring.completion() {
                match Token::unpack(entry.user_data()) {
                    Token::Send(number) => self.short.push((number, entry.result())),
                    Token::Alarm => self.alarm.rang(),
                    token => self.completed.push_back(Completion::new(token, &entry)),
                }
            }
            // The kernel keeps what found no room.
            if !self.ring.submission().cq_overflow() || self.ring.submit().is_err() {
                return;
            }
        }
    }
}

impl Completion {
    fn new(token: Token, entry: &cqueue::Entry) -> Self {
        let result = entry.result();
        Self {
            token,
            result: u32::try_from(result).map_err(|_| Errno::from_raw_os_error(-result)),
            more: cqueue::more(entry.flags()),
            buffer: cqueue::buffer_select(entry.flags()),
        }
    }
}

/// Successes say nothing.
const QUIET: squeue::Flags = squeue::Flags::SKIP_SUCCESS;

fn events(flags: PollFlags) -> u32 {
    u32::from(flags.bits())
}
