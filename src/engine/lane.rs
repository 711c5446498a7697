//! Provider accounts as the engine treats them: which may be sent to just now, what an outcome does to them, and how they
//! are shown. The rules are the domain's, the state is the store's; a copy of it is kept here for routing.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::Inner;
use super::pace::backoff;
use super::route::Standing;
use crate::domain::audit::{self, Actor, Entry};
use crate::domain::clock::Millis;
use crate::domain::lane::{Admission, LaneState, Outcome};
use crate::providers::{Kind, ProviderError};
use crate::store::StoreError;

/// An account that blocks us at its front door is left alone for so long.
const BLOCKED_FOR: Duration = Duration::from_mins(1);
/// A task waits for an account that rests for no longer than this; otherwise it takes another route.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How a provider account is doing.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LaneView {
    /// Provider id.
    #[schema(example = "piapi_flux")]
    pub id: String,
    /// `healthy`; `paused` while the provider asked to be left alone; `open` while failures keep tasks away from a model or
    /// from the account; `probing` while one task finds out whether it is well again.
    pub health: &'static str,
    /// Until when it is paused or open.
    pub until: Option<Millis>,
    /// Tasks at the provider, over all replicas.
    pub in_flight: i64,
    /// How many may be at present: the configured number, or fewer after the provider complained.
    pub in_flight_limit: u32,
    /// Tasks waiting for it.
    pub queued: i64,
    /// Share of this process's recent attempts that gave a picture, 0 to 1; `null` before the first.
    pub success_rate: Option<f64>,
    /// Median seconds from submission to the provider's done.
    pub p50_s: Option<f64>,
    /// The time within which nine of ten are done.
    pub p90_s: Option<f64>,
    /// The last trouble.
    #[schema(value_type = Option<String>)]
    pub last_error: Option<Kind>,
}

/// The accounts' state as last read or written.
#[derive(Default)]
pub(super) struct Known(Mutex<BTreeMap<String, LaneState>>);

impl Known {
    fn with<T>(&self, look: impl FnOnce(&mut BTreeMap<String, LaneState>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The state of one account.
    pub fn state(&self, lane: &str) -> LaneState {
        self.with(|known| known.get(lane).cloned().unwrap_or_default())
    }
}

/// Whether a task can go by a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It can.
    Open,
    /// Soon: worth waiting for.
    Soon(Millis),
    /// Not before this moment: another route is better.
    Closed(Millis),
}

impl Inner {
    /// Reads the accounts' state again.
    pub(super) async fn look_at_lanes(&self) -> Result<(), StoreError> {
        let read = self.store.lanes().await?;
        self.known.with(|known| *known = read);
        Ok(())
    }

    /// Whether a task for `model` can go by `lane`.
    pub(super) fn way(&self, lane: &str, model: &str, now: Millis) -> Way {
        let state = self.known.state(lane);
        match state.admit(model, now) {
            Admission::Free | Admission::Probe => Way::Open,
            Admission::Closed(until) => {
                let rests = state.paused_until(now).is_some();
                if rests && until.since(now) <= PATIENCE { Way::Soon(until) } else { Way::Closed(until) }
            }
        }
    }

    /// How a route's account stands, for planning.
    pub(super) fn standing(&self, lane: &str, model: &str, now: Millis) -> Standing {
        let state = self.known.state(lane);
        let (health, open_until) = match state.admit(model, now) {
            Admission::Free => ("healthy", None),
            Admission::Probe => ("probing", None),
            Admission::Closed(_) if state.paused_until(now).is_some() => ("paused", None),
            Admission::Closed(_) => match state.shut(model, now) {
                Some(until) => ("circuit open", Some(until)),
                None => ("probing", None),
            },
        };
        Standing { health, open_until, p50: self.observed.record(lane).p50 }
    }

    /// How many more tasks each account may take up, counted only when a task is `queued` that could be. Reads the accounts'
    /// state again either way.
    pub(super) async fn open_lanes(&self, queued: bool) -> Result<BTreeMap<String, usize>, StoreError> {
        // What may not be sent is not taken up: on a full disk, taking it up to put it back would be two writes each time.
        if self.settings.hold_submissions || self.tight().is_some() {
            return Ok(BTreeMap::new());
        }
        self.look_at_lanes().await?;
        if !queued {
            return Ok(BTreeMap::new());
        }
        // In this order: a task that is being sent meanwhile is counted twice rather than not at all.
        let starting = self.starting();
        let in_flight = self.store.in_flight().await?;
        let now = self.clock.now();
        let offered = self.offered.load();
        let room = offered.lanes.iter().map(|(id, lane)| {
            let state = self.known.state(id);
            let limit = state.limit(lane.in_flight, now) as usize;
            let used = usize::try_from(in_flight.get(id).copied().unwrap_or(0)).unwrap_or(0)
                + starting.get(id).copied().unwrap_or(0);
            let room = match state.admit("", now) {
                Admission::Closed(_) if state.probing(now) => 0,
                // Taken up to be sent elsewhere, or to be put to sleep until the account opens.
                Admission::Closed(_) => limit,
                Admission::Free | Admission::Probe => limit.saturating_sub(used),
            };
            (id.clone(), room)
        });
        Ok(room.filter(|(_, room)| *room > 0).collect())
    }

    /// Takes note of what became of an attempt.
    pub(super) async fn note(&self, lane: &str, model: &str, outcome: Outcome) {
        if matches!(outcome, Outcome::Neutral | Outcome::Good | Outcome::Accepted)
            && self.known.state(lane).is_well()
        {
            return;
        }
        let (now, model) = (self.clock.now(), model.to_owned());
        let configured = self.lane(lane).map_or(1, |lane| lane.in_flight);
        let before = self.known.state(lane);
        let noted =
            self.store.note_lane(lane, move |state| state.note(&model, outcome, configured, now)).await;
        match noted {
            Ok(state) => {
                let words = (before.word(now), state.word(now));
                if words.0 != words.1 {
                    tracing::warn!(
                        provider.id = lane,
                        was = words.0,
                        is = words.1,
                        "a provider account changed its health"
                    );
                }
                self.known.with(|known| known.insert(lane.to_owned(), state));
            }
            Err(error) => tracing::error!(provider.id = lane, %error, "cannot note an outcome"),
        }
    }

    /// Forgets what is held against an account. `false` when there is no such account.
    pub(super) async fn reset_lane(&self, id: &str, who: Actor) -> Result<bool, StoreError> {
        if self.lane(id).is_none() {
            return Ok(false);
        }
        let entry = Entry::new(self.clock.as_ref(), who, "provider.reset", id, audit::Outcome::Done).with(
            "was",
            self.store.lanes().await?.get(id).map_or("healthy", |state| state.word(self.clock.now())),
        );
        self.store.reset_lane(id, entry).await?;
        self.look_at_lanes().await?;
        Ok(true)
    }

    /// How every provider account is doing.
    pub(super) async fn view_lanes(&self) -> Result<Vec<LaneView>, StoreError> {
        let (in_flight, queued) = (self.store.in_flight().await?, self.store.queued().await?);
        self.look_at_lanes().await?;
        let now = self.clock.now();
        let offered = self.offered.load();
        let lanes = offered.lanes.iter().map(|(id, lane)| {
            let (state, record) = (self.known.state(id), self.observed.record(id));
            LaneView {
                id: id.clone(),
                health: state.word(now),
                until: state.open_until(now).or(state.paused_until(now)),
                in_flight: in_flight.get(id).copied().unwrap_or(0),
                in_flight_limit: state.limit(lane.in_flight, now),
                queued: queued.get(id).copied().unwrap_or(0),
                success_rate: record.success_rate,
                p50_s: record.p50,
                p90_s: record.p90,
                last_error: record.last_error,
            }
        });
        Ok(lanes.collect())
    }
}

/// What a failure says about the account, and how long the account is to be left alone.
pub(super) fn outcome(error: &ProviderError, sends: u32) -> (Outcome, Duration) {
    let rest = |least: Duration| {
        error.retry_after.unwrap_or_else(|| backoff(least, sends.saturating_sub(1), Duration::from_secs(30)))
    };
    match error.kind {
        // Who presents a wrong certificate is somebody else until one task has found otherwise.
        Kind::Auth | Kind::Quota | Kind::Certificate => (Outcome::Refused, Duration::ZERO),
        Kind::RateLimited | Kind::PlanLimit => {
            let rest = rest(Duration::from_secs(1));
            (Outcome::Crowded(error.words.message.as_deref().and_then(named_limit), rest), rest)
        }
        Kind::Blocked => (Outcome::Pause(BLOCKED_FOR), BLOCKED_FOR),
        Kind::Overloaded if error.retry_after.is_some() => {
            let rest = rest(Duration::ZERO);
            (Outcome::Pause(rest), rest)
        }
        Kind::Failed => (Outcome::Poor, rest(Duration::from_millis(500))),
        kind => {
            (if kind.sick() { Outcome::Sick } else { Outcome::Neutral }, rest(Duration::from_millis(500)))
        }
    }
}

/// The limit a provider names: `active task count 3 has reached the plan limit`.
fn named_limit(message: &str) -> Option<u32> {
    let (_, rest) = message.split_once("active task count ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::named_limit;

    #[test]
    fn a_limit_is_read_where_one_is_named() {
        assert_eq!(named_limit("your active task count 3 has reached the plan limit"), Some(3));
        assert_eq!(named_limit("too many requests"), None);
        assert_eq!(named_limit("active task count many"), None);
    }
}
