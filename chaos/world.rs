//! Everything a checker judges, gathered from where it lies: ledger, journal, database, blob folder, logs.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::fleet::{CANARIES, Fleet};
use crate::journal::{self, Note};
use crate::ledger::{self, Reception};
use crate::rows::{Db, Rows};
use crate::sink::Delivery;
use crate::spool::{self, Spooled};

/// The spool's folder in the blob folder, and that of what could not be turned into an image.
const SPOOL: &str = "spool";
const QUARANTINE: &str = "quarantine";

/// The blob folder.
#[derive(Debug, Clone, Default)]
pub struct Pictures {
    /// Names of files under `sha256/`, with the hash of what is in them.
    pub files: BTreeMap<String, String>,
    /// What lies in quarantine, by the id of its row.
    pub quarantined: BTreeMap<String, Kept>,
    /// Files that should have been temporary.
    pub temporary: Vec<String>,
    /// How many of them are left for later, where gateways may share the folder.
    pub half_written: usize,
}

/// The bytes of something in quarantine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// SHA-256 of them.
    pub sha256: String,
    /// How many they are.
    pub bytes: usize,
}

/// A world at rest.
#[derive(Debug, Clone, Default)]
pub struct World {
    pub receptions: Vec<Reception>,
    pub journal: Vec<Note>,
    pub rows: Rows,
    pub pictures: Pictures,
    /// What waits in the gateways' spool.
    pub spool: Vec<Spooled>,
    /// What arrived at the callers' webhook; `None` where webhooks are not part of the scenario.
    pub deliveries: Option<Vec<Delivery>>,
    /// How many places were searched for canaries, and where one was found.
    pub searched: usize,
    pub leaks: Vec<String>,
    /// Descriptors of the gateway, warm and at rest, and again after more of the same work.
    pub descriptors: Option<(usize, usize)>,
}

impl World {
    /// Gathers what a scenario left behind. The gateway may be running, but should be at rest.
    pub async fn gather(fleet: &Fleet) -> Result<Self> {
        let db = Db::open(fleet.store()).await?;
        let rows = db.read().await?;
        let texts = db.texts().await?;
        db.close().await;
        let mut leaks: Vec<String> = texts
            .iter()
            .filter_map(|text| canary(text))
            .map(|found| format!("a row holds {found}"))
            .collect();
        let mut searched = texts.len();
        for at in 0..fleet.replicas() {
            let log = std::fs::read_to_string(fleet.log(at)).unwrap_or_default();
            for line in log.lines() {
                searched += 1;
                leaks.extend(canary(line).map(|found| format!("a line of the log holds {found}: {line}")));
            }
        }
        let mut pictures = pictures(&fleet.blobs(), |name, bytes| {
            searched += 1;
            leaks.extend(in_bytes(bytes).map(|found| format!("{name} in quarantine holds {found}")));
        })?;
        if fleet.replicas() > 1 || fleet.store().starts_with("postgres") {
            // Gateways that may share their folder leave another's half-written files alone for an hour.
            pictures.half_written = std::mem::take(&mut pictures.temporary).len();
        }
        let journal = if fleet.journal().exists() { journal::read(&fleet.journal())? } else { Vec::new() };
        Ok(Self {
            receptions: ledger::read(&fleet.ledger())?,
            journal,
            rows,
            pictures,
            spool: spool::look(&fleet.spool())?,
            deliveries: None,
            searched,
            leaks,
            descriptors: None,
        })
    }
}

/// The canary in a text, if there is one.
pub fn canary(text: &str) -> Option<&'static str> {
    CANARIES.into_iter().find(|canary| text.contains(canary))
}

/// The canary in some bytes, if there is one.
fn in_bytes(bytes: &[u8]) -> Option<&'static str> {
    let within = |canary: &&str| bytes.windows(canary.len()).any(|some| some == canary.as_bytes());
    CANARIES.into_iter().find(within)
}

/// Walks the folder, in which gateways may be at work: what goes meanwhile was never there. `kept` sees what lies in quarantine.
fn pictures(folder: &Path, mut kept: impl FnMut(&str, &[u8])) -> Result<Pictures> {
    let mut found = Pictures::default();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let entries = match std::fs::read_dir(&next) {
            Err(gone) if gone.kind() == ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let beneath = path.strip_prefix(folder)?.to_owned();
            if beneath == Path::new(SPOOL) {
                // Looked into by itself.
            } else if path.is_dir() {
                folders.push(path);
            } else if beneath.starts_with(QUARANTINE) && !name.contains('#') {
                match std::fs::read(&path) {
                    Err(gone) if gone.kind() == ErrorKind::NotFound => {}
                    bytes => {
                        let bytes = bytes?;
                        kept(&name, &bytes);
                        let sha256 = hex::encode(Sha256::digest(&bytes));
                        found.quarantined.insert(name, Kept { sha256, bytes: bytes.len() });
                    }
                }
            } else if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
                match std::fs::read(&path) {
                    Err(gone) if gone.kind() == ErrorKind::NotFound => {}
                    bytes => {
                        found.files.insert(name, hex::encode(Sha256::digest(bytes?)));
                    }
                }
            } else if path.exists() {
                found.temporary.push(beneath.display().to_string());
            }
        }
    }
    Ok(found)
}
