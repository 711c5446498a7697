//! WebP, chunk by chunk. A still image is complete at the end of its `VP8 ` or `VP8L` chunk, whatever the
//! RIFF size says: alpha stands before it, and what follows is padding and notes. An animation is complete at
//! the end of the last `ANMF` chunk that fits into the RIFF size; where encoders that stream have left that
//! size 0 or at its maximum, at the end of a frame that is followed by no other.

use super::{Step, Walker, le};

/// `RIFF`, size, `WEBP`, in bytes.
const RIFF_HEADER: usize = 12;
/// Type and size of a chunk, in bytes.
const CHUNK_HEADER: usize = 8;
/// The largest RIFF size that is one; encoders that do not know it yet write more than that.
const MAX_RIFF: u64 = 0xffff_fff6;
/// The least that one more frame needs, in bytes: its chunk header, its position and the header of its image
/// chunk.
const MIN_FRAME: u64 = 32;

#[derive(Default)]
pub(super) struct Webp {
    state: State,
    /// Where the RIFF size says that everything ends; `None` when it says nothing that can be.
    riff_end: Option<u64>,
    /// Where the last whole frame of an animation ended.
    frame_end: Option<u64>,
}

#[derive(Default, Clone, Copy)]
enum State {
    #[default]
    Riff,
    /// Type and size of a chunk.
    Chunk,
    /// The end of a still image's data.
    Still,
    /// The end of a frame's data.
    Frame { padding: u64 },
    /// The end of another chunk and its padding.
    Other,
}

impl Walker for Webp {
    fn start(&self) -> Step {
        Step::Read { skip: 0, read: RIFF_HEADER }
    }

    fn next(&mut self, field: &[u8], at: u64) -> Step {
        // A size that ends before the data does is none.
        self.riff_end = self.riff_end.filter(|end| *end >= at);
        match self.state {
            State::Riff => {
                let size = le(&field[4..8]);
                self.riff_end = (1..=MAX_RIFF).contains(&size).then_some(size + 8);
            }
            State::Chunk => return self.chunk(&field[..4], le(&field[4..])),
            State::Still => return Step::Complete,
            State::Frame { padding } => {
                self.frame_end = Some(at);
                return if self.is_last(at) { Step::Complete } else { self.header(padding) };
            }
            State::Other if self.frame_end.is_some() && self.is_last(at) => return Step::Complete,
            State::Other => {}
        }
        self.header(0)
    }

    fn complete_if_last(&self, field: &[u8]) -> Option<u64> {
        let kind = &field[..field.len().min(4)];
        let next = !kind.is_empty() && b"ANMF".starts_with(kind);
        let between = matches!(self.state, State::Chunk) && self.riff_end.is_none() && !next;
        self.frame_end.filter(|_| between)
    }
}

impl Webp {
    fn header(&mut self, skip: u64) -> Step {
        self.state = State::Chunk;
        Step::Read { skip, read: CHUNK_HEADER }
    }

    fn chunk(&mut self, kind: &[u8], size: u64) -> Step {
        let padding = size & 1;
        let (state, skip) = match (kind, self.frame_end) {
            (b"VP8 " | b"VP8L", None) if size == 0 => return Step::Broken,
            (b"VP8 " | b"VP8L", None) => (State::Still, size),
            (b"ANMF", _) => (State::Frame { padding }, size),
            // Notes stand behind the last frame.
            (b"EXIF" | b"XMP ", Some(_)) => return Step::Complete,
            (_, Some(end)) if self.riff_end.is_none() => return Step::CompleteAt(end),
            _ => (State::Other, size + padding),
        };
        self.state = state;
        Step::Read { skip, read: 0 }
    }

    /// Whether no further frame fits between `at` and the end that the RIFF size gives.
    fn is_last(&self, at: u64) -> bool {
        self.riff_end.is_some_and(|end| end.saturating_sub(at) < MIN_FRAME)
    }
}
