//! Clears away what a killed process left half-written: what lies under `incoming/`, and in a folder the object store's own
//! temporary files, `NAME#1`. Pictures that are whole are never touched.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{BlobError, Blobs};
use crate::domain::clock::Millis;

/// Other gateways may be writing to the same place just now, but none takes so long for one picture.
const WRITING: Duration = Duration::from_hours(1);

impl Blobs {
    /// Clears away what was left half-written until now, and answers with the number of pieces. What is younger than an hour
    /// is left alone in a bucket, and where the place is `shared` by other gateways.
    pub async fn sweep(&self, now: Millis, shared: bool) -> Result<usize, BlobError> {
        let before = if shared || self.bucket.is_some() { now - WRITING } else { now };
        if let Some(bucket) = &self.bucket {
            return Ok(bucket.sweep(before).await?);
        }
        let Some(folder) = self.folder.clone() else { return Ok(0) };
        let before = UNIX_EPOCH + Duration::from_millis(before.0.try_into().unwrap_or(0));
        let swept = tokio::task::spawn_blocking(move || sweep(&folder, before)).await;
        let swept = swept.map_err(|e| e.to_string()).and_then(|swept| swept.map_err(|e| e.to_string()));
        swept.map_err(|reason| BlobError::Open { url: "incoming".to_owned(), reason })
    }
}

/// `None`: another gateway that sweeps at the same moment was quicker.
fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// Removes those last written before `before` and answers with their number.
fn sweep(folder: &Path, before: SystemTime) -> io::Result<usize> {
    let mut removed = 0;
    let mut folders = vec![(folder.to_owned(), false)];
    while let Some((next, incoming)) = folders.pop() {
        let Some(entries) = there(std::fs::read_dir(&next))? else { continue };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(kind) = there(entry.file_type())? else { continue };
            if kind.is_dir() {
                folders.push((entry.path(), incoming || name == "incoming"));
            } else if (incoming || temporary(&name))
                && let Some(about) = there(entry.metadata())?
                && about.modified()? < before
                && there(std::fs::remove_file(entry.path()))?.is_some()
            {
                removed += 1;
            }
        }
    }
    Ok(removed)
}

/// `NAME#1`: what is being written before it gets its name.
fn temporary(name: &OsStr) -> bool {
    let Some((_, number)) = name.to_str().and_then(|name| name.rsplit_once('#')) else { return false };
    !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn half_written_files_go_and_pictures_stay() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let ever = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 200);
        assert_eq!(sweep(&at.join("none"), ever).unwrap(), 0);
        std::fs::create_dir_all(at.join("sha256/aa")).unwrap();
        std::fs::create_dir_all(at.join("incoming")).unwrap();
        for name in
            ["sha256/aa/aa11", "sha256/aa/aa22#1", "sha256/aa/aa33#x", "incoming/token", "incoming/token#2"]
        {
            std::fs::write(at.join(name), b"x").unwrap();
        }
        assert_eq!(sweep(at, SystemTime::UNIX_EPOCH).unwrap(), 0, "all are younger");
        assert_eq!(sweep(at, ever).unwrap(), 3);
        assert!(at.join("sha256/aa/aa11").exists() && at.join("sha256/aa/aa33#x").exists());
        assert!(!at.join("sha256/aa/aa22#1").exists() && !at.join("incoming/token").exists());
    }

    /// Replicas that start at the same moment.
    #[test]
    fn several_may_sweep_at_once() {
        const EACH: usize = 2_000;
        let folder = tempfile::tempdir().unwrap();
        let incoming = folder.path().join("incoming");
        std::fs::create_dir_all(&incoming).unwrap();
        for n in 0..EACH {
            std::fs::write(incoming.join(format!("token{n}")), b"").unwrap();
        }
        let ever = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 200);
        let swept: usize = std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(|| sweep(folder.path(), ever))).collect();
            all.into_iter().map(|one| one.join().unwrap().unwrap()).sum()
        });
        assert_eq!(swept, EACH, "each was removed by one of them");
    }
}
