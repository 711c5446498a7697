//! Tells a complete image from one that was cut, while its bytes stream by. [`Completeness`] walks the
//! structure of the file and holds no more than a few bytes of it; pixels are not decoded. An image is
//! complete when the last of its image data has come, whatever follows: padding, a camera's trailer, an
//! appended video, garbage.
//!
//! The decoders we have need the whole image in memory or unpack its pixels (`image` and what it is made of),
//! or read the header alone (`imagesize`).

mod avif;
mod gif;
mod jpeg;
mod png;
#[cfg(test)]
mod tests;
mod webp;

use super::MediaType;

/// The longest field that is looked at in one piece, in bytes.
const MAX_FIELD: usize = 24;

/// What a format needs next.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// `skip` bytes are passed over, then `read` of them (at most [`MAX_FIELD`]) are looked at.
    Read { skip: u64, read: usize },
    /// `skip` bytes are passed over, then all up to this byte and itself.
    Find { skip: u64, byte: u8 },
    /// The image is complete with the byte just read.
    Complete,
    /// The image was complete at that byte; what has been read since is no part of it.
    CompleteAt(u64),
    /// The structure is none of this format's.
    Broken,
}

/// A format's structure, as a machine that is given one field after the other.
trait Walker: Send + Sync {
    /// The first step.
    fn start(&self) -> Step;

    /// The next step. `field` holds the bytes asked for, or nothing after [`Step::Find`]; `at` is the offset
    /// behind them.
    fn next(&mut self, field: &[u8], at: u64) -> Step;

    /// Where the image is complete if no more bytes come; `field` holds the part that has come of the next
    /// field.
    fn complete_if_last(&self, _field: &[u8]) -> Option<u64> {
        None
    }
}

/// Follows the bytes of one image.
pub struct Completeness {
    walker: Box<dyn Walker>,
    step: Step,
    field: [u8; MAX_FIELD],
    /// How many bytes of the field are there.
    filled: usize,
    /// How many bytes have been walked.
    at: u64,
}

impl Completeness {
    /// For an image of that type; the walk begins at its first byte.
    pub fn new(media_type: MediaType) -> Self {
        let walker: Box<dyn Walker> = match media_type {
            MediaType::Png => Box::new(png::Png::default()),
            MediaType::Jpeg => Box::new(jpeg::Jpeg::default()),
            MediaType::Webp => Box::new(webp::Webp::default()),
            MediaType::Gif => Box::new(gif::Gif::default()),
            MediaType::Avif => Box::new(avif::Avif::default()),
        };
        Self { step: walker.start(), walker, field: [0; MAX_FIELD], filled: 0, at: 0 }
    }

    /// Walks on over the next bytes, in whatever pieces they come.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        loop {
            match &mut self.step {
                Step::Read { skip, .. } | Step::Find { skip, .. } if *skip > 0 => {
                    let skipped = usize::try_from(*skip).unwrap_or(usize::MAX).min(bytes.len());
                    *skip -= skipped as u64;
                    bytes = self.pass(bytes, skipped);
                    if bytes.is_empty() && self.is_skipping() {
                        return;
                    }
                }
                Step::Read { read, .. } => {
                    let missing = (*read - self.filled).min(bytes.len());
                    let whole = self.filled + missing == *read;
                    self.field[self.filled..][..missing].copy_from_slice(&bytes[..missing]);
                    self.filled += missing;
                    bytes = self.pass(bytes, missing);
                    if !whole {
                        return;
                    }
                    self.next();
                }
                Step::Find { byte, .. } => {
                    let Some(found) = bytes.iter().position(|this| this == byte) else {
                        self.pass(bytes, bytes.len());
                        return;
                    };
                    bytes = self.pass(bytes, found + 1);
                    self.next();
                }
                Step::Complete | Step::CompleteAt(_) | Step::Broken => return,
            }
        }
    }

    /// The number of leading bytes that hold all image data, when all of them have been fed; `None` when the
    /// image is cut. More bytes may still complete it.
    pub fn complete_at(&self) -> Option<u64> {
        match self.step {
            Step::CompleteAt(at) => Some(at),
            Step::Broken => None,
            _ => self.walker.complete_if_last(&self.field[..self.filled]),
        }
    }

    fn is_skipping(&self) -> bool {
        matches!(self.step, Step::Read { skip: 1.., .. } | Step::Find { skip: 1.., .. })
    }

    fn pass<'a>(&mut self, bytes: &'a [u8], count: usize) -> &'a [u8] {
        self.at += count as u64;
        &bytes[count..]
    }

    fn next(&mut self) {
        self.step = match self.walker.next(&self.field[..self.filled], self.at) {
            Step::Complete => Step::CompleteAt(self.at),
            step => step,
        };
        self.filled = 0;
    }
}

/// A big-endian number of at most eight bytes.
fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A little-endian number of at most eight bytes.
fn le(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
