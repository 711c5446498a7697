//! The error map as data: rows of (call, status, code, words, shape) → kind of trouble and billing. A provider's own
//! rows, from its own `errors.toml`, come before the common ones of `errors.toml`; the first that matches decides.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Deserialize;

use super::Kind;
use super::reader::Answer;
use crate::chaos::planted;
use crate::domain::attempt::Billing;

const COMMON: &str = include_str!("errors.toml");

/// Which call an answer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// The paid call.
    Submit,
    /// A free question.
    Check,
}

/// What a body turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// A JSON document.
    Json,
    /// A page.
    Html,
    /// Words.
    Text,
    /// Nothing.
    Empty,
}

/// One row of the map.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The adapter kinds it is for; empty: all that read the file.
    #[serde(default)]
    kinds: Vec<String>,
    on: Option<On>,
    #[serde(default)]
    status: Vec<String>,
    #[serde(default)]
    code: Vec<String>,
    #[serde(default)]
    says: Vec<String>,
    #[serde(default)]
    shape: Vec<Shape>,
    is: Kind,
    billed: Billing,
    window_s: Option<u64>,
    #[serde(default)]
    retry_after: bool,
}

/// What an answer comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// The kind of trouble.
    pub is: Kind,
    /// Whether it was charged.
    pub billed: Billing,
    /// Seconds for which an unknown outcome is looked for, where that is less than the provider's usual time.
    pub window_s: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    errors: Vec<Row>,
}

/// A provider's map.
#[derive(Debug, Clone)]
pub struct Rows(Vec<Row>);

impl Rows {
    /// The rows of a provider's `errors.toml` for one kind, and the common ones after them.
    pub fn read(own: &str, kind: &str) -> Result<Self, toml::de::Error> {
        let own: File = toml::from_str(own)?;
        let common: File = toml::from_str(COMMON)?;
        let own = own
            .errors
            .into_iter()
            .filter(|row| row.kinds.is_empty() || row.kinds.iter().any(|name| name == kind));
        Ok(Self(own.chain(common.errors).collect()))
    }

    /// The row an answer falls under: the last row matches everything.
    pub fn judge(&self, on: On, answer: &Answer, code: Option<&str>, message: &str) -> Judged {
        let message = message.to_lowercase();
        let row = self.0.iter().find(|row| row.matches(on, answer, code, &message));
        if answer.status == 502 && planted("retry_on_502") {
            return Judged { is: Kind::Overloaded, billed: Billing::No, window_s: None };
        }
        row.map_or(Judged { is: Kind::Garbled, billed: Billing::Unknown, window_s: None }, |row| Judged {
            is: row.is,
            billed: row.billed,
            window_s: row.window_s,
        })
    }
}

/// Answers no row of the map knows: all are counted, and each new one is logged once.
#[derive(Debug, Default)]
pub struct Strange(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    count: u64,
    logged: HashSet<(u16, Option<String>)>,
}

impl Strange {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.lock().count
    }

    pub(super) fn note(&self, provider: &str, status: u16, code: Option<&str>) {
        let mut seen = self.lock();
        seen.count += 1;
        // A provider that invents a code each time does not fill the memory.
        if seen.logged.len() < 100 && seen.logged.insert((status, code.map(str::to_owned))) {
            tracing::warn!(
                provider.id = provider,
                http.status = status,
                provider.code = code,
                "an answer no row of the error map knows; its like is counted and not logged again"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Row {
    fn matches(&self, on: On, answer: &Answer, code: Option<&str>, message: &str) -> bool {
        let status = answer.status.to_string();
        let is_status = |pattern: &String| match pattern.strip_suffix("xx") {
            Some(class) => status.starts_with(class),
            None => *pattern == status,
        };
        self.on.is_none_or(|wanted| wanted == on)
            && (self.status.is_empty() || self.status.iter().any(is_status))
            && (self.code.is_empty() || code.is_some_and(|code| self.code.iter().any(|known| known == code)))
            && (self.says.is_empty() || self.says.iter().any(|phrase| message.contains(phrase)))
            && (!self.retry_after || answer.retry_after.is_some())
            && (self.shape.is_empty() || self.shape.contains(&answer.shape))
    }
}
