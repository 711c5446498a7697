//! What the ledger says: one [`Reception`] per paid POST that arrived whole, and the later lines about it.

use serde::{Deserialize, Serialize};

/// Which upstream the POST was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// PiAPI's task API.
    Flux,
    /// PiAPI's chat completions.
    Chat,
    /// PiAPI's Images API.
    Images,
    /// imagepipeline, v3 and v1.
    Pipeline,
}

/// What became of a paid POST, as the upstream's own books see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Arrived; nothing decided yet.
    #[default]
    Received,
    /// Refused, or lost by the upstream without effect: never billed.
    Rejected,
    /// Taken on: it will complete (or fail) whether or not the caller ever learns of it.
    Accepted,
    /// Done, the pictures exist.
    Completed,
    /// Ended without a picture, as an ordinary answer.
    NoImage,
    /// Ended in failure.
    Failed,
    /// Cancelled by the caller before it began.
    Cancelled,
}

/// How the API key was found. Only the four spelled-out keys are refused; any other is a good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyCheck {
    /// Good.
    #[default]
    Ok,
    /// No key, or an empty one.
    Missing,
    /// `bad-key`: not known to the upstream.
    Bad,
    /// `poor-key`: an account without credit.
    Poor,
    /// `full-key`: an account with all its slots taken.
    Full,
}

/// A picture that came of a reception.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// The link the upstream hands out, or `inline:<n>` for a picture inside the answer itself.
    pub url: String,
    /// SHA-256 of the served bytes, hex; known once they were drawn for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// SHA-256 of what is sent, hex, where that is more (or less) than the picture's own bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_sha256: Option<String>,
}

/// One paid POST that arrived to its last byte.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reception {
    /// 1, 2, 3 … in order of arrival; goes on where an existing ledger file ended.
    pub seq: u64,
    /// Milliseconds since the epoch, by the simulator's clock.
    pub at: i64,
    /// The upstream.
    pub provider: Option<Provider>,
    /// The path it was posted to.
    pub endpoint: String,
    /// The first 12 hex digits of the SHA-256 of the API key; `None` without a key.
    pub key: Option<String>,
    /// Whether that key is any good.
    pub key_check: KeyCheck,
    /// SHA-256 of the prompt as received, hex.
    pub prompt_sha256: String,
    /// Its first 40 characters.
    pub prompt_head: String,
    /// What the caller planted to recognise it by: Flux's webhook endpoint, imagepipeline's `batch_id`,
    /// `webhook` or `callback_url`, else the first of `X-Request-Id`, `X-Correlation-Id`, `Idempotency-Key`.
    pub correlation: Option<String>,
    /// Pictures asked for, the upstream's default when nothing was said.
    pub n: u64,
    /// Anything remarkable about it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The task's id once accepted.
    #[serde(default)]
    pub upstream_id: Option<String>,
    /// What it is billed as.
    #[serde(default)]
    pub outcome: Outcome,
    /// The full price in nano-dollars, known once accepted.
    #[serde(default)]
    pub price_nanos: i64,
    /// What was billed in nano-dollars; `None` until that is decided.
    #[serde(default)]
    pub billed_nanos: Option<i64>,
    /// The pictures that came of it.
    #[serde(default)]
    pub files: Vec<File>,
}

/// One line of the ledger file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// Written and synced before anything else is done with the POST.
    Received(Reception),
    /// The upstream took it on.
    Accepted {
        /// Of which reception.
        seq: u64,
        /// The task it became.
        upstream_id: Option<String>,
        /// The price if it completes.
        price_nanos: i64,
    },
    /// The bill is decided.
    Billed {
        /// Of which reception.
        seq: u64,
        /// How it ended.
        outcome: Outcome,
        /// The amount, 0 for a refund.
        nanos: i64,
        /// The reason in words.
        why: String,
    },
    /// A picture exists, or its bytes are now known.
    Result {
        /// Of which reception.
        seq: u64,
        /// See [`File::url`].
        url: String,
        /// See [`File::sha256`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sha256: Option<String>,
        /// See [`File::sent_sha256`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sent_sha256: Option<String>,
    },
}
