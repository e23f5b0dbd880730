//! A gRPC client for one call at a time, on a blocking socket: h2-stream's client and the reads and writes it asks for.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use h2_stream::{Client, ClientEvent, Code, Config, Metadata, Status};
use prost::{Message, bytes::Bytes};

/// One HTTP/2 connection to a gateway.
pub(super) struct Connection {
    client: Client,
    socket: TcpStream,
    started: Instant,
    deadline: Duration,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// Nobody there, or the connection broke, or time ran out.
    #[error("{0}")]
    Unreachable(String),
    /// The gateway said no.
    #[error("{:?}: {}", .0.code, .0.message)]
    Refused(Box<Status>),
}

impl Connection {
    /// Connects to `address` (host:port). All that is done with the connection must be done within `timeout`.
    pub(super) fn open(address: &str, timeout: Duration) -> Result<Self, CallError> {
        let started = Instant::now();
        let socket = connect(address, timeout).map_err(|error| {
            CallError::Unreachable(format!("cannot connect to {address}: {error}"))
        })?;
        Ok(Self {
            client: Client::new(Config::default(), address, Duration::ZERO),
            socket,
            started,
            deadline: timeout,
            input: vec![0; 16 << 10],
            output: Vec::new(),
        })
    }

    /// One request, one answer.
    pub(super) fn unary<Answer: Message + Default>(
        &mut self,
        method: &str,
        request: &impl Message,
    ) -> Result<Answer, CallError> {
        let left = self.deadline.saturating_sub(self.started.elapsed());
        let call = self
            .client
            .open(method, Metadata::new(), Some(left), self.started.elapsed())
            .map_err(|error| CallError::Unreachable(error.to_string()))?;
        self.client.send(call, request);
        self.client.half_close(call);
        let mut answer = None;
        loop {
            let now = self.started.elapsed();
            while let Some(event) = self.client.poll_event(now) {
                match event {
                    ClientEvent::Message {
                        id,
                        message,
                        credit,
                    } => {
                        self.client.release(id, credit);
                        answer = Some(message);
                    }
                    ClientEvent::Finished { status, .. } => return finished(status, answer),
                    ClientEvent::ConnectionLost { reason } => {
                        return Err(CallError::Unreachable(format!("connection lost: {reason}")));
                    }
                    _ => {}
                }
            }
            self.exchange()
                .map_err(|error| CallError::Unreachable(error.to_string()))?;
        }
    }

    /// Writes what is to be sent, then waits for bytes or the next deadline.
    fn exchange(&mut self) -> io::Result<()> {
        self.output.clear();
        while self.client.write_output(&mut self.output, usize::MAX) > 0 {}
        let left = self.deadline.saturating_sub(self.started.elapsed());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
        }
        self.socket.set_write_timeout(Some(left))?;
        self.socket.write_all(&self.output)?;

        let until = self.client.next_deadline().unwrap_or(self.deadline);
        let wait = until.saturating_sub(self.started.elapsed());
        let wait = wait.clamp(Duration::from_millis(1), left);
        self.socket.set_read_timeout(Some(wait))?;
        let read = self.socket.read(&mut self.input);
        let now = self.started.elapsed();
        match read {
            Ok(0) => self.client.receive_eof(now),
            Ok(n) => self.client.receive(now, &self.input[..n]),
            Err(error) if is_timeout(&error) => self.client.handle_timeout(now),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()?.collect::<Vec<SocketAddr>>() {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn finished<Answer: Message + Default>(
    status: Status,
    answer: Option<Bytes>,
) -> Result<Answer, CallError> {
    match (status.code, answer) {
        (Code::Ok, Some(message)) => Answer::decode(message)
            .map_err(|error| CallError::Unreachable(format!("the answer is no protobuf: {error}"))),
        (Code::Ok, None) => Err(CallError::Unreachable("an answer without a message".into())),
        (Code::Unavailable | Code::DeadlineExceeded, _) => {
            Err(CallError::Unreachable(status.message))
        }
        _ => Err(CallError::Refused(Box::new(status))),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), TimedOut | WouldBlock | Interrupted)
}
