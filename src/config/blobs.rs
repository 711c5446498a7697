//! `[blobs]`: where pictures are kept, and for how long their links hold.

use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub struct Blobs {
    pub url: String,
    pub link_s: u32,
    pub min_free_mib: u32,
    pub min_free_percent: u8,
}

impl Blobs {
    pub(super) fn check(&self, wrong: &mut impl FnMut(String)) {
        if self.link_s == 0 {
            wrong("blobs.link_s: must be at least 1".into());
        }
        if self.min_free_percent > 100 {
            wrong("blobs.min_free_percent: must be at most 100".into());
        }
    }
}
