//! Pictures as bytes: the type read from the first bytes, width and height read from the header. Nothing is decoded
//! here, and what a server claims about its bytes is not asked.

mod boxes;
mod complete;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use complete::Completeness;

use super::size::MAX_SIDE;

/// The most pixels a picture may have.
pub const MAX_PIXELS: u64 = 100_000_000;
/// How many leading bytes are nearly always enough to read a header: only a camera's or an editor's notes can be longer.
pub const HEADER_BYTES: usize = 256 * 1024;

/// Standard alphabet, with or without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The bytes of a base64 text, bare or as a `data:` URI; `None` when it is neither or empty.
pub fn decode_base64(text: &str) -> Option<Bytes> {
    let body = match text.strip_prefix("data:") {
        Some(uri) => uri.split_once(";base64,")?.1,
        None => text,
    };
    let body: Vec<u8> = body.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let bytes = LENIENT.decode(body).ok()?;
    (!bytes.is_empty()).then(|| bytes.into())
}

/// Accepted picture types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "the names are the meaning")]
pub enum MediaType {
    #[serde(rename = "image/png")]
    Png,
    #[serde(rename = "image/jpeg")]
    Jpeg,
    #[serde(rename = "image/webp")]
    Webp,
    #[serde(rename = "image/gif")]
    Gif,
    #[serde(rename = "image/avif")]
    Avif,
}

impl MediaType {
    /// As in a `Content-Type` header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
            Self::Gif => "image/gif",
            Self::Avif => "image/avif",
        }
    }

    /// The usual file ending.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Webp => "webp",
            Self::Gif => "gif",
            Self::Avif => "avif",
        }
    }
}

/// What a picture's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its type.
    pub media_type: MediaType,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// What a returned picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageKind {
    /// What was asked for.
    Output,
    /// The preprocessed control image.
    Preprocessed,
}

/// A picture whose bytes are durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredImage {
    /// Its place among the task's pictures, from 0.
    pub index: u32,
    /// SHA-256 of its bytes in hex, which is also where they lie.
    pub sha256: String,
    /// Its type, read from the bytes.
    pub media_type: MediaType,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Its length.
    pub bytes: u64,
    /// What it shows.
    pub kind: ImageKind,
    /// Whether its time is over: it is described, and not here any more.
    #[serde(default)]
    pub gone: bool,
    /// Whether it came after its task had ended.
    pub late: bool,
}

/// Why bytes are not an acceptable picture.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum NotAPicture {
    /// The first bytes are of no accepted type.
    #[error("not a PNG, JPEG, WebP, GIF or AVIF picture")]
    Type,
    /// The header is broken or was cut.
    #[error("the picture's header cannot be read")]
    Header,
    /// It is one of the inputs that the provider was sent.
    #[error("it is one of the task's own input images")]
    Input,
    /// The picture is larger than any that is kept.
    #[error("{width}x{height} is beyond {MAX_SIDE} pixels a side or {MAX_PIXELS} in all")]
    TooLarge {
        /// Pixels across.
        width: u64,
        /// Pixels down.
        height: u64,
    },
}

/// The type of the image that begins with these bytes; 16 of them tell it.
pub fn magic(first: &[u8]) -> Option<MediaType> {
    use imagesize::{Compression, ImageType};
    Some(match imagesize::image_type(first).ok()? {
        ImageType::Png => MediaType::Png,
        ImageType::Jpeg => MediaType::Jpeg,
        ImageType::Webp => MediaType::Webp,
        ImageType::Gif => MediaType::Gif,
        ImageType::Heif(Compression::Av1) => MediaType::Avif,
        _ => return None,
    })
}

/// Reads a picture's header from its first bytes; [`HEADER_BYTES`] are nearly always enough, and with fewer than it needs
/// the answer is [`NotAPicture::Header`].
pub fn read_header(first: &[u8]) -> Result<Header, NotAPicture> {
    let media_type = magic(first).ok_or(NotAPicture::Type)?;
    let dimensions = match media_type {
        MediaType::Avif => boxes::descriptive_boxes(first).map(|boxes| imagesize::blob_size(&boxes)),
        _ => Some(imagesize::blob_size(first)),
    };
    let dimensions = dimensions.and_then(Result::ok).ok_or(NotAPicture::Header)?;
    let (width, height) = (dimensions.width as u64, dimensions.height as u64);
    if width == 0 || height == 0 {
        return Err(NotAPicture::Header);
    }
    match (u32::try_from(width), u32::try_from(height)) {
        (Ok(across), Ok(down)) if across <= MAX_SIDE && down <= MAX_SIDE && width * height <= MAX_PIXELS => {
            Ok(Header { media_type, width: across, height: down })
        }
        _ => Err(NotAPicture::TooLarge { width, height }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(format: image::ImageFormat) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::DynamicImage::new_rgb8(40, 30).write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn real_pictures_are_recognised() {
        use image::ImageFormat;
        for (format, media_type) in [
            (ImageFormat::Png, MediaType::Png),
            (ImageFormat::Jpeg, MediaType::Jpeg),
            (ImageFormat::WebP, MediaType::Webp),
        ] {
            let bytes = encoded(format);
            assert_eq!(read_header(&bytes), Ok(Header { media_type, width: 40, height: 30 }));
        }
    }

    #[test]
    fn other_things_are_not_pictures() {
        for bytes in [
            b"<svg xmlns='x'/>".as_slice(),
            b"<html>",
            b"%PDF-1.7",
            b"\x7fELF",
            b"PK\x03\x04",
            b"",
            b"\x89PNG",
        ] {
            assert!(read_header(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_bomb_is_refused_from_its_header() {
        let mut png = encoded(image::ImageFormat::Png);
        png[16..20].copy_from_slice(&19_000u32.to_be_bytes());
        png[20..24].copy_from_slice(&19_000u32.to_be_bytes());
        assert_eq!(read_header(&png), Err(NotAPicture::TooLarge { width: 19_000, height: 19_000 }));
        png[20..24].copy_from_slice(&(1u32 << 31).to_be_bytes());
        assert!(read_header(&png).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0usize..5) {
            let heads: [&[u8]; 5] = [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x10\0\0\0WEBPVP8 ", b"GIF89a", b"\0\0\0 ftypavif"];
            let mut all = heads[kind].to_vec();
            all.extend(bytes);
            let _ = read_header(&all);
        }
    }
}
