//! One `[providers.ID]` table.

use std::collections::BTreeMap;

use serde::Deserialize;
use url::Url;

use super::Secret;
use crate::domain::money::Usd;
use crate::providers::KINDS;

/// One provider account.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub struct Provider {
    pub kind: String,
    pub base_url: Option<String>,
    #[serde(default)]
    pub api_key: Secret,
    pub api_key_header: Option<String>,
    pub in_flight: Option<u32>,
    pub timeout_s: Option<u32>,
    pub poll_after_s: Option<f64>,
    pub poll_max_s: Option<f64>,
    pub reconcile_s: Option<u32>,
    pub dialect: Option<String>,
    pub max_answer_mib: Option<u32>,
    #[serde(default)]
    pub allow_http_results: bool,
    /// Dollars per picture by the provider's model name; wins over the catalogue.
    #[serde(default)]
    pub prices: BTreeMap<String, Usd>,
}

impl Provider {
    /// Reports every problem to `wrong`.
    pub(super) fn check(&self, id: &str, wrong: &mut impl FnMut(String)) {
        if !KINDS.iter().any(|kind| kind.name == self.kind) {
            let known: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
            wrong(format!(
                "providers.{id}.kind: {:?} is not known; expected one of {}",
                self.kind,
                known.join(", ")
            ));
        }
        if id.contains('/') || id.is_empty() {
            wrong(format!("providers.{id}: an id must not be empty or contain '/'"));
        }
        if let Some(base) = &self.base_url
            && !Url::parse(base).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        {
            wrong(format!("providers.{id}.base_url: {base:?} is not an http address"));
        }
        if self.max_answer_mib.is_some_and(|most| !(8..=16_384).contains(&most)) {
            wrong(format!("providers.{id}.max_answer_mib: must be from 8 to 16384"));
        }
        if self.in_flight == Some(0) {
            wrong(format!("providers.{id}.in_flight: must be at least 1"));
        }
        for (name, seconds) in [("poll_after_s", self.poll_after_s), ("poll_max_s", self.poll_max_s)] {
            if seconds.is_some_and(|seconds| !(0.05..=3600.0).contains(&seconds)) {
                wrong(format!("providers.{id}.{name}: must be from 0.05 to 3600"));
            }
        }
        if let Some(header) = &self.api_key_header
            && http::HeaderName::try_from(header.as_str()).is_err()
        {
            wrong(format!("providers.{id}.api_key_header: {header:?} is not a header name"));
        }
        if self.api_key.get().is_some_and(|key| http::HeaderValue::from_str(key).is_err()) {
            wrong(format!("providers.{id}.api_key: holds characters that no header can carry"));
        }
    }
}
