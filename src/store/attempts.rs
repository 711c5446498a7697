//! Attempts as rows: columns for what is looked up, one JSON document for the rest.

use std::collections::HashMap;

use futures_util::future::BoxFuture;

use super::backend::{Conn, Db, on};
use super::claim::{self, count};
use super::list::readable;
use super::quarantine::erased;
use super::script::Script;
use super::tasks::json;
use super::{Store, StoreError, gather};
use crate::domain::attempt::{Attempt, Billing, Verdict};
use crate::domain::clock::Millis;
use crate::domain::id::{AttemptId, TaskId};

const PUT: &str = "INSERT INTO attempts (id, task_id, number, provider, state, handle, token_hash, look_at, started_at, detail, billed, upstream) \
     VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12) \
     ON CONFLICT (id) DO UPDATE SET state = excluded.state, handle = excluded.handle, detail = excluded.detail, billed = excluded.billed, \
     look_at = CASE WHEN excluded.state IN ('succeeded', 'failed', 'no_image') THEN excluded.look_at \
     ELSE COALESCE(excluded.look_at, attempts.look_at) END";

/// Whether an error says that another attempt at the same upstream has the job's id.
pub(super) fn is_job_taken(error: &dyn sqlx::error::DatabaseError) -> bool {
    error.constraint() == Some("attempts_by_job")
        || error.message().contains("attempts.upstream, attempts.handle")
}

/// An attempt whose task does not wait for it any more.
#[derive(Debug, Clone)]
pub struct Straggler {
    /// The attempt.
    pub attempt: Attempt,
    /// The id a callback gave.
    pub hint: Option<String>,
    /// Until when it is leased.
    pub leased_until: Millis,
}

/// Writes an attempt, new or anew.
pub(super) fn put(script: &mut Script, attempt: &Attempt) {
    script.add(PUT);
    script.bind(attempt.id.to_string()).bind(attempt.task.to_string()).bind(i64::from(attempt.number));
    script.bind(&attempt.provider).bind(attempt.state.as_str()).bind(&attempt.handle);
    script.bind(&attempt.token_hash).bind(attempt.look_at.map(|at| at.0));
    script.bind(attempt.started_at.0).bind(json(attempt)).bind(attempt.billed.as_str());
    script.bind(Some(&attempt.upstream).filter(|upstream| !upstream.is_empty()).cloned());
}

/// An attempt of unknown billing with what was found out about it; what else was learned of it in the meantime stays.
/// [`StoreError::Stale`] when its billing is known.
pub(super) async fn judged(
    conn: &mut Conn<'_>,
    id: AttemptId,
    verdict: Verdict,
) -> Result<Attempt, StoreError> {
    let unknown = locked(conn, id).await?.filter(|attempt| attempt.billed == Billing::Unknown);
    let mut attempt = unknown.ok_or(StoreError::Stale)?;
    attempt.judge(verdict);
    Ok(attempt)
}

/// An attempt that nobody else changes before the transaction ends.
pub(super) async fn locked(conn: &mut Conn<'_>, id: AttemptId) -> Result<Option<Attempt>, StoreError> {
    let sql = conn.pick(
        "SELECT detail FROM attempts WHERE id = $1",
        "SELECT detail FROM attempts WHERE id = $1 FOR UPDATE",
    );
    let detail: Option<String> =
        on!(conn, c => sqlx::query_scalar(sql).bind(id.to_string()).fetch_optional(c).await)?;
    detail.as_deref().map(read).transpose()
}

/// What is known of these attempts.
pub(super) fn details(
    db: &Db,
    ids: Vec<String>,
) -> BoxFuture<'_, Result<HashMap<String, String>, StoreError>> {
    Box::pin(async move {
        const SQL: &str = "SELECT id, detail FROM attempts WHERE id IN ({ids})";
        let rows: Vec<(String, String)> = gather::rows(db, SQL, ids).await?;
        Ok(rows.into_iter().collect())
    })
}

pub(super) fn read(detail: &str) -> Result<Attempt, StoreError> {
    serde_json::from_str(detail).map_err(|e| StoreError::Unreadable(format!("attempt: {e}")))
}

impl Store {
    /// One attempt.
    pub async fn attempt(&self, id: AttemptId) -> Result<Option<Attempt>, StoreError> {
        self.rows.attempts.one(&self.db, id.to_string()).await?.as_deref().map(read).transpose()
    }

    /// The attempts of a task and of its parts, first to last.
    pub async fn attempts(&self, task: TaskId) -> Result<Vec<Attempt>, StoreError> {
        const SQL: &str = "SELECT detail FROM attempts WHERE task_id IN (SELECT id FROM tasks WHERE id = $1 OR parent_id = $1) \
             ORDER BY started_at, task_id, number";
        let id = task.to_string();
        let details: Vec<String> = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_scalar(SQL).bind(id).fetch_all(c).await)?;
        Ok(readable(details.iter().map(|detail| read(detail))))
    }

    /// The attempt a callback's token belongs to.
    pub async fn attempt_by_token(&self, hash: &str) -> Result<Option<Attempt>, StoreError> {
        const SQL: &str = "SELECT detail FROM attempts WHERE token_hash = $1";
        let detail: Option<String> = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_scalar(SQL).bind(hash).fetch_optional(c).await)?;
        detail.as_deref().map(read).transpose()
    }

    /// The id a callback gave for an attempt.
    pub async fn hint(&self, id: AttemptId) -> Result<Option<String>, StoreError> {
        const SQL: &str = "SELECT hint FROM attempts WHERE id = $1";
        let id = id.to_string();
        let hint: Option<Option<String>> = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_scalar(SQL).bind(id).fetch_optional(c).await)?;
        Ok(hint.flatten())
    }

    /// The attempt that has this job at this upstream.
    pub async fn attempt_by_job(&self, upstream: &str, handle: &str) -> Result<Option<Attempt>, StoreError> {
        const SQL: &str = "SELECT detail FROM attempts WHERE upstream = $1 AND handle = $2";
        let detail: Option<String> = on!(&mut self.db.reader().await?.conn(), c =>
            sqlx::query_scalar(SQL).bind(upstream).bind(handle).fetch_optional(c).await)?;
        detail.as_deref().map(read).transpose()
    }

    /// Stores what a callback says: the id it names, and that an attempt nobody waits for is worth another look. A task that
    /// is named with it becomes due now, as by [`Self::wake`].
    pub async fn knock(
        &self,
        id: AttemptId,
        named: Option<String>,
        task: Option<TaskId>,
    ) -> Result<(), StoreError> {
        const KNOCK: &str = "UPDATE attempts SET hint = COALESCE($2, hint), look_at = CASE \
             WHEN state IN ('intent', 'unknown', 'lost', 'rejected', 'not_sent', 'failed', 'no_image') THEN $3 ELSE look_at END WHERE id = $1";
        let now = self.clock.now();
        let mut script = Script::default();
        // The task first, as everybody does: two who lock both in different order would lock each other out.
        if let Some(task) = task {
            claim::wake(&mut script, task, now);
        }
        script.add(KNOCK).bind(id.to_string()).bind(named).bind(now.0);
        self.db.run(script).await?;
        self.changes.work_due();
        Ok(())
    }

    /// Adds what its provider said to an attempt that its task has gone on without, unless its end is known already and there
    /// is nothing to bring, or its task was erased. What was booked of it stays, so that the books can be set right from there.
    pub async fn leave_behind(&self, attempt: Attempt) -> Result<(), StoreError> {
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    if erased(&mut conn, attempt.task).await? {
                        return Ok(());
                    }
                    let left = match locked(&mut conn, attempt.id).await? {
                        Some(known) if known.state.told() && attempt.made.is_empty() => return Ok(()),
                        Some(known) => Attempt {
                            state: attempt.state,
                            look_at: attempt.look_at,
                            failed_since: attempt.failed_since,
                            lacking_since: attempt.lacking_since.or(known.lacking_since),
                            handle: attempt.handle.or(known.handle),
                            made: if attempt.made.is_empty() { known.made } else { attempt.made },
                            made_verdict: attempt.made_verdict.or(known.made_verdict),
                            ..known
                        },
                        None => attempt,
                    };
                    Script::of(|script| put(script, &left)).run(&mut conn).await
                })
            })
            .await?;
        self.changes.work_due();
        Ok(())
    }

    /// Leases attempts that are to be looked for.
    pub async fn stragglers(&self, until: Millis, limit: usize) -> Result<Vec<Straggler>, StoreError> {
        macro_rules! lease {
            ($lock:literal) => {
                concat!(
                    "UPDATE attempts SET look_at = $1 WHERE id IN (SELECT id FROM attempts \
                     WHERE look_at IS NOT NULL AND look_at <= $2 ORDER BY look_at LIMIT $3",
                    $lock,
                    ") RETURNING detail, hint"
                )
            };
        }
        let (now, limit) = (self.clock.now(), count(limit));
        let due: Vec<(String, Option<String>)> = self
            .db
            .write(move |mut conn| {
                Box::pin(async move {
                    let sql = conn.pick(lease!(""), lease!(" FOR UPDATE SKIP LOCKED"));
                    Ok(on!(&mut conn, c => sqlx::query_as(sql).bind(until.0).bind(now.0).bind(limit).fetch_all(c).await)?)
                })
            })
            .await?;
        // One that cannot be read does not keep the others from being looked for.
        let readable = due.into_iter().filter_map(|(detail, hint)| match read(&detail) {
            Ok(attempt) => Some(Straggler { attempt, hint, leased_until: until }),
            Err(error) => {
                tracing::error!(%error, "an attempt to look for cannot be read");
                None
            }
        });
        Ok(readable.collect())
    }

    /// When an attempt is to be looked for again; `None`: no more.
    pub async fn look_again(
        &self,
        id: AttemptId,
        leased: Millis,
        at: Option<Millis>,
    ) -> Result<(), StoreError> {
        // Unless somebody has made it due in the meantime.
        const AGAIN: &str = "UPDATE attempts SET look_at = $2 WHERE id = $1 AND look_at = $3";
        let at = at.map(|at| at.0);
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    let id = id.to_string();
                    on!(&mut conn, c => sqlx::query(AGAIN).bind(id).bind(at).bind(leased.0).execute(c).await.map(drop))?;
                    Ok(())
                })
            })
            .await
    }
}
