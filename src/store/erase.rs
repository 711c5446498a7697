//! Erasing a task: one transaction after which no row knows what was asked for or what came of it. What is left is a
//! tombstone for the books, and the idempotency key, so that a retry finds it and never buys again.

use super::backend::{Conn, on};
use super::expire::{at_rest, let_go_of_files, let_go_of_images};
use super::outbox::label;
use super::quarantine::let_go_of_task;
use super::tasks::{Row, columns, json};
use super::{Store, StoreError, attempts};
use crate::domain::clock::Millis;
use crate::domain::id::TaskId;
use crate::domain::task::Task;

/// What became of the wish to erase a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erasure {
    /// It is erased, now or earlier.
    Done,
    /// The tenant has no such task.
    NotFound,
    /// It has not ended.
    Running,
    /// It has ended, and a provider may still bring a result of it.
    Expecting,
}

impl Store {
    /// Erases what a tenant's task was asked for and what came of it.
    pub async fn erase_task(&self, tenant: String, id: TaskId) -> Result<Erasure, StoreError> {
        let now = self.clock.now();
        self.db.write(move |conn| Box::pin(erase(conn, tenant, id, now))).await
    }
}

async fn erase(mut conn: Conn<'_>, tenant: String, id: TaskId, now: Millis) -> Result<Erasure, StoreError> {
    macro_rules! with_parts {
        ($lock:literal) => {
            concat!(
                "SELECT ",
                columns!(),
                " FROM tasks WHERE id = $1 OR parent_id = $1 ORDER BY parent_id IS NOT NULL",
                $lock
            )
        };
    }
    const RESTS: &str = concat!("SELECT COUNT(*) FROM tasks t WHERE t.id = $1 AND ", at_rest!());
    const ROWS: [&str; 2] = [
        "DELETE FROM events WHERE task_id = $1 OR task_id IN (SELECT id FROM tasks WHERE parent_id = $1)",
        "DELETE FROM deliveries WHERE task_id = $1",
    ];
    const UNLABEL: &str = "DELETE FROM task_labels WHERE owner = $1 AND label = $2 AND task_id = $3";
    let name = id.to_string();
    // Locked from here on: whoever adds to the task does so before, and it goes, or finds it erased.
    let sql = conn.pick(with_parts!(""), with_parts!(" FOR UPDATE"));
    let rows: Vec<Row> = on!(&mut conn, c => sqlx::query_as(sql).bind(&name).fetch_all(c).await)?;
    let mut tasks = rows.into_iter().map(Task::try_from).collect::<Result<Vec<_>, _>>()?;
    let Some(whole) =
        tasks.first().filter(|task| task.id == id && task.tenant == tenant && task.parent.is_none())
    else {
        return Ok(Erasure::NotFound);
    };
    if whole.state.erased_at.is_some() {
        return Ok(Erasure::Done);
    }
    if !whole.phase.terminal() {
        return Ok(Erasure::Running);
    }
    let rests: i64 = on!(&mut conn, c => sqlx::query_scalar(RESTS).bind(&name).fetch_one(c).await)?;
    if rests == 0 {
        return Ok(Erasure::Expecting);
    }
    for (label_name, value) in &whole.request.metadata {
        on!(&mut conn, c => sqlx::query(UNLABEL).bind(&tenant).bind(label(label_name, value)).bind(&name)
            .execute(c).await.map(drop))?;
    }
    let_go_of_images(&mut conn, &name, true, now).await?;
    let_go_of_files(&mut conn, &name, now).await?;
    let_go_of_task(&mut conn, &name).await?;
    for sql in ROWS {
        on!(&mut conn, c => sqlx::query(sql).bind(&name).execute(c).await.map(drop))?;
    }
    for task in &mut tasks {
        blank(&mut conn, task, now).await?;
    }
    Ok(Erasure::Done)
}

/// Writes a task and its attempts anew, without their content.
async fn blank(conn: &mut Conn<'_>, task: &mut Task, now: Millis) -> Result<(), StoreError> {
    const BLANK: &str = "UPDATE tasks SET request = $3, state = $4, media_until = NULL, version = version + 1 \
         WHERE id = $1 AND version = $2";
    const ATTEMPTS: &str = "SELECT detail FROM attempts WHERE task_id = $1";
    const DETAIL: &str = "UPDATE attempts SET detail = $2, look_at = NULL WHERE id = $1";
    task.erase(now);
    let id = task.id.to_string();
    let blanked = on!(conn, c => sqlx::query(BLANK)
        .bind(&id).bind(task.version).bind(json(&task.request)).bind(json(&task.state))
        .execute(c).await.map(|done| done.rows_affected()))?;
    if blanked == 0 {
        return Err(StoreError::Stale);
    }
    let details: Vec<String> = on!(conn, c => sqlx::query_scalar(ATTEMPTS).bind(&id).fetch_all(c).await)?;
    for detail in details {
        let mut attempt = attempts::read(&detail)?;
        attempt.erase();
        on!(conn, c => sqlx::query(DETAIL).bind(attempt.id.to_string()).bind(json(&attempt))
            .execute(c).await.map(drop))?;
    }
    Ok(())
}
