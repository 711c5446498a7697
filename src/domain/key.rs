//! What opens the gateway: keys, what each may do and how much of it. Where keys are kept and asked for is the API's matter.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::clock::Millis;
use super::money::Usd;

/// What a key may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
