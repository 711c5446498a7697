//! Where pixels must be decoded: painting an inpaint mask into an image, turning a mask into transparency. On a blocking
//! thread, with limits on size and memory taken from the header before anything is decoded.

use std::io::Cursor;

use bytes::Bytes;
use image::{DynamicImage, GrayImage, ImageFormat, ImageReader, Limits, Luma, Rgba};

use crate::domain::size::MAX_SIDE;

/// Decoding may take this much memory at most.
const MAX_MEMORY: u64 = 512 * 1024 * 1024;

/// Why pixels could not be worked on.
#[derive(Debug, thiserror::Error)]
pub enum PixelError {
    /// Not a picture that can be decoded.
    #[error("the picture cannot be decoded: {0}")]
    Undecodable(String),
    /// The mask is of another size than the image.
    #[error("the mask is {mask}, the image {image}")]
    SizesDiffer {
        /// The mask's size.
        mask: String,
        /// The image's size.
        image: String,
    },
}

/// The image with the mask's part painted white, as PNG: how Flux is told where to paint.
pub async fn paint(image: Bytes, mask: Bytes) -> Result<Bytes, PixelError> {
    blocking(move || {
        let image = decode(&image)?;
        let chosen = chosen(&decode(&mask)?);
        same_size(&image, &chosen)?;
        let mut painted = image.to_rgba8();
        for (pixel, chosen) in painted.pixels_mut().zip(chosen.pixels()) {
            if chosen.0[0] > 0 {
                *pixel = Rgba([255, 255, 255, 255]);
            }
        }
        encode(&painted.into())
    })
    .await
}

/// The mask as PNG whose chosen part is transparent: how OpenAI is told where to paint. `like` is the image it is for.
pub async fn cut_out(mask: Bytes, like: Bytes) -> Result<Bytes, PixelError> {
    blocking(move || {
        let chosen = chosen(&decode(&mask)?);
        same_size(&decode(&like)?, &chosen)?;
        let cut = image::RgbaImage::from_fn(chosen.width(), chosen.height(), |x, y| {
            let alpha = 255 - chosen.get_pixel(x, y).0[0];
            Rgba([0, 0, 0, alpha])
        });
        encode(&cut.into())
    })
    .await
}

/// Which pixels a mask chooses, as 255. A mask with transparent pixels is read as OpenAI's: what is transparent is painted
/// anew. Any other is read by its brightness: white is painted anew, black is kept.
fn chosen(mask: &DynamicImage) -> GrayImage {
    let pixels = mask.to_rgba8();
    let transparent = pixels.pixels().any(|pixel| pixel.0[3] < 128);
    let luma = mask.to_luma8();
    GrayImage::from_fn(pixels.width(), pixels.height(), |x, y| {
        let choose =
            if transparent { pixels.get_pixel(x, y).0[3] < 128 } else { luma.get_pixel(x, y).0[0] >= 128 };
        Luma([if choose { 255 } else { 0 }])
    })
}

fn same_size(image: &DynamicImage, mask: &GrayImage) -> Result<(), PixelError> {
    let of = |width: u32, height: u32| format!("{width}x{height}");
    let (image, mask) = (of(image.width(), image.height()), of(mask.width(), mask.height()));
    if image == mask { Ok(()) } else { Err(PixelError::SizesDiffer { mask, image }) }
}

fn decode(bytes: &[u8]) -> Result<DynamicImage, PixelError> {
    let undecodable = |e: &dyn std::fmt::Display| PixelError::Undecodable(e.to_string());
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| undecodable(&e))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits);
    reader.decode().map_err(|e| undecodable(&e))
}

fn encode(image: &DynamicImage) -> Result<Bytes, PixelError> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).map_err(|e| PixelError::Undecodable(e.to_string()))?;
    Ok(bytes.into_inner().into())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PixelError> + Send + 'static,
) -> Result<T, PixelError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(PixelError::Undecodable(e.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::RgbaImage;

    fn png(width: u32, height: u32, colour: impl Fn(u32, u32) -> [u8; 4]) -> Bytes {
        encode(&RgbaImage::from_fn(width, height, |x, y| Rgba(colour(x, y))).into()).unwrap()
    }

    #[tokio::test]
    async fn a_mask_is_painted_white_and_the_rest_kept() {
        let image = png(4, 2, |x, _| [if x == 3 { 30 } else { 0 }, 1, 2, 255]);
        let left = |x: u32| x < 2;
        let bright = png(4, 2, |x, _| if left(x) { [255, 255, 255, 255] } else { [0, 0, 0, 255] });
        let holes = png(4, 2, |x, _| if left(x) { [9, 9, 9, 0] } else { [255, 255, 255, 255] });
        for mask in [bright, holes] {
            let painted = decode(&paint(image.clone(), mask.clone()).await.unwrap()).unwrap().to_rgba8();
            assert_eq!(painted.get_pixel(1, 0).0, [255, 255, 255, 255]);
            assert_eq!(painted.get_pixel(3, 1).0, [30, 1, 2, 255]);
            let cut = decode(&cut_out(mask, image.clone()).await.unwrap()).unwrap().to_rgba8();
            assert_eq!((cut.get_pixel(1, 0).0[3], cut.get_pixel(3, 1).0[3]), (0, 255));
        }
    }

    #[tokio::test]
    async fn sizes_must_match_and_bombs_are_refused() {
        let (small, large) = (png(2, 2, |_, _| [0; 4]), png(3, 2, |_, _| [0; 4]));
        let error = paint(small.clone(), large).await.unwrap_err();
        assert_eq!(error.to_string(), "the mask is 3x2, the image 2x2");
        let mut bomb = small.to_vec();
        bomb[16..20].copy_from_slice(&60_000u32.to_be_bytes());
        assert!(matches!(paint(bomb.into(), small).await, Err(PixelError::Undecodable(_))));
    }
}
