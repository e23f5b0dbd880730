//! Many WebSocket clients on one thread: as lean as can be, so that what is measured is the gateway.

use std::{
    io::{self, ErrorKind, Read, Write},
    mem::MaybeUninit,
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use anyhow::bail;
use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll, poll},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use crate::{
    peers::Door,
    wire::{self, BINARY, CLOSE, PING, PONG, TEXT},
};

/// Most sockets served before the caller has its turn.
const BATCH: usize = 512;
const READ: usize = 256 << 10;
/// Descriptors that are not clients.
pub(crate) const OTHER_DESCRIPTORS: u64 = 256;

/// How long a gateway may leave a handshake without an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
const ROOM_WITHIN: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// WebSocket clients, numbered from 0.
pub struct Clients {
    epoll: OwnedFd,
    clients: Vec<Option<Client>>,
    buffer: Box<[u8]>,
    open: usize,
}

struct Client {
    socket: TcpStream,
    /// The beginning of a frame whose end has not come.
    partial: Vec<u8>,
}

/// What has happened to a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A message has come.
    Message {
        /// Text, not binary.
        text: bool,
        /// Its content.
        payload: &'a [u8],
    },
    /// The connection is over.
    Closed {
        /// The code of the gateway's Close; `None`: there was none.
        code: Option<u16>,
        /// The reason that came with it.
        reason: &'a str,
    },
}

impl Clients {
    /// Connects a client to each of `targets` (path and query of the handshake, see [`Clients::target`]), one after
    /// the other.
    ///
    /// # Errors
    /// More clients than this process may have descriptors, or a handshake that fails.
    pub fn connect(address: SocketAddr, targets: &[String]) -> anyhow::Result<Self> {
        Self::connect_each(targets.iter().map(|target| (address, target.as_str())))
    }

    /// As [`Clients::connect`], each to the gateway named beside its target.
    ///
    /// # Errors
    /// As there.
    pub fn connect_each<'a>(
        targets: impl ExactSizeIterator<Item = (SocketAddr, &'a str)>,
    ) -> anyhow::Result<Self> {
        let targets = targets.map(|(address, target)| Door {
            address,
            target: target.to_owned(),
            greeting: Vec::new(),
        });
        Self::enter(targets)
    }

    /// As [`Clients::connect`], each through its door.
    ///
    /// # Errors
    /// As there.
    pub fn enter(doors: impl ExactSizeIterator<Item = Door>) -> anyhow::Result<Self> {
        check_descriptors(doors.len())?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut clients = Vec::with_capacity(doors.len());
        for (at, door) in doors.enumerate() {
            let (mut socket, partial) = wire::connect(door.address, &door.target, ANSWER_WITHIN)?;
            for message in &door.greeting {
                socket.write_all(&wire::frame(TEXT, message.as_bytes()))?;
            }
            socket.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(at as u64);
            epoll::add(&epoll, &socket, data, epoll::EventFlags::IN)?;
            clients.push(Some(Client { socket, partial }));
        }
        Ok(Self {
            epoll,
            open: clients.len(),
            clients,
            buffer: vec![0; READ].into(),
        })
    }

    /// What `user` connects to. The name stands for itself: it needs no percent-encoding.
    #[must_use]
    pub fn target(user: &str) -> String {
        format!("/ws?user={user}")
    }

    /// How many are connected.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open
    }

    /// Becomes readable when something has come.
    #[must_use]
    pub fn readiness(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Waits for at most `wait`, and gives what has come, by client, to `take`. Says whether anything had come.
    ///
    /// # Errors
    /// A gateway that breaks the protocol.
    pub fn receive(
        &mut self,
        wait: Duration,
        mut take: impl FnMut(usize, Event<'_>),
    ) -> io::Result<bool> {
        let wait = Timespec::try_from(wait).map_err(io::Error::other)?;
        let mut room = [const { MaybeUninit::uninit() }; BATCH];
        let ready = match epoll::wait(&self.epoll, &mut room, Some(&wait)) {
            Ok((ready, _)) => ready,
            Err(rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        for event in &*ready {
            let at = event.data.u64() as usize;
            let Some(client) = &mut self.clients[at] else {
                continue;
            };
            if !client.receive(&mut self.buffer, |event| take(at, event))? {
                self.clients[at] = None;
                self.open -= 1;
            }
        }
        Ok(!ready.is_empty())
    }

    /// Sends a message, and waits for room if there is none. A client that is gone sends nothing.
    ///
    /// # Errors
    /// The gateway does not take it within 10 s, or is gone.
    pub fn send(&mut self, client: usize, text: bool, payload: &[u8]) -> io::Result<()> {
        let opcode = if text { TEXT } else { BINARY };
        match &mut self.clients[client] {
            Some(client) => write_all(&mut client.socket, &wire::frame(opcode, payload)),
            None => Ok(()),
        }
    }
}

impl Client {
    /// One read. Says whether the client is still connected.
    fn receive(&mut self, buffer: &mut [u8], mut take: impl FnMut(Event<'_>)) -> io::Result<bool> {
        let n = match self.socket.read(buffer) {
            Ok(0) => 0,
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(error),
        };
        if n == 0 {
            let (code, reason) = (None, "");
            take(Event::Closed { code, reason });
            return Ok(false);
        }
        if self.partial.is_empty() {
            let (end, open) = frames(&mut self.socket, &buffer[..n], take)?;
            self.partial.extend_from_slice(&buffer[end..n]);
            return Ok(open);
        }
        self.partial.extend_from_slice(&buffer[..n]);
        let (end, open) = frames(&mut self.socket, &self.partial, take)?;
        self.partial.drain(..end);
        Ok(open)
    }
}

/// Takes all whole frames. Says where the first one begins that is not, and whether no Close was among them.
fn frames(
    socket: &mut TcpStream,
    bytes: &[u8],
    mut take: impl FnMut(Event<'_>),
) -> io::Result<(usize, bool)> {
    let mut at = 0;
    while let Some(frame) = wire::parse(&bytes[at..])? {
        at += frame.end;
        let payload = frame.payload;
        match frame.opcode {
            TEXT | BINARY => take(Event::Message {
                text: frame.opcode == TEXT,
                payload,
            }),
            PING => write_all(socket, &wire::frame(PONG, payload))?,
            CLOSE => {
                // The gateway may be gone already: it has said what it had to say.
                let _ = socket.write_all(&wire::frame(CLOSE, &payload[..payload.len().min(2)]));
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                let reason = std::str::from_utf8(payload.get(2..).unwrap_or_default());
                take(Event::Closed {
                    code,
                    reason: reason.unwrap_or("(no UTF-8)"),
                });
                return Ok((at, false));
            }
            _ => {}
        }
    }
    Ok((at, true))
}

/// As [`Write::write_all`], for a socket that does not block.
fn write_all(socket: &mut TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut room = [PollFd::new(socket, PollFlags::OUT)];
                if poll(&mut room, Some(&ROOM_WITHIN))? == 0 {
                    return Err(ErrorKind::TimedOut.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The name of a user.
#[must_use]
pub fn user(index: usize) -> String {
    format!("user-{index}")
}

/// Raises this process' limit of descriptors as far as it may, and says whether that is enough.
///
/// # Errors
/// It is not: the operator must ask for fewer clients, or raise the hard limit.
pub fn check_descriptors(clients: usize) -> anyhow::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )?;
    let allowed = maximum.unwrap_or(u64::MAX);
    if (clients as u64).saturating_add(OTHER_DESCRIPTORS) > allowed {
        bail!(
            "{clients} clients need as many descriptors, and this process may have {allowed} (ulimit -Hn): \
             ask for at most {} clients, or raise the limit",
            allowed.saturating_sub(OTHER_DESCRIPTORS)
        );
    }
    Ok(())
}
