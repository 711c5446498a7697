//! A day by UTC: what budgets renew by and usage is grouped by.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::clock::Millis;
use super::text::as_text;

const LENGTH_MS: i64 = 86_400_000;

/// A day by UTC, counted from 1970-01-01; on the wire `2026-11-22`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i64);

impl Day {
    /// The day a moment lies on.
    pub const fn of(moment: Millis) -> Self {
        Self(moment.0.div_euclid(LENGTH_MS))
    }

    /// Its first moment.
    pub const fn start(self) -> Millis {
        Millis(self.0.saturating_mul(LENGTH_MS))
    }

    /// The first moment of the next one.
    pub const fn end(self) -> Millis {
        Self(self.0.saturating_add(1)).start()
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.start().0) {
            Ok(moment) => write!(f, "{}", moment.to_zoned(TimeZone::UTC).date()),
            Err(_) => write!(f, "day {}", self.0),
        }
    }
}

impl FromStr for Day {
    type Err = jiff::Error;
    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        let midnight = text.parse::<Date>()?.to_zoned(TimeZone::UTC)?;
        Ok(Self::of(Millis(midnight.timestamp().as_millisecond())))
    }
}

as_text! {
    Day { format: Date, example: "2026-11-22" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_and_ends_at_midnight_utc() {
        let day: Day = "2026-11-22".parse().unwrap();
        assert_eq!(day.to_string(), "2026-11-22");
        assert_eq!(day.start().to_string(), "2026-11-22T00:00:00.000Z");
        assert_eq!(Day::of(day.start()), day);
        assert_eq!(Day::of(Millis(day.end().0 - 1)), day);
        assert_eq!(Day::of(day.end()), Day(day.0 + 1));
        assert!("22.11.2026".parse::<Day>().is_err());
    }
}
