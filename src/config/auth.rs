//! `[auth]`: who may come in, and how much each key may do.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Deserialize;

use super::Secret;
use crate::domain::clock::Millis;
use crate::domain::key::{Key, LONGEST_OVERLAP_S, Limits, Role};
use crate::domain::money::Usd;

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub struct Auth {
    pub mode: AuthMode,
    pub allow_insecure: bool,
    #[serde(default)]
    pub pepper: Secret,
    pub rpm: u32,
    pub rotate_overlap_s: u32,
    #[serde(default)]
    pub keys: Vec<StaticKey>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub enum AuthMode {
    Keys,
    None,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub struct StaticKey {
    pub name: String,
    #[serde(default = "default_tenant")]
    pub tenant: String,
    pub key: Secret,
    #[serde(default)]
    pub role: Role,
    #[serde(default)]
    pub models: Vec<String>,
    pub rpm: Option<u32>,
    pub concurrent_tasks: Option<u32>,
    pub daily_budget_usd: Option<Usd>,
    pub budget_usd: Option<Usd>,
    pub expires_at: Option<Millis>,
}

fn default_tenant() -> String {
    "default".to_owned()
}

impl StaticKey {
    /// What the key opens, and how much of it.
    pub fn key(&self) -> Key {
        let limits = Limits {
            models: self.models.clone(),
            rpm: self.rpm,
            concurrent_tasks: self.concurrent_tasks,
            daily_budget: self.daily_budget_usd,
            budget: self.budget_usd,
            expires_at: self.expires_at,
        };
        Key {
            name: self.name.clone(),
            tenant: self.tenant.clone(),
            role: self.role,
            limits: Arc::new(limits),
        }
    }
}

impl Auth {
    pub(super) fn resolve(&mut self, resolve: &mut impl FnMut(String, &mut Secret)) {
        resolve("auth.pepper".into(), &mut self.pepper);
        for key in &mut self.keys {
            resolve(format!("auth.keys {:?}", key.name), &mut key.key);
        }
    }

    pub(super) fn check(&self, listen: SocketAddr, wrong: &mut impl FnMut(String)) {
        let reachable = !listen.ip().is_loopback();
        if self.mode == AuthMode::None && reachable && !self.allow_insecure {
            wrong(format!(
                "auth.mode: \"none\" on {listen} would let everybody in; set auth.allow_insecure = true if that is meant",
            ));
        }
        if self.rpm == 0 {
            wrong("auth.rpm: must be at least 1".into());
        }
        if self.rotate_overlap_s > LONGEST_OVERLAP_S {
            wrong(format!("auth.rotate_overlap_s: must be from 0 to {LONGEST_OVERLAP_S}"));
        }
        let (mut names, mut texts) = (HashSet::new(), HashSet::new());
        for key in &self.keys {
            let name = &key.name;
            match key.key.get() {
                None => wrong(format!("auth.keys {name:?}: the key is not set")),
                Some(text) if text.len() < 16 => {
                    wrong(format!("auth.keys {name:?}: shorter than 16 characters"));
                }
                Some(text) if !texts.insert(text) => {
                    wrong(format!("auth.keys {name:?}: another entry has the same key"));
                }
                Some(_) => {}
            }
            if !names.insert(name) {
                wrong(format!("auth.keys {name:?}: another entry has the same name"));
            }
            for fault in key.key().limits.faults() {
                wrong(format!("auth.keys {name:?}{}: {}", fault.pointer.replace('/', "."), fault.detail));
            }
        }
    }
}
