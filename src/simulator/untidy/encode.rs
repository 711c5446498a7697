//! Encodings of an answer's bytes that nobody asked for. Brotli and Zstandard are written as stored blocks,
//! which every decoder reads and which need no library here.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use crate::simulator::faults::{Faults, Wrap};

/// The encoded bytes, and what `Content-Encoding` says of them.
pub fn encode(bytes: Vec<u8>, faults: &Faults) -> (Vec<u8>, Option<&'static str>) {
    let encoded = if faults.wraps(Wrap::Gzip) {
        gzip(&bytes).map(|bytes| (bytes, Some("gzip")))
    } else if faults.wraps(Wrap::GzipTwice) {
        gzip(&bytes).and_then(|once| gzip(&once)).map(|bytes| (bytes, Some("gzip, gzip")))
    } else if faults.wraps(Wrap::GzipUnlabelled) {
        gzip(&bytes).map(|bytes| (bytes, None))
    } else if faults.wraps(Wrap::XGzip) {
        gzip(&bytes).map(|bytes| (bytes, Some("x-gzip")))
    } else if faults.wraps(Wrap::Deflate) {
        zlib(&bytes).map(|bytes| (bytes, Some("deflate")))
    } else if faults.wraps(Wrap::DeflateRaw) {
        deflate(&bytes).map(|bytes| (bytes, Some("deflate")))
    } else if faults.wraps(Wrap::Br) {
        Ok((brotli(&bytes), Some("br")))
    } else if faults.wraps(Wrap::Zstd) {
        Ok((zstd(&bytes), Some("zstd")))
    } else if faults.wraps(Wrap::GzipFalse) {
        return (bytes, Some("gzip"));
    } else {
        return (bytes, None);
    };
    // Writing to memory does not fail.
    encoded.unwrap_or_default()
}

/// Gzip.
pub fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(bytes)?;
    packer.finish()
}

fn zlib(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut packer = ZlibEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(bytes)?;
    packer.finish()
}

fn deflate(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut packer = DeflateEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(bytes)?;
    packer.finish()
}

/// A brotli stream of stored blocks. Bits are written from the lowest up: the first block's header has the
/// window size (one bit, 16) before it; either way it ends on the third byte.
fn brotli(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    for (n, block) in bytes.chunks(1 << 16).enumerate() {
        // Not the last, four nibbles of length, the length less one, stored.
        let length = u64::try_from(block.len() - 1).unwrap_or(0);
        let (header, bits) = ((length << 3) | (1 << 19), 20);
        let (header, bits) = if n == 0 { (header << 1, bits + 1) } else { (header, bits) };
        out.extend_from_slice(&header.to_le_bytes()[..usize::div_ceil(bits, 8)]);
        out.extend_from_slice(block);
    }
    // The last block, empty; before it the window size if there was no other.
    out.push(if bytes.is_empty() { 0b110 } else { 0b11 });
    out
}

/// A Zstandard frame of raw blocks: one segment, its length in four bytes, no checksum.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 1 << 17;
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1010_0000];
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    let blocks: Vec<_> = bytes.chunks(BLOCK).collect();
    for (n, block) in blocks.iter().enumerate() {
        let last = u32::from(n + 1 == blocks.len());
        let header = last | (u32::try_from(block.len()).unwrap_or(0) << 3);
        out.extend_from_slice(&header.to_le_bytes()[..3]);
        out.extend_from_slice(block);
    }
    if blocks.is_empty() {
        out.extend_from_slice(&[1, 0, 0]);
    }
    out
}

/// UTF-16, little endian, with its mark.
pub fn utf16(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    let units = std::iter::once(0xfeff).chain(text.encode_utf16());
    units.flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_blocks_have_the_headers_of_their_formats() {
        let text = b"hello";
        assert_eq!(brotli(text), [&[0x40, 0x00, 0x10], text.as_slice(), &[0x03]].concat());
        let frame = [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0, 5, 0, 0, 0, 0x29, 0, 0], text.as_slice()].concat();
        assert_eq!(zstd(text), frame);
    }
}
