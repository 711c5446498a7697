//! How busy the database is, as this process sees it: writes under way, reads that wait for a connection, and how many get
//! done in a second. Load is shed by it, because it is what every request and every step of a task needs.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::{counter, histogram};

use super::StoreError;
use crate::domain::meter;

/// The rate is taken over about so long.
const OVER: Duration = Duration::from_secs(5);
/// And not before this much has passed since it was taken last.
const EVERY: Duration = Duration::from_millis(500);
/// A database that is away is told of this often, however many ask for it.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How busy the database is.
#[derive(Default)]
pub struct Load {
    under_way: AtomicUsize,
    done: AtomicU64,
    rate: Mutex<Option<Rate>>,
    /// When a failure was last told of, and how many there were since.
    told: Mutex<Option<(Instant, u64)>>,
}

struct Rate {
    at: Instant,
    done: u64,
    per_s: f64,
}

/// One operation under way.
pub(super) struct Operation<'l>(&'l Load);

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        self.0.done.fetch_add(1, Ordering::Relaxed);
    }
}

impl Load {
    /// Begins an operation; it ends when what is answered is dropped.
    pub(super) fn begin(&self) -> Operation<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Operation(self)
    }

    /// Operations under way.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// How long what is under way takes to get done at the present rate.
    pub fn backlog(&self) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "some thousands")]
        let waiting = self.under_way() as f64;
        // A database that gets nothing done has no rate: the longest there is.
        Duration::try_from_secs_f64(waiting / self.per_s(Instant::now())).unwrap_or(Duration::MAX)
    }

    /// Notes how a write fared.
    pub(super) fn wrote<T>(&self, began: Instant, outcome: &Result<T, StoreError>) {
        match outcome {
            Ok(_) => histogram!(meter::STORE_COMMIT).record(began.elapsed()),
            Err(StoreError::Unavailable(error)) => self.failed(error),
            Err(_) => {}
        }
    }

    /// The database did not do what it was asked.
    pub(super) fn failed(&self, error: &sqlx::Error) {
        counter!(meter::STORE_ERRORS).increment(1);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let more = match &mut *told {
            Some((at, more)) if at.elapsed() < TELL_EVERY => {
                *more += 1;
                return;
            }
            Some((_, more)) => *more,
            None => 0,
        };
        *told = Some((Instant::now(), 0));
        tracing::error!(%error, since_then = more, "the database did not do what it was asked");
    }

    /// Operations a second, lately.
    fn per_s(&self, now: Instant) -> f64 {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let done = self.done.load(Ordering::Relaxed);
        let before = rate.get_or_insert(Rate { at: now, done, per_s: 0.0 });
        let passed = now.saturating_duration_since(before.at);
        if passed >= EVERY {
            #[expect(clippy::cast_precision_loss, reason = "a rate")]
            let fresh = done.saturating_sub(before.done) as f64 / passed.as_secs_f64();
            let weight = (passed.as_secs_f64() / OVER.as_secs_f64()).min(1.0);
            let per_s =
                if before.per_s == 0.0 { fresh } else { before.per_s * (1.0 - weight) + fresh * weight };
            *before = Rate { at: now, done, per_s };
        }
        before.per_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_follows_what_gets_done() {
        let load = Load::default();
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        assert!(load.per_s(start) < f64::EPSILON);
        (0..1_000).for_each(|_| drop(load.begin()));
        assert!((load.per_s(after(1_000)) - 1_000.0).abs() < 1.0);
        assert!((load.per_s(after(1_100)) - 1_000.0).abs() < 1.0, "too soon to look again");
        assert!(load.per_s(after(20_000)) < 1.0, "nothing got done for long");
    }

    #[test]
    fn what_is_under_way_is_counted_until_it_is_dropped() {
        let load = Load::default();
        let one = load.begin();
        let two = load.begin();
        assert_eq!(load.under_way(), 2);
        assert!(load.backlog() > Duration::from_mins(5), "nothing was ever done: nobody knows how long");
        drop((one, two));
        assert_eq!((load.under_way(), load.done.load(Ordering::Relaxed)), (0, 2));
    }
}
