//! Who wants to hear of what: waiters of single tasks, and the engine's loop. Fed by commits; arm the watch first, then
//! look, and no change is missed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use crate::domain::id::TaskId;

/// In-process notification.
#[derive(Default)]
pub struct Changes {
    watched: Mutex<HashMap<TaskId, Watched>>,
    work: Notify,
}

#[derive(Default)]
struct Watched {
    changed: Arc<Notify>,
    watchers: usize,
}

impl Changes {
    /// Watches one task until dropped.
    pub fn watch(self: &Arc<Self>, task: TaskId) -> Watch {
        let mut watched = self.lock();
        let entry = watched.entry(task).or_default();
        entry.watchers += 1;
        Watch { changes: Arc::clone(self), task, changed: Arc::clone(&entry.changed) }
    }

    /// Tells the watchers of a task that it changed.
    pub fn task_changed(&self, task: TaskId) {
        if let Some(watched) = self.lock().get(&task) {
            watched.changed.notify_waiters();
        }
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
}

impl Watch {
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
