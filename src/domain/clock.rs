//! Time as an argument: [`Millis`], and the [`Clock`] every other room asks for it.
//! Nothing else in the house reads a clock, so a test moves time by hand instead of sleeping.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use super::text::as_text;

/// A moment in milliseconds since the Unix epoch, UTC. Written to rows as it is, to callers as RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub i64);

impl Millis {
    /// The span from `earlier` to this moment; zero when `earlier` lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

impl Add<Duration> for Millis {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Millis {
    type Output = Self;
    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(moment) => write!(f, "{moment:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl FromStr for Millis {
    type Err = jiff::Error;
    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        text.parse().map(|moment: jiff::Timestamp| Self(moment.as_millisecond()))
    }
}

as_text! {
    Millis { format: DateTime, example: "2026-11-22T09:30:00.000Z" }
}

/// Where the rest of the house gets the time from.
pub trait Clock: Send + Sync + 'static {
    /// The current moment.
    fn now(&self) -> Millis;

    /// Follows another clock, which showed `theirs` at `ours` of this one, give or take `doubt`. Clocks that tests move by
    /// hand follow nobody.
    fn follow(&self, theirs: Millis, ours: Millis, doubt: Duration) {
        let _ = (theirs, ours, doubt);
    }
}

/// The machine's clock, read once at start and then carried forward by the monotonic clock: a wall clock
/// that is set back or forward while the process runs moves no lease and no deadline. Where several
/// processes share a database, it follows that one's.
#[derive(Debug)]
pub struct SystemClock {
    started: Millis,
    since: Instant,
    /// Milliseconds by which the clock it follows is ahead.
    ahead: AtomicI64,
}

impl SystemClock {
    /// Reads the wall clock, the only place where it is read.
    #[expect(clippy::disallowed_methods, reason = "the one door to the wall clock")]
    pub fn start() -> Self {
        let wall = std::time::SystemTime::now();
        let epoch = wall.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { started: Millis(0) + epoch, since: Instant::now(), ahead: AtomicI64::new(0) }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Millis {
        let own = self.started + self.since.elapsed();
        Millis(own.0.saturating_add(self.ahead.load(Ordering::SeqCst)))
    }

    fn follow(&self, theirs: Millis, ours: Millis, doubt: Duration) {
        let off = theirs.0.saturating_sub(ours.0);
        // Within what the asking itself may have cost there is nothing to learn.
        if off.unsigned_abs() > u64::try_from(doubt.as_millis()).unwrap_or(u64::MAX) {
            self.ahead.fetch_add(off, Ordering::SeqCst);
        }
    }
}

/// A clock that stands still until it is told to move.
#[derive(Debug)]
pub struct TestClock(AtomicI64);

impl TestClock {
    /// A clock standing at `start`.
    pub fn at(start: Millis) -> Self {
        Self(AtomicI64::new(start.0))
    }

    /// Moves time forward.
    pub fn advance(&self, span: Duration) {
        self.0.fetch_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_survives_the_trip_through_its_text() {
        let moment = Millis(1_790_000_000_123);
        let text = serde_json::to_string(&moment).unwrap();
        assert!(text.ends_with(".123Z\""), "{text}");
        assert_eq!(serde_json::from_str::<Millis>(&text).unwrap(), moment);
    }

    #[test]
    fn a_clock_follows_another_but_not_its_own_doubt() {
        let clock = SystemClock::start();
        let before = clock.now();
        let hour = Duration::from_hours(1);
        clock.follow(before + hour, before, Duration::from_millis(3));
        assert!(clock.now() >= before + hour);
        let now = clock.now();
        clock.follow(now - Duration::from_millis(3), now, Duration::from_millis(3));
        assert!(clock.now() >= now);
        clock.follow(now - hour, now, Duration::from_millis(3));
        assert!(clock.now() < before + Duration::from_mins(1));
    }

    #[test]
    fn a_test_clock_moves_only_when_told() {
        let clock = TestClock::at(Millis(1_000));
        assert_eq!(clock.now(), Millis(1_000));
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.now(), Millis(3_000));
        assert_eq!(clock.now().since(Millis(5_000)), Duration::ZERO);
    }
}
