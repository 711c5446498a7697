//! What this process has seen of each provider account since it started: how attempts fared, how long they took, and how
//! many of its sends were retries. Advice for routing and for people; what must hold over replicas lies in the store.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::domain::clock::Millis;
use crate::domain::meter;
use crate::providers::Kind;

/// How many recent attempts an account is judged by.
const RECENT: usize = 100;
/// Of the sends in this time…
const RETRY_WINDOW: Duration = Duration::from_mins(1);
/// …at most one in ten may be a retry…
const RETRY_SHARE: usize = 10;
/// …but this many always may.
const RETRY_FLOOR: usize = 3;

/// What this process has seen of each account.
#[derive(Default)]
pub(super) struct Observed(Mutex<HashMap<String, Account>>);

/// One account.
#[derive(Default)]
struct Account {
    outcomes: VecDeque<Option<Kind>>,
    seconds: VecDeque<f64>,
    last_error: Option<Kind>,
    sends: VecDeque<(Millis, bool)>,
}

/// How an account has fared.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Record {
    /// Share of recent attempts that gave a picture, 0 to 1; `None` before the first.
    pub success_rate: Option<f64>,
    /// Median seconds from submission to the provider's done.
    pub p50: Option<f64>,
    /// The time within which nine of ten are done.
    pub p90: Option<f64>,
    /// The last trouble.
    pub last_error: Option<Kind>,
}

impl Observed {
    /// An attempt gave a picture after so long.
    pub fn succeeded(&self, provider: &str, took: Duration) {
        metrics::histogram!(meter::ATTEMPT_SECONDS, "provider" => provider.to_owned()).record(took);
        self.with(provider, |account| {
            push(&mut account.outcomes, None);
            push(&mut account.seconds, took.as_secs_f64());
        });
    }

    /// An attempt failed.
    pub fn failed(&self, provider: &str, kind: Kind) {
        self.with(provider, |account| {
            push(&mut account.outcomes, Some(kind));
            account.last_error = Some(kind);
        });
    }

    /// A paid call is about to be made.
    pub fn sent(&self, provider: &str, retry: bool, now: Millis) {
        self.with(provider, |account| {
            account.forget(now);
            account.sends.push_back((now, retry));
        });
    }

    /// When one more retry keeps within the account's retry budget: now, or once the oldest retry is forgotten.
    pub fn may_retry(&self, provider: &str, now: Millis) -> Millis {
        self.with(provider, |account| {
            account.forget(now);
            let retries = account.sends.iter().filter(|(_, retry)| *retry);
            let most = RETRY_FLOOR.max(account.sends.len() / RETRY_SHARE);
            let over = (retries.clone().count() + 1).saturating_sub(most);
            match over.checked_sub(1) {
                None => now,
                Some(waits_for) => {
                    retries.map(|(at, _)| *at).nth(waits_for).map_or(now, |at| at + RETRY_WINDOW)
                }
            }
        })
    }

    /// How an account has fared.
    pub fn record(&self, provider: &str) -> Record {
        self.with(provider, |account| {
            let mut seconds: Vec<f64> = account.seconds.iter().copied().collect();
            seconds.sort_by(f64::total_cmp);
            let within = |percent: usize| {
                seconds.get((seconds.len() * percent / 100).min(seconds.len().saturating_sub(1))).copied()
            };
            let good = account.outcomes.iter().filter(|outcome| outcome.is_none()).count();
            #[expect(clippy::cast_precision_loss, reason = "at most a hundred")]
            let success_rate =
                (!account.outcomes.is_empty()).then(|| good as f64 / account.outcomes.len() as f64);
            Record { success_rate, p50: within(50), p90: within(90), last_error: account.last_error }
        })
    }

    fn with<T>(&self, provider: &str, look: impl FnOnce(&mut Account) -> T) -> T {
        look(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(provider.to_owned()).or_default())
    }
}

impl Account {
    fn forget(&mut self, now: Millis) {
        while self.sends.front().is_some_and(|(at, _)| now.since(*at) >= RETRY_WINDOW) {
            self.sends.pop_front();
        }
    }
}

fn push<T>(recent: &mut VecDeque<T>, item: T) {
    if recent.len() == RECENT {
        recent.pop_front();
    }
    recent.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_keep_within_a_tenth_of_the_sends_and_three() {
        let observed = Observed::default();
        let at = |seconds: u64| Millis(0) + Duration::from_secs(seconds);
        for second in 0..3 {
            assert_eq!(observed.may_retry("a", at(second)), at(second));
            observed.sent("a", true, at(second));
        }
        assert_eq!(observed.may_retry("a", at(10)), at(60), "the first of three is forgotten then");
        (0..40).for_each(|_| observed.sent("a", false, at(11)));
        assert_eq!(observed.may_retry("a", at(12)), at(12), "a tenth of 43 sends is four");
        assert_eq!(observed.may_retry("b", at(12)), at(12));
    }

    #[test]
    fn a_record_counts_what_was_seen() {
        let observed = Observed::default();
        assert_eq!(observed.record("a"), Record::default());
        (1..=9).for_each(|second| observed.succeeded("a", Duration::from_secs(second)));
        observed.failed("a", Kind::Failed);
        let record = observed.record("a");
        assert_eq!((record.success_rate, record.p50, record.p90), (Some(0.9), Some(5.0), Some(9.0)));
        assert_eq!(record.last_error, Some(Kind::Failed));
    }
}
