//! `[audit]`: for how long it is remembered who did what.

use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub struct Audit {
    pub keep_days: u32,
}

impl Audit {
    pub(super) fn check(&self, wrong: &mut impl FnMut(String)) {
        if !(1..=36_500).contains(&self.keep_days) {
            wrong("audit.keep_days: must be from 1 to 36500".into());
        }
    }
}
