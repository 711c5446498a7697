//! Pixel sizes and aspect ratios, as callers write them: `"1024x768"`, `"4:3"`.

use std::fmt;
use std::str::FromStr;

use super::text::as_text;

/// The longest side that is ever asked for or accepted, in pixels.
pub const MAX_SIDE: u32 = 16_384;

/// Width and height in pixels, written `WIDTHxHEIGHT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

impl Size {
    /// Width times height.
    pub fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// The ratio in lowest terms.
    pub fn ratio(self) -> AspectRatio {
        AspectRatio { across: self.width, down: self.height }.reduced()
    }
}

/// A ratio of width to height, written `W:H`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AspectRatio {
    /// Parts across.
    pub across: u32,
    /// Parts down.
    pub down: u32,
}

impl AspectRatio {
    /// The same ratio in lowest terms.
    #[must_use]
    pub fn reduced(self) -> Self {
        let (mut a, mut b) = (self.across, self.down);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        let divisor = a.max(1);
        Self { across: self.across / divisor, down: self.down / divisor }
    }

    /// How far a size is from this ratio: 0 when equal, otherwise the absolute logarithm of their quotient.
    pub fn distance(self, size: Size) -> f64 {
        let wanted = f64::from(self.across) / f64::from(self.down);
        let given = f64::from(size.width) / f64::from(size.height);
        (wanted / given).ln().abs()
    }
}

/// The text is not a size or a ratio.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadSize {
    /// Not `WIDTHxHEIGHT`.
    #[error("expected WIDTHxHEIGHT in whole pixels from 1 to {MAX_SIDE}, such as \"1024x768\"")]
    Size,
    /// Not `W:H`.
    #[error("expected a ratio of whole numbers from 1 to {MAX_SIDE}, such as \"16:9\"")]
    Ratio,
}

fn pair(text: &str, between: char) -> Option<(u32, u32)> {
    let side = |part: &str| {
        let plain = !part.starts_with('0') && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<u32>().ok().filter(|side| plain && (1..=MAX_SIDE).contains(side))
    };
    let (left, right) = text.split_once(between)?;
    Some((side(left)?, side(right)?))
}

impl FromStr for Size {
    type Err = BadSize;
    fn from_str(text: &str) -> Result<Self, BadSize> {
        pair(text, 'x').map(|(width, height)| Self { width, height }).ok_or(BadSize::Size)
    }
}

impl FromStr for AspectRatio {
    type Err = BadSize;
    fn from_str(text: &str) -> Result<Self, BadSize> {
        pair(text, ':').map(|(across, down)| Self { across, down }).ok_or(BadSize::Ratio)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl fmt::Display for AspectRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.across, self.down)
    }
}

as_text! {
    Size { pattern: r"^[1-9]\d{0,4}x[1-9]\d{0,4}$", example: "1024x1024" }
    AspectRatio { pattern: r"^[1-9]\d{0,4}:[1-9]\d{0,4}$", example: "16:9" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes_and_nothing_else() {
        assert_eq!("1024x768".parse(), Ok(Size { width: 1024, height: 768 }));
        for wrong in [
            "1024",
            "0x1",
            "-1x1",
            "2147483648x1",
            "1024.5x1",
            "1024X768",
            "1024x768x1",
            "",
            "x",
            "01x1",
            "1 x1",
            "+1x1",
        ] {
            assert_eq!(wrong.parse::<Size>(), Err(BadSize::Size), "{wrong}");
        }
    }

    #[test]
    fn ratios_reduce_and_compare() {
        let wide: AspectRatio = "16:9".parse().unwrap();
        assert_eq!("1920x1080".parse::<Size>().unwrap().ratio(), wide);
        assert!(wide.distance("1024x1024".parse().unwrap()) > wide.distance("1536x1024".parse().unwrap()));
        assert!(wide.distance("1280x720".parse().unwrap()) < 1e-9);
    }
}
