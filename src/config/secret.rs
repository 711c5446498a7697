//! A secret of the configuration: said plainly, named in the environment, or kept in a file. Never shown.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A secret, and where it comes from.
#[derive(Clone, Default)]
pub struct Secret {
    source: Source,
    value: Option<SecretString>,
}

#[derive(Clone, Default)]
enum Source {
    #[default]
    Unset,
    Plain,
    Environment(String),
    File(PathBuf),
}

impl Secret {
    /// The secret, when it is set.
    pub fn get(&self) -> Option<&str> {
        self.value.as_ref().map(ExposeSecret::expose_secret).filter(|text| !text.is_empty())
    }

    /// Where it is looked for, for messages.
    pub fn origin(&self) -> String {
        match &self.source {
            Source::Unset => "not set".to_owned(),
            Source::Plain => "in the file".to_owned(),
            Source::Environment(name) => format!("environment variable {name}"),
            Source::File(path) => format!("file {}", path.display()),
        }
    }

    /// Fetches the secret from where it is kept. A variable that is not set leaves it unset; a file that cannot be read is
    /// a problem.
    pub(super) fn resolve(&mut self, environment: &BTreeMap<String, String>) -> Result<(), String> {
        match &self.source {
            Source::Unset | Source::Plain => {}
            Source::Environment(name) => self.value = environment.get(name).map(|text| text.trim().into()),
            Source::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
                self.value = Some(text.trim().into());
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[redacted] ({})", self.origin())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

struct SecretVisitor;

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, {env = \"NAME\"} or {file = \"PATH\"}")
    }

    fn visit_str<E>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret { source: Source::Plain, value: Some(text.into()) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Secret, A::Error> {
        let mut source = Source::Unset;
        while let Some(key) = fields.next_key::<String>()? {
            source = match (key.as_str(), source) {
                ("env", Source::Unset) => Source::Environment(fields.next_value()?),
                ("file", Source::Unset) => Source::File(fields.next_value()?),
                _ => return Err(A::Error::custom("expected exactly one of env and file")),
            };
        }
        Ok(Secret { source, value: None })
    }
}
