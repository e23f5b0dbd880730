//! A WebSocket client without a socket.

use gateway_core::{identity::ConnId, ws::frames};

pub struct Client {
    pub conn: ConnId,
    /// Bytes the gateway has not read.
    pub outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// The answer to the request, once it has come.
    pub answer: Option<String>,
    /// Frames that have come: opcode and payload.
    pub frames: Vec<(u8, Vec<u8>)>,
    /// It reads nothing.
    pub stalled: bool,
    /// Its socket has not taken all that was given to it.
    pub flying: bool,
    /// The gateway has closed its end.
    pub ended: bool,
    /// The socket is no more.
    pub gone: bool,
}

impl Client {
    pub fn new(conn: ConnId) -> Self {
        Self {
            conn,
            outgoing: Vec::new(),
            incoming: Vec::new(),
            answer: None,
            frames: Vec::new(),
            stalled: false,
            flying: false,
            ended: false,
            gone: false,
        }
    }

    pub fn request(&mut self, target: &str) {
        let request = request(target);
        self.outgoing.extend_from_slice(request.as_bytes());
    }

    /// Sends a masked frame.
    pub fn send(&mut self, opcode: u8, payload: &[u8]) {
        let key = [1, 2, 3, 4];
        self.outgoing.push(0x80 | opcode);
        match payload.len() {
            len @ 0..126 => self.outgoing.push(0x80 | len as u8),
            len @ 126..0x1_0000 => {
                self.outgoing.push(0x80 | 126);
                self.outgoing.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                self.outgoing.push(0x80 | 127);
                self.outgoing.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        self.outgoing.extend_from_slice(&key);
        let at = self.outgoing.len();
        self.outgoing.extend_from_slice(payload);
        frames::unmask(&mut self.outgoing[at..], key, 0);
    }

    pub fn text(&mut self, text: &str) {
        self.send(1, text.as_bytes());
    }

    pub fn close(&mut self, code: u16) {
        self.send(8, &code.to_be_bytes());
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
        if self.answer.is_none() {
            let Some(end) = self
                .incoming
                .windows(4)
                .position(|four| four == b"\r\n\r\n")
            else {
                return;
            };
            let head: Vec<u8> = self.incoming.drain(..end + 4).collect();
            self.answer = Some(String::from_utf8(head).expect("an HTTP head is text"));
        }
        while let Some((opcode, start, end)) = self.next_frame() {
            self.frames
                .push((opcode, self.incoming[start..end].to_vec()));
            self.incoming.drain(..end);
        }
    }

    /// Text messages that have come.
    pub fn texts(&self) -> Vec<&str> {
        let texts = self.frames.iter().filter(|(opcode, _)| *opcode == 1);
        texts
            .map(|(_, payload)| std::str::from_utf8(payload).expect("text is UTF-8"))
            .collect()
    }

    /// Code and reason of the Close that has come.
    pub fn closed(&self) -> Option<(u16, &str)> {
        let (_, payload) = self.frames.iter().find(|(opcode, _)| *opcode == 8)?;
        let code = payload
            .first_chunk()
            .map_or(1005, |code| u16::from_be_bytes(*code));
        let reason = payload.get(2..).unwrap_or_default();
        Some((
            code,
            std::str::from_utf8(reason).expect("a reason is UTF-8"),
        ))
    }

    fn next_frame(&self) -> Option<(u8, usize, usize)> {
        let bytes = &self.incoming;
        let opcode = bytes.first()? & 0x0f;
        let (start, len) = match bytes.get(1)? {
            126 => (
                4,
                usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
            ),
            127 => (
                10,
                u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize,
            ),
            len => (2, usize::from(*len)),
        };
        (bytes.len() >= start + len).then_some((opcode, start, start + len))
    }
}

/// A handshake's request.
pub fn request(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}
