//! Attempts by what is known of their billing: above all those of which nobody can say whether they were charged.

use super::backend::on;
use super::claim::count;
use super::list::Page;
use super::{Store, StoreError, attempts};
use crate::domain::attempt::{Attempt, Billing};
use crate::domain::id::{AttemptId, TaskId};

/// An attempt that is over, with whose it was.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The attempt.
    pub attempt: Attempt,
    /// The task its caller knows.
    pub task: TaskId,
    /// Whose task.
    pub tenant: String,
    /// The name of the key it came with.
    pub key: String,
}

impl Store {
    /// A page of the attempts that are over and of this billing, newest first, from before `cursor`.
    pub async fn judged(
        &self,
        billed: Billing,
        cursor: Option<AttemptId>,
        limit: usize,
    ) -> Result<Page<Judged, AttemptId>, StoreError> {
        type Row = (String, String, String, String, String);
        const SQL: &str = "SELECT a.id, a.detail, COALESCE(t.parent_id, t.id), t.tenant, t.key_name \
             FROM attempts a JOIN tasks t ON t.id = a.task_id WHERE a.billed = $1 AND a.id < $2 \
             AND a.state NOT IN ('intent', 'accepted', 'unknown') ORDER BY a.id DESC LIMIT $3";
        let below = cursor.map_or_else(|| "att_~".to_owned(), |id| id.to_string());
        let rows: Vec<Row> = on!(&mut self.db.reader().await?.conn(), c =>
            sqlx::query_as(SQL).bind(billed.as_str()).bind(below).bind(count(limit + 1)).fetch_all(c).await)?;
        let read = |(id, detail, task, tenant, key): Row| {
            let task =
                task.parse().map_err(|_| StoreError::Unreadable(format!("the task of attempt {id}")))?;
            Ok(Judged { attempt: attempts::read(&detail)?, task, tenant, key })
        };
        Ok(Page::of(rows, limit, |row| &row.0, read))
    }
}
