//! The line before each lane: fair between flows (a tenant's tasks of one priority), by start-time fair queueing. A task's
//! rank is the line's present or, for a flow that is in line already, a step after its last one, whichever is later; the
//! step is short for flows of weight. So a flow with a thousand tasks in line does not delay another's first one, and no
//! flow waits for ever.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use super::backend::{Conn, Db, on};
use super::claim::count;
use super::{Store, StoreError, gather};
use crate::domain::clock::Millis;
use crate::domain::request::Priority;
use crate::domain::task::{Phase, Task};

/// From one task of a flow to its next, in the line's own time.
pub(super) const fn step(priority: Priority) -> i64 {
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

/// SQL for the place of a task that is new in its lane's line, by the parameters of its lane, its flow, the time and its
/// step: the line's present, a tenth of a step behind it (the more urgent of two that come first goes first), or a step
/// after its flow's last one. Those that sleep do not hold up the line's present.
macro_rules! place_in_line {
    ($lane:literal, $flow:literal, $now:literal, $step:literal) => {
        concat!(
            "(SELECT CASE WHEN own > present THEN own ELSE present END FROM (SELECT ",
            "COALESCE((SELECT MIN(queue_rank) FROM tasks WHERE lane = ",
            $lane,
            " AND phase = 'queued' AND wake_at <= ",
            $now,
            "), 0) + ",
            $step,
            " / 10 AS present, ",
            "(SELECT MAX(queue_rank) FROM tasks WHERE lane = ",
            $lane,
            " AND flow = ",
            $flow,
            " AND phase = 'queued') + ",
            $step,
            " AS own) AS line)"
        )
    };
}
pub(super) use place_in_line;

/// The place of a task that goes back into its lane's line.
pub(super) async fn rank(conn: &mut Conn<'_>, task: &Task, now: Millis) -> Result<i64, StoreError> {
    const PLACE: &str = concat!("SELECT ", place_in_line!("$1", "$2", "$3", "CAST($4 AS BIGINT)"));
    if task.phase != Phase::Queued {
        return Ok(0);
    }
    Ok(on!(conn, c => sqlx::query_scalar(PLACE)
        .bind(&task.lane).bind(flow(task)).bind(now.0).bind(step(task.request.priority)).fetch_one(c).await)?)
}

/// Up to here places are counted, as [`AHEAD`] says.
const NEAR: i64 = 200;
/// Of the others, every so many-th is known.
const STRIDE: i64 = 64;
/// A look at a line holds for so long, or for this many times what it took.
const HOLDS: Duration = Duration::from_secs(1);
const HOLDS_TIMES: u32 = 20;

/// How many are before each of these tasks, of the nearest so many.
pub(super) const AHEAD: &str = "SELECT id, (SELECT COUNT(*) FROM (SELECT 1 FROM tasks AS other WHERE other.lane = task.lane \
     AND other.phase = 'queued' AND other.queue_rank <= task.queue_rank \
     AND (other.queue_rank < task.queue_rank OR other.id < task.id) LIMIT 200) AS before_it) \
     FROM tasks AS task WHERE id IN ({ids})";

/// How many tasks of each tenant are open.
pub(super) const OPEN_TASKS: &str =
    "SELECT tenant, COUNT(*) FROM tasks WHERE finished_at IS NULL AND parent_id IS NULL GROUP BY tenant";

/// How the lines looked lately.
#[derive(Default)]
pub(super) struct Lines(Mutex<HashMap<String, Arc<Line>>>);

impl Lines {
    fn of(&self, lane: &str) -> Arc<Line> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lines.entry(lane.to_owned()).or_default())
    }
}

/// A line as it was seen last.
#[derive(Default)]
struct Line {
    seen: Mutex<Seen>,
    /// Held by the one who looks.
    looking: tokio::sync::Mutex<()>,
}

/// The rank and id of every [`STRIDE`]th task of a line, and until when that is good enough.
#[derive(Default)]
struct Seen {
    at: Vec<(i64, String)>,
    until: Option<Instant>,
}

impl Line {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks, unless the last look holds or another is looking: then what was seen last is good enough for a moment more.
    async fn look(&self, db: &Db, lane: &str) -> Result<(), StoreError> {
        const SQL: &str = "SELECT queue_rank, id FROM \
             (SELECT queue_rank, id, ROW_NUMBER() OVER (ORDER BY queue_rank, id) AS place FROM tasks WHERE lane = $1 AND phase = 'queued') AS line \
             WHERE place % $2 = 0 ORDER BY place";
        let Ok(_looking) = self.looking.try_lock() else { return Ok(()) };
        if self.seen().holds() {
            return Ok(());
        }
        // A look that fails is not repeated by all who ask.
        self.seen().until = Some(Instant::now() + HOLDS);
        let mut reader = db.reader().await?;
        let begun = Instant::now();
        let at =
            on!(&mut reader.conn(), c => sqlx::query_as(SQL).bind(lane).bind(STRIDE).fetch_all(c).await)?;
        *self.seen() = Seen { at, until: Some(Instant::now() + HOLDS.max(begun.elapsed() * HOLDS_TIMES)) };
        Ok(())
    }

    /// About how many are before a task, if that can be said without looking.
    fn place(&self, task: &(i64, String)) -> Option<i64> {
        let seen = self.seen();
        (seen.holds() || self.looking.try_lock().is_err()).then(|| seen.place(task))
    }
}

impl Seen {
    fn holds(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    fn place(&self, task: &(i64, String)) -> i64 {
        count(self.at.partition_point(|other| other < task)) * STRIDE
    }
}

/// How many are before these tasks, at most [`NEAR`].
pub(super) fn near(db: &Db, ids: Vec<String>) -> BoxFuture<'_, Result<HashMap<String, i64>, StoreError>> {
    Box::pin(async move {
        let rows: Vec<(String, i64)> = gather::rows(db, AHEAD, ids).await?;
        Ok(rows.into_iter().collect())
    })
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
        let line = self.lines.of(&task.lane);
        let own = (task.rank, task.id.to_string());
        if let Some(place) = line.place(&own).filter(|place| *place >= 2 * NEAR) {
            return Ok(place);
        }
        let near = self.rows.ahead.one(&self.db, own.1.clone()).await?.unwrap_or_default();
        if near < NEAR {
            return Ok(near);
        }
        line.look(&self.db, &task.lane).await?;
        Ok(line.seen().place(&own).max(near))
    }

    /// How many tasks of each tenant have not ended.
    pub async fn open_tasks(&self) -> Result<HashMap<String, i64>, StoreError> {
        let counts: Vec<(String, i64)> =
            on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(OPEN_TASKS).fetch_all(c).await)?;
        Ok(counts.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_near_ones_are_counted_up_to_one_number() {
        assert!(AHEAD.contains(&format!("LIMIT {NEAR})")));
    }

    #[test]
    fn a_place_far_behind_is_read_from_the_last_look_while_it_holds() {
        let at = |rank: i64| (rank, "task".to_owned());
        let now = Instant::now();
        let seen = Seen { at: (1..=100).map(|n| at(n * STRIDE * 1_000)).collect(), until: Some(now + HOLDS) };
        assert_eq!(seen.place(&at(0)), 0);
        assert_eq!(seen.place(&at(10 * STRIDE * 1_000)), 9 * STRIDE);
        assert_eq!(seen.place(&(10 * STRIDE * 1_000, "tasks".to_owned())), 10 * STRIDE, "of one rank, by id");
        assert_eq!(seen.place(&at(i64::MAX)), 100 * STRIDE);
        assert!(seen.holds() && !Seen { until: Some(now), ..seen }.holds());
    }
}
