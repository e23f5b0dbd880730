//! The credit of HTTP/2 (RFC 9113, section 5.2), read off the bytes: what neither side's word is taken for.

use std::collections::BTreeMap;

const PREFACE: usize = 24;
const HEAD: usize = 9;
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const INITIAL_WINDOW_SIZE: u16 = 4;
const DEFAULT_WINDOW: i64 = 65_535;

/// What went one way through a connection: data sent, and credit given for the other way.
#[derive(Debug)]
pub struct Meter {
    skip: usize,
    bytes: Vec<u8>,
    /// Data of the connection and of its streams.
    sent: i64,
    streams: BTreeMap<u32, i64>,
    /// The most credit that the connection ever had for what is sent.
    widest: i64,
    /// Credit of the connection and of its streams.
    given: i64,
    credit: BTreeMap<u32, i64>,
    /// The window that streams begin with, for those that send to the author of these bytes.
    initial: i64,
    ended: Vec<u32>,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            skip: 0,
            bytes: Vec::new(),
            sent: 0,
            streams: BTreeMap::new(),
            widest: DEFAULT_WINDOW,
            given: DEFAULT_WINDOW,
            credit: BTreeMap::new(),
            initial: DEFAULT_WINDOW,
            ended: Vec::new(),
        }
    }
}

impl Meter {
    /// For the side that begins with the preface.
    #[must_use]
    pub fn behind_preface(self) -> Self {
        Self {
            skip: PREFACE,
            ..self
        }
    }

    /// Bytes go through.
    pub fn pass(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let mut at = self.skip.min(self.bytes.len());
        self.skip -= at;
        while let Some(head) = self.bytes.get(at..at + HEAD) {
            let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (kind, flags) = (head[3], head[4]);
            let stream = word(&head[5..]) & 0x7fff_ffff;
            if self.bytes.len() < at + HEAD + len {
                break;
            }
            let body: Vec<u8> = match kind {
                SETTINGS | WINDOW_UPDATE => self.bytes[at + HEAD..at + HEAD + len].to_vec(),
                _ => Vec::new(),
            };
            self.frame(kind, flags, stream, len, &body);
            at += HEAD + len;
        }
        self.bytes.drain(..at);
    }

    /// Notes how much may be sent, now that the other side has said something.
    pub fn note_credit(&mut self, other: &Self) {
        self.widest = self.widest.max(other.given - self.sent);
    }

    /// Whether the other way has kept more of the credit for what went this way than an endpoint may whose bytes were
    /// handled long ago: `h2` sends WINDOW_UPDATE as soon as it is for half of what the sender has left, so a third of a
    /// window may be missing.
    #[must_use]
    pub fn withheld_by(&self, other: &Self) -> Option<String> {
        let left = other.given - self.sent;
        let window = self.widest.max(DEFAULT_WINDOW);
        if left * 3 < window * 2 {
            return Some(format!(
                "a connection has {left} bytes of credit left of {window}, {} sent",
                self.sent
            ));
        }
        let open = |stream: &u32| !self.ended.contains(stream) && !other.ended.contains(stream);
        let streams = self.streams.iter().filter(|(stream, _)| open(stream));
        for (stream, sent) in streams {
            let left = other.initial + other.credit.get(stream).unwrap_or(&0) - sent;
            if left * 3 < other.initial * 2 {
                return Some(format!(
                    "stream {stream} has {left} bytes of credit left of {}",
                    other.initial
                ));
            }
        }
        None
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, len: usize, body: &[u8]) {
        match kind {
            DATA => {
                self.sent += len as i64;
                *self.streams.entry(stream).or_default() += len as i64;
                if flags & END_STREAM != 0 {
                    self.ended.push(stream);
                }
            }
            RST_STREAM => self.ended.push(stream),
            SETTINGS if flags & ACK == 0 => {
                for setting in body.chunks_exact(6) {
                    if u16::from_be_bytes([setting[0], setting[1]]) == INITIAL_WINDOW_SIZE {
                        self.initial = i64::from(word(&setting[2..]));
                    }
                }
            }
            WINDOW_UPDATE if body.len() == 4 => {
                let credit = i64::from(word(body) & 0x7fff_ffff);
                if stream == 0 {
                    self.given += credit;
                } else {
                    *self.credit.entry(stream).or_default() += credit;
                }
            }
            _ => {}
        }
    }
}

fn word(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .take(4)
        .fold(0, |word, byte| word << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, body: &[u8]) -> Vec<u8> {
        let len = (body.len() as u32).to_be_bytes();
        let mut frame = vec![len[1], len[2], len[3], kind, 0];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(body);
        frame
    }

    #[test]
    fn credit_that_stays_away_is_seen_wherever_the_bytes_are_cut() {
        let data = frame(DATA, 1, &[0; 16_000]);
        for cut in [1, 7, 16_009] {
            let (mut there, mut back) = (Meter::default(), Meter::default());
            for _ in 0..3 {
                data.chunks(cut).for_each(|piece| there.pass(piece));
            }
            assert!(there.withheld_by(&back).is_some());
            let credit = 48_000_u32.to_be_bytes();
            back.pass(&frame(WINDOW_UPDATE, 0, &credit));
            let stream = there.withheld_by(&back);
            assert!(stream.is_some_and(|text| text.starts_with("stream 1")));
            back.pass(&frame(WINDOW_UPDATE, 1, &credit));
            assert_eq!(there.withheld_by(&back), None);
        }
    }

    #[test]
    fn settings_say_what_streams_begin_with() {
        let (mut there, mut back) = (Meter::default().behind_preface(), Meter::default());
        there.pass(&[0; PREFACE]);
        back.pass(&frame(SETTINGS, 0, &[0, 4, 0, 1, 0, 0]));
        there.pass(&frame(DATA, 1, &[0; 16_000]));
        assert_eq!((back.initial, there.sent), (65_536, 16_000));
        assert_eq!(there.withheld_by(&back), None);
    }
}
