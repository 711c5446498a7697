//! The line before each lane: fair between flows (a tenant's tasks of one priority), by start-time fair queueing. A task's
//! rank is the line's present or, for a flow that is in line already, a step after its last one, whichever is later; the
//! step is short for flows of weight. So a flow with a thousand tasks in line does not delay another's first one, and no
//! flow waits for ever.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::backend::{Conn, on};
use super::claim::count;
use super::{Store, StoreError};
use crate::domain::clock::Millis;
use crate::domain::request::Priority;
use crate::domain::task::{Phase, Task};

/// From one task of a flow to its next, in the line's own time.
const fn step(priority: Priority) -> i64 {
    match priority {
        Priority::High => 250,
        Priority::Normal => 1_000,
        Priority::Low => 4_000,
    }
}

/// The tasks a task shares its part of the line with.
pub(super) fn flow(task: &Task) -> String {
    let priority = match task.request.priority {
        Priority::High => "high",
        Priority::Normal => "normal",
        Priority::Low => "low",
    };
    format!("{}/{priority}", task.tenant)
}

/// The place of a task that is new in its lane's line. Those that sleep do not hold up the line's present.
pub(super) async fn rank(
    conn: &mut Conn<'_>,
    task: &Task,
    flow: &str,
    now: Millis,
) -> Result<i64, StoreError> {
    const ENDS: &str = "SELECT (SELECT MIN(queue_rank) FROM tasks WHERE lane = $1 AND phase = 'queued' AND wake_at <= $3), \
         (SELECT MAX(queue_rank) FROM tasks WHERE lane = $1 AND flow = $2 AND phase = 'queued')";
    if task.phase != Phase::Queued {
        return Ok(0);
    }
    let (first, own): (Option<i64>, Option<i64>) =
        on!(conn, c => sqlx::query_as(ENDS).bind(&task.lane).bind(flow).bind(now.0).fetch_one(c).await)?;
    let step = step(task.request.priority);
    // A tenth of a step behind the present: the more urgent of two that come first goes first.
    let present = first.unwrap_or(0) + step / 10;
    Ok(own.map_or(present, |last| present.max(last + step)))
}

/// Up to here places are counted.
const NEAR: i64 = 200;
/// Of the others, every so many-th is known.
const STRIDE: i64 = 64;
/// A look at a line holds for so long, or for this many times what it took.
const HOLDS: Duration = Duration::from_secs(1);
const HOLDS_TIMES: u32 = 20;

/// How the lines looked lately.
#[derive(Default)]
pub(super) struct Lines(Mutex<HashMap<String, Arc<tokio::sync::Mutex<Line>>>>);

impl Lines {
    fn of(&self, lane: &str) -> Arc<tokio::sync::Mutex<Line>> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lines.entry(lane.to_owned()).or_default())
    }
}

/// The rank of every [`STRIDE`]th task of a line, and until when that is good enough.
#[derive(Default)]
struct Line {
    ranks: Vec<i64>,
    until: Option<Instant>,
}

impl Line {
    async fn look(&mut self, conn: &mut Conn<'_>, lane: &str) -> Result<(), StoreError> {
        const SQL: &str = "SELECT queue_rank FROM \
             (SELECT queue_rank, ROW_NUMBER() OVER (ORDER BY queue_rank) AS place FROM tasks WHERE lane = $1 AND phase = 'queued') AS line \
             WHERE place % $2 = 0 ORDER BY place";
        let begun = Instant::now();
        self.ranks = on!(conn, c => sqlx::query_scalar(SQL).bind(lane).bind(STRIDE).fetch_all(c).await)?;
        self.until = Some(Instant::now() + HOLDS.max(begun.elapsed() * HOLDS_TIMES));
        Ok(())
    }

    /// About how many are before a rank, while the last look holds.
    fn place(&self, rank: i64) -> Option<i64> {
        self.until.filter(|until| Instant::now() < *until)?;
        Some(count(self.ranks.partition_point(|other| *other < rank)) * STRIDE)
    }
}

impl Store {
    /// How many tasks wait for each lane.
    pub async fn queued(&self) -> Result<HashMap<String, i64>, StoreError> {
        const SQL: &str = "SELECT lane, COUNT(*) FROM tasks WHERE phase = 'queued' GROUP BY lane";
        let counts: Vec<(String, i64)> =
            on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(SQL).fetch_all(c).await)?;
        Ok(counts.into_iter().collect())
    }

    /// How many tasks are before this one in its lane's line: exactly near its front, and as of a moment ago, to within
    /// some dozens, far behind it. Thousands who ask for their places do not count the line each.
    pub async fn ahead(&self, task: &Task) -> Result<i64, StoreError> {
        const SQL: &str = "SELECT COUNT(*) FROM (SELECT 1 FROM tasks WHERE lane = $1 AND phase = 'queued' \
             AND (queue_rank < $2 OR (queue_rank = $2 AND id < $3)) LIMIT $4) AS before_it";
        let line = self.lines.of(&task.lane);
        if let Some(place) = line.lock().await.place(task.rank).filter(|place| *place >= 2 * NEAR) {
            return Ok(place);
        }
        let id = task.id.to_string();
        let near: i64 = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_scalar(SQL)
            .bind(&task.lane).bind(task.rank).bind(id).bind(NEAR).fetch_one(c).await)?;
        if near < NEAR {
            return Ok(near);
        }
        // One looks, the others wait for what it sees.
        let mut line = line.lock().await;
        if line.place(task.rank).is_none() {
            line.look(&mut self.db.reader().await?.conn(), &task.lane).await?;
        }
        Ok(line.place(task.rank).unwrap_or(near).max(near))
    }

    /// How many tasks of each tenant have not ended.
    pub async fn open_tasks(&self) -> Result<HashMap<String, i64>, StoreError> {
        const SQL: &str = "SELECT tenant, COUNT(*) FROM tasks WHERE finished_at IS NULL AND parent_id IS NULL GROUP BY tenant";
        let counts: Vec<(String, i64)> =
            on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(SQL).fetch_all(c).await)?;
        Ok(counts.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_far_behind_is_read_from_the_last_look_while_it_holds() {
        let now = Instant::now();
        let ranks: Vec<i64> = (1..=100).map(|n| n * STRIDE * 1_000).collect();
        let line = Line { ranks, until: Some(now + HOLDS) };
        assert_eq!(line.place(0), Some(0));
        assert_eq!(line.place(10 * STRIDE * 1_000), Some(9 * STRIDE));
        assert_eq!(line.place(i64::MAX), Some(100 * STRIDE));
        let stale = Line { until: Some(now), ..line };
        assert_eq!(stale.place(0), None);
    }
}
