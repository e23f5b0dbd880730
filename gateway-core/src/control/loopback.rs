//! One HTTP/2 connection to this very gateway: h2-stream's client, and the socket it speaks through.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    task::Context,
    time::{Duration, Instant},
};

use h2_stream::{Client, ClientEvent, Config};
use tokio::net::TcpStream;

/// Most bytes read or written before others have their turn.
const TURN: usize = 1 << 20;
const READ: usize = 64 << 10;

pub(crate) struct Link {
    /// Calls are made here; [`receive`](Link::receive) and [`transmit`](Link::transmit) do the rest.
    pub(crate) client: Client,
    socket: TcpStream,
    started: Instant,
    scratch: Box<[u8]>,
    output: Vec<u8>,
    written: usize,
    ended: bool,
}

impl Link {
    /// Connects. Messages of up to `max_message` bytes are taken.
    pub(crate) async fn connect(address: SocketAddr, max_message: usize) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let config = Config {
            max_message,
            max_incomplete: 2 * max_message,
            stream_window: 4 << 20,
            ..Config::default()
        };
        Ok(Self {
            client: Client::new(config, &address.to_string(), Duration::ZERO),
            socket,
            started: Instant::now(),
            scratch: vec![0; READ].into(),
            output: Vec::new(),
            written: 0,
            ended: false,
        })
    }

    /// The time, on this link's own clock.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// When [`receive`](Self::receive) has something to do at the latest, on this link's own clock.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.client.next_deadline()
    }

    /// Registers for, and says whether there is, something to receive or room for what is to be transmitted.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> bool {
        let reads = !self.ended && self.client.wants_bytes();
        let writes = self.written < self.output.len() || self.client.has_output();
        let readable = reads && self.socket.poll_read_ready(cx).is_ready();
        let writable = writes && self.socket.poll_write_ready(cx).is_ready();
        readable || writable
    }

    /// Reads what has arrived.
    pub(crate) fn receive(&mut self) -> io::Result<()> {
        let now = self.now();
        self.client.handle_timeout(now);
        let mut left = TURN;
        while left > 0 && !self.ended && self.client.wants_bytes() {
            match self.socket.try_read(&mut self.scratch) {
                Ok(0) => {
                    self.ended = true;
                    self.client.receive_eof(now);
                }
                Ok(n) => {
                    self.client.receive(now, &self.scratch[..n]);
                    left = left.saturating_sub(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What has happened on the link.
    pub(crate) fn poll_event(&mut self) -> Option<ClientEvent> {
        self.client.poll_event(self.now())
    }

    /// Writes what is to be sent, as far as the socket takes it.
    pub(crate) fn transmit(&mut self) -> io::Result<()> {
        let mut left = TURN;
        while left > 0 {
            if self.written == self.output.len() {
                self.output.clear();
                self.written = 0;
                if self.client.write_output(&mut self.output, READ) == 0 {
                    break;
                }
            }
            match self.socket.try_write(&self.output[self.written..]) {
                Ok(n) => {
                    self.written += n;
                    left = left.saturating_sub(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Where to dial what listens on `listen`.
pub(crate) fn dialled(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}
