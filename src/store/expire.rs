//! What has had its time: pictures, input files, and in the end the rows of a task. In small batches, each a transaction of
//! its own that can be repeated; nothing of a task that may still change is touched.

use super::backend::{Conn, on};
use super::claim::count;
use super::quarantine::let_go_of_task;
use super::{Store, StoreError, erasures};
use crate::domain::clock::Millis;

/// No part of it is at work, and no attempt of it is expected to bring a result. One that failed may change its mind, but
/// nobody waits for that.
macro_rules! at_rest {
    () => {
        "NOT EXISTS (SELECT 1 FROM tasks p WHERE p.parent_id = t.id AND p.finished_at IS NULL) \
         AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.look_at IS NOT NULL AND a.state <> 'failed' AND (a.task_id = t.id \
         OR a.task_id IN (SELECT p.id FROM tasks p WHERE p.parent_id = t.id)))"
    };
}
pub(super) use at_rest;

/// Lets go of the pictures of a task and of its parts: their rows say that they are gone, or go themselves.
pub(super) async fn let_go_of_images(
    conn: &mut Conn<'_>,
    task: &str,
    rows_too: bool,
    now: Millis,
) -> Result<(), StoreError> {
    const HASHES: &str = "SELECT DISTINCT sha256 FROM images WHERE task_id = $1 OR task_id IN (SELECT id FROM tasks WHERE parent_id = $1)";
    const GONE: &str = "UPDATE images SET gone = TRUE WHERE task_id = $1 OR task_id IN (SELECT id FROM tasks WHERE parent_id = $1)";
    const DELETE: &str =
        "DELETE FROM images WHERE task_id = $1 OR task_id IN (SELECT id FROM tasks WHERE parent_id = $1)";
    let hashes: Vec<String> = on!(conn, c => sqlx::query_scalar(HASHES).bind(task).fetch_all(c).await)?;
    let sql = if rows_too { DELETE } else { GONE };
    on!(conn, c => sqlx::query(sql).bind(task).execute(c).await.map(drop))?;
    erasures::noted(conn, hashes, now).await
}

/// Forgets the files that came in with a task or were made for it.
pub(super) async fn let_go_of_files(conn: &mut Conn<'_>, task: &str, now: Millis) -> Result<(), StoreError> {
    const FORGET: &str = "DELETE FROM files WHERE task_id = $1 RETURNING sha256";
    let hashes: Vec<String> = on!(conn, c => sqlx::query_scalar(FORGET).bind(task).fetch_all(c).await)?;
    erasures::noted(conn, hashes, now).await
}

impl Store {
    /// Lets go of the pictures whose time is over, of at most `limit` tasks; of how many.
    pub async fn expire_media(&self, limit: usize) -> Result<usize, StoreError> {
        const DUE: &str = concat!(
            "SELECT t.id FROM tasks t WHERE t.media_until IS NOT NULL AND t.media_until <= $1 AND ",
            at_rest!(),
            " ORDER BY t.media_until LIMIT $2"
        );
        // A late result may have given it new pictures with a time of their own.
        const MARK: &str = "UPDATE tasks SET media_until = NULL WHERE id = $1 AND media_until IS NOT NULL AND media_until <= $2";
        let now = self.clock.now();
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    let due: Vec<String> = on!(&mut conn, c =>
                        sqlx::query_scalar(DUE).bind(now.0).bind(count(limit)).fetch_all(c).await)?;
                    for id in &due {
                        let marked = on!(&mut conn, c => sqlx::query(MARK).bind(id).bind(now.0)
                            .execute(c).await.map(|done| done.rows_affected()))?;
                        if marked > 0 {
                            let_go_of_images(&mut conn, id, false, now).await?;
                        }
                    }
                    Ok(due.len())
                })
            })
            .await
    }

    /// Deletes the rows of at most `limit` tasks that ended before that moment; of how many.
    pub async fn expire_records(&self, ended_before: Millis, limit: usize) -> Result<usize, StoreError> {
        const DUE: &str = concat!(
            "SELECT t.id FROM tasks t WHERE t.finished_at IS NOT NULL AND t.parent_id IS NULL AND t.finished_at <= $1 \
             AND t.phase IN ('succeeded', 'failed', 'canceled') AND (t.media_until IS NULL OR t.media_until <= $3) AND ",
            at_rest!(),
            " ORDER BY t.finished_at LIMIT $2"
        );
        // The rows of its parts go with it; the parts themselves last, because the others are found by them.
        const ROWS: [&str; 6] = [
            "DELETE FROM attempts WHERE task_id = $1 OR task_id IN (SELECT id FROM tasks WHERE parent_id = $1)",
            "DELETE FROM events WHERE task_id = $1 OR task_id IN (SELECT id FROM tasks WHERE parent_id = $1)",
            "DELETE FROM deliveries WHERE task_id = $1",
            "DELETE FROM task_labels WHERE task_id = $1",
            "DELETE FROM tasks WHERE parent_id = $1",
            "DELETE FROM tasks WHERE id = $1",
        ];
        let now = self.clock.now();
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    let due: Vec<String> = on!(&mut conn, c =>
                        sqlx::query_scalar(DUE).bind(ended_before.0).bind(count(limit)).bind(now.0).fetch_all(c).await)?;
                    for id in &due {
                        let_go_of_images(&mut conn, id, true, now).await?;
                        let_go_of_files(&mut conn, id, now).await?;
                        let_go_of_task(&mut conn, id).await?;
                        for sql in ROWS {
                            on!(&mut conn, c => sqlx::query(sql).bind(id).execute(c).await.map(drop))?;
                        }
                    }
                    Ok(due.len())
                })
            })
            .await
    }

    /// Forgets at most `limit` input files that neither came nor were named by a task since that moment; how many.
    pub async fn expire_files(&self, unused_since: Millis, limit: usize) -> Result<usize, StoreError> {
        const EXPIRE: &str = "DELETE FROM files WHERE id IN (SELECT id FROM files WHERE created_at <= $1 AND used_at <= $1 \
             ORDER BY created_at LIMIT $2) AND used_at <= $1 RETURNING sha256";
        let now = self.clock.now();
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    let hashes: Vec<String> = on!(&mut conn, c =>
                        sqlx::query_scalar(EXPIRE).bind(unused_since.0).bind(count(limit)).fetch_all(c).await)?;
                    let expired = hashes.len();
                    erasures::noted(&mut conn, hashes, now).await?;
                    Ok(expired)
                })
            })
            .await
    }
}
