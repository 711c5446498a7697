//! Writes a GIF: 128 fixed colours and codes of eight bits that never grow, so that nothing need be packed.

use image::RgbImage;

/// The code that empties the decoder's table, and the one that ends the data.
const CLEAR: u8 = 128;
const END: u8 = 129;
/// So many pixels after a clearing, the next code would take nine bits.
const RUN: usize = 120;

/// Two bits of red, three of green, two of blue.
fn nearest(pixel: [u8; 3]) -> u8 {
    let [red, green, blue] = pixel;
    (red >> 6) << 5 | (green >> 5) << 2 | (blue >> 6)
}

/// The whole file, with its closing byte.
pub fn encode(picture: &RgbImage) -> Vec<u8> {
    let side = |side: u32| u16::try_from(side).unwrap_or(u16::MAX).to_le_bytes();
    let (width, height) = (side(picture.width()), side(picture.height()));
    let mut file = b"GIF89a".to_vec();
    file.extend_from_slice(&[width[0], width[1], height[0], height[1], 0xf6, 0, 0]);
    for colour in 0..128_u8 {
        file.extend_from_slice(&[(colour >> 5) * 85, (colour >> 2 & 7) * 36, (colour & 3) * 85]);
    }
    file.extend_from_slice(&[0x2c, 0, 0, 0, 0, width[0], width[1], height[0], height[1], 0, 7]);
    let pixels: Vec<u8> = picture.pixels().map(|pixel| nearest(pixel.0)).collect();
    let mut codes = Vec::with_capacity(pixels.len() + pixels.len() / RUN + 2);
    for run in pixels.chunks(RUN) {
        codes.push(CLEAR);
        codes.extend_from_slice(run);
    }
    codes.push(END);
    for block in codes.chunks(255) {
        file.push(u8::try_from(block.len()).unwrap_or(255));
        file.extend_from_slice(block);
    }
    file.extend_from_slice(&[0, 0x3b]);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gif_begins_ends_and_measures_as_it_should() {
        let file = encode(&RgbImage::from_pixel(300, 7, image::Rgb([255, 128, 0])));
        assert!(file.starts_with(b"GIF89a") && file.ends_with(&[0, 0x3b]));
        let size = imagesize::blob_size(&file).unwrap();
        assert_eq!((size.width, size.height), (300, 7));
    }
}
