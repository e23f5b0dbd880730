//! As much of WebSocket (RFC 6455) as a client under load needs.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, bail};

/// Any key will do: it only proves that the peer is a WebSocket server.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const MAX_HEAD: usize = 16 << 10;

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// Connects to `target`, the path and query of the handshake. Gives the socket, and the bytes of frames that came with the answer.
///
/// # Errors
/// Nobody listens; or who does says nothing for as long as `patience`, or refuses.
pub(crate) fn connect(
    address: SocketAddr,
    target: &str,
    patience: Duration,
) -> anyhow::Result<(TcpStream, Vec<u8>)> {
    let mut socket =
        TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(patience))?;
    let request = request(address, target);
    socket.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    let mut part = [0; 1024];
    loop {
        let n = socket
            .read(&mut part)
            .context("no answer to the handshake")?;
        head.extend_from_slice(&part[..n]);
        match answer(&head) {
            Answer::Accepted { end } => {
                let rest = head.split_off(end);
                return Ok((socket, rest));
            }
            Answer::Refused { .. } => {
                let head = String::from_utf8_lossy(&head);
                bail!("the handshake was refused: {head}");
            }
            Answer::Partial => {}
        }
        if n == 0 || head.len() > MAX_HEAD {
            bail!("no WebSocket server: {}", String::from_utf8_lossy(&head));
        }
    }
}

/// The handshake for `target`, the path and query.
pub(crate) fn request(address: SocketAddr, target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// What a server has answered to a [`request`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Its head is not whole.
    Partial,
    /// A WebSocket, whose first frame begins at `end`.
    Accepted { end: usize },
    /// No WebSocket; whether the server says that it is worth trying again.
    Refused { again: bool },
}

/// Looks at the head of an answer.
pub(crate) fn answer(bytes: &[u8]) -> Answer {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Answer::Partial;
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    if head.starts_with("HTTP/1.1 101 ") && head.contains(ACCEPT) {
        return Answer::Accepted { end: end + 4 };
    }
    let again = ["429", "502", "503", "504"];
    let status = head.split(' ').nth(1).unwrap_or_default();
    Answer::Refused {
        again: again.contains(&status),
    }
}

/// What a server answers to the handshake of [`connect`].
pub(crate) fn welcome() -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    )
}

/// Appends the head of a server's frame to `out`.
pub(crate) fn head(opcode: u8, length: usize, out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    push_length(0, length, out);
}

fn push_length(mask: u8, length: usize, out: &mut Vec<u8>) {
    match length {
        length @ 0..=125 => out.push(mask | length as u8),
        length @ 126..=0xffff => {
            out.push(mask | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(mask | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// One whole frame at the beginning of some bytes.
pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    pub(crate) payload: &'a [u8],
    /// Where the next one begins.
    pub(crate) end: usize,
}

/// The frame that `bytes` begin with, if they hold all of it.
///
/// # Errors
/// What a gateway never sends: fragments, masked frames, extensions.
pub(crate) fn parse(bytes: &[u8]) -> io::Result<Option<Frame<'_>>> {
    let &[first, second, ..] = bytes else {
        return Ok(None);
    };
    if first & 0xf0 != 0x80 || second & 0x80 != 0 {
        let what = format!("the gateway sent a frame that begins {first:02x} {second:02x}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(parse_any(bytes))
}

/// As [`parse`], for either side; what masks hide stays hidden.
pub(crate) fn parse_any(bytes: &[u8]) -> Option<Frame<'_>> {
    let &[first, second, ..] = bytes else {
        return None;
    };
    let (start, length): (usize, usize) = match second & 0x7f {
        126 => {
            let length = bytes.get(2..4)?;
            (4, usize::from(length[0]) << 8 | usize::from(length[1]))
        }
        127 => {
            let length = bytes.get(2..10)?.iter();
            (
                10,
                length.fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
            )
        }
        length => (2, usize::from(length)),
    };
    let start = start + if second & 0x80 == 0 { 0 } else { 4 };
    let end = start.saturating_add(length);
    Some(Frame {
        opcode: first & 0x0f,
        payload: bytes.get(start..end)?,
        end,
    })
}

/// A client's frame. The mask is zero: it hides nothing, and costs nothing.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    push_length(0x80, payload.len(), &mut frame);
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_are_found_wherever_they_are_cut() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536] {
            let payload = vec![7; length];
            let mut bytes = Vec::new();
            head(BINARY, length, &mut bytes);
            bytes.extend_from_slice(&payload);
            for cut in (0..bytes.len())
                .rev()
                .take(70)
                .chain(0..12.min(bytes.len()))
            {
                assert!(
                    parse(&bytes[..cut]).unwrap().is_none(),
                    "{length} cut at {cut}"
                );
            }
            bytes.extend_from_slice(b"next");
            let frame = parse(&bytes).unwrap().unwrap();
            assert_eq!((frame.opcode, frame.payload), (BINARY, &payload[..]));
            assert_eq!(&bytes[frame.end..], b"next");
        }
    }

    #[test]
    fn whoever_is_busy_may_be_asked_again() {
        let welcome = welcome();
        let end = welcome.len();
        assert_eq!(answer(welcome.as_bytes()), Answer::Accepted { end });
        assert_eq!(answer(&welcome.as_bytes()[..end - 1]), Answer::Partial);
        let busy = answer(b"HTTP/1.1 503 Busy\r\n\r\n");
        assert_eq!(busy, Answer::Refused { again: true });
        let never = answer(b"HTTP/1.1 403 No\r\n\r\n");
        assert_eq!(never, Answer::Refused { again: false });
    }

    #[test]
    fn what_no_gateway_sends_is_an_error() {
        for bytes in [[0x02, 1], [0xc2, 1], [0x82, 0x81]] {
            assert!(parse(&bytes).is_err(), "{bytes:x?}");
        }
    }
}
