//! The numbers of the webhooks to callers.

use std::time::Duration;

use serde::Deserialize;

/// `[webhooks]`
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in config.example.toml")]
pub struct Webhooks {
    pub timeout_s: u32,
    pub per_host: usize,
    pub concurrency: usize,
    pub retries_per_s: u32,
    pub schedule_s: Vec<u32>,
    pub overlap_s: u32,
}

impl Webhooks {
    /// The pauses between tries.
    pub fn schedule(&self) -> Vec<Duration> {
        self.schedule_s.iter().map(|pause| Duration::from_secs((*pause).into())).collect()
    }

    pub(super) fn check(&self, wrong: &mut impl FnMut(String)) {
        let least_one = [
            ("timeout_s", u64::from(self.timeout_s)),
            ("per_host", self.per_host as u64),
            ("concurrency", self.concurrency as u64),
            ("retries_per_s", u64::from(self.retries_per_s)),
        ];
        for (name, value) in least_one {
            if value == 0 {
                wrong(format!("webhooks.{name}: must be at least 1"));
            }
        }
        if self.timeout_s > 60 {
            wrong("webhooks.timeout_s: must be at most 60".into());
        }
        if self.schedule_s.len() > 30 || self.schedule_s.iter().any(|pause| *pause > 7 * 86_400) {
            wrong("webhooks.schedule_s: at most 30 pauses of at most a week".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_told() {
        let webhooks = Webhooks {
            timeout_s: 0,
            per_host: 0,
            concurrency: 0,
            retries_per_s: 0,
            schedule_s: vec![u32::MAX],
            overlap_s: 0,
        };
        let mut faults = Vec::new();
        webhooks.check(&mut |fault| faults.push(fault));
        assert_eq!(faults.len(), 5, "{faults:?}");
    }
}
