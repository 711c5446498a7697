//! Where pixels are worked on: on blocking threads, with limits on size and memory read from the header before anything is
//! decoded, as many at once as fit into the memory set aside, and never waited for longer than a time. A picture that is
//! too large, broken or too slow is an error; its original is whole in the store whatever happens here.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageEncoder, ImageReader, Limits, Rgba};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::pixels::PixelError;
use crate::domain::image::{Header, MediaType};
use crate::domain::size::MAX_SIDE;

const MIB: u64 = 1024 * 1024;
/// What all work at once may take, in MiB.
const MEMORY: u32 = 256;
/// How long a picture is waited for, its turn included. A thread cannot be stopped: one that is given up goes on by itself,
/// and keeps its share of the memory until it ends.
const PATIENCE: Duration = Duration::from_secs(20);
/// A progressive JPEG may have ten or so scans; one with thousands is made to keep a decoder busy for hours.
const MOST_SCANS: usize = 200;
/// Between 1 and 100: hard to tell from the original, at a third of its size.
const JPEG_QUALITY: u8 = 90;

/// The work to be done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    /// The type to encode as.
    pub into: MediaType,
    /// Pixels across, when the picture is to become smaller.
    pub width: Option<u32>,
}

/// The place where it is done.
pub(super) struct Desk {
    memory: Arc<Semaphore>,
}

impl Default for Desk {
    fn default() -> Self {
        Self { memory: Arc::new(Semaphore::new(MEMORY as usize)) }
    }
}

impl Desk {
    /// Does the work on a picture whose header is known.
    pub async fn make(&self, header: Header, bytes: Bytes, work: Work) -> Result<Bytes, PixelError> {
        let needs = needs(header).ok_or_else(|| {
            let Header { width, height, .. } = header;
            PixelError::Undecodable(format!("{width}x{height} takes more memory than is set aside"))
        })?;
        let memory = Arc::clone(&self.memory);
        let working = async move {
            let share = memory.acquire_many_owned(needs).await;
            let done = tokio::task::spawn_blocking(move || {
                let made = make(&bytes, work);
                drop(share);
                made
            });
            done.await.unwrap_or_else(|e| Err(PixelError::Undecodable(e.to_string())))
        };
        let late = || PixelError::Undecodable(format!("it was not ready after {} s", PATIENCE.as_secs()));
        timeout(PATIENCE, working).await.unwrap_or_else(|_| Err(late()))
    }
}

/// The memory a picture takes, in MiB: decoded, turned into what is encoded, and encoded. `None`: more than there is.
fn needs(header: Header) -> Option<u32> {
    let pixels = u64::from(header.width) * u64::from(header.height);
    let needs = u32::try_from((pixels * 12).div_ceil(MIB)).ok()?;
    (needs <= MEMORY).then_some(needs.max(1))
}

fn make(bytes: &[u8], work: Work) -> Result<Bytes, PixelError> {
    let undecodable = |e: &dyn std::fmt::Display| PixelError::Undecodable(e.to_string());
    if bytes.starts_with(&[0xff, 0xd8]) && scans(bytes) > MOST_SCANS {
        return Err(undecodable(&format!("it has more than {MOST_SCANS} scans")));
    }
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| undecodable(&e))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(u64::from(MEMORY) * MIB);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| undecodable(&e))?;
    // Without their profile colours shift, and without its orientation a photograph lies on its side.
    let profile = decoder.icc_profile().ok().flatten();
    let orientation = decoder.orientation().map_err(|e| undecodable(&e))?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| undecodable(&e))?;
    image.apply_orientation(orientation);
    if let Some(width) = work.width {
        let height = (u64::from(image.height()) * u64::from(width) / u64::from(image.width().max(1))).max(1);
        let height = u32::try_from(height).unwrap_or(MAX_SIDE);
        image = image.resize_exact(width, height, FilterType::Triangle);
    }
    encode(image, work.into, profile).map_err(|e| undecodable(&e))
}

/// The marks of a scan in a JPEG. Inside of pictures 0xff is never followed by one.
fn scans(bytes: &[u8]) -> usize {
    bytes.windows(2).filter(|two| *two == [0xff, 0xda]).count()
}

fn encode(
    image: DynamicImage,
    into: MediaType,
    profile: Option<Vec<u8>>,
) -> Result<Bytes, image::ImageError> {
    let mut made = Vec::new();
    match into {
        MediaType::Jpeg => {
            let flat = DynamicImage::ImageRgb8(on_white(image));
            with(JpegEncoder::new_with_quality(&mut made, JPEG_QUALITY), &flat, profile)?;
        }
        MediaType::Png => with(PngEncoder::new(&mut made), &image, profile)?,
        MediaType::Webp => {
            let opaque = !image.color().has_alpha();
            let image = if opaque { image.into_rgb8().into() } else { image.into_rgba8().into() };
            with(WebPEncoder::new_lossless(&mut made), &image, profile)?;
        }
        MediaType::Gif | MediaType::Avif => {
            let words = format!("{} is not written here", into.as_str());
            return Err(image::ImageError::IoError(std::io::Error::other(words)));
        }
    }
    Ok(made.into())
}

fn with<E: ImageEncoder>(
    mut encoder: E,
    image: &DynamicImage,
    profile: Option<Vec<u8>>,
) -> Result<(), image::ImageError> {
    if let Some(profile) = profile {
        // A type that cannot carry one is written without it.
        let _ = encoder.set_icc_profile(profile);
    }
    image.write_with_encoder(encoder)
}

/// JPEG knows no transparency: what shows through is white.
fn on_white(image: DynamicImage) -> image::RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let seen = image.into_rgba8();
    image::RgbImage::from_fn(seen.width(), seen.height(), |x, y| {
        let Rgba([red, green, blue, alpha]) = *seen.get_pixel(x, y);
        let over = |colour: u8| {
            let mixed = u32::from(colour) * u32::from(alpha) + 255 * (255 - u32::from(alpha));
            u8::try_from(mixed / 255).unwrap_or(255)
        };
        image::Rgb([over(red), over(green), over(blue)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::image::read_header;

    fn png(width: u32, height: u32) -> Bytes {
        let half = |x, _| if x < width / 2 { Rgba([200, 10, 10, 255]) } else { Rgba([0, 0, 0, 0]) };
        encode(image::RgbaImage::from_fn(width, height, half).into(), MediaType::Png, None).unwrap()
    }

    #[tokio::test]
    async fn a_picture_changes_its_type_and_keeps_what_it_shows() {
        let original = png(40, 20);
        let header = read_header(&original).unwrap();
        let desk = Desk::default();
        for into in [MediaType::Jpeg, MediaType::Webp, MediaType::Png] {
            let made = desk.make(header, original.clone(), Work { into, width: None }).await.unwrap();
            assert_eq!(read_header(&made).unwrap(), Header { media_type: into, width: 40, height: 20 });
            let shown = image::load_from_memory(&made).unwrap().to_rgba8();
            let (left, right) = (shown.get_pixel(2, 2).0, shown.get_pixel(38, 18).0);
            assert!(left[0] > 180 && left[1] < 40 && left[3] == 255, "{into:?}: {left:?}");
            let clear = if into == MediaType::Jpeg { right[0] > 240 } else { right[3] == 0 };
            assert!(clear, "{into:?}: {right:?}");
        }
        let small =
            desk.make(header, original, Work { into: MediaType::Png, width: Some(10) }).await.unwrap();
        assert_eq!(read_header(&small).unwrap(), Header { media_type: MediaType::Png, width: 10, height: 5 });
    }

    #[tokio::test]
    async fn what_is_too_large_broken_or_of_an_unknown_type_is_an_error() {
        let desk = Desk::default();
        let work = Work { into: MediaType::Jpeg, width: None };
        let huge = Header { media_type: MediaType::Png, width: 9_000, height: 9_000 };
        let error = desk.make(huge, png(4, 4), work).await.unwrap_err();
        assert!(error.to_string().contains("more memory"), "{error}");
        let header = Header { media_type: MediaType::Png, width: 4, height: 4 };
        let mut bomb = png(4, 4).to_vec();
        bomb[16..20].copy_from_slice(&60_000u32.to_be_bytes());
        assert!(desk.make(header, bomb.into(), work).await.is_err());
        assert!(desk.make(header, Bytes::from_static(b"GIF89a"), work).await.is_err());
        let gif = Work { into: MediaType::Gif, width: None };
        assert!(desk.make(header, png(4, 4), gif).await.is_err());
        assert_eq!(desk.memory.available_permits(), MEMORY as usize, "every share is given back");
    }
}
