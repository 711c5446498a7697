//! What the audit remembers: who did what to the gateway, and who tried to. No entry holds a secret or a prompt.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::clock::{Clock, Millis};
use super::id::AuditId;

/// What came of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was not allowed, and nothing was done.
    Refused,
    /// It was allowed and did not succeed; nothing was done.
    Failed,
}

impl Outcome {
    /// Its name in rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The name of the key; `command-line` and `signal` for the operator at the machine itself.
    pub key: String,
    /// Its tenant.
    pub tenant: String,
}

impl Actor {
    /// The operator at the machine itself.
    pub fn operator(how: &str) -> Self {
        Self { key: how.to_owned(), tenant: String::new() }
    }
}

/// One entry.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Entry {
    /// Its id; entries sort by it.
    pub id: AuditId,
    /// When it happened.
    pub at: Millis,
    /// The name of the key that acted; `command-line` and `signal` for the operator at the machine itself.
    #[schema(example = "ops")]
    pub key: String,
    /// That key's tenant.
    #[schema(example = "default")]
    pub tenant: String,
    /// What was done: `key.create`, `key.rotate`, `key.revoke`, `config.reload`, `webhook.rotate`, `tenant.cross`, …
    #[schema(example = "key.create")]
    pub act: String,
    /// To what: an id, a name or a path.
    #[schema(example = "key_01k9zq5s4m8v2c6x0b3n7d1f5g")]
    pub subject: String,
    /// What came of it.
    pub outcome: Outcome,
    /// More about it, without secrets.
    #[schema(value_type = Object)]
    pub details: Map<String, Value>,
}

impl Entry {
    /// An entry of this moment.
    pub fn new(
        clock: &dyn Clock,
        who: Actor,
        act: &str,
        subject: impl Into<String>,
        outcome: Outcome,
    ) -> Self {
        Self {
            id: AuditId::mint(clock),
            at: clock.now(),
            key: who.key,
            tenant: who.tenant,
            act: act.to_owned(),
            subject: subject.into(),
            outcome,
            details: Map::new(),
        }
    }

    /// The entry with one detail more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}
