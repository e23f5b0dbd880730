//! HTTP/1.1 requests in a pipeline over a few connections: how peers are pushed to that know nothing else.

use std::{future::poll_fn, io, net::SocketAddr, task::Poll, time::Duration};

use anyhow::{Context, bail};
use tokio::{net::TcpStream, time::timeout};

/// Connections: a target always has the same, so that its messages stay in order.
const CONNECTIONS: usize = 16;
/// Bytes of a connection that wait for its socket.
const OUTPUT: usize = 256 << 10;
const READ: usize = 64 << 10;
/// Whoever waits longer than this for the peer waits for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// The connections.
pub(super) struct Posts {
    connections: Vec<Connection>,
    buffer: Box<[u8]>,
}

struct Connection {
    socket: TcpStream,
    output: Vec<u8>,
    input: Vec<u8>,
    /// Requests without an answer.
    open: usize,
}

impl Posts {
    pub(super) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            connections.push(Connection {
                socket,
                output: Vec::new(),
                input: Vec::new(),
                open: 0,
            });
        }
        let buffer = vec![0; READ].into();
        Ok(Self {
            connections,
            buffer,
        })
    }

    /// Queues a request for `target`, written by `request`. Says whether there is room for another one.
    pub(super) fn post(&mut self, target: usize, request: impl FnOnce(&mut Vec<u8>)) -> bool {
        let connection = &mut self.connections[target % CONNECTIONS];
        request(&mut connection.output);
        connection.open += 1;
        connection.output.len() < OUTPUT
    }

    /// Writes what is queued, and reads the answers that have come.
    pub(super) async fn flush(&mut self) -> anyhow::Result<()> {
        self.until(|connection| connection.output.is_empty()).await
    }

    /// Waits for all answers.
    pub(super) async fn finish(&mut self) -> anyhow::Result<()> {
        self.until(|connection| connection.open == 0).await
    }

    async fn until(&mut self, done: impl Fn(&Connection) -> bool) -> anyhow::Result<()> {
        loop {
            for connection in &mut self.connections {
                connection.turn(&mut self.buffer)?;
            }
            if self.connections.iter().all(&done) {
                return Ok(());
            }
            let moved = poll_fn(|cx| {
                // All are asked, so that each is registered.
                let ready = self.connections.iter().fold(false, |ready, connection| {
                    let reads = connection.socket.poll_read_ready(cx).is_ready();
                    let writes = !connection.output.is_empty()
                        && connection.socket.poll_write_ready(cx).is_ready();
                    ready | reads | writes
                });
                if ready {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            });
            let moved = timeout(PATIENCE, moved).await;
            moved.context("the peer does nothing for 10 s")?;
        }
    }
}

impl Connection {
    /// Moves what can be moved, and does not wait.
    fn turn(&mut self, buffer: &mut [u8]) -> anyhow::Result<()> {
        while !self.output.is_empty() {
            match self.socket.try_write(&self.output) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        loop {
            match self.socket.try_read(buffer) {
                Ok(0) => bail!("the peer has closed a connection that pushes"),
                Ok(n) => self.input.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        let mut taken = 0;
        while let Some(answer) = Answer::parse(&self.input[taken..])? {
            if !(200..300).contains(&answer.status) {
                let text = &self.input[taken..taken + answer.length];
                bail!("the peer refuses a push: {}", String::from_utf8_lossy(text));
            }
            taken += answer.length;
            self.open = self.open.saturating_sub(1);
        }
        self.input.drain(..taken);
        Ok(())
    }
}

/// An answer at the beginning of what has come.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// Of head and body.
    length: usize,
}

impl Answer {
    /// `None`: it has not come in full.
    fn parse(bytes: &[u8]) -> anyhow::Result<Option<Self>> {
        let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&bytes[..head])?;
        let status = text
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3));
        let status = status.context("an answer that is no HTTP/1.1")?.parse()?;
        let mut lengths = text.lines().filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is_length = name.eq_ignore_ascii_case("content-length");
            is_length.then(|| value.trim().parse::<usize>())
        });
        let body = lengths.next().context("an answer without a length")??;
        let length = head + 4 + body;
        Ok((bytes.len() >= length).then_some(Self { status, length }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_wherever_reads_cut_them() {
        let one = b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nbody";
        let two = [&one[..], b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"].concat();
        for cut in 0..one.len() {
            assert_eq!(Answer::parse(&two[..cut]).unwrap(), None, "{cut}");
        }
        let first = Answer::parse(&two).unwrap().unwrap();
        assert_eq!((first.status, first.length), (201, one.len()));
        let second = Answer::parse(&two[first.length..]).unwrap().unwrap();
        assert_eq!(
            (second.status, first.length + second.length),
            (503, two.len())
        );
        assert!(Answer::parse(b"SSH-2.0\r\n\r\n").is_err());
    }
}
