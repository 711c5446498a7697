//! Requests a minute of each key. A limit of the key's own holds over all replicas: a replica takes a twentieth of the key's
//! minute from the store at a time and spends it without asking, so such a key costs at most some twenty small writes a
//! minute and replica, and none once its minute is spent. The portions of one clock minute never add up to more than the
//! limit: what all replicas let through is exact from above; from below it can miss what the other replicas have taken and
//! not spent, a twentieth each. The usual limit (`auth.rpm`), of keys without one of their own, is there for what runs wild:
//! each replica counts it by itself, and the store is not asked. Around the turn of a minute a caller can make up to twice
//! its limit within 60 s. While the store does not answer nobody is refused: whatever costs money needs the store itself.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use axum::http::HeaderMap;
use axum::http::header::HeaderValue;
use tokio::sync::Mutex;

use super::keyring::REST;
use crate::domain::clock::Clock;
use crate::domain::key::Key;
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
    /// Which minute, of how many requests, and whether these are shared with other replicas.
    of: (i64, u32, bool),
    /// Taken and not spent.
    own: u32,
    /// Left for everybody when a portion was last taken.
    left: u32,
    spent: bool,
    /// When the store did not answer last.
    failed_at: Option<Instant>,
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
    pub async fn spend(&self, key: &Key, limit: u32) -> Allowance {
        let now = self.clock.now().0;
        let number = now.div_euclid(60_000);
        let resets_s = u32::try_from((60_000 - now.rem_euclid(60_000) + 999) / 1_000).unwrap_or(60);
        let shared = key.limits.rpm.is_some();
        let minute = self.minute(&key.name);
        let mut minute = minute.lock().await;
        if minute.of != (number, limit, shared) {
            let own = if shared { 0 } else { limit };
            let failed_at = minute.failed_at;
            *minute =
                Minute { of: (number, limit, shared), own, left: limit - own, spent: !shared, failed_at };
        }
        if minute.own == 0 && !minute.spent {
            self.take(&mut minute, &key.name).await;
        }
        let granted = minute.own > 0;
        minute.own = minute.own.saturating_sub(1);
        Allowance { limit, left: minute.own.saturating_add(minute.left), resets_s, granted }
    }

    /// Takes a portion. A store that does not answer is waited for by one request and then left alone for a moment: the
    /// key's others stand in line behind this one.
    async fn take(&self, minute: &mut Minute, key: &str) {
        let (number, limit, _) = minute.of;
        let portion = (limit / PORTIONS).max(1);
        if minute.failed_at.is_none_or(|at| at.elapsed() >= REST) {
            match self.store.take_requests(key, number, portion, limit).await {
                Ok((got, left)) => {
                    *minute = Minute { of: minute.of, own: got, left, spent: got == 0, failed_at: None };
                    return;
                }
                // The store tells of its failures itself.
                Err(error) => {
                    tracing::debug!(%error, key.name = key, "requests are not counted");
                    minute.failed_at = Some(Instant::now());
                }
            }
        }
        (minute.own, minute.left) = (portion, minute.left.saturating_sub(portion));
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
