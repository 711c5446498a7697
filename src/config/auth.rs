//! `[auth]`: who may come in.

use std::net::SocketAddr;

use serde::Deserialize;

use super::Secret;
use crate::domain::key::Role;
use crate::domain::money::Usd;

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub struct Auth {
    pub mode: AuthMode,
    pub allow_insecure: bool,
    #[serde(default)]
    pub pepper: Secret,
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
    pub daily_budget_usd: Option<Usd>,
    pub budget_usd: Option<Usd>,
}

fn default_tenant() -> String {
    "default".to_owned()
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
        for key in &self.keys {
            match key.key.get() {
                None => wrong(format!("auth.keys {:?}: the key is not set", key.name)),
                Some(text) if text.len() < 16 => {
                    wrong(format!("auth.keys {:?}: shorter than 16 characters", key.name));
                }
                Some(_) => {}
            }
        }
    }
}
