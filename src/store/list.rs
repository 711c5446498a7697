//! Lists of tasks: newest first, page by page, by cursor and never by offset.

use std::fmt::Write as _;

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

/// One page of tasks, newest first.
#[derive(Debug)]
pub struct Page {
    /// The tasks.
    pub tasks: Vec<Task>,
    /// The id of the last row: where the next page begins.
    pub last: Option<TaskId>,
    /// Whether there are older ones.
    pub has_more: bool,
}

impl Store {
    /// A page of a tenant's tasks, newest first.
    pub async fn tasks(&self, filter: TaskFilter, limit: usize) -> Result<Page, StoreError> {
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
        let mut rows: Vec<Row> = on!(&mut self.db.reader().await?.conn(), c => {
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
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        // The cursor is the last row's, whether it can be read or not.
        let last = rows.last().and_then(|row| row.id.parse().ok());
        let readable = rows.into_iter().filter_map(|row| {
            Task::try_from(row)
                .inspect_err(|error| tracing::error!(%error, "a task is left out of a list"))
                .ok()
        });
        Ok(Page { tasks: readable.collect(), last, has_more })
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
