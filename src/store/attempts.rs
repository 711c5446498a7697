//! Attempts as rows: columns for what is looked up, one JSON document for the rest.

use super::backend::{Conn, on};
use super::tasks::json;
use super::{Store, StoreError};
use crate::domain::attempt::Attempt;
use crate::domain::id::{AttemptId, TaskId};

const PUT: &str = "INSERT INTO attempts (id, task_id, number, provider, state, handle, started_at, detail) \
     VALUES ($1,$2,$3,$4,$5,$6,$7,$8) \
     ON CONFLICT (id) DO UPDATE SET state = excluded.state, handle = excluded.handle, detail = excluded.detail";

/// Writes an attempt, new or anew.
pub(super) async fn put(conn: &mut Conn<'_>, attempt: &Attempt) -> Result<(), StoreError> {
    on!(conn, c => sqlx::query(PUT)
        .bind(attempt.id.to_string()).bind(attempt.task.to_string()).bind(i64::from(attempt.number))
        .bind(&attempt.provider).bind(attempt.state.as_str()).bind(&attempt.handle)
        .bind(attempt.started_at.0).bind(json(attempt))
        .execute(c).await.map(drop))?;
    Ok(())
}

fn read(detail: &str) -> Result<Attempt, StoreError> {
    serde_json::from_str(detail).map_err(|e| StoreError::Unreadable(format!("attempt: {e}")))
}

impl Store {
    /// One attempt.
    pub async fn attempt(&self, id: AttemptId) -> Result<Option<Attempt>, StoreError> {
        const SQL: &str = "SELECT detail FROM attempts WHERE id = $1";
        let id = id.to_string();
        let detail: Option<String> = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_scalar(SQL).bind(id).fetch_optional(c).await)?;
        detail.as_deref().map(read).transpose()
    }

    /// The attempts of a task and of its parts, first to last.
    pub async fn attempts(&self, task: TaskId) -> Result<Vec<Attempt>, StoreError> {
        const SQL: &str = "SELECT detail FROM attempts WHERE task_id IN (SELECT id FROM tasks WHERE id = $1 OR parent_id = $1) \
             ORDER BY started_at, id";
        let id = task.to_string();
        let details: Vec<String> = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_scalar(SQL).bind(id).fetch_all(c).await)?;
        details.iter().map(|detail| read(detail)).collect()
    }
}
