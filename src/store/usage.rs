//! Counts and money by day, model, provider or key: added up when asked for, from the tasks, their pictures and the ledger.
//! A task counts to the day it was accepted on, and all of its money with it.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::AssertSqlSafe;

use super::backend::on;
use super::{Store, StoreError};
use crate::domain::clock::Millis;
use crate::domain::day::Day;
use crate::domain::id::TaskId;
use crate::domain::money::Usd;

/// What usage is added up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// The day a task was accepted on, UTC.
    Day,
    /// The catalogue's model.
    Model,
    /// The provider: that of the route in hand for counts, that of the attempt for money.
    Provider,
    /// The name of the key.
    Key,
}

/// Which tasks to add up.
#[derive(Debug, Clone)]
pub struct UsageFilter {
    /// Whose; `None`: everybody's.
    pub tenant: Option<String>,
    /// Accepted at or after.
    pub from: Millis,
    /// Accepted before.
    pub to: Millis,
    /// By what.
    pub by: Grouping,
}

/// What a group of tasks comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tasks accepted.
    pub tasks: i64,
    /// Of them, with pictures.
    pub succeeded: i64,
    /// Without.
    pub failed: i64,
    /// Called off.
    pub canceled: i64,
    /// Pictures that came, late ones included; not those of tasks that were erased.
    pub images: i64,
    /// By the catalogue, when they were accepted.
    pub estimated: Usd,
    /// Upstream calls that were accepted without a known price; in no sum of money.
    pub unpriced: i64,
    /// Set aside for tasks that have not ended.
    pub reserved: Usd,
    /// Charged.
    pub settled: Usd,
    /// Perhaps charged, at worst.
    pub unresolved: Usd,
    /// Attempts of which nobody can say whether they were charged.
    pub unresolved_attempts: i64,
}

impl Grouping {
    /// What a task, a line of the ledger and an attempt are grouped by; `t`, `l` and `a` are their tables.
    const fn columns(self) -> [&'static str; 3] {
        match self {
            Self::Day => [
                "CAST(t.created_at / 86400000 AS TEXT)",
                "CAST(l.task_at / 86400000 AS TEXT)",
                "CAST(t.created_at / 86400000 AS TEXT)",
            ],
            Self::Model => ["t.model", "l.model", "t.model"],
            Self::Provider => ["t.lane", "l.provider", "a.provider"],
            Self::Key => ["t.key_name", "l.key_name", "t.key_name"],
        }
    }

    /// A group's name as callers see it.
    fn name(self, group: String) -> String {
        match (self, group.parse()) {
            (Self::Day, Ok(day)) => Day(day).to_string(),
            _ => group,
        }
    }
}

/// Which tasks: an id sorts by the moment it was minted, so the range of ids narrows the search.
const TASKS: &str = "t.created_at >= $1 AND t.created_at < $2 AND t.id >= $3 AND t.id < $4";
const OWN: &str = " AND t.tenant = $5";
const EVERYBODYS: &str = " AND $5 IS NULL";
/// An id is minted a moment after its task's time was taken.
const SLACK: Duration = Duration::from_mins(1);

impl Store {
    /// What tasks come to, group by group in the order of their names.
    pub async fn usage(&self, filter: &UsageFilter) -> Result<BTreeMap<String, Usage>, StoreError> {
        let [task, line, attempt] = filter.by.columns();
        let whose = if filter.tenant.is_some() { OWN } else { EVERYBODYS };
        let lines_of = whose.replace("t.tenant", "l.tenant");
        let counts = format!(
            "SELECT {task}, COUNT(*), SUM(CASE t.phase WHEN 'succeeded' THEN 1 ELSE 0 END), \
             SUM(CASE t.phase WHEN 'failed' THEN 1 ELSE 0 END), SUM(CASE t.phase WHEN 'canceled' THEN 1 ELSE 0 END) \
             FROM tasks t WHERE t.parent_id IS NULL AND {TASKS}{whose} GROUP BY 1"
        );
        let images = format!(
            "SELECT {task}, COUNT(*), {NONE}, {NONE}, {NONE} FROM images i JOIN tasks t ON t.id = i.task_id \
             WHERE t.parent_id IS NULL AND {TASKS}{whose} GROUP BY 1"
        );
        let money = format!(
            "SELECT {line}, CAST(COALESCE(SUM(l.estimated), 0) AS BIGINT), \
             SUM(CASE WHEN l.kind = 'reserve' AND l.estimated IS NULL THEN 1 ELSE 0 END), \
             CAST(SUM(l.settled) AS BIGINT), CAST(SUM(l.unresolved) AS BIGINT) FROM ledger l \
             WHERE l.task_at >= $1 AND l.task_at < $2 AND l.task_id >= $3 AND l.task_id < $4{lines_of} GROUP BY 1"
        );
        // Of ended tasks nothing is set aside; of others it goes with the provider they are at now.
        let reserved = format!(
            "SELECT {task}, CAST(SUM(l.reserved) AS BIGINT), {NONE}, {NONE}, {NONE} \
             FROM tasks t JOIN ledger l ON l.task_id = t.id \
             WHERE t.finished_at IS NULL AND {TASKS}{whose} GROUP BY 1"
        );
        let unresolved = format!(
            "SELECT {attempt}, COUNT(*), {NONE}, {NONE}, {NONE} FROM attempts a JOIN tasks t ON t.id = a.task_id \
             WHERE a.billed = 'unknown' AND a.state NOT IN ('intent', 'accepted', 'unknown') AND {TASKS}{whose} GROUP BY 1"
        );
        let mut groups: BTreeMap<String, Usage> = BTreeMap::new();
        let mut add = |rows: Vec<Row>, enter: fn(&mut Usage, [i64; 4])| {
            for (group, one, two, three, four) in rows {
                enter(groups.entry(group).or_default(), [one, two, three, four]);
            }
        };
        add(self.rows(counts, filter).await?, |usage, counts| {
            [usage.tasks, usage.succeeded, usage.failed, usage.canceled] = counts;
        });
        add(self.rows(images, filter).await?, |usage, [images, ..]| usage.images = images);
        add(self.rows(money, filter).await?, |usage, [estimated, unpriced, settled, unresolved]| {
            usage.unpriced = unpriced;
            [usage.estimated, usage.settled, usage.unresolved] =
                [estimated, settled, unresolved].map(Usd::from_nanos);
        });
        add(self.rows(reserved, filter).await?, |usage, [reserved, ..]| {
            usage.reserved = Usd::from_nanos(reserved);
        });
        add(self.rows(unresolved, filter).await?, |usage, [attempts, ..]| {
            usage.unresolved_attempts = attempts;
        });
        Ok(groups.into_iter().map(|(group, usage)| (filter.by.name(group), usage)).collect())
    }

    async fn rows(&self, sql: String, filter: &UsageFilter) -> Result<Vec<Row>, StoreError> {
        let (least, most) = (TaskId::floor(filter.from - SLACK), TaskId::floor(filter.to + SLACK));
        // The text is made of the parts above alone.
        let rows = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(AssertSqlSafe(sql))
            .bind(filter.from.0).bind(filter.to.0).bind(least.to_string()).bind(most.to_string())
            .bind(&filter.tenant).fetch_all(c).await)?;
        Ok(rows)
    }
}

/// A group and four numbers of it.
type Row = (String, i64, i64, i64, i64);

/// A number that is not asked for.
const NONE: &str = "CAST(0 AS BIGINT)";

impl std::ops::Add for Usage {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            tasks: self.tasks + other.tasks,
            succeeded: self.succeeded + other.succeeded,
            failed: self.failed + other.failed,
            canceled: self.canceled + other.canceled,
            images: self.images + other.images,
            estimated: self.estimated + other.estimated,
            unpriced: self.unpriced + other.unpriced,
            reserved: self.reserved + other.reserved,
            settled: self.settled + other.settled,
            unresolved: self.unresolved + other.unresolved,
            unresolved_attempts: self.unresolved_attempts + other.unresolved_attempts,
        }
    }
}
