//! The folder that pictures are kept in, where it is one: its room is a figure for operators.

use std::path::PathBuf;

/// The folder, if it is one.
#[derive(Debug, Clone, Default)]
pub struct Folder(Option<PathBuf>);

impl Folder {
    /// The folder a blob store's address names, if it names one.
    pub fn of(url: &str) -> Self {
        Self(url.strip_prefix("file://").map(PathBuf::from))
    }

    /// The share of its file system that is free for us, 0 to 1; `None` where nobody can tell.
    pub fn free(&self) -> Option<f64> {
        let found = rustix::fs::statvfs(self.0.as_ref()?).ok()?;
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let free = (found.f_blocks > 0).then(|| found.f_bavail as f64 / found.f_blocks as f64);
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_room_and_a_bucket_does_not_tell() {
        let folder = tempfile::tempdir().unwrap();
        let free = Folder::of(&format!("file://{}", folder.path().display())).free();
        assert!(free.is_some_and(|free| (0.0..=1.0).contains(&free)), "{free:?}");
        assert_eq!(Folder::of("s3://bucket/prefix").free(), None);
        assert_eq!(Folder::of("file:///nowhere/at/all").free(), None);
    }
}
