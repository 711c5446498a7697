//! Requests a minute of each key, over all replicas. A replica takes a twentieth of the key's minute from the store at a
//! time and spends it without asking, so a key costs at most some twenty small writes a minute and replica, and none once
//! its minute is spent. The portions of one clock minute never add up to more than the limit: what all replicas let through
//! is exact from above; from below it can miss what the other replicas have taken and not spent, a twentieth each. Around
//! the turn of a minute a caller can make up to twice its limit within 60 s. While the store does not answer nobody is
//! refused: whatever costs money needs the store itself.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use axum::http::HeaderMap;
use axum::http::header::HeaderValue;
use tokio::sync::Mutex;

use crate::domain::clock::Clock;
use crate::store::Store;

/// A key's minute is taken in so many portions.
const PORTIONS: u32 = 20;

/// What each key has left.
pub(super) struct Allowances {
    store: Store,
    clock: Arc<dyn Clock>,
    minutes: std::sync::Mutex<HashMap<String, Arc<Mutex<Minute>>>>,
}

/// A key's present minute, in this process.
#[derive(Default)]
struct Minute {
    number: i64,
    /// Taken and not spent.
    own: u32,
    /// Left for everybody when a portion was last taken.
    left: u32,
    spent: bool,
}

/// How a key stands after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    /// Requests a minute.
    pub limit: u32,
    /// Those that are left of this one, as far as this replica knows.
    pub left: u32,
    /// Seconds until the next.
    pub resets_s: u32,
    /// Whether this request is among them.
    pub granted: bool,
}

impl Allowances {
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, minutes: std::sync::Mutex::default() }
    }

    /// Counts a request of `key`, which may make `limit` a minute.
    pub async fn spend(&self, key: &str, limit: u32) -> Allowance {
        let now = self.clock.now().0;
        let number = now.div_euclid(60_000);
        let resets_s = u32::try_from((60_000 - now.rem_euclid(60_000) + 999) / 1_000).unwrap_or(60);
        let minute = self.minute(key);
        let mut minute = minute.lock().await;
        if minute.number != number {
            *minute = Minute { number, own: 0, left: limit, spent: false };
        }
        if minute.own == 0 && !minute.spent {
            let portion = (limit / PORTIONS).max(1);
            match self.store.take_requests(key, number, portion, limit).await {
                Ok((got, left)) => (minute.own, minute.left, minute.spent) = (got, left, got == 0),
                Err(error) => {
                    tracing::warn!(%error, key.name = key, "requests are not counted while the store does not answer");
                    return Allowance { limit, left: minute.left, resets_s, granted: true };
                }
            }
        }
        let granted = minute.own > 0;
        minute.own = minute.own.saturating_sub(1);
        Allowance { limit, left: minute.own.saturating_add(minute.left), resets_s, granted }
    }

    fn minute(&self, key: &str) -> Arc<Mutex<Minute>> {
        let mut minutes = self.minutes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(minute) = minutes.get(key) {
            return Arc::clone(minute);
        }
        Arc::clone(minutes.entry(key.to_owned()).or_default())
    }
}

impl Allowance {
    /// Tells the caller how it stands (draft-ietf-httpapi-ratelimit-headers).
    pub fn tell(self, headers: &mut HeaderMap) {
        let policy = format!("\"requests\";q={};w=60", self.limit);
        let now = format!("\"requests\";r={};t={}", self.left, self.resets_s);
        for (name, value) in [("ratelimit-policy", policy), ("ratelimit", now)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }
}
