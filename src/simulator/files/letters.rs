//! Writes on a picture: the prompt's first words and the size, in blocky letters on a dark strip.

use font8x8::UnicodeFonts;
use font8x8::{BASIC_FONTS, GREEK_FONTS, HIRAGANA_FONTS, LATIN_FONTS};
use image::{Rgb, RgbImage};

/// A letter is 8 dots high and wide.
const DOTS: u32 = 8;
const LINES: usize = 2;
const BRIGHT: Rgb<u8> = Rgb([245, 245, 240]);
const DIM: Rgb<u8> = Rgb([205, 205, 200]);

/// Writes `words` and, below, the size and `caption`. A picture too small for it stays as it is.
pub fn write(canvas: &mut RgbImage, words: &str, caption: &str) {
    let (width, height) = canvas.dimensions();
    let scale = (width / 220).clamp(1, 6);
    let small = (scale / 2).max(1);
    let margin = DOTS * scale / 2;
    let lines = wrap(words, columns(width, margin, scale));
    let size = format!("{width}x{height}");
    let below = if caption.is_empty() { size } else { format!("{size} {caption}") };
    let below: String = below.chars().take(columns(width, margin, small)).collect();
    let line = DOTS * scale + scale * 3;
    let strip = margin + line * u32::try_from(lines.len()).unwrap_or(0) + DOTS * small + margin;
    if strip > height / 2 || width < DOTS * 4 {
        return;
    }
    let mut top = height - strip;
    for y in top..height {
        for x in 0..width {
            canvas.get_pixel_mut(x, y).0.iter_mut().for_each(|channel| *channel = *channel / 3 + 4);
        }
    }
    top += margin;
    for text in &lines {
        put(canvas, text, (margin, top), scale, BRIGHT);
        top += line;
    }
    put(canvas, &below, (margin, top), small, DIM);
}

fn columns(width: u32, margin: u32, scale: u32) -> usize {
    usize::try_from(width.saturating_sub(2 * margin) / (DOTS * scale)).unwrap_or(0)
}

/// Breaks at spaces, shortens what does not fit.
fn wrap(words: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words.split_whitespace() {
        let word: String = word.chars().take(columns).collect();
        let full = lines.len() == LINES;
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(&word);
            }
            Some(line) if full => {
                *line = line.chars().take(columns.saturating_sub(3)).chain("...".chars()).collect();
                break;
            }
            _ => lines.push(word),
        }
    }
    lines
}

fn put(canvas: &mut RgbImage, text: &str, (left, top): (u32, u32), scale: u32, ink: Rgb<u8>) {
    for (letter, at) in text.chars().zip(0..) {
        let left = left + at * DOTS * scale;
        for (row, bits) in (0..).zip(glyph(letter)) {
            for column in (0..DOTS).filter(|column| bits >> column & 1 == 1) {
                for (dx, dy) in (0..scale).flat_map(|dx| (0..scale).map(move |dy| (dx, dy))) {
                    let (x, y) = (left + column * scale + dx, top + row * scale + dy);
                    if let Some(pixel) = canvas.get_pixel_mut_checked(x, y) {
                        *pixel = ink;
                    }
                }
            }
        }
    }
}

/// The dots of a letter; a hollow box for one the font does not know.
fn glyph(letter: char) -> [u8; 8] {
    BASIC_FONTS
        .get(letter)
        .or_else(|| LATIN_FONTS.get(letter))
        .or_else(|| GREEK_FONTS.get(letter))
        .or_else(|| HIRAGANA_FONTS.get(letter))
        .unwrap_or([0x00, 0x7e, 0x42, 0x42, 0x42, 0x42, 0x7e, 0x00])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_wrap_and_the_rest_is_dropped() {
        assert_eq!(wrap("a cat on a mat", 20), ["a cat on a mat"]);
        assert_eq!(wrap("a cat on a mat with a hat", 8), ["a cat on", "a mat..."]);
        assert!(wrap("   ", 8).is_empty());
        assert_eq!(wrap("extraordinarily", 8), ["extraord"]);
    }
}
