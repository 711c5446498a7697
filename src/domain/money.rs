//! Exact money. [`Usd`] counts nano-dollars (1e-9 $), so that $0.00066, a token at $1.25 a million and a
//! year's sum are all exact, fit a BIGINT and add up inside either database. There are no floats for money.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Mul, Sub};
use std::str::FromStr;

use super::text::as_text;

const NANOS: i64 = 1_000_000_000;
const PLACES: usize = 9;

/// US dollars, exact to nine decimal places; on the wire a decimal string such as `"0.015"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Usd(i64);

impl Usd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From nano-dollars, as rows hold it.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// In nano-dollars, as rows hold it.
    pub const fn nanos(self) -> i64 {
        self.0
    }
}

/// The text is not an amount of dollars.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "not an amount in US dollars: expected a decimal string such as \"0.015\", at most nine decimal places"
)]
pub struct BadAmount;

impl FromStr for Usd {
    type Err = BadAmount;

    fn from_str(text: &str) -> Result<Self, BadAmount> {
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let plain = |part: &str, most: usize| {
            !part.is_empty() && part.len() <= most && part.bytes().all(|b| b.is_ascii_digit())
        };
        // Whatever can be held can be read again: ten digits before the point.
        if !plain(whole, PLACES + 1) || !plain(fraction, PLACES) {
            return Err(BadAmount);
        }
        let whole: i128 = whole.parse().map_err(|_| BadAmount)?;
        let fraction: i128 = format!("{fraction:0<PLACES$}").parse().map_err(|_| BadAmount)?;
        let nanos = sign * (whole * i128::from(NANOS) + fraction);
        i64::try_from(nanos).map(Self).map_err(|_| BadAmount)
    }
}

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (nanos, unit) = (self.0.unsigned_abs(), NANOS.unsigned_abs());
        let fraction = format!("{:0PLACES$}", nanos % unit);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        write!(f, "{sign}{}{point}{fraction}", nanos / unit)
    }
}

impl Add for Usd {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Usd {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Mul<u32> for Usd {
    type Output = Self;
    fn mul(self, times: u32) -> Self {
        Self(self.0.saturating_mul(i64::from(times)))
    }
}

impl Sum for Usd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

as_text! {
    Usd { pattern: r"^-?\d{1,10}(\.\d{1,9})?$", example: "0.015" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_and_writes_plain_decimals() {
        for text in [
            "0",
            "0.015",
            "0.00066",
            "12",
            "-3.5",
            "999999999.999999999",
            "9223372036.854775807",
            "-9223372036.854775808",
        ] {
            assert_eq!(text.parse::<Usd>().unwrap().to_string(), text);
        }
        assert_eq!("0.50".parse::<Usd>().unwrap().to_string(), "0.5");
        for wrong in [
            "",
            ".",
            "1.",
            ".5",
            "1e3",
            "0.0000000001",
            "1,5",
            "+1",
            "--1",
            "1 ",
            "NaN",
            "9223372036.854775808",
            "10000000000",
        ] {
            assert_eq!(wrong.parse::<Usd>(), Err(BadAmount), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_amount_survives_its_text(nanos in any::<i64>()) {
            let amount = Usd::from_nanos(nanos);
            prop_assert_eq!(amount.to_string().parse::<Usd>().unwrap(), amount);
        }
    }
}
