//! Frames as they went on the wire, in memory that is used again.

use std::collections::VecDeque;

use h2_stream::append_message;
use prost::Message;

/// Bytes of a chunk. A frame lies in one chunk.
const CHUNK: usize = 16 << 10;

/// Most chunks that wait to be used again while frames are kept, and while none are.
const SPARE: usize = 16;
const IDLE: usize = 4;

/// Frames with their gRPC prefixes, one behind the other, the oldest first. Memory goes back from
/// the front, a chunk at a time: for each frame there is nothing to be freed.
#[derive(Debug, Default)]
pub(super) struct Frames {
    chunks: VecDeque<Vec<u8>>,
    /// The number of the first chunk. It wraps around.
    first: u32,
    spare: Vec<Vec<u8>>,
    /// What is before this was given out by [`Frames::run`].
    run: Place,
}

/// Where a frame is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    chunk: u32,
    at: u32,
    bytes: u32,
}

impl Frames {
    /// The longest frame, with its prefix.
    pub(super) const LONGEST: usize = CHUNK / 4;

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Whether so many bytes fit without another chunk.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let last = self.chunks.back();
        last.is_some_and(|chunk| chunk.capacity() - chunk.len() >= bytes)
    }

    /// Encodes a frame that has at most `room` bytes, [`Frames::LONGEST`] or less.
    pub(super) fn push(&mut self, frame: &impl Message, room: usize) -> Place {
        if !self.has_room(room) {
            let chunk = self.spare.pop();
            let chunk = chunk.unwrap_or_else(|| Vec::with_capacity(CHUNK));
            self.chunks.push_back(chunk);
        }
        let last = self.chunks.len() as u32 - 1;
        let chunk = &mut self.chunks[last as usize];
        let at = chunk.len();
        append_message(chunk, frame);
        Place {
            chunk: self.first.wrapping_add(last),
            at: at as u32,
            bytes: (chunk.len() - at) as u32,
        }
    }

    pub(super) fn get(&self, place: Place) -> &[u8] {
        let chunk = self
            .chunks
            .get(place.chunk.wrapping_sub(self.first) as usize);
        let range = place.at as usize..(place.at + place.bytes) as usize;
        chunk.and_then(|chunk| chunk.get(range)).unwrap_or_default()
    }

    /// Gives out what was encoded since the last call, in few pieces.
    pub(super) fn run(&mut self, mut send: impl FnMut(&[u8])) {
        let Some(last) = self.chunks.len().checked_sub(1) else {
            return;
        };
        let begun = self.run.chunk.wrapping_sub(self.first) as usize;
        for (number, chunk) in self.chunks.iter().enumerate().skip(begun) {
            let from = if number == begun {
                self.run.at as usize
            } else {
                0
            };
            if from < chunk.len() {
                send(&chunk[from..]);
            }
        }
        self.run = Place {
            chunk: self.first.wrapping_add(last as u32),
            at: self.chunks[last].len() as u32,
            bytes: 0,
        };
    }

    /// Frees what is before the oldest frame that is still kept; `None`: nothing is. What was not
    /// given out must be kept.
    pub(super) fn keep_from(&mut self, oldest: Option<Place>) {
        let gone = match oldest {
            Some(oldest) => oldest.chunk.wrapping_sub(self.first) as usize,
            None => self.chunks.len(),
        };
        for mut chunk in self.chunks.drain(..gone.min(self.chunks.len())) {
            self.first = self.first.wrapping_add(1);
            if self.spare.len() < SPARE {
                chunk.clear();
                self.spare.push(chunk);
            }
        }
        if self.chunks.is_empty() {
            self.spare.truncate(IDLE);
            self.run = Place {
                chunk: self.first,
                at: 0,
                bytes: 0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes text of about `bytes` bytes.
    fn push(frames: &mut Frames, text: char, bytes: usize) -> Place {
        let text = String::from(text).repeat(bytes);
        frames.push(&text, text.encoded_len() + h2_stream::PREFIX)
    }

    fn run(frames: &mut Frames) -> Vec<u8> {
        let mut all = Vec::new();
        frames.run(|bytes| all.extend_from_slice(bytes));
        all
    }

    #[test]
    fn runs_give_out_every_frame_once_in_order() {
        let (mut frames, mut all) = (Frames::default(), Vec::new());
        for (number, text) in ('a'..='z').cycle().take(200).enumerate() {
            let place = push(&mut frames, text, 1 + number * 7 % 3000);
            all.extend_from_slice(frames.get(place));
            if number % 3 == 0 {
                assert_eq!(run(&mut frames), all, "{number}");
                assert!(run(&mut frames).is_empty());
                all.clear();
                if number % 2 == 0 {
                    frames.keep_from(Some(place));
                }
            }
        }
        assert!(frames.chunks.len() < 3, "what nobody keeps is freed");
    }

    #[test]
    fn memory_is_used_again_and_mostly_given_back_in_the_end() {
        let mut frames = Frames {
            first: u32::MAX - 2,
            ..Frames::default()
        };
        for round in 0..10 {
            let places: Vec<_> = (0..100).map(|_| push(&mut frames, 'x', 3000)).collect();
            let place = push(&mut frames, 'y', 10);
            run(&mut frames);
            frames.keep_from(Some(places[7]));
            assert_eq!(frames.get(places[7]).len(), frames.get(places[99]).len());
            frames.keep_from(Some(place));
            assert_eq!(frames.get(place).last(), Some(&b'y'), "round {round}");
            assert!(frames.get(places[7]).is_empty());
            assert!(frames.spare.len() <= SPARE && frames.chunks.len() == 1);
        }
        frames.keep_from(None);
        assert!(frames.chunks.is_empty() && frames.spare.len() == IDLE);
        assert!(run(&mut frames).is_empty());
    }
}
