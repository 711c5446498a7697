//! What is known of each provider account: its capacity, how its attempts fare, how long they take, and when to ask next.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::Inner;
use crate::domain::secret::random_bytes;
use crate::providers::{Kind, Pace};
use crate::store::StoreError;

/// How many recent attempts an account is judged by.
const RECENT: usize = 100;

/// How a provider account is doing, as this process has seen it since it started.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LaneView {
    /// Provider id.
    #[schema(example = "piapi_flux")]
    pub id: String,
    /// `healthy`, or `failing` when its last attempts all failed on its own account.
    pub health: &'static str,
    /// Tasks at the provider.
    pub in_flight: i64,
    /// How many may be.
    pub in_flight_limit: u32,
    /// Tasks waiting for it.
    pub queued: i64,
    /// Share of recent attempts that gave a picture, 0 to 1; `null` before the first.
    pub success_rate: Option<f64>,
    /// Median seconds from submission to the provider's done.
    pub p50_s: Option<f64>,
    /// The time within which nine of ten are done.
    pub p90_s: Option<f64>,
    /// The last trouble.
    #[schema(value_type = Option<String>)]
    pub last_error: Option<Kind>,
}

/// What this process has seen of each account.
#[derive(Default)]
pub(super) struct Observed(Mutex<HashMap<String, Account>>);

#[derive(Default)]
struct Account {
    outcomes: VecDeque<Option<Kind>>,
    seconds: VecDeque<f64>,
    last_error: Option<Kind>,
}

impl Observed {
    /// An attempt gave a picture after so long.
    pub fn succeeded(&self, provider: &str, took: Duration) {
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

    fn with(&self, provider: &str, change: impl FnOnce(&mut Account)) {
        change(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(provider.to_owned()).or_default());
    }
}

fn push<T>(recent: &mut VecDeque<T>, item: T) {
    if recent.len() == RECENT {
        recent.pop_front();
    }
    recent.push_back(item);
}

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
fn spread(span: Duration) -> Duration {
    span.mul_f64(0.8 + 0.4 * f64::from(u32::from_be_bytes(random_bytes())) / f64::from(u32::MAX))
}

pub(super) async fn view(engine: &Inner) -> Result<Vec<LaneView>, StoreError> {
    let (in_flight, queued) = (engine.store.in_flight().await?, engine.store.queued().await?);
    let observed = engine.observed.0.lock().unwrap_or_else(PoisonError::into_inner);
    let unseen = Account::default();
    let lanes = engine.lanes.iter().map(|(id, lane)| {
        let account = observed.get(id).unwrap_or(&unseen);
        let mut seconds: Vec<f64> = account.seconds.iter().copied().collect();
        seconds.sort_by(f64::total_cmp);
        let within = |percent: usize| {
            seconds.get((seconds.len() * percent / 100).min(seconds.len().saturating_sub(1))).copied()
        };
        let outcomes = &account.outcomes;
        let good = outcomes.iter().filter(|outcome| outcome.is_none()).count();
        let last: Vec<_> = outcomes.iter().rev().take(5).collect();
        let failing = last.len() == 5 && last.iter().all(|outcome| outcome.is_some_and(Kind::sick));
        #[expect(clippy::cast_precision_loss, reason = "at most a hundred")]
        let success_rate = (!outcomes.is_empty()).then(|| good as f64 / outcomes.len() as f64);
        LaneView {
            id: id.clone(),
            health: if failing { "failing" } else { "healthy" },
            in_flight: in_flight.get(id).copied().unwrap_or(0),
            in_flight_limit: lane.in_flight,
            queued: queued.get(id).copied().unwrap_or(0),
            success_rate,
            p50_s: within(50),
            p90_s: within(90),
            last_error: account.last_error,
        }
    });
    Ok(lanes.collect())
}
