//! The simulator's ledger, read from its file: the judge of double payment. Read with the suite's own eyes, not with the
//! simulator's code.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// One paid POST that arrived whole.
#[derive(Debug, Clone, Default)]
pub struct Reception {
    pub seq: i64,
    /// Milliseconds since the epoch.
    pub at: i64,
    /// `flux`, `chat`, `images` or `pipeline`.
    pub provider: String,
    /// The token of the task it was made for, from its prompt.
    pub token: Option<String>,
    /// What the gateway planted to recognise it by.
    pub correlation: Option<String>,
    /// The provider's id, once accepted.
    pub upstream_id: Option<String>,
    /// `received`, `accepted`, `rejected`, `completed`, `no_image`, `failed` or `cancelled`.
    pub outcome: String,
    /// What was billed, once decided.
    pub nanos: Option<i64>,
    /// The pictures by their links.
    pub files: BTreeMap<String, Picture>,
}

/// A picture that came of a reception.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    /// SHA-256 of its own bytes, once they were drawn.
    pub sha256: Option<String>,
    /// SHA-256 of what was sent in its place, where that was more.
    pub sent_sha256: Option<String>,
}

impl Picture {
    /// SHA-256 of what was really sent; `None` when nobody has asked for it.
    pub fn sent(&self) -> Option<&str> {
        self.sent_sha256.as_deref().or(self.sha256.as_deref())
    }
}

impl Reception {
    /// Whether it was taken on, and so may cost money or a server's time: an explicit refusal and a refund do not.
    pub fn paid(&self) -> bool {
        match self.outcome.as_str() {
            "rejected" | "cancelled" => false,
            "failed" => self.nanos.unwrap_or(0) > 0,
            _ => true,
        }
    }
}

/// The token in a prompt: `t-` and 26 letters and digits.
pub fn token(prompt: &str) -> Option<String> {
    let at = prompt.find("t-")?;
    let body = prompt.get(at + 2..at + 28)?;
    body.bytes().all(|b| b.is_ascii_alphanumeric()).then(|| format!("t-{body}"))
}

/// Every reception of a ledger file, in order. A last line without its end was never acknowledged.
pub fn read(path: &Path) -> Result<Vec<Reception>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    let mut all: BTreeMap<i64, Reception> = BTreeMap::new();
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let entry: Value = serde_json::from_str(line)?;
        let seq = entry["seq"].as_i64().context("a ledger line without seq")?;
        let text = |name: &str| entry[name].as_str().map(str::to_owned);
        let one = all.entry(seq).or_default();
        match entry["kind"].as_str() {
            Some("received") => {
                *one = Reception {
                    seq,
                    at: entry["at"].as_i64().unwrap_or(0),
                    provider: text("provider").unwrap_or_default(),
                    token: text("prompt_head").as_deref().and_then(token),
                    correlation: text("correlation"),
                    outcome: "received".to_owned(),
                    ..Reception::default()
                }
            }
            Some("accepted") => {
                one.upstream_id = text("upstream_id");
                "accepted".clone_into(&mut one.outcome);
            }
            Some("billed") => {
                one.outcome = text("outcome").unwrap_or_default();
                one.nanos = entry["nanos"].as_i64();
            }
            Some("result") => {
                let url = text("url").unwrap_or_default();
                let known = one.files.entry(url).or_default();
                known.sha256 = text("sha256").or(known.sha256.take());
                known.sent_sha256 = text("sent_sha256").or(known.sent_sha256.take());
            }
            other => anyhow::bail!("a ledger line of kind {other:?}"),
        }
    }
    Ok(all.into_values().collect())
}

/// How many receptions a ledger's bytes tell of.
pub fn count(bytes: &[u8]) -> usize {
    let needle = b"\"kind\":\"received\"";
    bytes.windows(needle.len()).filter(|window| window == needle).count()
}
