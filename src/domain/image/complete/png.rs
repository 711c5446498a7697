//! PNG, chunk by chunk: complete when the type of the `IEND` chunk has come after at least one `IDAT`.
//! Checksums are not looked at: the four bytes that follow `IEND` carry no pixels, and files without them
//! open everywhere. Interlaced and animated files are built of the same chunks.

use super::{Step, Walker, be};

/// Length of the signature before the first chunk, in bytes.
const SIGNATURE: u64 = 8;
/// Length and type of a chunk, in bytes.
const CHUNK_HEADER: usize = 8;
/// Checksum behind a chunk's data, in bytes.
const CRC: u64 = 4;

#[derive(Default)]
pub(super) struct Png {
    /// Whether image data has come.
    data: bool,
}

impl Walker for Png {
    fn start(&self) -> Step {
        Step::Read { skip: SIGNATURE, read: CHUNK_HEADER }
    }

    fn next(&mut self, field: &[u8], _at: u64) -> Step {
        match &field[4..] {
            b"IEND" if self.data => return Step::Complete,
            b"IEND" => return Step::Broken,
            b"IDAT" => self.data = true,
            _ => {}
        }
        Step::Read { skip: be(&field[..4]) + CRC, read: CHUNK_HEADER }
    }
}
