//! Where a configuration was read from, to read it again, and what each of its values was, to tell what has changed. Of
//! values only digests are kept, so that no secret lies about in a second place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Config, Problems};
use crate::domain::secret::sha256_hex;

/// Where a configuration comes from, and what it said.
#[derive(Clone, Default)]
pub struct Origin {
    file: Option<PathBuf>,
    environment: BTreeMap<String, String>,
    values: BTreeMap<String, String>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Origin {
    pub(super) fn of(file: Option<&Path>, environment: &BTreeMap<String, String>, document: &Table) -> Self {
        let mut origin = Self {
            file: file.map(Path::to_owned),
            environment: environment.clone(),
            values: BTreeMap::new(),
        };
        origin.note_table("", document);
        origin
    }

    /// Takes note of a secret that was fetched from elsewhere.
    pub(super) fn note_secret(&mut self, name: String, secret: &str) {
        self.values.insert(name, sha256_hex(secret.as_bytes()));
    }

    fn note_table(&mut self, path: &str, table: &Table) {
        for (name, value) in table {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match value {
                Value::Table(inner) => self.note_table(&path, inner),
                value => {
                    self.values.insert(path, sha256_hex(value.to_string().as_bytes()));
                }
            }
        }
    }
}

impl Config {
    /// Reads the same file and environment again.
    pub fn reread(&self) -> Result<Self, Problems> {
        Self::load(self.origin.file.as_deref(), &self.origin.environment)
    }

    /// The names of all values that differ between two readings.
    pub fn changed(&self, other: &Self) -> BTreeSet<String> {
        let (one, other) = (&self.origin.values, &other.origin.values);
        let names = one.keys().chain(other.keys());
        names.filter(|name| one.get(*name) != other.get(*name)).cloned().collect()
    }

    /// This configuration with what can change in a running gateway taken from `fresh`. Also which names that covers, and
    /// which it does not: those stay as they are until a restart.
    pub fn taking_over(&self, fresh: &Self) -> (Self, Vec<String>, Vec<String>) {
        let mut next = self.clone();
        next.auth.keys.clone_from(&fresh.auth.keys);
        next.auth.rpm = fresh.auth.rpm;
        next.models.clone_from(&fresh.models);
        next.routing.default_models.clone_from(&fresh.routing.default_models);
        next.log.level.clone_from(&fresh.log.level);
        for (id, provider) in &mut next.providers {
            if let Some(fresh) = fresh.providers.get(id) {
                provider.api_key = fresh.api_key.clone();
                provider.prices.clone_from(&fresh.prices);
            }
        }
        let takes = |name: &String| {
            let provider = name.strip_prefix("providers.").and_then(|rest| rest.split_once('.'));
            let (kept, what) = provider.unwrap_or_default();
            let in_both = self.providers.contains_key(kept) && fresh.providers.contains_key(kept);
            name.starts_with("auth.keys")
                || name.starts_with("models.")
                || matches!(name.as_str(), "auth.rpm" | "routing.default_models" | "log.level")
                || (in_both
                    && (what.starts_with("api_key") && !what.starts_with("api_key_header")
                        || what.starts_with("prices.")))
        };
        let (applied, waiting): (Vec<String>, Vec<String>) = self.changed(fresh).into_iter().partition(takes);
        // What was taken over is not told again the next time; what waits for a restart is.
        for name in &applied {
            match fresh.origin.values.get(name) {
                Some(value) => next.origin.values.insert(name.clone(), value.clone()),
                None => next.origin.values.remove(name),
            };
        }
        (next, applied, waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_told_apart_by_whether_it_can_take_effect() {
        let folder = tempfile::tempdir().unwrap();
        let (file, key) = (folder.path().join("easel.toml"), folder.path().join("key"));
        let write = |level: &str, more: &str| {
            let provider =
                format!("[providers.a]\nkind = 'piapi_flux'\napi_key = {{ file = '{}' }}\n", key.display());
            std::fs::write(&file, format!("{provider}{more}\n[log]\nlevel = '{level}'\n")).unwrap();
        };
        std::fs::write(&key, "the-first-key").unwrap();
        write("info", "");
        let first = Config::load(Some(&file), &BTreeMap::new()).unwrap();
        assert!(first.changed(&first.reread().unwrap()).is_empty());

        std::fs::write(&key, "the-second-key").unwrap();
        write(
            "debug",
            "in_flight = 3\nprices = { 'm' = '0.5' }\n[auth]\nrpm = 7\n[server]\nmax_json_kib = 128\n",
        );
        let (next, applied, waiting) = first.taking_over(&first.reread().unwrap());
        assert_eq!(applied, ["auth.rpm", "log.level", "providers.a.api_key", "providers.a.prices.m"]);
        assert_eq!(waiting, ["providers.a.in_flight", "server.max_json_kib"]);
        assert_eq!(next.providers["a"].api_key.get(), Some("the-second-key"));
        assert_eq!((next.auth.rpm, next.log.level.as_str()), (7, "debug"));
        assert_eq!((next.providers["a"].in_flight, next.server.max_json_kib), (None, 1024));
        // A second reading tells only what still waits.
        let (_, applied, waiting) = next.taking_over(&next.reread().unwrap());
        assert_eq!((applied.len(), waiting.len()), (0, 2));
        assert!(!format!("{next:?}").contains("the-second-key"));
    }

    #[test]
    fn a_syntax_error_does_not_show_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("easel.toml");
        std::fs::write(&file, "[auth]\npepper = 'top-secret' oops\n").unwrap();
        let problems = Config::load(Some(&file), &BTreeMap::new()).unwrap_err().to_string();
        assert!(problems.contains("line 2") && !problems.contains("top-secret"), "{problems}");
    }
}
