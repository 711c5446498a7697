//! `[retention]`: how long things are kept.

use std::time::Duration;

use serde::Deserialize;

use crate::domain::retention::{Keeping, LEAST_MEDIA_S};

/// The shortest time a task's record is kept, in seconds: a retry with its idempotency key finds it for this long.
const LEAST_RECORD_S: u32 = 30 * 86_400;
/// The shortest time an input file is kept: a task that names it can wait for a day before it is sent.
const LEAST_FILES_S: u32 = 2 * 86_400;

/// The shortest time that what was paid for and could not be read is kept: long enough for somebody to be told.
const LEAST_QUARANTINE_S: u32 = 86_400;

#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub struct Retention {
    pub media_s: u32,
    pub media_max_s: u32,
    pub files_s: u32,
    pub record_s: u32,
    pub quarantine_ttl_s: u32,
}

impl Retention {
    /// The same for the engine; pictures never outlive the record of their task.
    pub fn keeping(&self) -> Keeping {
        let time = |seconds: u32| (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        let record = time(self.record_s);
        let media_most = [time(self.media_max_s), record].into_iter().flatten().min();
        let quarantine = Duration::from_secs(self.quarantine_ttl_s.into());
        Keeping { media: time(self.media_s), media_most, files: time(self.files_s), quarantine, record }
    }

    pub(super) fn check(&self, wrong: &mut impl FnMut(String)) {
        let lengths = [
            ("media_s", self.media_s, LEAST_MEDIA_S),
            ("media_max_s", self.media_max_s, LEAST_MEDIA_S),
            ("files_s", self.files_s, LEAST_FILES_S),
            ("record_s", self.record_s, LEAST_RECORD_S),
        ];
        for (name, value, least) in lengths {
            if value != 0 && value < least {
                wrong(format!("retention.{name}: must be at least {least}, or 0 for ever"));
            }
        }
        if self.quarantine_ttl_s < LEAST_QUARANTINE_S {
            wrong(format!("retention.quarantine_ttl_s: must be at least {LEAST_QUARANTINE_S}"));
        }
        let longer = |one: u32, other: u32| other != 0 && (one == 0 || one > other);
        if longer(self.media_s, self.media_max_s) {
            wrong("retention.media_s: must not be longer than retention.media_max_s".into());
        }
        if longer(self.media_s, self.record_s) {
            wrong("retention.media_s: must not be longer than retention.record_s".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(media_s: u32, media_max_s: u32, record_s: u32) -> Vec<String> {
        let mut found = Vec::new();
        let retention =
            Retention { media_s, media_max_s, files_s: 0, record_s, quarantine_ttl_s: LEAST_QUARANTINE_S };
        retention.check(&mut |fault| found.push(fault));
        found
    }

    #[test]
    fn pictures_never_outlive_the_record_and_records_last_a_month() {
        assert!(faults(86_400, 86_400, LEAST_RECORD_S).is_empty());
        assert!(faults(0, 0, 0).is_empty(), "everything for ever");
        assert_eq!(faults(86_400, 3_600, 0).len(), 1);
        assert_eq!(faults(0, 0, LEAST_RECORD_S).len(), 1);
        assert_eq!(faults(86_400, 86_400, 86_400).len(), 1);
        let keeping = Retention {
            media_s: 60,
            media_max_s: 0,
            files_s: 0,
            record_s: LEAST_RECORD_S,
            quarantine_ttl_s: LEAST_QUARANTINE_S,
        }
        .keeping();
        assert_eq!(keeping.media_most, keeping.record);
    }
}
