//! Bytes between a service's gRPC and its socket.

use std::time::Duration;

use crate::simulate::{
    context::Context,
    net::{Read, Socket},
};

/// A socket, and what it has not taken yet.
pub struct Wire {
    /// The service's end.
    pub socket: Socket,
    out: Vec<u8>,
}

/// Most bytes read or written at once.
const CHUNK: usize = 64 << 10;

impl Wire {
    /// For a socket that was dialled.
    #[must_use]
    pub fn new(socket: Socket) -> Self {
        Self {
            socket,
            out: Vec::new(),
        }
    }

    /// What has come: bytes are added to `into`.
    pub fn read(&self, context: &mut Context, into: &mut Vec<u8>) -> Read {
        let (now, agenda) = (context.now, &mut context.agenda);
        context.net.read(now, agenda, self.socket, CHUNK, into)
    }

    /// Sends what `more` gives, as far as there is room; false: the connection is broken.
    pub fn write(
        &mut self,
        context: &mut Context,
        mut more: impl FnMut(&mut Vec<u8>, usize) -> usize,
    ) -> bool {
        if !context.net.is_connected(self.socket) {
            return true;
        }
        loop {
            if self.out.is_empty() && more(&mut self.out, CHUNK) == 0 {
                return true;
            }
            let (now, agenda) = (context.now, &mut context.agenda);
            let Some(n) = context.net.write(now, agenda, self.socket, &self.out) else {
                return false;
            };
            self.out.drain(..n);
            if !self.out.is_empty() {
                return true;
            }
        }
    }

    /// The sooner of two times at which to run again.
    #[must_use]
    pub fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
        one.into_iter().chain(other).min()
    }
}
