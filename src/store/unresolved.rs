//! Attempts by what is known of their billing: above all those of which nobody can say whether they were charged.

use super::backend::on;
use super::claim::count;
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
    /// Attempts that are over and of this billing, newest first, from before `cursor`; and whether there are more.
    pub async fn judged(
        &self,
        billed: Billing,
        cursor: Option<AttemptId>,
        limit: usize,
    ) -> Result<(Vec<Judged>, bool), StoreError> {
        const SQL: &str = "SELECT a.detail, COALESCE(t.parent_id, t.id), t.tenant, t.key_name \
             FROM attempts a JOIN tasks t ON t.id = a.task_id WHERE a.billed = $1 AND a.id < $2 \
             AND a.state NOT IN ('intent', 'accepted', 'unknown') ORDER BY a.id DESC LIMIT $3";
        let below = cursor.map_or_else(|| "att_~".to_owned(), |id| id.to_string());
        let rows: Vec<(String, String, String, String)> = on!(&mut self.db.reader().await?.conn(), c =>
            sqlx::query_as(SQL).bind(billed.as_str()).bind(below).bind(count(limit + 1)).fetch_all(c).await)?;
        let more = rows.len() > limit;
        let judged = rows.into_iter().take(limit).filter_map(|(detail, task, tenant, key)| {
            let attempt = attempts::read(&detail).inspect_err(
                |error| tracing::error!(task.id = task, %error, "an attempt is left out of a list"),
            );
            Some(Judged { attempt: attempt.ok()?, task: task.parse().ok()?, tenant, key })
        });
        Ok((judged.collect(), more))
    }
}
