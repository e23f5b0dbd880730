//! The bytes of one connection, and its alarm.

use std::future::pending;
use std::io::{ErrorKind, Result};
use std::pin::Pin;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::core::runner::{ConnectionId, Runner};

/// Most bytes read at once.
const READ: usize = 32 << 10;

/// Most bytes given to the kernel at once.
const WRITE: usize = 256 << 10;

/// A socket that is read and written only when it is ready, so nothing is lost by not waiting.
pub(crate) struct Socket {
    tcp: TcpStream,
    connection: ConnectionId,
    input: Vec<u8>,
    /// Bytes on their way to the kernel.
    output: Vec<u8>,
    written: usize,
    /// Nothing can be written any more.
    dead: bool,
}

impl Socket {
    pub(crate) fn new(tcp: TcpStream, connection: ConnectionId) -> Self {
        Self {
            tcp,
            connection,
            input: vec![0; READ],
            output: Vec::new(),
            written: 0,
            dead: false,
        }
    }

    pub(crate) fn connection(&self) -> ConnectionId {
        self.connection
    }

    /// Gives the runner what has come; says whether that was anything.
    pub(crate) fn read(&mut self, runner: &mut Runner, now: Duration) -> bool {
        if !runner.wants_bytes(self.connection) {
            return false;
        }
        match self.tcp.try_read(&mut self.input) {
            Ok(0) => runner.receive_eof(now, self.connection),
            Ok(read) => runner.receive(now, self.connection, &self.input[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => runner.failed(self.connection, error.to_string()),
        }
        true
    }

    /// Sends what the runner has; says whether that was anything.
    pub(crate) fn write(&mut self, runner: &mut Runner) -> bool {
        if self.dead {
            return false;
        }
        match self.try_write(runner) {
            Ok(any) => any,
            Err(error) => {
                self.dead = true;
                runner.failed(self.connection, error.to_string());
                true
            }
        }
    }

    /// Waits until there is something to read, if it is wanted, or room for what waits.
    pub(crate) async fn ready(&self, wanted: bool) -> Result<()> {
        let interest = match (wanted, self.waits()) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (true, false) => Interest::READABLE,
            (false, true) => Interest::WRITABLE,
            (false, false) => pending().await,
        };
        self.tcp.ready(interest).await.map(drop)
    }

    fn waits(&self) -> bool {
        !self.dead && self.written < self.output.len()
    }

    fn try_write(&mut self, runner: &mut Runner) -> Result<bool> {
        let mut any = false;
        loop {
            if !self.waits() {
                self.output.clear();
                self.written = 0;
                if runner.write_output(self.connection, &mut self.output, WRITE) == 0 {
                    return Ok(any);
                }
            }
            match self.tcp.try_write(&self.output[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(any),
                Err(error) => return Err(error),
            }
            any = true;
        }
    }
}

/// Wakes at a deadline that mostly moves away: it is set again only when it must be, and may ring
/// too early.
pub(crate) struct Alarm {
    timer: Pin<Box<Sleep>>,
}

impl Alarm {
    pub(crate) fn new() -> Self {
        Self {
            timer: Box::pin(sleep_until(Instant::now())),
        }
    }

    /// Waits until `deadline` at the latest, if there is one.
    pub(crate) async fn ring(&mut self, deadline: Option<Instant>) {
        let Some(deadline) = deadline else {
            return pending().await;
        };
        if self.timer.is_elapsed() || deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().await;
    }
}
