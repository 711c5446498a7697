//! Clears away what a killed process left half-written: what lies under `incoming/`, and in a folder the object store's own
//! temporary files, `NAME#1`. Pictures that are whole are never touched.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{BlobError, Blobs};
use crate::domain::clock::Millis;

/// Other gateways may be writing to the same bucket just now, but none takes so long for one picture.
const WRITING: Duration = Duration::from_hours(1);

impl Blobs {
    /// Clears away what was left half-written before that moment, and answers with the number of pieces. In a bucket, what is
    /// younger than an hour is left alone.
    pub async fn sweep(&self, before: Millis) -> Result<usize, BlobError> {
        if let Some(bucket) = &self.bucket {
            return Ok(bucket.sweep(Millis(before.0 - WRITING.as_millis().try_into().unwrap_or(0))).await?);
        }
        let Some(folder) = self.folder.clone() else { return Ok(0) };
        let before = UNIX_EPOCH + Duration::from_millis(before.0.try_into().unwrap_or(0));
        let swept = tokio::task::spawn_blocking(move || sweep(&folder, before)).await;
        let swept = swept.map_err(|e| e.to_string()).and_then(|swept| swept.map_err(|e| e.to_string()));
        swept.map_err(|reason| BlobError::Open { url: "incoming".to_owned(), reason })
    }
}

/// Removes those last written before `before` and answers with their number.
fn sweep(folder: &Path, before: SystemTime) -> io::Result<usize> {
    let mut removed = 0;
    let mut folders = vec![(folder.to_owned(), false)];
    while let Some((next, incoming)) = folders.pop() {
        let entries = match std::fs::read_dir(&next) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type()?.is_dir() {
                folders.push((entry.path(), incoming || name == "incoming"));
            } else if (incoming || temporary(&name)) && entry.metadata()?.modified()? < before {
                std::fs::remove_file(entry.path())?;
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
}
