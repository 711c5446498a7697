//! What is kept in quarantine, as rows; the bytes lie in the blob store. A row that goes leaves its id behind until its bytes
//! have gone, too.

use sqlx::FromRow;

use super::backend::{Conn, on};
use super::claim::count;
use super::list::Page;
use super::script::Script;
use super::tasks::json;
use super::{Store, StoreError, attempts};
use crate::domain::attempt::{Attempt, Verdict};
use crate::domain::audit::Entry;
use crate::domain::clock::Millis;
use crate::domain::id::{QuarantineId, TaskId};
use crate::domain::quarantine::{QuarantineItem, QuarantineKind, QuarantineState};
use crate::domain::task::{Output, State};

macro_rules! columns {
    () => {
        "id, attempt_id, task_id, tenant, provider_id, kind, state, sha256, bytes, created_at, expires_at, detail"
    };
}

#[derive(FromRow)]
struct Row {
    id: String,
    attempt_id: String,
    task_id: String,
    tenant: String,
    provider_id: String,
    kind: String,
    state: String,
    sha256: String,
    bytes: i64,
    created_at: i64,
    expires_at: i64,
    detail: String,
}

impl TryFrom<Row> for QuarantineItem {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let bad = || StoreError::Unreadable(format!("quarantine {}", row.id));
        let kinds = [QuarantineKind::Answer, QuarantineKind::Download];
        let states = [QuarantineState::Open, QuarantineState::Recovered];
        Ok(Self {
            id: row.id.parse().map_err(|_| bad())?,
            attempt: row.attempt_id.parse().map_err(|_| bad())?,
            task: row.task_id.parse().map_err(|_| bad())?,
            kind: kinds.into_iter().find(|kind| kind.as_str() == row.kind).ok_or_else(bad)?,
            state: states.into_iter().find(|state| state.as_str() == row.state).ok_or_else(bad)?,
            detail: serde_json::from_str(&row.detail).map_err(|_| bad())?,
            tenant: row.tenant,
            provider: row.provider_id,
            sha256: row.sha256,
            bytes: u64::try_from(row.bytes).unwrap_or_default(),
            created_at: Millis(row.created_at),
            expires_at: Millis(row.expires_at),
        })
    }
}

/// Which items to list; absent fields match all.
#[derive(Debug, Clone, Default)]
pub struct QuarantineFilter {
    /// In this state.
    pub state: Option<QuarantineState>,
    /// Of this task.
    pub task: Option<TaskId>,
    /// Older than this item: where the last page ended.
    pub cursor: Option<QuarantineId>,
}

impl Store {
    /// Keeps an item, unless the attempt has one with the same bytes or its task was erased: whether it is kept.
    pub async fn put_quarantined(&self, item: QuarantineItem) -> Result<bool, StoreError> {
        const PUT: &str = concat!(
            "INSERT INTO quarantine (",
            columns!(),
            ") VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12) \
             ON CONFLICT (attempt_id, sha256) DO NOTHING"
        );
        let put = self
            .db
            .write(move |mut conn| {
                Box::pin(async move {
                    if erased(&mut conn, item.task).await? {
                        return Ok(0);
                    }
                    let (bytes, detail) = (i64::try_from(item.bytes).unwrap_or(i64::MAX), json(&item.detail));
                    let put = on!(&mut conn, c => sqlx::query(PUT)
                        .bind(item.id.to_string()).bind(item.attempt.to_string()).bind(item.task.to_string())
                        .bind(&item.tenant).bind(&item.provider).bind(item.kind.as_str()).bind(item.state.as_str())
                        .bind(&item.sha256).bind(bytes).bind(item.created_at.0).bind(item.expires_at.0).bind(&detail)
                        .execute(c).await.map(|done| done.rows_affected()))?;
                    Ok(put)
                })
            })
            .await?;
        Ok(put > 0)
    }

    /// One item.
    pub async fn quarantined(&self, id: QuarantineId) -> Result<Option<QuarantineItem>, StoreError> {
        const ONE: &str = concat!("SELECT ", columns!(), " FROM quarantine WHERE id = $1");
        let id = id.to_string();
        let row: Option<Row> = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(ONE).bind(id).fetch_optional(c).await)?;
        row.map(QuarantineItem::try_from).transpose()
    }

    /// A page of items, newest first.
    pub async fn quarantine(
        &self,
        filter: QuarantineFilter,
        limit: usize,
    ) -> Result<Page<QuarantineItem, QuarantineId>, StoreError> {
        const PAGE: &str = concat!(
            "SELECT ",
            columns!(),
            " FROM quarantine WHERE id < $1 AND ($2 IS NULL OR state = $2) \
             AND ($3 IS NULL OR task_id = $3) ORDER BY id DESC LIMIT $4"
        );
        let below = filter.cursor.map_or_else(|| "qua_~".to_owned(), |id| id.to_string());
        let (state, task) = (filter.state.map(QuarantineState::as_str), filter.task.map(|id| id.to_string()));
        let rows: Vec<Row> = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(PAGE)
            .bind(&below).bind(state).bind(&task).bind(count(limit + 1)).fetch_all(c).await)?;
        Ok(Page::of(rows, limit, |row| &row.id, QuarantineItem::try_from))
    }

    /// How many items are open.
    pub async fn quarantine_open(&self) -> Result<i64, StoreError> {
        const OPEN: &str = "SELECT COUNT(*) FROM quarantine WHERE state = 'open'";
        Ok(on!(&mut self.db.reader().await?.conn(), c => sqlx::query_scalar(OPEN).fetch_one(c).await)?)
    }

    /// How many items of a kind an attempt has.
    pub async fn quarantined_of(&self, attempt: &Attempt, kind: QuarantineKind) -> Result<i64, StoreError> {
        const OF: &str = "SELECT COUNT(*) FROM quarantine WHERE attempt_id = $1 AND kind = $2";
        let id = attempt.id.to_string();
        Ok(on!(&mut self.db.reader().await?.conn(), c =>
            sqlx::query_scalar(OF).bind(id).bind(kind.as_str()).fetch_one(c).await)?)
    }

    /// An item gave images: they are left with its attempt, to be brought to the task, in one commit with who wanted it. The
    /// attempt as it is from now on (see [`Attempt::leave`]); `None`, and nothing is written, when the task was erased or its rows are gone.
    pub async fn recovered(
        &self,
        item: &QuarantineItem,
        made: (Vec<Output>, Verdict, bool),
        look_at: Millis,
        entry: Entry,
    ) -> Result<Option<Attempt>, StoreError> {
        const DONE: &str = "UPDATE quarantine SET state = 'recovered' WHERE id = $1";
        let (id, task, attempt) = (item.id.to_string(), item.task, item.attempt);
        let told = entry.clone();
        let left = self
            .db
            .write(move |mut conn| {
                Box::pin(async move {
                    // The task first, as everybody does: two who lock both in different order would lock each other out.
                    if erased(&mut conn, task).await? {
                        return Ok(None);
                    }
                    // As it is by now: more may have been learned of it while the images were fetched.
                    let Some(mut attempt) = attempts::locked(&mut conn, attempt).await? else {
                        return Ok(None);
                    };
                    let (outputs, verdict, all) = made;
                    attempt.leave(outputs, verdict, look_at, all);
                    let mut script = Script::default();
                    attempts::put(&mut script, &attempt);
                    script.add(DONE).bind(id);
                    super::audit::put(&mut script, &entry);
                    script.run(&mut conn).await?;
                    Ok(Some(attempt))
                })
            })
            .await?;
        if left.is_some() {
            super::audit::log(&told);
            self.changes.work_due();
        }
        Ok(left)
    }

    /// Lets go of at most `limit` items whose time is over; of how many.
    pub async fn expire_quarantine(&self, limit: usize) -> Result<usize, StoreError> {
        const DUE: &str = "SELECT id FROM quarantine WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2";
        let now = self.clock.now();
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    let due: Vec<String> = on!(&mut conn, c =>
                        sqlx::query_scalar(DUE).bind(now.0).bind(count(limit)).fetch_all(c).await)?;
                    let gone = due.len();
                    Script::of(|script| let_go(script, due)).run(&mut conn).await?;
                    Ok(gone)
                })
            })
            .await
    }

    /// Items whose rows are gone and whose bytes are to be removed.
    pub async fn quarantine_deletions(&self, limit: usize) -> Result<Vec<QuarantineId>, StoreError> {
        const SQL: &str = "SELECT id FROM quarantine_deletions ORDER BY id LIMIT $1";
        let ids: Vec<String> = on!(&mut self.db.reader().await?.conn(), c =>
            sqlx::query_scalar(SQL).bind(count(limit)).fetch_all(c).await)?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// Whether there is a row of this id, readable or not.
    pub async fn has_quarantined(&self, id: QuarantineId) -> Result<bool, StoreError> {
        const HAS: &str = "SELECT COUNT(*) FROM quarantine WHERE id = $1";
        let id = id.to_string();
        let rows: i64 = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_scalar(HAS).bind(id).fetch_one(c).await)?;
        Ok(rows > 0)
    }

    /// The bytes of an item are gone.
    pub async fn quarantine_deleted(&self, id: QuarantineId) -> Result<(), StoreError> {
        const DONE: &str = "DELETE FROM quarantine_deletions WHERE id = $1";
        let mut script = Script::default();
        script.add(DONE).bind(id.to_string());
        self.db.run(script).await.map(drop)
    }
}

/// Whether a task was erased or is gone; nobody erases it before the transaction ends.
pub(super) async fn erased(conn: &mut Conn<'_>, task: TaskId) -> Result<bool, StoreError> {
    let sql = conn
        .pick("SELECT state FROM tasks WHERE id = $1", "SELECT state FROM tasks WHERE id = $1 FOR UPDATE");
    let state: Option<String> =
        on!(conn, c => sqlx::query_scalar(sql).bind(task.to_string()).fetch_optional(c).await)?;
    let state: Option<State> = state.and_then(|state| serde_json::from_str(&state).ok());
    Ok(state.is_none_or(|state| state.erased_at.is_some()))
}

/// Deletes rows, and notes that their bytes may go.
fn let_go(script: &mut Script, ids: Vec<String>) {
    const NOTE: &str = "INSERT INTO quarantine_deletions (id) VALUES ($1) ON CONFLICT (id) DO NOTHING";
    const DELETE: &str = "DELETE FROM quarantine WHERE id = $1";
    for id in ids {
        script.add(NOTE).bind(id.clone());
        script.add(DELETE).bind(id);
    }
}

/// Lets go of what is kept of a task and of its parts.
pub(super) async fn let_go_of_task(conn: &mut Conn<'_>, task: &str) -> Result<(), StoreError> {
    const OF: &str = "SELECT id FROM quarantine WHERE task_id = $1 OR task_id IN (SELECT id FROM tasks WHERE parent_id = $1)";
    let ids: Vec<String> = on!(conn, c => sqlx::query_scalar(OF).bind(task).fetch_all(c).await)?;
    Script::of(|script| let_go(script, ids)).run(conn).await
}
