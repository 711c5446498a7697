//! Who wants to hear of what: waiters of single tasks, and the engine's loop. Fed by commits; arm the watch first, then
//! look, and no change is missed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use crate::domain::id::TaskId;

/// In-process notification.
#[derive(Default)]
pub struct Changes {
    watched: Mutex<HashMap<TaskId, Watched>>,
    work: Notify,
    mail: Notify,
}

#[derive(Default)]
struct Watched {
    changed: Arc<Notify>,
    /// How often it changed since it is watched.
    count: Arc<AtomicU64>,
    watchers: usize,
}

impl Changes {
    /// Watches one task until dropped.
    pub fn watch(self: &Arc<Self>, task: TaskId) -> Watch {
        let mut watched = self.lock();
        let entry = watched.entry(task).or_default();
        entry.watchers += 1;
        let (changed, count) = (Arc::clone(&entry.changed), Arc::clone(&entry.count));
        Watch { changes: Arc::clone(self), task, changed, count }
    }

    /// Tells the watchers of a task that it changed.
    pub fn task_changed(&self, task: TaskId) {
        if let Some(watched) = self.lock().get(&task) {
            watched.count.fetch_add(1, Ordering::SeqCst);
            watched.changed.notify_waiters();
        }
    }

    /// Every task that is watched.
    pub fn watched(&self) -> Vec<TaskId> {
        self.lock().keys().copied().collect()
    }

    /// Tells the engine that a webhook may be due.
    pub fn mail_due(&self) {
        self.mail.notify_one();
    }

    /// Waits until a webhook may be due. What was told before the call counts.
    pub async fn mail(&self) {
        self.mail.notified().await;
    }

    /// Tells the engine that work may be due.
    pub fn work_due(&self) {
        self.work.notify_one();
    }

    /// Waits until work may be due. What was told before the call counts.
    pub async fn work(&self) {
        self.work.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TaskId, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A watch on one task.
pub struct Watch {
    changes: Arc<Changes>,
    task: TaskId,
    changed: Arc<Notify>,
    count: Arc<AtomicU64>,
}

impl Watch {
    /// How often the task changed since it is watched: as long as it stays the same there is nothing new to read.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Arms the watch: the future ends with the first change after this call, even one that comes before it is polled.
    pub fn armed(&self) -> OwnedNotified {
        Arc::clone(&self.changed).notified_owned()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.changes.lock();
        if let Some(entry) = watched.get_mut(&self.task) {
            entry.watchers -= 1;
            if entry.watchers == 0 {
                watched.remove(&self.task);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::{Millis, TestClock};

    #[tokio::test]
    async fn a_change_between_arming_and_waiting_is_not_missed() {
        let changes = Arc::new(Changes::default());
        let task = TaskId::mint(&TestClock::at(Millis(1)));
        let watch = changes.watch(task);
        let armed = watch.armed();
        changes.task_changed(task);
        armed.await;
        drop(watch);
        assert!(changes.lock().is_empty());
    }
}
