//! Tasks as rows: saving a step and reading. Taking one in is in `accept.rs`, leasing in `claim.rs`, listing in `list.rs`.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::FromRow;

use super::backend::{Conn, Db, on};
use super::known::Known;
use super::lanes::{self, Gate};
use super::ledger::Line;
use super::script::Script;
use super::{Store, StoreError, attempts, deliveries, erasures, events, gather, images, ledger, queue};
use crate::domain::attempt::{Attempt, Verdict};
use crate::domain::audit;
use crate::domain::clock::Millis;
use crate::domain::delivery::Delivery;
use crate::domain::id::{AttemptId, TaskId};
use crate::domain::image::StoredImage;
use crate::domain::ledger::Entry;
use crate::domain::task::{Notice, Phase, Task, UNRANKED};

macro_rules! columns {
    () => {
        "id, parent_id, tenant, key_name, idempotency_key, fingerprint, request, model, operation, phase, lane, queue_rank, version, \
         wake_at, created_at, started_at, finished_at, start_by, deadline_at, state"
    };
}

pub(super) use columns;

pub(super) const BY_KEY: &str =
    concat!("SELECT ", columns!(), " FROM tasks WHERE tenant = $1 AND idempotency_key = $2");
const UPDATE: &str = "UPDATE tasks SET phase = $3, lane = $4, queue_rank = $5, wake_at = $6, started_at = $7, \
     finished_at = $8, media_until = $9, state = $10, slot_until = $11, version = version + 1 WHERE id = $1 AND version = $2";

/// One step of a task, saved whole or not at all.
#[derive(Debug, Clone)]
pub struct Change {
    /// The task as it is to be; its version is the one it was read with.
    pub task: Box<Task>,
    /// An attempt to write or write anew.
    pub attempt: Option<Attempt>,
    /// Another one, that ends with it.
    pub other: Option<Attempt>,
    /// What was found out about an attempt of unknown billing, whatever else its row says.
    pub verdict: Option<(AttemptId, Verdict)>,
    /// Pictures that are durable.
    pub images: Vec<StoredImage>,
    /// Hashes of bytes that it does not need any more.
    pub let_go: Vec<String>,
    /// What callers are told.
    pub notices: Vec<Notice>,
    /// The lane that must have room, or nothing is written.
    pub gate: Option<Gate>,
    /// By what the ledger changes.
    pub entries: Vec<Entry>,
    /// The task it is a part of, when that changes with it.
    pub whole: Option<Box<Task>>,
    /// Who wanted it, when that is for the audit.
    pub audit: Option<audit::Entry>,
}

impl Change {
    /// A change to the task alone.
    pub fn of(task: Box<Task>) -> Self {
        Self {
            task,
            attempt: None,
            other: None,
            verdict: None,
            images: Vec::new(),
            let_go: Vec::new(),
            notices: Vec::new(),
            gate: None,
            entries: Vec::new(),
            whole: None,
            audit: None,
        }
    }
}

/// A task with its pictures, in order; they are written with its end.
#[derive(Debug)]
pub struct Look {
    /// The task.
    pub task: Task,
    /// Its pictures; none before its end.
    pub images: Vec<StoredImage>,
}

#[derive(Clone, FromRow)]
pub(super) struct Row {
    /// Its number in its table, where that was asked for.
    #[sqlx(default)]
    place: Option<i64>,
    pub(super) id: String,
    parent_id: Option<String>,
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
            parent: row.parent_id.as_deref().map(str::parse).transpose().map_err(|_| bad("parent"))?,
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
    /// Saves one step; [`StoreError::Stale`] and nothing written when the task has moved on,
    /// [`StoreError::Closed`] when its gate is shut. Answers with the task as it
    /// is now.
    pub async fn save(&self, mut change: Change) -> Result<Box<Task>, StoreError> {
        let now = self.clock.now();
        if change.task.phase.terminal() {
            // Whoever ended it: nothing stays set aside.
            change.entries.extend(change.task.release());
        }
        let lines = self.lines(&change.task, std::mem::take(&mut change.entries));
        let owed = self.owed(&change.task, &change.notices, &change.images).await?;
        let (told, mail) = (!change.notices.is_empty(), !owed.is_empty());
        let entry = change.audit.clone();
        let task = self.db.write(move |conn| Box::pin(update(conn, change, owed, lines, now))).await?;
        if let Some(entry) = entry {
            super::audit::log(&entry);
        }
        self.changes.work_due();
        // Whoever waits for a task waits for something to be told; a poll that finds nothing new wakes nobody.
        if told {
            self.changes.task_changed(task.id);
            self.news.task_changed(task.id);
        }
        if mail {
            self.changes.mail_due();
        }
        Ok(task)
    }

    /// A task's parts, in order.
    pub async fn parts(&self, id: TaskId) -> Result<Vec<Task>, StoreError> {
        const PARTS: &str =
            concat!("SELECT ", columns!(), " FROM tasks WHERE parent_id = $1 ORDER BY queue_rank, id");
        let id = id.to_string();
        let rows: Vec<Row> =
            on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(PARTS).bind(id).fetch_all(c).await)?;
        rows.into_iter().map(Task::try_from).collect()
    }

    /// One task, whoever's it is.
    pub async fn task(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.rows.tasks.one(&self.db, id.to_string()).await?.map(Task::try_from).transpose()
    }

    /// One task with its pictures, if it is `shown`, for those who look again and again: what has not changed is not read
    /// again. What is not shown takes as long as what is not there.
    pub async fn look(
        &self,
        id: TaskId,
        shown: impl Fn(&Task) -> bool,
    ) -> Result<Option<Arc<Look>>, StoreError> {
        let known = self.db.known();
        if let Some(look) = known.and_then(|known| known.get(id)).filter(|look| shown(&look.task)) {
            return Ok(Some(look));
        }
        let before = known.map(Known::before);
        let Some(row) = self.rows.tasks.one(&self.db, id.to_string()).await? else { return Ok(None) };
        let (place, bytes) = (row.place, row.request.len() + row.state.len());
        let task = Task::try_from(row)?;
        if !shown(&task) {
            return Ok(None);
        }
        let images = if task.phase.terminal() { self.images(id).await? } else { Vec::new() };
        let look = Arc::new(Look { task, images });
        if let (Some(known), Some(before), Some(place)) = (known, before, place) {
            known.keep(before, id, place, bytes, Arc::clone(&look));
        }
        Ok(Some(look))
    }

    /// The task a tenant's idempotency key belongs to.
    pub async fn task_by_key(&self, tenant: &str, key: &str) -> Result<Option<Task>, StoreError> {
        let row: Option<Row> = on!(&mut self.db.reader().await?.conn(), c =>
            sqlx::query_as(BY_KEY).bind(tenant).bind(key).fetch_optional(c).await)?;
        row.map(Task::try_from).transpose()
    }
}

/// The rows of these tasks.
pub(super) fn read(db: &Db, ids: Vec<String>) -> BoxFuture<'_, Result<HashMap<String, Row>, StoreError>> {
    Box::pin(async move {
        const SQL: &str = concat!("SELECT {place}", columns!(), " FROM tasks WHERE id IN ({ids})");
        let rows: Vec<Row> = gather::rows(db, SQL, ids).await?;
        Ok(rows.into_iter().map(|row| (row.id.clone(), row)).collect())
    })
}

async fn update(
    mut conn: Conn<'_>,
    change: Change,
    owed: Vec<Delivery>,
    lines: Vec<Line>,
    now: Millis,
) -> Result<Box<Task>, StoreError> {
    if let Some(gate) = &change.gate {
        lanes::pass(&mut conn, gate, now).await?;
    }
    let mut task = change.task;
    if task.rank == UNRANKED {
        task.rank = queue::rank(&mut conn, &task, now).await?;
    }
    let id = task.id.to_string();
    let mut script = Script::default();
    write(&mut script, &mut task);
    if let Some(mut whole) = change.whole {
        write(&mut script, &mut whole);
    }
    for attempt in change.attempt.iter().chain(&change.other) {
        attempts::put(&mut script, attempt);
    }
    if let Some((attempt, verdict)) = change.verdict {
        // After the task's row, as everybody else: two who lock both in different order would lock each other out.
        script.run(&mut conn).await?;
        attempts::put(&mut script, &attempts::judged(&mut conn, attempt, verdict).await?);
    }
    for image in &change.images {
        images::put(&mut script, &id, image);
    }
    erasures::note(&mut script, change.let_go, now);
    if let Some(parent) = task.parent {
        // Its caller hears of the whole. The version moves, so that a look at the parts that came too early is not saved.
        const STARTED: &str = "UPDATE tasks SET started_at = $2 WHERE id = $1 AND started_at IS NULL";
        const ENDED: &str =
            "UPDATE tasks SET wake_at = $2, version = version + 1 WHERE id = $1 AND finished_at IS NULL";
        let sql = if task.phase.terminal() { ENDED } else { STARTED };
        script.add(sql).bind(parent.to_string()).bind(now.0);
    } else {
        for notice in &change.notices {
            events::put(&mut script, &id, notice, now);
        }
        for owed in &owed {
            deliveries::put(&mut script, owed);
        }
    }
    if let Some(entry) = &change.audit {
        super::audit::put(&mut script, entry);
    }
    // Last, so that a key's balance, which its tasks share, is locked for no longer than it must be.
    let entered = ledger::enter(&mut script, &lines, now);
    script.run(&mut conn).await?;
    entered.settled(&mut conn, &lines, script.came()).await?;
    Ok(task)
}

/// Writes a task's row anew, unless another writer has.
fn write(script: &mut Script, task: &mut Task) {
    // A part's pictures are the whole's.
    let whole = task.phase.terminal() && task.parent.is_none();
    let media_until = if whole { task.expires_at() } else { None };
    script.add(UPDATE);
    script.bind(task.id.to_string()).bind(task.version).bind(task.phase.as_str()).bind(&task.lane);
    script.bind(task.rank).bind(task.wake_at.map(|at| at.0)).bind(task.started_at.map(|at| at.0));
    script.bind(task.finished_at.map(|at| at.0)).bind(media_until.map(|at| at.0)).bind(json(&task.state));
    script.bind(task.state.slot_until.map(|at| at.0));
    script.must();
    task.version += 1;
}
