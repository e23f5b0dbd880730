//! What all parts of a world share: the time, the future, the network, chance, and those who watch.

use std::time::Duration;

use super::{
    agenda::Agenda, coverage::Coverage, frames::Frames, net::Net, net::Socket, oracle::Oracle,
    rng::Rng, trace::Trace,
};

/// What is handed to whoever runs.
pub struct Context {
    /// The time of the world.
    pub now: Duration,
    /// What is to happen.
    pub agenda: Agenda,
    /// All connections.
    pub net: Net,
    /// Chance.
    pub rng: Rng,
    /// What has happened.
    pub trace: Trace,
    /// What was promised, and whether it was kept.
    pub oracle: Oracle,
    /// What the world has come by.
    pub coverage: Coverage,
}

impl Context {
    /// Lets go of a socket.
    pub fn close(&mut self, socket: Socket) {
        self.net.close(self.now, &mut self.agenda, socket);
        self.oracle.down.ended(self.now, socket.connection());
    }

    /// A gateway's kernel has taken these frames for a client, at `at`. How many of them are messages.
    pub fn written(
        &mut self,
        at: Duration,
        epoch: u64,
        socket: Socket,
        frames: &mut Frames,
    ) -> u64 {
        let connection = socket.connection();
        let mut messages = 0;
        if let Some(status) = frames.take_status() {
            self.trace
                .note(self.now, [2, u64::from(connection), epoch], || {
                    format!("connection {connection} is answered: {status}")
                });
            if status.starts_with("HTTP/1.1 101 ") {
                self.oracle.down.opened(self.now, connection);
            }
        }
        while let Some((opcode, payload)) = frames.next() {
            let facts = [3, u64::from(connection), payload.len() as u64];
            self.trace.note(self.now, facts, || {
                let text = String::from_utf8_lossy(&payload[..payload.len().min(24)]);
                format!("connection {connection} is written frame {opcode:x}: {text:?}")
            });
            match opcode {
                1 | 2 => {
                    messages += 1;
                    self.oracle.down.written(at, connection, &payload);
                }
                8 => {
                    let code = payload
                        .first_chunk()
                        .copied()
                        .map_or(1005, u16::from_be_bytes);
                    self.oracle.down.closing(self.now, connection, code);
                    self.coverage.close_code(code);
                }
                _ => {}
            }
        }
        messages
    }
}
