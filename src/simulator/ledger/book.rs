//! The ledger as it stands in memory: a fold over its entries, the same for live ones and for those read
//! back from a file.

use std::collections::BTreeMap;

use super::entry::{Entry, File, Reception};

/// How many receptions stay in memory; the file keeps all of them, and the total counts all of them.
const KEPT: usize = 250_000;

/// Receptions by number, and the running total.
#[derive(Debug, Default)]
pub struct Book {
    receptions: BTreeMap<u64, Reception>,
    last_seq: u64,
    total_nanos: i64,
}

impl Book {
    /// Takes one entry in. Entries about a reception no longer in memory change only the total.
    pub fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Received(reception) => {
                self.last_seq = self.last_seq.max(reception.seq);
                self.receptions.insert(reception.seq, reception);
                if self.receptions.len() > KEPT {
                    self.receptions.pop_first();
                }
            }
            Entry::Accepted { seq, upstream_id, price_nanos } => {
                if let Some(reception) = self.receptions.get_mut(&seq) {
                    reception.upstream_id = upstream_id;
                    reception.price_nanos = price_nanos;
                    reception.outcome = super::Outcome::Accepted;
                }
            }
            Entry::Billed { seq, outcome, nanos, .. } => {
                let before = self.receptions.get_mut(&seq).and_then(|reception| {
                    reception.outcome = outcome;
                    reception.billed_nanos.replace(nanos)
                });
                self.total_nanos += nanos - before.unwrap_or(0);
            }
            Entry::Result { seq, url, sha256, sent_sha256 } => {
                if let Some(reception) = self.receptions.get_mut(&seq) {
                    match reception.files.iter_mut().find(|file| file.url == url) {
                        Some(file) => {
                            file.sha256 = sha256.or(file.sha256.take());
                            file.sent_sha256 = sent_sha256.or(file.sent_sha256.take());
                        }
                        None => reception.files.push(File { url, sha256, sent_sha256 }),
                    }
                }
            }
        }
    }

    /// Whether this picture, with this hash, is already written down.
    pub fn knows(&self, seq: u64, url: &str, sha256: Option<&str>) -> bool {
        self.receptions.get(&seq).is_none_or(|reception| {
            reception
                .files
                .iter()
                .any(|file| file.url == url && (sha256.is_none() || file.sha256.as_deref() == sha256))
        })
    }

    /// Whether these bytes are already written down as what is sent for this picture.
    pub fn knows_sent(&self, seq: u64, url: &str, sha256: &str) -> bool {
        self.receptions.get(&seq).is_none_or(|reception| {
            let same = |file: &File| file.url == url && file.sent_sha256.as_deref() == Some(sha256);
            reception.files.iter().any(same)
        })
    }

    /// The number the next reception gets.
    pub fn next_seq(&self) -> u64 {
        self.last_seq + 1
    }

    /// The receptions in memory, in order.
    pub fn receptions(&self) -> Vec<Reception> {
        self.receptions.values().cloned().collect()
    }

    /// Everything billed so far.
    pub fn total_nanos(&self) -> i64 {
        self.total_nanos
    }

    /// What was billed for each reception in memory whose bill is decided.
    pub fn by_seq(&self) -> BTreeMap<u64, i64> {
        self.receptions.values().filter_map(|one| Some((one.seq, one.billed_nanos?))).collect()
    }
}
