//! How many tasks are open, by tenant and in all: the bounds of the queue. Counted in this process and set right from the
//! store now and then, so that no accept pays for a count; over several replicas the bounds hold to within a few seconds.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::accept::Refusal;
use super::pace::spread;
use super::route::Plan;
use super::{Inner, accept};
use crate::domain::clock::Millis;
use crate::store::StoreError;

/// The count is set right this often.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// Retry-After is never longer…
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// Nine of ten are taken to be done after this time before any was seen…
const LONGEST_UNSEEN_S: f64 = 30.0;
/// …and no job of which nothing is heard is thought to run shorter…
const LONGEST_LEAST: Duration = Duration::from_secs(30);
/// …or longer than this.
const LONGEST_MOST: Duration = Duration::from_mins(5);
/// What a task is taken to need before any was seen.
const USUAL_S: f64 = 5.0;

/// Open tasks.
#[derive(Default)]
pub(super) struct Crowd(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    by_tenant: HashMap<String, i64>,
    in_all: i64,
    counted_at: Option<Millis>,
}

impl Crowd {
    /// A task of this tenant was taken in.
    pub fn entered(&self, tenant: &str) {
        let mut counts = self.lock();
        *counts.by_tenant.entry(tenant.to_owned()).or_default() += 1;
        counts.in_all += 1;
    }

    /// A task of this tenant has ended.
    pub fn left(&self, tenant: &str) {
        let mut counts = self.lock();
        counts.in_all = (counts.in_all - 1).max(0);
        if let Some(count) = counts.by_tenant.get_mut(tenant) {
            *count -= 1;
            if *count <= 0 {
                counts.by_tenant.remove(tenant);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Counts anew when the last count is old.
    pub(super) async fn count_crowd(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        if self.crowd.lock().counted_at.is_some_and(|at| now.since(at) < COUNT_EVERY) {
            return Ok(());
        }
        let by_tenant = self.store.open_tasks().await?;
        let mut counts = self.crowd.lock();
        counts.in_all = by_tenant.values().sum();
        counts.by_tenant = by_tenant;
        counts.counted_at = Some(now);
        Ok(())
    }

    /// Why a new task cannot be taken in, when it cannot.
    pub(super) fn no_room(&self, key: &accept::Origin, plan: &Plan) -> Option<Refusal> {
        if let Some(tight) = self.tight() {
            return Some(tight);
        }
        let now = self.clock.now();
        let opens = plan.planned.iter().map(|one| one.standing.open_until);
        if let Some(first) = opens.collect::<Option<Vec<_>>>().and_then(|opens| opens.into_iter().min()) {
            return Some(Refusal::AllOpen(first.since(now)));
        }
        let counts = self.crowd.lock();
        let own = counts.by_tenant.get(&key.caller.tenant).copied().unwrap_or(0);
        let (most, whose) = if own >= i64::from(self.settings.open_per_tenant) {
            (self.settings.open_per_tenant, "of this tenant ")
        } else if counts.in_all >= i64::from(self.settings.open_in_all) {
            (self.settings.open_in_all, "")
        } else {
            return None;
        };
        drop(counts);
        let lane = plan.planned.first().map(|one| one.taken.provider.as_str()).unwrap_or_default();
        let detail = format!("{most} tasks {whose}have not ended yet, and no more are taken in");
        Some(Refusal::Full(detail, spread(self.turn(lane, 1).min(LONGEST_WAIT))))
    }

    /// How long the task at this place in a lane's line waits for its turn, as far as can be told.
    pub(super) fn turn(&self, lane: &str, place: i64) -> Duration {
        let now = self.clock.now();
        let limit = self.lane(lane).map_or(1, |one| self.known.state(lane).limit(one.in_flight, now));
        #[expect(clippy::cast_precision_loss, reason = "ten thousand at most")]
        let rounds = place as f64 / f64::from(limit);
        self.usual(lane).mul_f64(rounds)
    }

    /// How long a job can run at a provider of which nothing is heard: twice as long as nine of ten did.
    pub(super) fn longest(&self, lane: &str) -> Duration {
        let usual = self.observed.record(lane).p90.unwrap_or(LONGEST_UNSEEN_S);
        Duration::from_secs_f64(usual * 2.0).clamp(LONGEST_LEAST, LONGEST_MOST)
    }

    /// How long a task usually takes at a provider.
    pub(super) fn usual(&self, lane: &str) -> Duration {
        Duration::from_secs_f64(self.observed.record(lane).p50.unwrap_or(USUAL_S).clamp(0.1, 3_600.0))
    }
}

/// What a caller is told whose task the store did not take in: its key may not have more than `most` open.
pub(super) fn no_place(error: StoreError, most: Option<u32>) -> Refusal {
    match (error, most) {
        (StoreError::Full, Some(most)) => {
            let detail = format!("{most} tasks of this key have not ended yet, and it may have no more");
            Refusal::Full(detail, spread(Duration::from_secs_f64(USUAL_S)))
        }
        (error, _) => error.into(),
    }
}
