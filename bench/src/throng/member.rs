//! One client that does not block: connects, shakes hands, takes frames, and knows when not to come again.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketAddrV4, SocketFlags, SocketType, bind, connect, socket_with,
        sockopt::{set_socket_linger, set_tcp_nodelay},
    },
};

use crate::wire::{self, BINARY, CLOSE, PING, PONG, TEXT};

/// A client between its first SYN and its end.
pub(super) struct Member {
    pub(super) socket: TcpStream,
    stage: Stage,
    /// What has come and is not whole.
    partial: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The request is not sent yet.
    Connecting,
    /// The request is sent.
    Shaking,
    Open,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing that matters.
    Nothing,
    /// It is connected now.
    Opened,
    /// The connection is over, and may be tried again.
    Lost,
    /// The connection is over, and will not be taken again.
    Refused,
}

impl Member {
    /// Begins to connect. Loopback is often done at once: then the request is sent, too.
    pub(super) fn begin(source: Ipv4Addr, address: SocketAddr, target: &str) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        // The port is chosen for source and destination together when it connects.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        bind(&socket, &SocketAddrV4::new(source, 0))?;
        set_tcp_nodelay(&socket, true)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let mut member = Self {
            socket: TcpStream::from(socket),
            stage: Stage::Connecting,
            partial: Vec::new(),
        };
        member.ask(address, target)?;
        Ok(member)
    }

    /// Whether it waits for the connection itself.
    pub(super) fn is_connecting(&self) -> bool {
        self.stage == Stage::Connecting
    }

    /// Sends the request if the connection is there.
    pub(super) fn ask(&mut self, address: SocketAddr, target: &str) -> io::Result<()> {
        match self.socket.write(wire::request(address, target).as_bytes()) {
            // A request is small and comes first: it fits as a whole.
            Ok(_) => self.stage = Stage::Shaking,
            Err(error) if is_early(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// One read; messages go to `take`, which says what to answer.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        mut take: impl FnMut(bool, &[u8]) -> bool,
    ) -> Turn {
        match self.socket.read(buffer) {
            Ok(0) => return Turn::Lost,
            Ok(n) => self.partial.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Turn::Nothing,
            Err(_) => return Turn::Lost,
        }
        let mut turn = Turn::Nothing;
        if self.stage == Stage::Shaking {
            match wire::answer(&self.partial) {
                wire::Answer::Partial => return Turn::Nothing,
                wire::Answer::Refused { again: true } => return Turn::Lost,
                wire::Answer::Refused { again: false } => return Turn::Refused,
                wire::Answer::Accepted { end } => drop(self.partial.drain(..end)),
            }
            self.stage = Stage::Open;
            turn = Turn::Opened;
        }
        match self.frames(&mut take) {
            Ok(None) => turn,
            Ok(Some(over)) => over,
            Err(_) => Turn::Lost,
        }
    }

    /// Takes all whole frames. Says how it is over, if it is.
    fn frames(&mut self, take: &mut impl FnMut(bool, &[u8]) -> bool) -> io::Result<Option<Turn>> {
        let mut at = 0;
        while let Some(frame) = wire::parse(&self.partial[at..])? {
            at += frame.end;
            let payload = frame.payload;
            match frame.opcode {
                opcode @ (TEXT | BINARY) => {
                    let answer =
                        take(opcode == TEXT, payload).then(|| wire::frame(opcode, payload));
                    self.socket.write_all(&answer.unwrap_or_default())?;
                }
                PING => self.socket.write_all(&wire::frame(PONG, payload))?,
                CLOSE => {
                    let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    // The peer may be gone already.
                    let _ = self
                        .socket
                        .write(&wire::frame(CLOSE, &payload[..payload.len().min(2)]));
                    return Ok(Some(match code {
                        Some(1008 | 1009 | 4400..=4403) => Turn::Refused,
                        _ => Turn::Lost,
                    }));
                }
                _ => {}
            }
        }
        self.partial.drain(..at);
        if self.partial.is_empty() {
            // Idle clients hold nothing.
            self.partial = Vec::new();
        }
        Ok(None)
    }

    /// Ends it by reset: its port is free at once.
    pub(super) fn reset(self) {
        let _ = set_socket_linger(&self.socket, Some(Duration::ZERO));
    }
}

/// The connection is not there yet.
fn is_early(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::NotConnected
    )
}
