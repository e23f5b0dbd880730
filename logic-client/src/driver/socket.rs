//! The bytes of one connection, and its alarm.

use std::future::pending;
use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::core::link::Link;

/// Most bytes read at once.
const READ: usize = 32 << 10;

/// Most bytes given to the kernel at once.
const WRITE: usize = 256 << 10;

/// A socket that is read and written only when it is ready, so nothing is lost by not waiting.
pub(crate) struct Socket {
    tcp: TcpStream,
    input: Vec<u8>,
    /// Bytes on their way to the kernel.
    output: Vec<u8>,
    written: usize,
    /// Why nothing can be written any more.
    dead: Option<Error>,
}

impl Socket {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self {
            tcp,
            input: vec![0; READ],
            output: Vec::new(),
            written: 0,
            dead: None,
        }
    }

    /// Gives the link what has come; says whether that was anything.
    pub(crate) fn read(&mut self, link: &mut Link<'_>, now: Duration) -> Result<bool> {
        if !link.wants_bytes() {
            return Ok(false);
        }
        match self.tcp.try_read(&mut self.input) {
            Ok(0) => link.receive_eof(now),
            Ok(read) => link.receive(now, &self.input[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Sends what the link has; says whether that was anything. A failure is kept for
    /// [`Socket::failure`]: what the gateway said before it hung up, above all acks, is still
    /// to be read.
    pub(crate) fn write(&mut self, link: &mut Link<'_>) -> bool {
        if self.dead.is_some() {
            return false;
        }
        match self.try_write(link) {
            Ok(any) => any,
            Err(error) => {
                self.dead = Some(error);
                true
            }
        }
    }

    /// Whether nothing can be written any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.is_some()
    }

    /// Why nothing can be written any more.
    pub(crate) fn failure(&mut self) -> Option<Error> {
        self.dead.take()
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
        self.written < self.output.len()
    }

    fn try_write(&mut self, link: &mut Link<'_>) -> Result<bool> {
        let mut any = false;
        loop {
            if !self.waits() {
                self.output.clear();
                self.written = 0;
                if !link.has_output() || link.write_output(&mut self.output, WRITE) == 0 {
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
