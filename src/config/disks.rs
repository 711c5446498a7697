//! Which disks the gateway writes to, by the configuration.

use std::path::PathBuf;

use super::Config;
use crate::blobs::space::PICTURES;

impl Config {
    /// The folders whose disks must have room, each named by what lies there; what is kept elsewhere (a Postgres, a bucket) is
    /// watched there.
    pub fn disks(&self) -> Vec<(&'static str, PathBuf)> {
        let mut disks = Vec::new();
        if let Some(folder) = self.blobs.folder() {
            disks.push((PICTURES, PathBuf::from(folder)));
        }
        if self.blobs.folder().is_none_or(|folder| !self.blobs.spool_folder().starts_with(folder)) {
            disks.push(("spool", self.blobs.spool_folder()));
        }
        if let Some(path) = self.store.url.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            let file = PathBuf::from(path.split('?').next().unwrap_or(path));
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            disks.push(("database", folder.map_or_else(|| PathBuf::from("."), PathBuf::from)));
        }
        disks
    }
}
