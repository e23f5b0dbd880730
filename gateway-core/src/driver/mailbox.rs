//! What reaches a shard's driver from other threads: moved sockets, orders, and the bell that wakes it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst, fence},
    },
    task::Waker,
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rustix::{
    event::{EventfdFlags, eventfd},
    io::{read, write},
};

use crate::shard::Handshake;

/// An order to a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Begin to go away: close clients spread over this time; end when everything is closed and flushed.
    Drain(Duration),
    /// End at once.
    Stop,
}

/// A connection on its way to the shard that owns its user.
#[derive(Debug)]
pub struct Moved {
    /// Its descriptor.
    pub fd: OwnedFd,
    /// What the shard it comes from has learnt about it.
    pub handshake: Handshake,
}

/// What other threads hold of a shard's mailbox.
#[derive(Clone, Debug)]
pub struct Port {
    orders: Sender<Order>,
    sockets: Sender<Moved>,
    bell: Arc<Bell>,
}

/// What the shard's driver holds of it.
#[derive(Debug)]
pub struct Mailbox {
    orders: Receiver<Order>,
    sockets: Receiver<Moved>,
    bell: Arc<Bell>,
}

/// Drain and Stop, each perhaps given twice.
const ORDERS: usize = 8;

/// A mailbox with room for `sockets` moved sockets.
///
/// # Errors
/// The kernel has no descriptor for the bell.
pub fn mailbox(sockets: usize) -> io::Result<(Port, Mailbox)> {
    let bell = Arc::new(Bell::new()?);
    let (orders_in, orders) = bounded(ORDERS);
    let (sockets_in, sockets) = bounded(sockets);
    let port = Port {
        orders: orders_in,
        sockets: sockets_in,
        bell: Arc::clone(&bell),
    };
    let mailbox = Mailbox {
        orders,
        sockets,
        bell,
    };
    Ok((port, mailbox))
}

impl Port {
    /// Gives an order and wakes the shard. One that finds no room repeats those before it.
    pub fn order(&self, order: Order) {
        let _ = self.orders.try_send(order);
        self.ring();
    }

    /// Moves a socket; the shard must be rung afterwards.
    ///
    /// # Errors
    /// The lane is full, or the shard has ended: the socket comes back.
    pub fn send_socket(&self, moved: Moved) -> Result<(), Moved> {
        self.sockets.try_send(moved).map_err(|error| match error {
            TrySendError::Full(moved) | TrySendError::Disconnected(moved) => moved,
        })
    }

    /// Wakes the shard if it sleeps. What was sent to it before will be seen.
    pub fn ring(&self) {
        self.bell.ring();
    }
}

impl Mailbox {
    /// The next order.
    pub fn next_order(&self) -> Option<Order> {
        self.orders.try_recv().ok()
    }

    /// The next socket that moves here.
    pub fn next_socket(&self) -> Option<Moved> {
        self.sockets.try_recv().ok()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.sockets.is_empty()
    }

    /// The bell: for its owner.
    #[must_use]
    pub fn bell(&self) -> &Bell {
        &self.bell
    }
}

/// Wakes a sleeping shard. Ringing for one that is awake costs no system call.
///
/// The owner says that it will sleep, *then* looks once more whether something has come; who sends puts it into the
/// queue, *then* looks whether the owner sleeps. Both look after a full fence, so at least one of them sees the other.
#[derive(Debug)]
pub struct Bell {
    eventfd: OwnedFd,
    /// Woken instead, if there is one.
    waker: Mutex<Option<Waker>>,
    asleep: AtomicBool,
}

impl Bell {
    fn new() -> io::Result<Self> {
        Ok(Self {
            eventfd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            waker: Mutex::new(None),
            asleep: AtomicBool::new(false),
        })
    }

    /// From now on ringing wakes this, and leaves the descriptor alone: for an owner that other threads can wake by itself.
    pub fn wake_with(&self, waker: Option<Waker>) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = waker;
    }

    /// Says that the owner is about to sleep. If something has come meanwhile it must not.
    pub fn fall_asleep(&self) {
        self.asleep.store(true, SeqCst);
        fence(SeqCst);
    }

    /// Says that the owner is awake.
    pub fn wake_up(&self) {
        self.asleep.store(false, SeqCst);
    }

    /// Makes the descriptor silent again.
    pub fn silence(&self) {
        let mut count = [0; 8];
        let _ = read(&self.eventfd, &mut count);
    }

    fn ring(&self) {
        fence(SeqCst);
        // Of several that ring, one pays for the system call.
        if self.asleep.load(SeqCst) && self.asleep.swap(false, SeqCst) {
            let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
            match &*waker {
                Some(waker) => waker.wake_by_ref(),
                None => _ = write(&self.eventfd, &1u64.to_ne_bytes()),
            }
        }
    }
}

impl AsFd for Bell {
    /// Readable once it was rung.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, task::Wake};

    use super::*;

    fn is_rung(bell: &Bell) -> bool {
        read(bell, &mut [0; 8]).is_ok()
    }

    #[test]
    fn an_awake_owner_is_not_rung_and_a_sleeping_one_once() {
        let (port, mailbox) = mailbox(1).unwrap();
        port.order(Order::Drain(Duration::ZERO));
        assert!(!is_rung(mailbox.bell()));
        assert!(!mailbox.is_empty(), "the owner sees it without the bell");

        mailbox.bell().fall_asleep();
        port.ring();
        port.ring();
        assert!(is_rung(mailbox.bell()));
        assert!(!is_rung(mailbox.bell()));
    }

    #[test]
    fn an_owner_with_a_waker_is_woken_by_that() {
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, SeqCst);
            }
        }
        let woken = Arc::new(Count(AtomicUsize::new(0)));
        let (port, mailbox) = mailbox(1).unwrap();
        mailbox.bell().wake_with(Some(Arc::clone(&woken).into()));
        port.ring();
        mailbox.bell().fall_asleep();
        port.ring();
        port.ring();
        assert_eq!(woken.0.load(SeqCst), 1);
        assert!(!is_rung(mailbox.bell()));

        mailbox.bell().wake_with(None);
        assert_eq!(Arc::strong_count(&woken), 1, "its waker is gone");
        mailbox.bell().fall_asleep();
        port.ring();
        assert!(is_rung(mailbox.bell()));
    }

    /// Two threads, one that sends and one that sleeps whenever it finds nothing: a lost wake would hang it.
    #[test]
    fn no_wake_is_lost() {
        const ORDERS: usize = 100_000;
        let (port, mailbox) = mailbox(1).unwrap();
        let sender = std::thread::spawn(move || {
            for _ in 0..ORDERS {
                while port.orders.try_send(Order::Stop).is_err() {
                    std::thread::yield_now();
                }
                port.ring();
            }
        });
        let mut seen = 0;
        while seen < ORDERS {
            while mailbox.next_order().is_some() {
                seen += 1;
            }
            mailbox.bell().fall_asleep();
            if mailbox.is_empty() && seen < ORDERS {
                let mut fds = [rustix::event::PollFd::new(
                    mailbox.bell(),
                    rustix::event::PollFlags::IN,
                )];
                let limit = rustix::event::Timespec {
                    tv_sec: 10,
                    tv_nsec: 0,
                };
                assert_eq!(rustix::event::poll(&mut fds, Some(&limit)), Ok(1));
                mailbox.bell().silence();
            }
            mailbox.bell().wake_up();
        }
        sender.join().unwrap();
    }
}
