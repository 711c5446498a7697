//! Waiting for a task's end: on the notifier that commits feed, never by asking the database in a loop.

use std::time::Duration;

use axum::http::HeaderMap;
use tokio::time::Instant;

use super::Api;
use super::problem::ApiError;
use crate::domain::task::Task;

/// The longest a request may wait.
pub const MAX_WAIT_S: u64 = 60;

impl Api {
    /// The task once it has ended, or as it is after `patience`.
    pub(super) async fn wait(&self, task: Task, patience: Duration) -> Result<Task, ApiError> {
        let ends = Instant::now() + patience;
        let watch = self.store.changes().watch(task.id);
        let mut task = task;
        loop {
            // Armed before looking: a change between the two is not missed.
            let changed = watch.armed();
            task = self.store.task(task.id).await?.unwrap_or(task);
            if task.phase.terminal() {
                return Ok(task);
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(ends) => return Ok(task),
                () = self.closing.cancelled() => return Ok(task),
            }
        }
    }
}

/// The seconds of `Prefer: wait=N` (RFC 7240), at most [`MAX_WAIT_S`]; a preference that cannot be read is none.
pub(super) fn preferred(headers: &HeaderMap) -> Option<u64> {
    let prefers = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut words = prefers.flat_map(|value| value.split([',', ';'])).map(str::trim);
    let wait = words.find_map(|word| word.strip_prefix("wait=")?.trim_matches('"').parse::<u64>().ok())?;
    (wait > 0).then(|| wait.min(MAX_WAIT_S))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_are_read_or_ignored() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", value.parse().unwrap());
            preferred(&headers)
        };
        assert_eq!(read("wait=30"), Some(30));
        assert_eq!(read("respond-async, wait=5"), Some(5));
        assert_eq!(read("wait=9999"), Some(60));
        for none in ["wait=0", "wait=x", "wait", "respond-async"] {
            assert_eq!(read(none), None);
        }
    }
}
