//! An answer as it came, kept until somebody has made sense of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Spooled;

/// An answer's head.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// HTTP status.
    pub status: u16,
    /// Headers worth keeping: what the body is and how it is encoded, and the sender's own ids for the request.
    pub headers: Vec<(String, String)>,
    /// How long the sender asks to be left alone.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

impl Head {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// An answer's bytes after transfer and content decoding, with its head.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// Its head.
    pub head: Head,
    /// Its body.
    pub body: Spooled,
    /// Whether all of it came.
    pub whole: bool,
}
