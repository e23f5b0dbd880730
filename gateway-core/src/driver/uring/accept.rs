//! Clients come in: accepted by the ring into its table, or moved here from other shards.

use std::{
    cell::UnsafeCell,
    net::{SocketAddr, TcpListener},
    os::fd::AsRawFd,
    time::Duration,
};

use rustix::io::Errno;
use socket2::{SockAddr, SockAddrStorage};

use super::{
    ring::Ring,
    rings::Place,
    run::Reactor,
    table::{Conn, Receiving, Sending},
    token::{Key, Token},
};
use crate::{
    driver::failures::{ABORTED, Rest, accept_reason},
    identity::{ConnId, SocketId},
};

/// Accepts that are pending at a time, and so most clients taken in by a tick: a storm of them must not hold up those who
/// are in. Each has its place in a table already, so nobody is accepted for whom there is none.
pub(super) const ACCEPTS: usize = 64;

/// The listener for clients, with the accepts that are pending on it.
pub(super) struct Door {
    listener: TcpListener,
    /// Where the kernel writes who has come.
    peers: Box<[UnsafeCell<Peer>]>,
    /// Those who have come in this tick.
    arrivals: Vec<(Place, SocketAddr)>,
    /// The place of each pending accept.
    places: [Option<Place>; ACCEPTS],
    state: State,
    rest: Rest,
}

struct Peer {
    address: SockAddrStorage,
    length: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Failed; tried again at this time.
    Resting(Duration),
    /// Ends once nothing is pending.
    Closing,
}

impl Door {
    /// A door at which nothing is pending yet.
    pub(super) fn new(listener: TcpListener) -> Self {
        let peer = || UnsafeCell::new(Peer::nobody());
        Self {
            listener,
            peers: std::iter::repeat_with(peer).take(ACCEPTS).collect(),
            arrivals: Vec::new(),
            places: [None; ACCEPTS],
            state: State::Open,
            rest: Rest::default(),
        }
    }

    /// When it wants to be tried again.
    pub(super) fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Resting(until) => Some(until),
            State::Open | State::Closing => None,
        }
    }

    /// Whether accepts may be made. Ends a rest that is over.
    fn is_open(&mut self, now: Duration) -> bool {
        if self.deadline().is_some_and(|until| until <= now) {
            self.state = State::Open;
        }
        self.state == State::Open
    }

    /// Something failed that passes only when others give something back.
    fn rest(&mut self, now: Duration, shard: u16, error: Errno) {
        if self.state == State::Open {
            self.state = State::Resting(now + self.rest.after(shard, error));
        }
    }

    /// Accepts nobody for a time.
    pub(super) fn rest_until(&mut self, until: Duration) {
        if self.state == State::Open {
            self.state = State::Resting(until);
        }
    }

    /// Something worked.
    fn is_well(&mut self) {
        self.rest.is_over();
    }

    /// Makes an accept with that number and place.
    fn accept(&mut self, ring: &mut Ring, at: usize, place: Place) {
        self.places[at] = Some(place);
        let peer = self.peers[at].get();
        let token = Token::Accept(at as u32);
        // SAFETY: nothing is pending for `at`, so the peer is nobody's. From here on it is the kernel's until the request
        // completes (`peer_of`): it lies in a box that never moves, which goes only when nothing is pending
        // (`Reactor::accept`), or after the rings (the order of the reactor's fields).
        #[allow(unsafe_code)]
        unsafe {
            let address = (&raw mut (*peer).address).cast::<u8>();
            let length = &raw mut (*peer).length;
            ring.accept(&self.listener, place.number(), address, length, token);
        }
    }

    /// Who has come by an accept that has completed.
    fn peer_of(&self, at: usize) -> Option<SocketAddr> {
        // SAFETY: the request has completed, so the kernel writes no more: the peer is ours.
        #[allow(unsafe_code)]
        let peer = unsafe { self.peers[at].get().replace(Peer::nobody()) };
        // SAFETY: the kernel has written an address of that length.
        #[allow(unsafe_code)]
        let address = unsafe { SockAddr::new(peer.address, peer.length) };
        address.as_socket()
    }
}

impl Peer {
    fn nobody() -> Self {
        let address = SockAddrStorage::zeroed();
        let length = address.size_of();
        Self { address, length }
    }
}

impl Reactor {
    /// Lets in who has come, and makes all accepts pending that may be.
    pub(super) fn accept(&mut self, now: Duration) {
        self.accept_services(now);
        let Some(mut door) = self.door.take() else {
            return;
        };
        for (place, peer) in door.arrivals.drain(..) {
            self.opened(now, place, peer);
        }
        if door.state == State::Closing && door.places.iter().all(Option::is_none) {
            return;
        }
        if door.is_open(now) {
            for at in 0..ACCEPTS {
                if door.places[at].is_some() {
                    continue;
                }
                match self.rings.take_place() {
                    Ok(place) => door.accept(self.rings.of(place), at, place),
                    Err(error) => {
                        let error = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                        self.metrics.accept_errors.count(accept_reason(error));
                        door.rest(now, self.metrics.shard, error);
                        break;
                    }
                }
            }
        }
        self.door = Some(door);
    }

    /// An accept has completed.
    pub(super) fn accepted(&mut self, now: Duration, at: u32, result: Result<u32, Errno>) {
        let at = at as usize;
        let Some(door) = &mut self.door else { return };
        let Some(place) = door.places[at].take() else {
            return;
        };
        match result {
            Ok(_) => {
                door.is_well();
                match door.peer_of(at) {
                    Some(peer) => door.arrivals.push((place, peer)),
                    None => {
                        self.metrics.accept_errors.count("other");
                        self.rings.of(place).close(place.number());
                    }
                }
            }
            Err(error) => {
                self.rings.give_place(place);
                if matches!(error, Errno::CANCELED | Errno::AGAIN | Errno::INTR) {
                    return;
                }
                let reason = accept_reason(error);
                self.metrics.accept_errors.count(reason);
                if reason != ABORTED {
                    door.rest(now, self.metrics.shard, error);
                }
            }
        }
    }

    /// Accepts no more clients.
    pub(super) fn close_door(&mut self) {
        let Some(door) = &mut self.door else { return };
        door.state = State::Closing;
        for (at, place) in door.places.iter().enumerate() {
            if let Some(place) = place {
                self.rings.of(*place).cancel(Token::Accept(at as u32));
            }
        }
    }

    fn opened(&mut self, now: Duration, place: Place, peer: SocketAddr) {
        match self.shard.conn_opened(now, peer) {
            Some(id) => self.insert(id, place),
            // At a limit; the shard has counted it.
            None => self.rings.of(place).close(place.number()),
        }
    }

    /// Takes in sockets that have moved here from other shards.
    pub(super) fn adopt(&mut self, now: Duration) {
        for at in 0..ACCEPTS {
            if !self.rings.have_room() {
                break;
            }
            let Some(moved) = self.mailbox.next_socket() else {
                return;
            };
            let Ok(place) = self.rings.take_place() else {
                self.metrics.accept_errors.count("memory");
                self.shard.move_refused();
                continue;
            };
            let number = place.number();
            self.adopting[at].set(moved.fd.as_raw_fd());
            // SAFETY: the cell lies in a box that never moves, and is set again in the next tick at the earliest, after the
            // rings were entered.
            #[allow(unsafe_code)]
            unsafe {
                let fd = self.adopting[at].as_ptr();
                self.rings.of(place).adopt(moved.fd, fd, number);
            }
            match self.shard.conn_adopted(now, moved.handshake) {
                Some(conn) => self.insert(conn, place),
                None => self.rings.of(place).close(number),
            }
        }
        // Others may wait behind those.
        self.again |= !self.mailbox.is_empty();
    }

    fn insert(&mut self, id: ConnId, place: Place) {
        // A socket that was given up by the shard after the actions may still stand in the slot.
        if let Some(stale) = self.table.insert_conn(id, Conn::new(id, place)) {
            self.hang_up(stale.key(id), stale);
        }
        self.rearm.push(SocketId::Conn(id));
    }

    /// Closes a client's socket. Requests that are pending would keep it open: they are ended first.
    pub(super) fn hang_up(&mut self, key: Key, conn: Conn) {
        let ring = self.rings.of(conn.place);
        if conn.receiving == Receiving::Armed {
            ring.cancel(Token::Receive(key));
        }
        if conn.sending == Sending::AwaitsRoom {
            ring.cancel(Token::Room(key));
        }
        ring.close(conn.place.number());
    }
}
