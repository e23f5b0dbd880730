//! Simulated WebSocket clients: they connect, read, answer pings, send, are slow or silent, and come back.

use std::time::Duration;

use super::{
    context::Context,
    frames::Frames,
    net::{Address, FOR_EVER, Owner, Port, Read, Socket},
    oracle::Source,
};
use crate::wire;

/// One client; it outlives its connections.
pub struct Client {
    /// Its number.
    pub index: usize,
    /// Whose connection it opens; `None`: nobody's.
    pub user: Option<u32>,
    line: Option<Line>,
    next_attempt: Duration,
    failures: u32,
    /// It reads nothing until then.
    slow_until: Duration,
    /// Not a sign for so long: it connects anew.
    patience: Duration,
}

struct Line {
    socket: Socket,
    frames: Frames,
    out: Vec<u8>,
    open: bool,
    closing: bool,
    heard: Duration,
}

/// Waiting for the answer to a request.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Bytes read at once.
const READ: usize = 16 << 10;

impl Client {
    /// A client that connects when it first runs.
    #[must_use]
    pub fn new(index: usize, user: Option<u32>, patience: Duration) -> Self {
        Self {
            index,
            user,
            line: None,
            next_attempt: Duration::ZERO,
            failures: 0,
            slow_until: Duration::ZERO,
            patience,
        }
    }

    /// Whether messages can go both ways.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.line
            .as_ref()
            .is_some_and(|line| line.open && !line.closing)
    }

    /// Its end of the connection.
    #[must_use]
    pub fn socket(&self) -> Option<Socket> {
        self.line.as_ref().map(|line| line.socket)
    }

    /// Sends a message; false: it is not connected.
    pub fn send(&mut self, context: &mut Context, size: usize) -> bool {
        if !self.is_open() {
            return false;
        }
        let Some(line) = &mut self.line else {
            return false;
        };
        let connection = line.socket.connection();
        let source = self
            .user
            .map_or(Source::Connection(connection), Source::User);
        let id = context.oracle.up.sent(source, connection);
        let payload = super::payload(id, size);
        line.out.extend(wire::frame(wire::TEXT, &payload));
        context
            .agenda
            .run_at(context.now, Owner::Client(self.index));
        true
    }

    /// Reads nothing for a while.
    pub fn stall(&mut self, context: &mut Context, until: Duration) {
        self.slow_until = self.slow_until.max(until);
        context.agenda.run_at(until, Owner::Client(self.index));
    }

    /// Closes, and stays away for a while.
    pub fn leave(&mut self, context: &mut Context, away: Duration) {
        if let Some(line) = &mut self.line
            && line.open
            && !std::mem::replace(&mut line.closing, true)
        {
            line.out
                .extend(wire::frame(wire::CLOSE, &1000_u16.to_be_bytes()));
            self.next_attempt = context.now + away;
        }
        context
            .agenda
            .run_at(context.now, Owner::Client(self.index));
    }

    /// Does what can be done now. `places`: where a load balancer would send it.
    pub fn run(&mut self, context: &mut Context, places: &[usize]) {
        let owner = Owner::Client(self.index);
        context.net.take_news(owner);
        if self.line.is_none() && context.now >= self.next_attempt {
            self.dial(context, places);
        }
        if self.line.is_some() {
            self.read(context);
            self.write(context);
            self.watch(context);
        }
        let next = match &self.line {
            None => self.next_attempt,
            Some(line) => line.heard + self.limit(line),
        };
        context
            .agenda
            .run_at(next.max(context.now + Duration::from_millis(1)), owner);
    }

    fn dial(&mut self, context: &mut Context, places: &[usize]) {
        if places.is_empty() {
            self.next_attempt = context.now + Duration::from_millis(200);
            return;
        }
        let address = Address {
            gateway: context.rng.pick(places),
            port: Port::WebSocket,
        };
        let (now, owner) = (context.now, Owner::Client(self.index));
        let socket = context.net.dial(now, &mut context.agenda, owner, address);
        let down = &mut context.oracle.down;
        down.dialled(socket.connection(), self.index, self.user, address.gateway);
        let query = self
            .user
            .map_or(String::new(), |user| format!("?user={}", super::user(user)));
        let request = format!(
            "GET /ws{query} HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        self.line = Some(Line {
            socket,
            frames: Frames::behind_head(),
            out: request.into_bytes(),
            open: false,
            closing: false,
            heard: context.now,
        });
    }

    fn read(&mut self, context: &mut Context) {
        if context.now < self.slow_until {
            return;
        }
        let mut buffer = Vec::new();
        while let Some(line) = &mut self.line {
            buffer.clear();
            let (now, agenda) = (context.now, &mut context.agenda);
            let read = context
                .net
                .read(now, agenda, line.socket, READ, &mut buffer);
            match read {
                Read::Bytes(_) => {
                    line.heard = context.now;
                    line.frames.feed(&buffer);
                    self.take(context);
                }
                Read::Nothing => return,
                Read::Eof | Read::Reset => return self.lost(context),
            }
        }
    }

    fn take(&mut self, context: &mut Context) {
        let Some(line) = &mut self.line else { return };
        let connection = line.socket.connection();
        if let Some(status) = line.frames.take_status() {
            line.open = status.starts_with("HTTP/1.1 101 ");
            context
                .coverage
                .hit("client", if line.open { "opened" } else { "refused" });
            if line.open {
                self.failures = 0;
            }
        }
        while let Some((opcode, payload)) = line.frames.next() {
            match opcode {
                wire::TEXT | wire::BINARY => context.oracle.down.received(connection, &payload),
                wire::PING => line.out.extend(wire::frame(wire::PONG, &payload)),
                wire::CLOSE => {
                    let after = retry_after(&payload);
                    if !std::mem::replace(&mut line.closing, true) {
                        line.out
                            .extend(wire::frame(wire::CLOSE, &payload[..2.min(payload.len())]));
                        self.next_attempt = context.now + after.unwrap_or_default();
                    }
                    if after.is_some() {
                        context.coverage.hit("client", "retry_after_ms");
                    }
                }
                _ => {}
            }
        }
    }

    fn write(&mut self, context: &mut Context) {
        let Some(line) = &mut self.line else { return };
        if !context.net.is_connected(line.socket) || line.out.is_empty() {
            return;
        }
        let (now, agenda) = (context.now, &mut context.agenda);
        match context.net.write(now, agenda, line.socket, &line.out) {
            Some(n) => {
                line.out.drain(..n);
            }
            None => self.lost(context),
        }
    }

    /// Gives up on silence.
    fn watch(&mut self, context: &mut Context) {
        if let Some(line) = &self.line
            && context.now >= line.heard + self.limit(line)
            && context.now >= self.slow_until
        {
            context.coverage.hit("client", "gave up on silence");
            self.lost(context);
        }
    }

    fn limit(&self, line: &Line) -> Duration {
        match line.open && !line.closing {
            true => self.patience,
            false => HANDSHAKE,
        }
    }

    fn lost(&mut self, context: &mut Context) {
        let Some(line) = self.line.take() else { return };
        context
            .net
            .close(context.now, &mut context.agenda, line.socket);
        self.failures = (self.failures + 1).min(6);
        let most = Duration::from_millis(50 << self.failures);
        let backoff = context.rng.time(most);
        self.next_attempt = self.next_attempt.max(context.now + backoff);
        let owner = Owner::Client(self.index);
        context.agenda.run_at(self.next_attempt, owner);
    }

    /// Its connection goes silent: neither side hears of the other any more.
    pub fn silence(&self, context: &mut Context) {
        if let Some(line) = &self.line {
            context.net.silence(line.socket, FOR_EVER);
            context.net.silence(line.socket.peer(), FOR_EVER);
        }
    }
}

/// What a gateway that goes away asks for.
fn retry_after(payload: &[u8]) -> Option<Duration> {
    let reason = std::str::from_utf8(payload.get(2..)?).ok()?;
    let millis = reason.strip_prefix("retry_after_ms=")?.parse().ok()?;
    Some(Duration::from_millis(millis))
}
