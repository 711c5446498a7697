//! The error map as data: rows of (call, status, code, words, shape) → kind of trouble and billing. A provider's own
//! rows, from its own `errors.toml`, come before the common ones of `errors.toml`; the first that matches decides.

use serde::Deserialize;

use super::Kind;
use super::answer::Answer;
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
    /// The kind of trouble.
    pub is: Kind,
    /// Whether it was charged.
    pub billed: Billing,
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
    pub fn judge(&self, on: On, answer: &Answer, code: Option<&str>, message: &str) -> (Kind, Billing) {
        let message = message.to_lowercase();
        let row = self.0.iter().find(|row| row.matches(on, answer, code, &message));
        row.map_or((Kind::Garbled, Billing::Unknown), |row| (row.is, row.billed))
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
            && (self.shape.is_empty() || self.shape.contains(&answer.shape))
    }
}
