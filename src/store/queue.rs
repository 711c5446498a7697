//! The line before each lane: fair between flows (a tenant's tasks of one priority), by start-time fair queueing. A task's
//! rank is the line's present or, for a flow that is in line already, a step after its last one, whichever is later; the
//! step is short for flows of weight. So a flow with a thousand tasks in line does not delay another's first one, and no
//! flow waits for ever.

use std::collections::HashMap;

use super::backend::{Conn, on};
use super::{Store, StoreError};
use crate::domain::clock::Millis;
use crate::domain::request::Priority;
use crate::domain::task::{Phase, Task};

/// From one task of a flow to its next, in the line's own time.
const fn step(priority: Priority) -> i64 {
    match priority {
        Priority::High => 250,
        Priority::Normal => 1_000,
        Priority::Low => 4_000,
    }
}

/// The tasks a task shares its part of the line with.
pub(super) fn flow(task: &Task) -> String {
    let priority = match task.request.priority {
        Priority::High => "high",
        Priority::Normal => "normal",
        Priority::Low => "low",
    };
    format!("{}/{priority}", task.tenant)
}

/// The place of a task that is new in its lane's line. Those that sleep do not hold up the line's present.
pub(super) async fn rank(
    conn: &mut Conn<'_>,
    task: &Task,
    flow: &str,
    now: Millis,
) -> Result<i64, StoreError> {
    const ENDS: &str = "SELECT (SELECT MIN(queue_rank) FROM tasks WHERE lane = $1 AND phase = 'queued' AND wake_at <= $3), \
         (SELECT MAX(queue_rank) FROM tasks WHERE lane = $1 AND flow = $2 AND phase = 'queued')";
    if task.phase != Phase::Queued {
        return Ok(0);
    }
    let (first, own): (Option<i64>, Option<i64>) =
        on!(conn, c => sqlx::query_as(ENDS).bind(&task.lane).bind(flow).bind(now.0).fetch_one(c).await)?;
    let step = step(task.request.priority);
    // A tenth of a step behind the present: the more urgent of two that come first goes first.
    let present = first.unwrap_or(0) + step / 10;
    Ok(own.map_or(present, |last| present.max(last + step)))
}

impl Store {
    /// How many tasks wait for each lane.
    pub async fn queued(&self) -> Result<HashMap<String, i64>, StoreError> {
        const SQL: &str = "SELECT lane, COUNT(*) FROM tasks WHERE phase = 'queued' GROUP BY lane";
        let counts: Vec<(String, i64)> =
            on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(SQL).fetch_all(c).await)?;
        Ok(counts.into_iter().collect())
    }

    /// How many tasks are before this one in its lane's line.
    pub async fn ahead(&self, task: &Task) -> Result<i64, StoreError> {
        const SQL: &str = "SELECT COUNT(*) FROM tasks WHERE lane = $1 AND phase = 'queued' \
             AND (queue_rank < $2 OR (queue_rank = $2 AND id < $3))";
        let id = task.id.to_string();
        Ok(on!(&mut self.db.reader().await?.conn(), c =>
            sqlx::query_scalar(SQL).bind(&task.lane).bind(task.rank).bind(id).fetch_one(c).await)?)
    }

    /// How many tasks of each tenant have not ended.
    pub async fn open_tasks(&self) -> Result<HashMap<String, i64>, StoreError> {
        const SQL: &str = "SELECT tenant, COUNT(*) FROM tasks WHERE finished_at IS NULL AND parent_id IS NULL GROUP BY tenant";
        let counts: Vec<(String, i64)> =
            on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(SQL).fetch_all(c).await)?;
        Ok(counts.into_iter().collect())
    }
}
