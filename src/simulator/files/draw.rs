//! Draws the picture for a prompt: a gradient of three colours folded into soft waves, a few lights, and on
//! a dark strip the prompt's first words. The same sketch gives the same pixels.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "pixels: every value is clamped to its range before it is narrowed"
)]

use std::f32::consts::TAU;

use image::RgbImage;

use super::letters;
use crate::simulator::chance::Chance;

/// Steps of the colour ramp, and of the wave table: a power of two, so that an index wraps by a mask.
const STEPS: usize = 1024;
/// Fixed-point one of a blend.
const FULL: i32 = 256;

/// What to draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sketch {
    pub width: u32,
    pub height: u32,
    pub seed: u64,
    /// The prompt as a person reads it.
    pub words: String,
    /// What kind of work it was, when it was not plain text to image.
    pub caption: String,
}

/// Draws it.
pub fn draw(sketch: &Sketch) -> RgbImage {
    let mut chance = Chance::new(sketch.seed, u64::from(sketch.width), &sketch.words);
    let mut canvas = RgbImage::new(sketch.width.max(1), sketch.height.max(1));
    let ramp = ramp(&mut chance);
    ground(&mut canvas, &ramp, &mut chance);
    for _ in 0..chance.between(6, 10) {
        light(&mut canvas, &ramp, &mut chance);
    }
    letters::write(&mut canvas, &sketch.words, &sketch.caption);
    canvas
}

/// Colours from one end of a gradient to the other.
type Ramp = [[u8; 3]; STEPS];

/// Three neighbouring or opposite hues, blended smoothly.
fn ramp(chance: &mut Chance) -> Ramp {
    let hue = chance.fraction() as f32;
    let turn = 0.08 + 0.14 * chance.fraction() as f32;
    let leap = if chance.fraction() < 0.4 { 0.5 } else { 2.2 * turn };
    let stops = [
        colour(hue, 0.62, 0.30 + 0.10 * chance.fraction() as f32),
        colour(hue + turn, 0.70, 0.52),
        colour(hue + leap, 0.78, 0.72 + 0.10 * chance.fraction() as f32),
    ];
    std::array::from_fn(|step| {
        let at = step as f32 / (STEPS - 1) as f32 * 2.0;
        let (from, to, part) =
            if at < 1.0 { (stops[0], stops[1], at) } else { (stops[1], stops[2], at - 1.0) };
        let part = part * part * (3.0 - 2.0 * part);
        std::array::from_fn(|c| (from[c] + (to[c] - from[c]) * part).clamp(0.0, 255.0) as u8)
    })
}

/// Hue, saturation, lightness to red, green, blue in 0..=255.
fn colour(hue: f32, saturation: f32, lightness: f32) -> [f32; 3] {
    let reach = saturation * lightness.min(1.0 - lightness);
    std::array::from_fn(|c| {
        let k = ([0.0, 8.0, 4.0][c] + hue.rem_euclid(1.0) * 12.0) % 12.0;
        255.0 * (lightness - reach * (k - 3.0).min(9.0 - k).clamp(-1.0, 1.0))
    })
}

/// The gradient: a slope, bent by a wave along each axis and by one across both.
fn ground(canvas: &mut RgbImage, ramp: &Ramp, chance: &mut Chance) {
    let angle = chance.fraction() as f32 * TAU;
    let steps = STEPS as f32;
    let mut axis = |len: u32, slope: f32| -> (Vec<i32>, Vec<i32>) {
        let (turns, phase) = (0.6 + 1.8 * chance.fraction() as f32, chance.fraction() as f32 * TAU);
        let across = 0.4 + 1.4 * chance.fraction() as f32;
        let at = |i: u32| i as f32 / len as f32;
        let bend = |i| (at(i) - 0.5) * slope * 0.75 + 0.10 * (at(i) * turns * TAU + phase).sin();
        (
            (0..len).map(|i| (bend(i) * steps) as i32).collect(),
            (0..len).map(|i| (at(i) * across * steps) as i32).collect(),
        )
    };
    let (column, column_phase) = axis(canvas.width(), angle.cos());
    let (row, row_phase) = axis(canvas.height(), angle.sin());
    let strength = 0.05 + 0.07 * chance.fraction() as f32;
    let wave: [i32; STEPS] =
        std::array::from_fn(|step| ((step as f32 / steps * TAU).sin() * strength * steps) as i32);
    let width = column.len() * 3;
    let rows = row.iter().zip(&row_phase).zip(canvas.chunks_exact_mut(width));
    for ((row, row_phase), line) in rows {
        let columns = column.iter().zip(&column_phase).zip(line.chunks_exact_mut(3));
        for ((column, column_phase), pixel) in columns {
            let across = wave[(column_phase + row_phase) as usize & (STEPS - 1)];
            let at = (column + row + across + STEPS as i32 / 2).clamp(0, STEPS as i32 - 1);
            pixel.copy_from_slice(&ramp[at as usize]);
        }
    }
}

/// One soft light: a disc of the ramp's bright end, fading from its rim inwards or from its heart outwards.
fn light(canvas: &mut RgbImage, ramp: &Ramp, chance: &mut Chance) {
    let (width, height) = (canvas.width() as i32, canvas.height() as i32);
    let small = width.min(height);
    let radius = (small as f32 * (0.04 + 0.20 * chance.fraction() as f32)) as i32;
    let (cx, cy) =
        ((chance.fraction() * f64::from(width)) as i32, (chance.fraction() * f64::from(height)) as i32);
    let strength = 36 + (chance.fraction() * 54.0) as i32;
    let hollow = chance.fraction() < 0.5;
    let paint = if chance.fraction() < 0.5 { [255; 3] } else { ramp[STEPS - 1] };
    let square = (radius * radius).max(1);
    // By distance, from 0 at the heart to FULL at the rim: how much of the paint there is. The last tenth
    // fades, so that no edge is jagged.
    let parts: [i32; FULL as usize + 1] = std::array::from_fn(|out| {
        let out = out as i32;
        let shape = if hollow { FULL / 3 + out * 2 / 3 } else { FULL - out };
        strength * shape * ((FULL - out) * 10).min(FULL) / (FULL * FULL)
    });
    let scale = (i64::from(FULL) << 32) / i64::from(square);
    let (left, right) = ((cx - radius).max(0), (cx + radius).min(width));
    let pixels: &mut [u8] = canvas;
    for y in (cy - radius).max(0)..(cy + radius).min(height) {
        let row = (y * width) as usize * 3;
        let line = &mut pixels[row + left as usize * 3..row + right.max(left) as usize * 3];
        let down = (y - cy) * (y - cy);
        for (x, pixel) in (left - cx..).zip(line.chunks_exact_mut(3)) {
            let from = x * x + down;
            if from >= square {
                continue;
            }
            let part = parts[((i64::from(from) * scale) >> 32) as usize];
            for (channel, value) in pixel.iter_mut().zip(paint) {
                let (now, value) = (i32::from(*channel), i32::from(value));
                *channel = (now + (value - now) * part / FULL) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sketch(seed: u64, words: &str) -> Sketch {
        Sketch { width: 96, height: 64, seed, words: words.to_owned(), caption: String::new() }
    }

    #[test]
    fn the_same_sketch_gives_the_same_pixels_and_another_one_others() {
        assert_eq!(draw(&sketch(1, "a cat")), draw(&sketch(1, "a cat")));
        assert_ne!(draw(&sketch(1, "a cat")), draw(&sketch(2, "a cat")));
        assert_ne!(draw(&sketch(1, "a cat")), draw(&sketch(1, "a dog")));
    }

    #[test]
    fn any_size_can_be_drawn() {
        for (width, height) in [(1, 1), (3, 200), (200, 3), (17, 17), (257, 31)] {
            let sketch =
                Sketch { width, height, ..sketch(5, "窓 and ünïcode, a long prompt that has to wrap") };
            assert_eq!(draw(&sketch).dimensions(), (width, height));
        }
    }
}
