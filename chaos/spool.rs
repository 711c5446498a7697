//! The gateways' spool as it lies there: a folder for each process, under a lock for as long as that lives.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Result;

/// The name of a folder's lock.
const LOCK: &str = "lock";

/// A file in a process's folder, or the folder itself where its process is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spooled {
    /// Its path below the spool.
    pub path: String,
    /// Whether its process lives.
    pub live: bool,
    /// The attempt whose answer it is, if it is one.
    pub attempt: Option<String>,
}

/// Looks into the spool, in which gateways may be at work: what goes meanwhile was never there.
pub fn look(spool: &Path) -> Result<Vec<Spooled>> {
    let mut found = Vec::new();
    for folder in entries(spool)? {
        let live = alive(&folder)?;
        let path = |path: &Path| -> Result<String> { Ok(path.strip_prefix(spool)?.display().to_string()) };
        let files = entries(&folder)?;
        if !live && folder.exists() {
            found.push(Spooled { path: path(&folder)?, live, attempt: None });
        }
        for file in files {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name != LOCK && file.exists() {
                let attempt = name.strip_suffix(".answer").map(str::to_owned);
                found.push(Spooled { path: path(&file)?, live, attempt });
            }
        }
    }
    Ok(found)
}

/// Whether somebody holds the folder's lock.
fn alive(folder: &Path) -> Result<bool> {
    let lock = match File::open(folder.join(LOCK)) {
        Ok(lock) => lock,
        Err(gone) if gone.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    match lock.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

fn entries(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    match std::fs::read_dir(folder) {
        Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        entries => Ok(entries?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?),
    }
}
