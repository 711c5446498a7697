//! Tasks as rows: accepting one, claiming what is due, saving a step, reading and listing.

use std::collections::{BTreeMap, HashMap};

use sqlx::FromRow;

use super::backend::{Conn, on};
use super::{Store, StoreError, attempts, events, images};
use crate::domain::attempt::Attempt;
use crate::domain::clock::Millis;
use crate::domain::id::TaskId;
use crate::domain::image::StoredImage;
use crate::domain::task::{Notice, Phase, Task};

macro_rules! columns {
    () => {
        "id, tenant, key_name, idempotency_key, fingerprint, request, model, operation, phase, lane, queue_rank, version, \
         wake_at, created_at, started_at, finished_at, start_by, deadline_at, state"
    };
}

const INSERT: &str = concat!(
    "INSERT INTO tasks (",
    columns!(),
    ") VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19) \
     ON CONFLICT (tenant, idempotency_key) DO NOTHING"
);
const BY_KEY: &str = concat!("SELECT ", columns!(), " FROM tasks WHERE tenant = $1 AND idempotency_key = $2");
const BY_ID: &str = concat!("SELECT ", columns!(), " FROM tasks WHERE id = $1");
const UPDATE: &str = "UPDATE tasks SET phase = $3, lane = $4, queue_rank = $5, wake_at = $6, started_at = $7, \
     finished_at = $8, state = $9, version = version + 1 WHERE id = $1 AND version = $2";

macro_rules! claim {
    ($which:literal, $lock:literal) => {
        concat!(
            "UPDATE tasks SET wake_at = $1, version = version + 1 WHERE id IN (SELECT id FROM tasks WHERE ",
            $which,
            $lock,
            ") RETURNING ",
            columns!()
        )
    };
}
macro_rules! both {
    ($conn:expr, $which:literal) => {
        $conn.pick(claim!($which, ""), claim!($which, " FOR UPDATE SKIP LOCKED"))
    };
}

/// What became of a new task.
#[derive(Debug)]
pub enum Accepted {
    /// It is stored.
    Created(Box<Task>),
    /// Its idempotency key belongs to this task, with the same body.
    Replayed(Box<Task>),
    /// Its idempotency key belongs to another body.
    KeyReused(TaskId),
}

/// One step of a task, saved whole or not at all.
#[derive(Debug, Clone)]
pub struct Change {
    /// The task as it is to be; its version is the one it was read with.
    pub task: Box<Task>,
    /// An attempt to write or write anew.
    pub attempt: Option<Attempt>,
    /// Pictures that are durable.
    pub images: Vec<StoredImage>,
    /// What callers are told.
    pub notices: Vec<Notice>,
}

impl Change {
    /// A change to the task alone.
    pub fn of(task: Box<Task>) -> Self {
        Self { task, attempt: None, images: Vec::new(), notices: Vec::new() }
    }
}

/// What to lease.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Until when the leases hold.
    pub until: Millis,
    /// The most tasks in all.
    pub limit: usize,
    /// How many more tasks each lane may start; lanes without room are left out.
    pub lanes: BTreeMap<String, usize>,
}

/// Which tasks to list; absent fields match all.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Whose.
    pub tenant: String,
    /// In one of these phases (at most four); empty matches all.
    pub phases: Vec<Phase>,
    /// Of this model.
    pub model: Option<String>,
    /// At this provider.
    pub provider: Option<String>,
    /// Accepted at or after.
    pub created_after: Option<Millis>,
    /// Accepted before.
    pub created_before: Option<Millis>,
    /// Older than this task: where the last page ended.
    pub cursor: Option<TaskId>,
}

/// One page of tasks, newest first.
#[derive(Debug)]
pub struct Page {
    /// The tasks.
    pub tasks: Vec<Task>,
    /// Whether there are older ones.
    pub has_more: bool,
}

#[derive(FromRow)]
struct Row {
    id: String,
    tenant: String,
    key_name: String,
    idempotency_key: Option<String>,
    fingerprint: String,
    request: String,
    model: String,
    operation: String,
    phase: String,
    lane: String,
    queue_rank: i64,
    version: i64,
    wake_at: Option<i64>,
    created_at: i64,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    start_by: i64,
    deadline_at: i64,
    state: String,
}

impl TryFrom<Row> for Task {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let bad = |what: &str| StoreError::Unreadable(format!("task {}: {what}", row.id));
        Ok(Self {
            id: row.id.parse().map_err(|_| bad("id"))?,
            request: serde_json::from_str(&row.request).map_err(|e| bad(&e.to_string()))?,
            operation: serde_json::from_value(row.operation.as_str().into()).map_err(|_| bad("operation"))?,
            // A word of a newer version is work in progress to this one, and never claimed by it.
            phase: Phase::parse(&row.phase).unwrap_or(Phase::Waiting),
            state: serde_json::from_str(&row.state).map_err(|e| bad(&e.to_string()))?,
            tenant: row.tenant,
            key: row.key_name,
            idempotency_key: row.idempotency_key,
            fingerprint: row.fingerprint,
            model: row.model,
            lane: row.lane,
            rank: row.queue_rank,
            version: row.version,
            wake_at: row.wake_at.map(Millis),
            created_at: Millis(row.created_at),
            started_at: row.started_at.map(Millis),
            finished_at: row.finished_at.map(Millis),
            start_by: Millis(row.start_by),
            deadline_at: Millis(row.deadline_at),
        })
    }
}

/// JSON of a value whose serialisation cannot fail.
pub(super) fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

impl Store {
    /// Stores a new task durably, or finds the one its idempotency key belongs to.
    pub async fn accept(&self, task: Task) -> Result<Accepted, StoreError> {
        let accepted = self.db.write(move |conn| Box::pin(insert(conn, task))).await?;
        if let Accepted::Created(_) = accepted {
            self.changes.work_due();
        }
        Ok(accepted)
    }

    /// Saves one step; [`StoreError::Stale`] and nothing written when the task has moved on. Answers with the task as it
    /// is now.
    pub async fn save(&self, change: Change) -> Result<Box<Task>, StoreError> {
        let now = self.clock.now();
        let task = self.db.write(move |conn| Box::pin(update(conn, change, now))).await?;
        self.changes.task_changed(task.id);
        self.changes.work_due();
        Ok(task)
    }

    /// Extends the leases of tasks this process is at work on; those it has lost stay lost.
    pub async fn renew(&self, held: Vec<(TaskId, i64)>, until: Millis) -> Result<(), StoreError> {
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    const RENEW: &str = "UPDATE tasks SET wake_at = $3 WHERE id = $1 AND version = $2";
                    for (id, version) in held {
                        let id = id.to_string();
                        on!(&mut conn, c => sqlx::query(RENEW).bind(id).bind(version).bind(until.0).execute(c).await.map(drop))?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Leases what is due: queued tasks whose time to start has passed, started tasks whose time has come, and for each
    /// lane with room its first tasks in line.
    pub async fn claim(&self, claim: Claim) -> Result<Vec<Task>, StoreError> {
        let now = self.clock.now();
        let rows = self.db.write(move |conn| Box::pin(lease(conn, claim, now))).await?;
        rows.into_iter().map(Task::try_from).collect()
    }

    /// How many tasks each lane has at its provider.
    pub async fn in_flight(&self) -> Result<HashMap<String, i64>, StoreError> {
        const SQL: &str = "SELECT lane, COUNT(*) FROM tasks \
             WHERE phase IN ('submitting', 'waiting', 'reconciling') GROUP BY lane";
        let counts: Vec<(String, i64)> =
            on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(SQL).fetch_all(c).await)?;
        Ok(counts.into_iter().collect())
    }

    /// Makes every task that has not ended due now. Only for a process that is alone: it ends all leases, those of a
    /// process that was killed among them, and undoes timers set by a clock that has since been set back.
    pub async fn wake_all(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    const WAKE: &str = "UPDATE tasks SET wake_at = $1 WHERE wake_at > $1";
                    on!(&mut conn, c => sqlx::query(WAKE).bind(now.0).execute(c).await.map(drop))?;
                    Ok(())
                })
            })
            .await
    }

    /// How many tasks wait for each lane.
    pub async fn queued(&self) -> Result<HashMap<String, i64>, StoreError> {
        const SQL: &str = "SELECT lane, COUNT(*) FROM tasks WHERE phase = 'queued' GROUP BY lane";
        let counts: Vec<(String, i64)> =
            on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(SQL).fetch_all(c).await)?;
        Ok(counts.into_iter().collect())
    }

    /// The next moment after the present at which a task's time comes, as far as it is known.
    pub async fn next_wake(&self) -> Result<Option<Millis>, StoreError> {
        const STARTED: &str =
            "SELECT MIN(wake_at) FROM tasks WHERE wake_at IS NOT NULL AND phase <> 'queued'";
        const QUEUED: &str = "SELECT MIN(wake_at) FROM tasks WHERE phase = 'queued' AND wake_at > $1";
        const UNTIL: &str = "SELECT MIN(start_by) FROM tasks WHERE phase = 'queued' AND start_by > $1";
        let now = self.clock.now();
        let mut reader = self.db.reader().await?;
        let started: Option<i64> =
            on!(&mut reader.conn(), c => sqlx::query_scalar(STARTED).fetch_one(c).await)?;
        let queued: Option<i64> =
            on!(&mut reader.conn(), c => sqlx::query_scalar(QUEUED).bind(now.0).fetch_one(c).await)?;
        let until: Option<i64> =
            on!(&mut reader.conn(), c => sqlx::query_scalar(UNTIL).bind(now.0).fetch_one(c).await)?;
        Ok([started, queued, until].into_iter().flatten().min().map(Millis))
    }

    /// One task, whoever's it is.
    pub async fn task(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        let id = id.to_string();
        let row: Option<Row> = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(BY_ID).bind(id).fetch_optional(c).await)?;
        row.map(Task::try_from).transpose()
    }

    /// A page of a tenant's tasks, newest first.
    pub async fn tasks(&self, filter: TaskFilter, limit: usize) -> Result<Page, StoreError> {
        const LIST: &str = concat!(
            "SELECT ",
            columns!(),
            " FROM tasks WHERE tenant = $1 AND id < $2 AND id >= $3 AND ($4 IS NULL OR phase IN ($4, $5, $6, $7)) \
             AND ($8 IS NULL OR model = $8) AND ($9 IS NULL OR lane = $9) ORDER BY id DESC LIMIT $10"
        );
        // Ids sort by time, so times are bounds of ids; `task_~` lies beyond all of them.
        let before = filter.created_before.map(|moment| TaskId::floor(moment).to_string());
        let below = [before, filter.cursor.map(|id| id.to_string())].into_iter().flatten().min();
        let below = below.unwrap_or_else(|| "task_~".to_owned());
        let from = filter
            .created_after
            .map_or_else(|| "task_".to_owned(), |moment| TaskId::floor(moment).to_string());
        let phase = |at: usize| filter.phases.get(at).or(filter.phases.first()).map(|phase| phase.as_str());
        let mut rows: Vec<Row> = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(LIST)
            .bind(&filter.tenant).bind(below).bind(from)
            .bind(phase(0)).bind(phase(1)).bind(phase(2)).bind(phase(3))
            .bind(&filter.model).bind(&filter.provider).bind(count(limit + 1))
            .fetch_all(c).await)?;
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        Ok(Page { tasks: rows.into_iter().map(Task::try_from).collect::<Result<_, _>>()?, has_more })
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

async fn lease(mut conn: Conn<'_>, claim: Claim, now: Millis) -> Result<Vec<Row>, StoreError> {
    let (until, now) = (claim.until.0, now.0);
    let mut rows: Vec<Row> = Vec::new();
    for sql in [
        both!(conn, "phase = 'queued' AND start_by <= $2 AND wake_at <= $2 ORDER BY start_by LIMIT $3"),
        both!(
            conn,
            "wake_at IS NOT NULL AND phase <> 'queued' AND wake_at <= $2 \
             AND phase IN ('submitting', 'waiting', 'reconciling', 'storing') ORDER BY wake_at LIMIT $3"
        ),
    ] {
        let limit = count(claim.limit.saturating_sub(rows.len()));
        rows.extend::<Vec<Row>>(
            on!(&mut conn, c => sqlx::query_as(sql).bind(until).bind(now).bind(limit).fetch_all(c).await)?,
        );
    }
    for (lane, room) in claim.lanes {
        let sql =
            both!(conn, "phase = 'queued' AND lane = $4 AND wake_at <= $2 ORDER BY queue_rank LIMIT $3");
        let limit = count(room.min(claim.limit.saturating_sub(rows.len())));
        rows.extend::<Vec<Row>>(
            on!(&mut conn, c => sqlx::query_as(sql).bind(until).bind(now).bind(limit).bind(lane).fetch_all(c).await)?,
        );
    }
    Ok(rows)
}

async fn insert(mut conn: Conn<'_>, task: Task) -> Result<Accepted, StoreError> {
    let (request, state) = (json(&task.request), json(&task.state));
    let inserted = on!(&mut conn, c => sqlx::query(INSERT)
        .bind(task.id.to_string()).bind(&task.tenant).bind(&task.key).bind(&task.idempotency_key)
        .bind(&task.fingerprint).bind(request).bind(&task.model).bind(task.operation.as_str())
        .bind(task.phase.as_str()).bind(&task.lane).bind(task.rank).bind(task.version)
        .bind(task.wake_at.map(|at| at.0)).bind(task.created_at.0).bind(task.started_at.map(|at| at.0))
        .bind(task.finished_at.map(|at| at.0)).bind(task.start_by.0).bind(task.deadline_at.0).bind(state)
        .execute(c).await.map(|done| done.rows_affected()))?;
    if inserted > 0 {
        return Ok(Accepted::Created(Box::new(task)));
    }
    let earlier: Row = on!(&mut conn, c => sqlx::query_as(BY_KEY)
        .bind(&task.tenant).bind(&task.idempotency_key).fetch_one(c).await)?;
    let earlier = Task::try_from(earlier)?;
    if earlier.fingerprint == task.fingerprint {
        Ok(Accepted::Replayed(Box::new(earlier)))
    } else {
        Ok(Accepted::KeyReused(earlier.id))
    }
}

async fn update(mut conn: Conn<'_>, change: Change, now: Millis) -> Result<Box<Task>, StoreError> {
    let mut task = change.task;
    let (id, state) = (task.id.to_string(), json(&task.state));
    let updated = on!(&mut conn, c => sqlx::query(UPDATE)
        .bind(&id).bind(task.version).bind(task.phase.as_str()).bind(&task.lane).bind(task.rank)
        .bind(task.wake_at.map(|at| at.0)).bind(task.started_at.map(|at| at.0))
        .bind(task.finished_at.map(|at| at.0)).bind(state)
        .execute(c).await.map(|done| done.rows_affected()))?;
    if updated == 0 {
        return Err(StoreError::Stale);
    }
    task.version += 1;
    if let Some(attempt) = change.attempt {
        attempts::put(&mut conn, &attempt).await?;
    }
    for image in &change.images {
        images::put(&mut conn, &id, image).await?;
    }
    for notice in &change.notices {
        events::put(&mut conn, &id, notice, now).await?;
    }
    Ok(task)
}
