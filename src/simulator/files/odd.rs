//! Files that are not the picture they should be.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::encode::png_chunk;
use crate::simulator::faults::{Bomb, FileType};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Something else under a picture's media type.
pub fn not_a_picture(kind: FileType) -> &'static [u8] {
    match kind {
        FileType::Html => b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body></body></html>\n",
        FileType::Svg => {
            b"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"64\" height=\"64\">\
              <script>alert(1)</script></svg>\n"
        }
        FileType::Pdf => b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n",
        FileType::Text => b"Not Found\n",
        FileType::Zip => b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    }
}

/// A small file that claims a picture far too big.
pub fn bomb(kind: Bomb) -> io::Result<Vec<u8>> {
    match kind {
        Bomb::Png => png(19_000, 19_000, true),
        Bomb::Tall => png(1, 1 << 31, false),
        Bomb::Jpeg => {
            // Start of image, and a frame header: 8 bits, height, width, one component.
            let frame = [0xff, 0xd8, 0xff, 0xc0, 0, 11, 8, 0xff, 0xff, 0xff, 0xff, 1, 1, 0x11, 0];
            Ok([frame.as_slice(), &[0xff, 0xd9]].concat())
        }
    }
}

/// A black one-bit PNG: a full one decodes, an empty one is only a header.
fn png(width: u32, height: u32, full: bool) -> io::Result<Vec<u8>> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[1, 0, 0, 0, 0]].concat();
    let mut pixels = ZlibEncoder::new(Vec::new(), Compression::best());
    if full {
        let bytes = u64::from(height) * (1 + u64::from(width).div_ceil(8));
        io::copy(&mut io::repeat(0).take(bytes), &mut pixels)?;
    } else {
        pixels.write_all(&[0])?;
    }
    let pixels = pixels.finish()?;
    Ok([PNG, &png_chunk(*b"IHDR", &header), &png_chunk(*b"IDAT", &pixels), &png_chunk(*b"IEND", &[])]
        .concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_small_and_claims_to_be_large() {
        let file = bomb(Bomb::Png).unwrap();
        assert!(file.len() < 60_000, "{}", file.len());
        let size = imagesize::blob_size(&file).unwrap();
        assert_eq!((size.width, size.height), (19_000, 19_000));
        let size = imagesize::blob_size(&bomb(Bomb::Jpeg).unwrap()).unwrap();
        assert_eq!((size.width, size.height), (65_535, 65_535));
        let tall = bomb(Bomb::Tall).unwrap();
        assert_eq!(tall[16..24], [0, 0, 0, 1, 0x80, 0, 0, 0]);
    }
}
