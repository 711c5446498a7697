//! From pixels to a file: PNG, JPEG, WebP or GIF, and the same to the byte when an exact size is asked for.

use std::io::Cursor;

use flate2::Crc;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ImageFormat, ImageResult, RgbImage};

use super::gif;
use crate::simulator::chance::Chance;
pub use crate::simulator::untidy::gzip;

/// The file types the upstreams hand out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Png,
    Jpeg,
    Webp,
    Gif,
}

impl Format {
    /// The format by its name in a request.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "png" => Some(Self::Png),
            "jpeg" | "jpg" => Some(Self::Jpeg),
            "webp" => Some(Self::Webp),
            _ => None,
        }
    }

    /// The name in requests, and the ending of files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Webp => "webp",
            Self::Gif => "gif",
        }
    }

    /// The media type.
    pub fn mime(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
            Self::Gif => "image/gif",
        }
    }
}

/// Encodes quickly rather than tightly.
pub fn encode(picture: &RgbImage, format: Format) -> ImageResult<Vec<u8>> {
    let mut file = Vec::new();
    match format {
        Format::Png => {
            let encoder = PngEncoder::new_with_quality(&mut file, CompressionType::Fast, FilterType::Sub);
            picture.write_with_encoder(encoder)?;
        }
        Format::Jpeg => picture.write_with_encoder(JpegEncoder::new_with_quality(&mut file, 88))?,
        Format::Webp => picture.write_to(&mut Cursor::new(&mut file), ImageFormat::WebP)?,
        Format::Gif => file = gif::encode(picture),
    }
    Ok(file)
}

/// Encodes to exactly `size` bytes (an even number for WebP), filling up with what decoders skip. Where the
/// drawing itself is already larger, a plain sheet of its first colour stands for it; where even that is
/// larger, it is what it is.
pub fn encode_to(picture: &RgbImage, format: Format, size: u64) -> ImageResult<Vec<u8>> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let file = encode(picture, format)?;
    if file.len() == size {
        return Ok(file);
    }
    let fits = |file: &[u8]| size.saturating_sub(file.len()) >= 12;
    let file = if fits(&file) {
        file
    } else {
        let first = *picture.get_pixel(0, 0);
        let sheet = RgbImage::from_pixel(picture.width(), picture.height(), first);
        let mut file = Vec::new();
        match format {
            Format::Png => {
                let tight = CompressionType::Level(9);
                let encoder = PngEncoder::new_with_quality(&mut file, tight, FilterType::NoFilter);
                sheet.write_with_encoder(encoder)?;
            }
            _ => file = encode(&sheet, format)?,
        }
        file
    };
    if !fits(&file) {
        return Ok(file);
    }
    let spare = size - file.len();
    Ok(match format {
        Format::Png => pad_png(&file, spare),
        Format::Jpeg => pad_jpeg(&file, spare),
        Format::Webp => pad_webp(file, spare),
        // No test asks for a GIF of a size.
        Format::Gif => file,
    })
}

/// Bytes no packer can shrink.
pub fn noise(len: usize) -> Vec<u8> {
    let mut chance = Chance::new(0, 0, "noise");
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&chance.number().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// One chunk of a PNG file.
pub fn png_chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(&kind);
    crc.update(data);
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    [&len.to_be_bytes(), &kind, data, &crc.sum().to_be_bytes()].concat()
}

/// A private, ancillary chunk before the closing one, which is always 12 bytes long.
fn pad_png(file: &[u8], spare: usize) -> Vec<u8> {
    let (before, end) = file.split_at(file.len().saturating_sub(12));
    [before, &png_chunk(*b"siMp", &noise(spare - 12)), end].concat()
}

/// Comments after the start marker; each holds up to 65,533 bytes and costs 4 more.
fn pad_jpeg(file: &[u8], mut spare: usize) -> Vec<u8> {
    let (start, rest) = file.split_at(2);
    let mut padded = start.to_vec();
    while spare > 0 {
        // Never leaves fewer than the 4 bytes the next comment needs.
        let take = if spare > 65_537 && spare < 65_537 + 4 { spare - 4 } else { spare.min(65_537) };
        let len = u16::try_from(take - 2).unwrap_or(u16::MAX);
        padded.extend_from_slice(&[0xff, 0xfe]);
        padded.extend_from_slice(&len.to_be_bytes());
        padded.extend_from_slice(&noise(take - 4));
        spare -= take;
    }
    padded.extend_from_slice(rest);
    padded
}

/// An unknown chunk at the end of the RIFF container, whose chunks are padded to even lengths.
fn pad_webp(mut file: Vec<u8>, spare: usize) -> Vec<u8> {
    let data = noise((spare & !1) - 8);
    file.extend_from_slice(b"JUNK");
    file.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_le_bytes());
    file.extend_from_slice(&data);
    let size = u32::try_from(file.len() - 8).unwrap_or(u32::MAX);
    file[4..8].copy_from_slice(&size.to_le_bytes());
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::files::draw::{Sketch, draw};

    fn picture() -> RgbImage {
        draw(&Sketch { width: 128, height: 96, seed: 3, words: "a cat".to_owned(), caption: String::new() })
    }

    #[test]
    fn every_format_decodes_at_its_size() {
        for format in [Format::Png, Format::Jpeg, Format::Webp] {
            let file = encode(&picture(), format).unwrap();
            let read = image::load_from_memory(&file).unwrap();
            assert_eq!((read.width(), read.height()), (128, 96), "{format:?}");
            assert_eq!(imagesize::blob_size(&file).unwrap().width, 128);
        }
    }

    #[test]
    fn a_file_can_have_any_size_and_still_be_a_picture() {
        for format in [Format::Png, Format::Jpeg, Format::Webp] {
            for size in [4_000, 65_600, 70_002, 200_000] {
                let file = encode_to(&picture(), format, size).unwrap();
                assert_eq!(file.len(), usize::try_from(size).unwrap(), "{format:?}");
                assert_eq!(image::load_from_memory(&file).unwrap().width(), 128, "{format:?}");
            }
        }
    }
}
