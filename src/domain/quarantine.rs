//! What was paid for and could not be turned into an image, kept as it came: it can be interpreted again later, after an
//! upgrade or with help, and what it yields becomes its task's late result.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::clock::Millis;
use super::id::{AttemptId, QuarantineId, TaskId};

/// Where it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuarantineKind {
    /// It answered a paid call, or a question about its job.
    Answer,
    /// It came from a result's link.
    Download,
}

impl QuarantineKind {
    /// Its name in rows and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Download => "download",
        }
    }
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuarantineState {
    /// Nothing yet.
    Open,
    /// It, or what an operator supplied in its place, gave an image.
    Recovered,
}

impl QuarantineState {
    /// Its name in rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Recovered => "recovered",
        }
    }
}

/// Something kept in quarantine; its bytes lie in the blob store under its id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuarantineItem {
    /// Its id.
    pub id: QuarantineId,
    /// The attempt that paid for it.
    pub attempt: AttemptId,
    /// The task of that attempt.
    pub task: TaskId,
    /// Whose task.
    pub tenant: String,
    /// Provider id.
    pub provider: String,
    /// Where it came from.
    pub kind: QuarantineKind,
    /// What became of it.
    pub state: QuarantineState,
    /// SHA-256 of the bytes that are kept, in hex.
    pub sha256: String,
    /// How many those are; 0 when nothing came at all.
    pub bytes: u64,
    /// When it was kept.
    pub created_at: Millis,
    /// When it goes.
    pub expires_at: Millis,
    /// More about it.
    pub detail: QuarantineDetail,
}

/// More about something kept in quarantine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QuarantineDetail {
    /// Why it could not be turned into an image.
    pub reason: String,
    /// HTTP status it came with.
    pub http_status: u16,
    /// Headers it came with, of those that are kept.
    pub headers: Vec<(String, String)>,
    /// Whether all of it came.
    pub whole: bool,
    /// How often secrets of ours were overwritten in it.
    #[serde(default)]
    pub redacted: u64,
}
