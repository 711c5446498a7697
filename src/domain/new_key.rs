//! A key that is wanted, as an admin asks for it over HTTP or on the command line, and what is wrong with it.

use std::sync::Arc;

use serde::Deserialize;
use utoipa::ToSchema;

use super::clock::{Clock, Millis};
use super::key::{Key, Limits, ManagedKey, Role, plain_name};
use super::key_text::KeyText;
use super::money::Usd;
use super::validate::{FieldCode, FieldError};

/// A key that is wanted. What is left out does not limit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "web-shop", "tenant": "shop", "models": ["flux-schnell"], "rpm": 600, "concurrent_tasks": 20, "daily_budget_usd": "5"}))]
pub struct NewKey {
    /// Unique in the gateway, revoked keys included: tasks, the ledger and the audit know a key by it. 1 to 64 letters,
    /// digits and `._:@-`.
    #[schema(min_length = 1, max_length = 64, example = "web-shop")]
    pub name: String,
    /// Whose tasks it works on; `default` unless said otherwise.
    #[serde(default = "default_tenant")]
    #[schema(min_length = 1, max_length = 64, default = "default")]
    pub tenant: String,
    /// `user`: its tenant's tasks. `admin`: the gateway itself, too.
    #[serde(default)]
    pub role: Role,
    /// The models it may ask for, by the names callers use; a model's aliases and routes go with it. Empty: all.
    #[serde(default)]
    pub models: Vec<String>,
    /// Requests a minute, over all replicas.
    #[schema(minimum = 1)]
    pub rpm: Option<u32>,
    /// Tasks that are not over yet, over all replicas.
    #[schema(minimum = 1)]
    pub concurrent_tasks: Option<u32>,
    /// What may be spent on one day, UTC.
    pub daily_budget_usd: Option<Usd>,
    /// What may be spent at all.
    pub budget_usd: Option<Usd>,
    /// From when it opens nothing.
    pub expires_at: Option<Millis>,
}

fn default_tenant() -> String {
    "default".to_owned()
}

impl NewKey {
    /// Every fault but those that only a gateway's catalogue or store can tell.
    pub fn faults(&self, now: Millis) -> Vec<FieldError> {
        let names = [("/name", &self.name), ("/tenant", &self.tenant)];
        let mut faults: Vec<_> = names
            .into_iter()
            .filter(|(_, name)| !plain_name(name))
            .map(|(pointer, _)| {
                let detail = "must be 1 to 64 letters, digits and ._:@- and begin with a letter or a digit";
                FieldError::new(pointer, FieldCode::InvalidValue, detail)
            })
            .collect();
        if self.expires_at.is_some_and(|at| at <= now) {
            faults.push(FieldError::new("/expires_at", FieldCode::OutOfRange, "must lie ahead"));
        }
        faults.extend(self.limits().faults());
        faults
    }

    fn limits(&self) -> Limits {
        Limits {
            models: self.models.clone(),
            rpm: self.rpm,
            concurrent_tasks: self.concurrent_tasks,
            daily_budget: self.daily_budget_usd,
            budget: self.budget_usd,
            expires_at: self.expires_at,
        }
    }

    /// The key as it is kept, with a text of its own.
    pub fn mint(self, clock: &dyn Clock, pepper: &[u8]) -> (ManagedKey, KeyText) {
        let text = KeyText::fresh(clock);
        let limits = Arc::new(self.limits());
        let key = Key { name: self.name, tenant: self.tenant, role: self.role, limits };
        let (hash, created_at) = (text.hash(pepper), clock.now());
        let kept = ManagedKey {
            id: text.id,
            key,
            hash,
            previous: None,
            created_at,
            rotated_at: None,
            revoked_at: None,
        };
        (kept, text)
    }
}
