//! The callers' journal: every answer that promises something, written down the moment it was read.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// One thing a caller was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Note {
    /// A 202, or a 200, for a POST.
    Accepted {
        /// The task.
        id: String,
        /// The idempotency key.
        key: String,
        /// The token in the prompt.
        token: String,
        /// Whether the answer said that it was a replay.
        replayed: bool,
    },
    /// A status that the owner read.
    Told {
        /// The task.
        id: String,
        /// Its public status.
        status: String,
    },
    /// What another tenant got for the task's id.
    Foreign {
        /// The task.
        id: String,
        /// The HTTP status.
        http: u16,
    },
    /// An answer the load had not reckoned with: the suite itself, or the gateway, is wrong.
    Odd {
        /// What was asked, and what came.
        what: String,
    },
    /// A body with a canary in it.
    Leak {
        /// Where.
        what: String,
    },
}

/// The journal's file.
pub struct Journal(Mutex<File>);

impl Journal {
    /// Opens it for appending.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self(Mutex::new(OpenOptions::new().create(true).append(true).open(path)?)))
    }

    /// Writes one line; it is in the file when this returns, whatever becomes of this process.
    pub fn note(&self, note: &Note) {
        let mut line = serde_json::to_vec(note).expect("a note is JSON");
        line.push(b'\n');
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line).expect("the journal can be written");
    }
}

/// Every note of a journal.
pub fn read(path: &Path) -> Result<Vec<Note>> {
    let text = std::fs::read_to_string(path)?;
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}
