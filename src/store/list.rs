//! Lists: newest first, page by page, by cursor and never by offset; and the list of tasks.

use std::fmt::Write as _;
use std::str::FromStr;

use sqlx::AssertSqlSafe;

use super::backend::on;
use super::claim::count;
use super::outbox::label;
use super::tasks::{Row, columns};
use super::{Store, StoreError};
use crate::domain::clock::Millis;
use crate::domain::id::TaskId;
use crate::domain::task::{Phase, Task};

/// Which tasks to list; absent fields match all.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Whose.
    pub tenant: String,
    /// In one of these phases (at most five); empty matches all.
    pub phases: Vec<Phase>,
    /// Of this model.
    pub model: Option<String>,
    /// At this provider.
    pub provider: Option<String>,
    /// Accepted at or after.
    pub created_after: Option<Millis>,
    /// Accepted before.
    pub created_before: Option<Millis>,
    /// With all of these labels.
    pub metadata: Vec<(String, String)>,
    /// Older than this task: where the last page ended.
    pub cursor: Option<TaskId>,
}

/// One page of a list, newest first.
#[derive(Debug)]
pub struct Page<T, I> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins: the id of the last row, whether it could be read or not; `None` on the last page.
    pub next: Option<I>,
}

impl<T, I: FromStr> Page<T, I> {
    /// A page of at most `limit` of these rows, of which one more was asked for. A row that cannot be read is left out and takes
    /// no other with it.
    pub(super) fn of<R>(
        mut rows: Vec<R>,
        limit: usize,
        id: impl Fn(&R) -> &str,
        read: impl Fn(R) -> Result<T, StoreError>,
    ) -> Self {
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| has_more).and_then(|row| id(row).parse().ok());
        Self { items: readable(rows.into_iter().map(read)), next }
    }
}

/// Those that could be read; of the others the log knows.
pub(super) fn readable<T>(rows: impl Iterator<Item = Result<T, StoreError>>) -> Vec<T> {
    let told = |row: Result<T, StoreError>| {
        row.inspect_err(|error| tracing::error!(%error, "a row is left out of a list")).ok()
    };
    rows.filter_map(told).collect()
}

impl Store {
    /// A page of a tenant's tasks, newest first.
    pub async fn tasks(&self, filter: TaskFilter, limit: usize) -> Result<Page<Task, TaskId>, StoreError> {
        let labels: Vec<String> = filter.metadata.iter().map(|(name, value)| label(name, value)).collect();
        let sql = list(labels.len());
        // Ids sort by time, so times are bounds of ids; `task_~` lies beyond all of them.
        let before = filter.created_before.map(|moment| TaskId::floor(moment).to_string());
        let below = [before, filter.cursor.map(|id| id.to_string())].into_iter().flatten().min();
        let below = below.unwrap_or_else(|| "task_~".to_owned());
        let from = filter
            .created_after
            .map_or_else(|| "task_".to_owned(), |moment| TaskId::floor(moment).to_string());
        let phase = |at: usize| filter.phases.get(at).or(filter.phases.first()).map(|phase| phase.as_str());
        let rows: Vec<Row> = on!(&mut self.db.reader().await?.conn(), c => {
            // The text holds nothing but numbered places.
            let mut query = sqlx::query_as(AssertSqlSafe(sql))
                .bind(&filter.tenant).bind(below).bind(from)
                .bind(phase(0)).bind(phase(1)).bind(phase(2)).bind(phase(3)).bind(phase(4))
                .bind(&filter.model).bind(&filter.provider).bind(count(limit + 1));
            for label in &labels {
                query = query.bind(label);
            }
            query.fetch_all(c).await
        })?;
        Ok(Page::of(rows, limit, |row| &row.id, Task::try_from))
    }
}

/// The query for a list by so many labels. One label leads to its tasks in order; each further one is looked up for these.
pub(super) fn list(labels: usize) -> String {
    const ALL: &str = concat!("SELECT ", columns!(), " FROM tasks WHERE parent_id IS NULL AND tenant = $1");
    const LABELLED: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM task_labels JOIN tasks ON id = task_id WHERE owner = $1 AND label = $12 AND task_id < $2 AND task_id >= $3 AND tenant = $1"
    );
    const WHICH: &str = " AND id < $2 AND id >= $3 AND ($4 IS NULL OR phase IN ($4, $5, $6, $7, $8)) \
         AND ($9 IS NULL OR model = $9) AND ($10 IS NULL OR lane = $10)";
    let mut sql = if labels == 0 { ALL } else { LABELLED }.to_owned() + WHICH;
    for place in (13..).take(labels.saturating_sub(1)) {
        let _ = write!(
            sql,
            " AND EXISTS (SELECT 1 FROM task_labels l WHERE l.owner = $1 AND l.label = ${place} AND l.task_id = id)"
        );
    }
    sql + if labels == 0 { " ORDER BY id DESC LIMIT $11" } else { " ORDER BY task_id DESC LIMIT $11" }
}
