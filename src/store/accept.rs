//! Taking a task in: its row, its parts, what it owes and what is set aside for it, in one transaction.

use std::sync::Arc;

use super::backend::{Conn, on};
use super::ledger::Line;
use super::script::Script;
use super::tasks::{BY_KEY, Row, columns, json};
use super::{Store, StoreError, deliveries, files, ledger, outbox, places, queue};
use crate::domain::day::Day;
use crate::domain::delivery::Delivery;
use crate::domain::id::{FileId, TaskId};
use crate::domain::key::Limits;
use crate::domain::task::Task;

pub(super) const INSERT: &str = concat!(
    "INSERT INTO tasks (",
    columns!(),
    ", flow) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,CASE WHEN $10 = 'queued' THEN ",
    queue::place_in_line!("$11", "$20", "$14", "CAST($21 AS BIGINT)"),
    " ELSE 0 END,$12,$13,$14,$15,$16,$17,$18,$19,$20) \
     ON CONFLICT (tenant, idempotency_key) DO NOTHING RETURNING queue_rank"
);

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

impl Store {
    /// Stores a new task with its parts, with the files that came in with it and with what is set aside for it durably, or
    /// finds the one its idempotency key belongs to. Nothing is written when the key has as many open tasks as it may, over all replicas
    /// ([`StoreError::Full`]), or when its budgets do not cover the task ([`StoreError::OverBudget`]).
    pub async fn accept(
        &self,
        task: Task,
        parts: Vec<Task>,
        limits: Arc<Limits>,
        came: Vec<FileId>,
    ) -> Result<Accepted, StoreError> {
        if limits.budgeted() {
            self.open_balances(&task.key, Day::of(task.created_at)).await?;
        }
        let owed = self.owed(&task, &[outbox::queued()], &[]).await?;
        let mail = !owed.is_empty();
        let all = std::iter::once(&task).chain(&parts);
        let lines = all.flat_map(|task| self.lines(task, task.opening())).collect();
        let new = New { task, parts, owed, lines, limits, came };
        let accepted = self.db.write(move |conn| Box::pin(insert_all(conn, new))).await?;
        if let Accepted::Created(_) = accepted {
            self.changes.work_due();
            self.news.work_due();
            if mail {
                self.changes.mail_due();
            }
        }
        Ok(accepted)
    }
}

/// A new task and what is written with it.
struct New {
    task: Task,
    parts: Vec<Task>,
    owed: Vec<Delivery>,
    lines: Vec<Line>,
    limits: Arc<Limits>,
    came: Vec<FileId>,
}

async fn insert_all(mut conn: Conn<'_>, new: New) -> Result<Accepted, StoreError> {
    const LABEL: &str = "INSERT INTO task_labels (owner, label, task_id) VALUES ($1, $2, $3)";
    let New { mut task, parts, owed, lines, limits, came } = new;
    let mut script = Script::default();
    if limits.concurrent_tasks.is_some() {
        places::stand_in_line(&mut script, &task.key);
    }
    let place = insert(&mut script, &task);
    if task.idempotency_key.is_some() {
        // Only then another task can be in its place.
        script.run(&mut conn).await?;
        if script.came()[place].returned.is_none() {
            return earlier(&mut conn, &task).await;
        }
    }
    for (name, value) in &task.request.metadata {
        script.add(LABEL).bind(&task.tenant).bind(outbox::label(name, value)).bind(task.id.to_string());
    }
    for owed in &owed {
        deliveries::put(&mut script, owed);
    }
    files::used(&mut script, &task);
    files::bind(&mut script, &task, &came);
    for part in &parts {
        insert(&mut script, part);
    }
    let entered = ledger::enter(&mut script, &lines, task.created_at);
    script.run(&mut conn).await?;
    if let Some(&[rank]) = script.came()[place].returned.as_deref() {
        task.rank = rank;
    }
    if let Some(most) = limits.concurrent_tasks {
        places::keep_within(&mut conn, &task.key, most).await?;
    }
    let sums = entered.settled(&mut conn, &lines, script.came()).await?;
    ledger::covered(&limits, &lines, &sums)?;
    Ok(Accepted::Created(Box::new(task)))
}

/// Adds a new task's row and answers with its place in the script; the row that returns holds its rank, and there is none
/// when its idempotency key is another task's.
fn insert(script: &mut Script, task: &Task) -> usize {
    script.add(INSERT);
    script.bind(task.id.to_string()).bind(task.parent.map(|id| id.to_string())).bind(&task.tenant);
    script.bind(&task.key).bind(&task.idempotency_key).bind(&task.fingerprint).bind(json(&task.request));
    script.bind(&task.model).bind(task.operation.as_str()).bind(task.phase.as_str()).bind(&task.lane);
    script.bind(task.version).bind(task.wake_at.map(|at| at.0)).bind(task.created_at.0);
    script.bind(task.started_at.map(|at| at.0)).bind(task.finished_at.map(|at| at.0)).bind(task.start_by.0);
    script.bind(task.deadline_at.0).bind(json(&task.state)).bind(queue::flow(task));
    script.bind(queue::step(task.request.priority));
    script.len() - 1
}

/// The task that has the idempotency key.
async fn earlier(conn: &mut Conn<'_>, task: &Task) -> Result<Accepted, StoreError> {
    let earlier: Row = on!(conn, c => sqlx::query_as(BY_KEY)
        .bind(&task.tenant).bind(&task.idempotency_key).fetch_one(c).await)?;
    let earlier = Task::try_from(earlier)?;
    if earlier.fingerprint == task.fingerprint {
        Ok(Accepted::Replayed(Box::new(earlier)))
    } else {
        Ok(Accepted::KeyReused(earlier.id))
    }
}
