//! The configuration: defaults ← file ← environment, checked as a whole so that one start tells every problem. The only
//! room that reads the environment.

mod audit;
mod auth;
mod blobs;
mod disks;
mod layers;
mod metrics;
mod origin;
#[cfg(test)]
mod page;
mod provider;
mod retention;
mod secret;
mod server;
mod traces;
mod webhooks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

pub use audit::Audit;
pub use auth::{Auth, AuthMode, StaticKey};
pub use blobs::Blobs;
pub use metrics::Metrics;
pub use origin::Origin;
pub use provider::Provider;
pub use retention::Retention;
pub use secret::Secret;
pub use server::Server;
pub use traces::Traces;
pub use webhooks::Webhooks;

use crate::domain::request::GenerateRequest;

/// The documented defaults, compiled in.
pub const DEFAULTS: &str = include_str!("../../config.example.toml");

/// Everything that can be configured.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub struct Config {
    pub server: Server,
    pub auth: Auth,
    pub audit: Audit,
    pub store: Store,
    pub blobs: Blobs,
    pub retention: Retention,
    pub net: Net,
    pub engine: Engine,
    pub webhooks: Webhooks,
    pub routing: Routing,
    pub log: Log,
    pub metrics: Metrics,
    pub traces: Traces,
    #[serde(default)]
    pub models: BTreeMap<String, Map<String, Value>>,
    #[serde(default)]
    pub providers: IndexMap<String, Provider>,
    #[serde(skip)]
    pub origin: Origin,
}

#[derive(Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub struct Store {
    pub url: String,
}

impl std::fmt::Debug for Store {
    /// An address with a password in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub struct Net {
    pub allow_private: Vec<IpNet>,
    pub allow_http: bool,
    pub extra_ca_file: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub struct Engine {
    pub hold_submissions: bool,
    pub lease_s: u32,
    pub drain_s: u32,
    pub deadline_s: u32,
    pub concurrency: usize,
    pub open_per_tenant: u32,
    pub open_in_all: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub struct Routing {
    pub default_models: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub enum LogFormat {
    Text,
    Json,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {} problem(s):\n{}", .0.len(), .0.iter().map(|one| format!("  - {one}")).collect::<Vec<_>>().join("\n"))]
pub struct Problems(pub Vec<String>);

impl Config {
    /// Reads defaults, file and environment; every problem at once.
    pub fn load(file: Option<&Path>, environment: &BTreeMap<String, String>) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let document = layers::merge(DEFAULTS, file, environment, &mut problems);
        let origin = Origin::of(file, environment, &document);
        let config: Option<Self> = layers::read(document, DEFAULTS, &mut problems);
        let Some(mut config) = config else { return Err(Problems(problems)) };
        config.origin = origin;
        config.resolve(environment, &mut problems);
        config.check(&mut problems);
        if problems.is_empty() { Ok(config) } else { Err(Problems(problems)) }
    }

    /// Providers that have a key, in the order they are tried.
    pub fn active_providers(&self) -> impl Iterator<Item = (&String, &Provider)> {
        self.providers.iter().filter(|(_, provider)| provider.api_key.get().is_some())
    }

    fn resolve(&mut self, environment: &BTreeMap<String, String>, problems: &mut Vec<String>) {
        let mut resolve = |name: String, secret: &mut Secret| {
            if let Err(problem) = secret.resolve(environment) {
                problems.push(format!("{name}: {problem}"));
            }
            self.origin.note_secret(name, secret.get().unwrap_or_default());
        };
        self.auth.resolve(&mut resolve);
        self.blobs.resolve(&mut resolve);
        resolve("traces.endpoint".to_owned(), &mut self.traces.endpoint);
        for (id, provider) in &mut self.providers {
            resolve(format!("providers.{id}.api_key"), &mut provider.api_key);
        }
    }

    fn check(&self, problems: &mut Vec<String>) {
        let mut wrong = |problem: String| problems.push(problem);
        self.server.check(&mut wrong);
        self.blobs.check(&mut wrong);
        self.metrics.check(self.server.listen, &mut wrong);
        self.traces.check(&mut wrong);
        self.retention.check(&mut wrong);
        self.auth.check(self.server.listen, &mut wrong);
        let lengths = [
            ("engine.lease_s", u64::from(self.engine.lease_s), 5),
            ("engine.deadline_s", u64::from(self.engine.deadline_s), 1),
            ("engine.concurrency", self.engine.concurrency as u64, 1),
            ("engine.open_per_tenant", u64::from(self.engine.open_per_tenant), 1),
            ("engine.open_in_all", u64::from(self.engine.open_in_all), 1),
        ];
        for (name, value, least) in lengths {
            if value < least {
                wrong(format!("{name}: must be at least {least}"));
            }
        }
        if !["sqlite:", "postgres://", "postgresql://"].iter().any(|kind| self.store.url.starts_with(kind)) {
            wrong("store.url: must begin with sqlite:// or postgres://".to_owned());
        }
        self.webhooks.check(&mut wrong);
        self.audit.check(&mut wrong);
        for (id, provider) in &self.providers {
            provider.check(id, &mut wrong);
        }
        if self.active_providers().next().is_none() {
            let unset: Vec<String> =
                self.providers.iter().map(|(id, one)| format!("{id} ({})", one.api_key.origin())).collect();
            wrong(format!(
                "providers: none is on, because none has an api_key; set one of: {}",
                unset.join(", ")
            ));
        }
        for (name, fields) in &self.models {
            check_alias(name, fields, &mut wrong);
        }
    }
}

/// An alias must name a model, and its other fields must be a request's.
fn check_alias(name: &str, fields: &Map<String, Value>, wrong: &mut impl FnMut(String)) {
    if !fields.get("model").is_some_and(Value::is_string) {
        wrong(format!("models.{name}.model: must name the model it stands for"));
        return;
    }
    let mut request = fields.clone();
    request.insert("prompt".into(), "x".into());
    match serde_json::from_value::<GenerateRequest>(request.into()) {
        Ok(request) => {
            for fault in request.validate() {
                wrong(format!("models.{name}{}: {}", fault.pointer.replace('/', "."), fault.detail));
            }
        }
        Err(error) => wrong(format!("models.{name}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::KINDS;

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("easel.toml");
        std::fs::write(&file, text).unwrap();
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::load(Some(&file), &environment).map_err(|problems| problems.0)
    }

    const KEY: (&str, &str) = ("PIAPI_API_KEY", "secret-key");

    #[test]
    fn the_example_is_the_default_and_every_kind_has_a_block_in_it() {
        let config = Config::load(None, &[(KEY.0.to_owned(), KEY.1.to_owned())].into()).unwrap();
        assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
        // The scripted one is compiled for tests alone.
        for kind in KINDS.iter().filter(|kind| kind.name != "scripted") {
            assert!(config.providers.values().any(|provider| provider.kind == kind.name), "{}", kind.name);
        }
        let on: Vec<_> = config.active_providers().map(|(id, _)| id.as_str()).collect();
        assert_eq!(on, ["piapi_flux", "gpt_4o_image", "gpt_image"]);
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
        let config = load(
            "[server]\nlisten = '127.0.0.1:1'\n[engine]\nlease_s = 60",
            &[KEY, ("EASEL__SERVER__LISTEN", "127.0.0.1:2"), ("EASEL__ENGINE__HOLD_SUBMISSIONS", "true")],
        )
        .unwrap();
        assert_eq!(config.server.listen.port(), 2);
        assert_eq!((config.engine.lease_s, config.engine.hold_submissions), (60, true));
    }

    #[test]
    fn every_problem_is_listed_at_once() {
        let problems = load(
            "[server]\nlisten = 'nowhere'\npublic_url = 'ftp://x'\nport = 1\n[engine]\nlease_s = 'long'\nconcurrency = 0\n\
             [auth]\nrotate_overlap_s = 2592001\n[nonsense]\na = 1\n[providers.x]\nkind = 'y'\napi_key = 'k'\nin_flight = 0\n[models.z]\nsteps = 3\n\
             [store]\nurl = 'mysql://x'",
            &[],
        )
        .unwrap_err();
        for expected in [
            "server.listen",
            "server.public_url",
            "server.port: unknown key",
            "engine.lease_s",
            "engine.concurrency",
            "auth.rotate_overlap_s",
            "store.url",
            "nonsense: unknown key",
            "providers.x.kind",
            "providers.x.in_flight",
            "models.z.model",
        ] {
            assert!(
                problems.iter().any(|problem| problem.starts_with(expected)),
                "{expected}: {problems:#?}"
            );
        }
        assert_eq!(problems.len(), 11, "{problems:#?}");
    }

    #[test]
    fn no_provider_on_is_a_problem_that_says_what_to_set() {
        let problems = load("", &[]).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("PIAPI_API_KEY"), "{}", problems[0]);
    }

    #[test]
    fn an_open_door_must_be_meant() {
        let open = "[auth]\nmode = 'none'\n[server]\nlisten = '0.0.0.0:80'";
        assert!(load(open, &[KEY]).unwrap_err()[0].starts_with("auth.mode"));
        let meant = open.replace("[auth]", "[auth]\nallow_insecure = true");
        assert!(load(&meant, &[KEY]).is_ok());
    }

    #[test]
    fn secrets_never_show() {
        let config = load(
            "[store]\nurl = 'postgres://easel:very-secret@db/easel'\n[providers.a]\nkind = 'piapi_flux'\napi_key = 'very-secret'",
            &[],
        )
        .unwrap();
        assert!(!format!("{config:?}").contains("very-secret"));
    }
}
