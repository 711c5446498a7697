//! The keys that open the gateway: those of the configuration, found by their HMAC, and those the store manages, found by
//! the id in their text and compared in constant time. Managed keys are held in memory and trusted for a few seconds: at
//! most every other second one request asks the store whether any has changed, so that a key which was revoked anywhere
//! opens nothing after five, and no request pays for a query of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use super::allowance::Allowances;
use super::guesses::Guesses;
use super::problem::ApiError;
use super::tries::Tries;
use crate::domain::clock::{Clock, Millis};
use crate::domain::code::Code;
use crate::domain::id::KeyId;
use crate::domain::key::{Key, Limits, ManagedKey, Role};
use crate::domain::key_text;
use crate::domain::secret::{hmac_sha256, same};
use crate::store::{Store, StoreError};

/// The store is asked this often whether a key has changed.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What was read so long ago is not trusted any more.
const TRUST_FOR: Duration = Duration::from_secs(4);
/// A store that did not answer is left alone for so long.
pub(super) const REST: Duration = Duration::from_secs(1);

/// The door's keeper.
#[derive(Clone)]
pub struct Keys {
    pub(super) ring: Arc<Ring>,
}

/// What the keeper knows and counts.
pub(super) struct Ring {
    pepper: Vec<u8>,
    configured: ArcSwap<Configured>,
    managed: ArcSwap<Managed>,
    /// Whoever reads the keys; and when that failed last.
    reading: Mutex<Option<Instant>>,
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub allowances: Allowances,
    pub guesses: Guesses,
    pub tries: Tries,
}

/// What the configuration says of keys.
#[derive(Default)]
struct Configured {
    /// By HMAC. `None`: nobody is asked for a key.
    by_hash: Option<HashMap<[u8; 32], Key>>,
    rpm: u32,
}

#[derive(Default)]
struct Managed {
    changes: i64,
    asked_at: Option<Instant>,
    keys: Arc<HashMap<KeyId, ManagedKey>>,
}

impl Managed {
    fn younger_than(&self, age: Duration) -> bool {
        self.asked_at.is_some_and(|at| at.elapsed() < age)
    }
}

/// What a text opens.
pub(super) enum Found {
    /// This, and it may make so many requests a minute; `None`: nobody is asked for a key.
    Key(Key, Option<u32>),
    /// Nothing: it is no key of ours.
    Wrong(Option<KeyId>),
    /// Nothing any more.
    Over(&'static str),
}

impl Keys {
    /// Knows no key yet: neither those of the configuration nor the store's.
    pub fn open(pepper: &[u8], store: Store, clock: Arc<dyn Clock>) -> Self {
        let ring = Ring {
            pepper: pepper.to_vec(),
            configured: ArcSwap::default(),
            managed: ArcSwap::default(),
            reading: Mutex::default(),
            allowances: Allowances::new(store.clone(), Arc::clone(&clock)),
            guesses: Guesses::new(Arc::clone(&clock)),
            tries: Tries::start(store.clone(), Arc::clone(&clock)),
            store,
            clock,
        };
        Self { ring: Arc::new(ring) }
    }

    /// From now on asks everybody for a key: one of these, or one of the store's. A key that does not say otherwise may
    /// make `rpm` requests a minute.
    pub fn configure(&self, keys: impl IntoIterator<Item = (String, Key)>, rpm: u32) {
        let hashed = |(text, key): (String, Key)| (hmac_sha256(&self.ring.pepper, text.as_bytes()), key);
        let by_hash = Some(keys.into_iter().map(hashed).collect());
        self.ring.configured.store(Arc::new(Configured { by_hash, rpm }));
    }

    /// The keys of the configuration, by name.
    pub(super) fn configured(&self) -> Vec<Key> {
        let configured = self.ring.configured.load();
        let mut keys: Vec<_> = configured.by_hash.iter().flat_map(HashMap::values).cloned().collect();
        keys.sort_by(|one, other| one.name.cmp(&other.name));
        keys
    }

    /// What is kept of a managed key's text.
    pub(super) fn pepper(&self) -> &[u8] {
        &self.ring.pepper
    }

    /// Reads the managed keys again: this process has changed one.
    pub(super) async fn changed(&self) {
        let _turn = self.ring.reading.lock().await;
        if let Err(error) = self.ring.read().await {
            tracing::warn!(%error, "cannot read the keys again; the next look finds the change");
        }
    }

    /// Writes down what is still to be written.
    pub async fn close(&self) {
        self.ring.tries.close().await;
    }

    /// What a text opens at this moment.
    pub(super) async fn find(&self, text: &str) -> Result<Found, ApiError> {
        let configured = self.ring.configured.load_full();
        let usual = configured.rpm;
        let hash = hmac_sha256(&self.ring.pepper, text.as_bytes());
        if let Some(key) = configured.by_hash.as_ref().and_then(|known| known.get(&hash)) {
            return Ok(self.ring.unexpired(key, usual));
        }
        let Some(id) = key_text::id_of(text) else { return Ok(Found::Wrong(None)) };
        let managed = self.ring.managed().await?;
        let hash = key_text::hash(&self.ring.pepper, text);
        let now = self.ring.clock.now();
        let Some(known) = managed.keys.get(&id) else { return Ok(Found::Wrong(Some(id))) };
        let matches = |kept: &str| same(kept.as_bytes(), hash.as_bytes());
        let before = known.previous.as_ref().is_some_and(|(kept, until)| matches(kept) && now < *until);
        Ok(match known.revoked_at {
            _ if !matches(&known.hash) && !before => Found::Wrong(Some(id)),
            Some(_) => Found::Over("this key is revoked"),
            None => self.ring.unexpired(&known.key, usual),
        })
    }

    /// Who comes in where nobody is asked for a key.
    pub(super) fn anybody(&self) -> Option<Key> {
        self.ring.configured.load().by_hash.is_none().then(|| Key {
            name: "anonymous".into(),
            tenant: "default".into(),
            role: Role::Admin,
            limits: Arc::new(Limits::default()),
        })
    }
}

impl Ring {
    fn unexpired(&self, key: &Key, usual: u32) -> Found {
        let over = |at: Millis| self.clock.now() >= at;
        if key.limits.expires_at.is_some_and(over) {
            return Found::Over("this key has expired");
        }
        Found::Key(key.clone(), Some(key.limits.rpm.unwrap_or(usual)))
    }

    /// The managed keys, as they were a moment ago.
    async fn managed(&self) -> Result<Arc<Managed>, ApiError> {
        let known = self.managed.load_full();
        if known.younger_than(LOOK_EVERY) {
            return Ok(known);
        }
        let mut failed = if known.younger_than(TRUST_FOR) {
            // Somebody is looking already, and what is known is good enough meanwhile.
            let Ok(turn) = self.reading.try_lock() else { return Ok(known) };
            turn
        } else {
            self.reading.lock().await
        };
        let known = self.managed.load_full();
        if known.younger_than(LOOK_EVERY) {
            return Ok(known);
        }
        let away =
            || ApiError::new(Code::StoreUnavailable, "the database did not answer, and keys are kept there");
        if failed.is_some_and(|at| at.elapsed() < REST) {
            return if known.younger_than(TRUST_FOR) { Ok(known) } else { Err(away()) };
        }
        match self.read().await {
            Ok(read) => Ok(read),
            Err(error) => {
                tracing::error!(%error, "the keys cannot be read");
                *failed = Some(Instant::now());
                if known.younger_than(TRUST_FOR) { Ok(known) } else { Err(away()) }
            }
        }
    }

    /// Reads the keys, if they have changed. The counter first: a change in between is read twice rather than missed.
    async fn read(&self) -> Result<Arc<Managed>, StoreError> {
        let known = self.managed.load_full();
        let asked_at = Some(Instant::now());
        let changes = self.store.key_changes().await?;
        let keys = if known.asked_at.is_some() && changes == known.changes {
            Arc::clone(&known.keys)
        } else {
            Arc::new(self.store.keys().await?.into_iter().map(|key| (key.id, key)).collect())
        };
        let read = Arc::new(Managed { changes, asked_at, keys });
        self.managed.store(Arc::clone(&read));
        Ok(read)
    }
}
