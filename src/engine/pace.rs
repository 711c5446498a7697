//! When to ask or try again: the time between polls, and backoff with full jitter.

use std::time::Duration;

use crate::domain::secret::random_bytes;
use crate::providers::Pace;

/// The time between two polls: short at first, then growing, with a spread that keeps many tasks apart.
pub(super) fn next_poll(pace: &Pace, tries: u32) -> Duration {
    let grown = pace.poll_after.as_secs_f64() * 1.5f64.powi(i32::try_from(tries.min(20)).unwrap_or(20));
    spread(Duration::from_secs_f64(grown.min(pace.poll_max.as_secs_f64())))
}

/// Full-jitter backoff: anything up to `base` doubled `tries` times, at most `cap`.
pub(super) fn backoff(base: Duration, tries: u32, cap: Duration) -> Duration {
    let most = base.saturating_mul(1 << tries.min(16)).min(cap);
    most.mul_f64(f64::from(u32::from_be_bytes(random_bytes())) / f64::from(u32::MAX)).max(base / 2)
}

/// Up to a fifth more or less.
pub(super) fn spread(span: Duration) -> Duration {
    span.mul_f64(0.8 + 0.4 * f64::from(u32::from_be_bytes(random_bytes())) / f64::from(u32::MAX))
}
