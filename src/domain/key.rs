//! What opens the gateway: keys, what each may do and how much of it. Where keys are kept and asked for is the API's matter.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::audit::{Actor, Entry, Outcome};
use super::clock::{Clock, Millis};
use super::id::KeyId;
use super::money::Usd;
use super::validate::{FieldCode, FieldError};

/// What a key may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Its tenant's tasks.
    #[default]
    User,
    /// The gateway itself, too.
    Admin,
}

/// How much a key may do; what is not set is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// The models it may ask for, by the names callers use; empty: all.
    pub models: Vec<String>,
    /// Requests a minute.
    pub rpm: Option<u32>,
    /// Tasks that are not over yet.
    pub concurrent_tasks: Option<u32>,
    /// What may be spent on one day, UTC.
    pub daily_budget: Option<Usd>,
    /// What may be spent at all.
    pub budget: Option<Usd>,
    /// The moment from which it opens nothing.
    pub expires_at: Option<Millis>,
}

impl Limits {
    /// Whether money is counted: then a price that is not known is refused.
    pub fn budgeted(&self) -> bool {
        self.daily_budget.is_some() || self.budget.is_some()
    }

    /// Whether the key may ask for a model by any of these names it goes by.
    pub fn allows<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> bool {
        self.models.is_empty() || names.into_iter().any(|name| self.models.iter().any(|model| model == name))
    }

    /// Every limit that limits nothing sensible, with a pointer to it.
    pub fn faults(&self) -> Vec<FieldError> {
        let least = |pointer: &str, wrong: bool, detail: &str| {
            wrong.then(|| FieldError::new(pointer, FieldCode::OutOfRange, detail))
        };
        let short = |amount: Option<Usd>| amount.is_some_and(|amount| amount < Usd::ZERO);
        [
            least("/models", self.models.len() > MAX_MODELS, "at most 100 models"),
            least("/rpm", self.rpm == Some(0), "must be at least 1"),
            least("/concurrent_tasks", self.concurrent_tasks == Some(0), "must be at least 1"),
            least("/daily_budget_usd", short(self.daily_budget), "must not be negative"),
            least("/budget_usd", short(self.budget), "must not be negative"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The longest time a managed key's secret may open beside its successor, in seconds: 30 days.
pub const LONGEST_OVERLAP_S: u32 = 30 * 86_400;

/// The most models a key's list may name.
const MAX_MODELS: usize = 100;

/// Whether a text can be the name of a key or of a tenant: 1 to 64 of letters, digits and `._:@-`, a letter or digit first.
pub fn plain_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:@-".contains(&b))
}

/// A key the gateway manages itself, as it is kept: with HMACs of its secrets.
#[derive(Debug, Clone)]
pub struct ManagedKey {
    /// Its id, a part of the key's text.
    pub id: KeyId,
    /// What it opens.
    pub key: Key,
    /// HMAC-SHA-256 of the key's text under the pepper, in hex.
    pub hash: String,
    /// That of the text before the last rotation, and until when it opens.
    pub previous: Option<(String, Millis)>,
    /// When it was made.
    pub created_at: Millis,
    /// When it was last exchanged for a new text.
    pub rotated_at: Option<Millis>,
    /// Since when it opens nothing.
    pub revoked_at: Option<Millis>,
}

impl ManagedKey {
    /// For the audit: that `who` made it, and what it opens.
    pub fn created(&self, clock: &dyn Clock, who: Actor) -> Entry {
        Entry::new(clock, who, "key.create", self.id.to_string(), Outcome::Done)
            .with("name", self.key.name.as_str())
            .with("tenant", self.key.tenant.as_str())
            .with("role", serde_json::to_value(self.key.role).unwrap_or_default())
    }
}

/// A key, without its secret.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its name, unique in the gateway: what tasks, the ledger and the audit know it by.
    pub name: String,
    /// Whose tasks it works on.
    pub tenant: String,
    /// What it may do.
    pub role: Role,
    /// How much.
    pub limits: Arc<Limits>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["ci", "a", "team-1.render:prod@eu", &"x".repeat(64)] {
            assert!(plain_name(good), "{good}");
        }
        for bad in ["", "-ci", "a b", "ä", "a\n", "a/b", &"x".repeat(65)] {
            assert!(!plain_name(bad), "{bad}");
        }
    }

    #[test]
    fn limits_say_what_is_wrong_and_what_they_allow() {
        let limits = Limits {
            rpm: Some(0),
            concurrent_tasks: Some(0),
            budget: "-1".parse().ok(),
            models: vec!["flux-dev".into()],
            ..Limits::default()
        };
        let pointers: Vec<_> = limits.faults().into_iter().map(|fault| fault.pointer).collect();
        assert_eq!(pointers, ["/rpm", "/concurrent_tasks", "/budget_usd"]);
        assert!(limits.allows(["alias", "flux-dev"]) && !limits.allows(["flux-schnell"]));
        assert!(Limits::default().allows([]));
    }
}
