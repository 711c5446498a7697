//! What callers are told, in order, as rows.

use sqlx::FromRow;

use super::backend::on;
use super::script::Script;
use super::{Store, StoreError};
use crate::domain::clock::Millis;
use crate::domain::id::TaskId;
use crate::domain::task::Notice;

/// One line of a task's history.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct EventRow {
    /// Its number in the task.
    pub seq: i64,
    /// `task.attempt`, `task.succeeded`…
    pub name: String,
    /// JSON.
    pub data: String,
    /// When, in milliseconds since the epoch.
    pub created_at: i64,
}

/// Writes one line of a task's history.
pub(super) fn put(script: &mut Script, task: &str, notice: &Notice, now: Millis) {
    const PUT: &str = "INSERT INTO events (task_id, seq, name, data, created_at) VALUES ($1,$2,$3,$4,$5)";
    script.add(PUT);
    script.bind(task).bind(notice.seq).bind(notice.name).bind(notice.data.to_string()).bind(now.0);
}

impl Store {
    /// A task's written events after `seq`, in order.
    pub async fn events(&self, task: TaskId, after: i64) -> Result<Vec<EventRow>, StoreError> {
        const SQL: &str =
            "SELECT seq, name, data, created_at FROM events WHERE task_id = $1 AND seq > $2 ORDER BY seq";
        let id = task.to_string();
        let rows = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(SQL).bind(id).bind(after).fetch_all(c).await)?;
        Ok(rows)
    }
}
