//! When to ask or try again: the time between polls, and backoff with full jitter.

use std::time::Duration;

use crate::domain::secret::random_bytes;
use crate::providers::Pace;

/// The pause between polls, in parts of the one before the first of them.
const STEP: f64 = 1.25;
/// So many more are as long: the pauses of a job of half a minute stay short against it.
const STEADY: u32 = 7;
/// What each further one is multiplied by.
const GROWTH: f64 = 1.2;

/// The time between two polls: steady at first, then growing, with a spread that keeps many tasks apart. `script/bench
/// schedule` shows what that finds: jobs of 2 to 30 s about a tenth of their time late, and in hardly ever more than 12 polls.
pub(super) fn next_poll(pace: &Pace, tries: u32) -> Duration {
    let grown = GROWTH.powi(i32::try_from(tries.saturating_sub(STEADY).min(40)).unwrap_or(40));
    let pause = pace.poll_after.as_secs_f64() * STEP * grown;
    spread(Duration::from_secs_f64(pause.min(pace.poll_max.as_secs_f64())))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_are_steady_and_then_ever_rarer() {
        let pace = Pace {
            poll_after: Duration::from_secs(2),
            poll_max: Duration::from_secs(15),
            reconcile: Duration::ZERO,
            cancels: false,
            by_the_hour: false,
        };
        for (tries, seconds) in [(0, 2.5), (7, 2.5), (8, 3.0), (9, 3.6), (30, 15.0), (u32::MAX, 15.0)] {
            let pause = next_poll(&pace, tries).as_secs_f64();
            assert!(pause > seconds * 0.799 && pause < seconds * 1.201, "{tries}: {pause}");
        }
    }
}
