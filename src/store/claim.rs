//! Leasing: the table is the queue. What is due is claimed by moving its `wake_at` to the end of a lease, so that a dead
//! worker's task becomes due again by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use super::backend::{Conn, on};
use super::script::Script;
use super::tasks::{Row, columns};
use super::{Store, StoreError, lanes};
use crate::domain::clock::Millis;
use crate::domain::id::TaskId;
use crate::domain::task::Task;

/// No task and no look for an attempt is put off further than this.
const FAR: Duration = Duration::from_hours(2);
/// No delivery is.
const FAR_DELIVERY: Duration = Duration::from_hours(27);

macro_rules! claim {
    ($which:expr, $lock:literal) => {
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
    ($which:expr) => {
        [claim!($which, ""), claim!($which, " FOR UPDATE SKIP LOCKED")]
    };
}
/// Started tasks that owe work other than bringing images here, and can be worked on: those in a phase that only a newer version
/// knows cannot.
macro_rules! to_poll {
    () => {
        "wake_at IS NOT NULL AND phase IN ('submitting', 'waiting', 'reconciling', 'gathering')"
    };
}
/// Those whose images are to be brought here.
macro_rules! to_save {
    () => {
        "wake_at IS NOT NULL AND phase = 'storing'"
    };
}

/// Leases queued tasks whose time to start has passed; for SQLite and for Postgres.
pub(super) const LATE: [&str; 2] =
    both!("phase = 'queued' AND start_by <= $2 AND wake_at <= $2 ORDER BY start_by LIMIT $3");
/// Leases started tasks whose time has come.
pub(super) const TO_POLL: [&str; 2] =
    both!(concat!(to_poll!(), " AND wake_at <= $2 ORDER BY wake_at LIMIT $3"));
/// Leases tasks whose images are to be brought here.
pub(super) const TO_SAVE: [&str; 2] =
    both!(concat!(to_save!(), " AND wake_at <= $2 ORDER BY wake_at LIMIT $3"));
/// Leases the first in a lane's line.
pub(super) const FIRST: [&str; 2] =
    both!("phase = 'queued' AND lane = $4 AND wake_at <= $2 ORDER BY queue_rank, id LIMIT $3");

/// When work comes due, each from the end of a small index: of tasks to poll, and to save; of the queue at all, later than now,
/// too late to start, and later too late; of attempts to look for.
pub(super) const OWING: &str = concat!(
    "SELECT (SELECT MIN(wake_at) FROM tasks WHERE ",
    to_poll!(),
    "), (SELECT MIN(wake_at) FROM tasks WHERE ",
    to_save!(),
    "), (SELECT MIN(wake_at) FROM tasks WHERE phase = 'queued'), \
     (SELECT MIN(wake_at) FROM tasks WHERE phase = 'queued' AND wake_at > $1), \
     (SELECT MIN(start_by) FROM tasks WHERE phase = 'queued' AND start_by <= $1 AND wake_at <= $1), \
     (SELECT MIN(start_by) FROM tasks WHERE phase = 'queued' AND start_by > $1), \
     (SELECT MIN(look_at) FROM attempts WHERE look_at IS NOT NULL)"
);

/// What owes work at the moment, and when more does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owing {
    /// When the first task that is at its provider is to be asked about, or one is or was too late to start.
    pub polls: Option<Millis>,
    /// When the first task is to bring its images here.
    pub saves: Option<Millis>,
    /// Whether a queued one is due: there may be no room for it.
    pub queued: bool,
    /// When a queued one comes due; those that only wait for room are left out.
    pub later: Option<Millis>,
    /// When an attempt is to be looked for.
    pub stragglers: Option<Millis>,
}

impl Owing {
    /// The first moment, past or to come, at which anything is due, as far as it is known.
    pub fn next(&self) -> Option<Millis> {
        [self.polls, self.saves, self.later, self.stragglers].into_iter().flatten().min()
    }
}

/// What to lease.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Until when the leases hold.
    pub until: Millis,
    /// The most tasks to poll.
    pub polls: usize,
    /// The most whose images are brought here.
    pub saves: usize,
    /// How many more tasks each lane may start; lanes without room are left out.
    pub lanes: BTreeMap<String, usize>,
}

impl Store {
    /// Extends the leases of tasks this process is at work on; those it has lost stay lost.
    pub async fn renew(&self, held: Vec<(TaskId, i64)>, until: Millis) -> Result<(), StoreError> {
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    // What ended a moment ago owes no work, whoever still has it in hand.
                    const RENEW: &str =
                        "UPDATE tasks SET wake_at = $3 WHERE id = $1 AND version = $2 AND wake_at IS NOT NULL";
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
        // One that cannot be read does not keep the others from being worked on.
        let readable = rows.into_iter().filter_map(|row| match Task::try_from(row) {
            Ok(task) => Some(task),
            Err(error) => {
                tracing::error!(%error, "a task that is due cannot be read");
                None
            }
        });
        Ok(readable.collect())
    }

    /// Makes a task due now that waits for its provider.
    pub async fn wake(&self, id: TaskId) -> Result<(), StoreError> {
        let now = self.clock.now();
        self.db.run(Script::of(|script| wake(script, id, now))).await?;
        self.changes.work_due();
        Ok(())
    }

    /// Makes due what is to come up at a moment that nothing is ever put off to: a clock that was ahead for a while leaves nothing
    /// behind.
    pub async fn bound_moments(&self) -> Result<(), StoreError> {
        const TASKS: &str = "UPDATE tasks SET wake_at = $1 WHERE wake_at > $2";
        const ATTEMPTS: &str = "UPDATE attempts SET look_at = $1 WHERE look_at > $2";
        const DELIVERIES: &str =
            "UPDATE deliveries SET wake_at = $1 WHERE state = 'pending' AND wake_at > $2";
        let now = self.clock.now();
        let bounds = [(TASKS, FAR), (ATTEMPTS, FAR), (DELIVERIES, FAR_DELIVERY)];
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    let mut moved = lanes::bound(&mut conn, now).await?;
                    for (sql, far) in bounds {
                        let far = now + far;
                        moved += on!(&mut conn, c => sqlx::query(sql).bind(now.0).bind(far.0).execute(c).await
                            .map(|done| done.rows_affected()))?;
                    }
                    if moved > 0 {
                        tracing::warn!(moved, "rows were put off further than anything is; the clock may have been ahead. They are due now");
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Makes every task that has not ended due now. Only for a process that is alone: it ends all leases, those of a
    /// process that was killed among them, and undoes timers set by a clock that has since been set back.
    pub async fn wake_all(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    const WAKE: &str = "UPDATE tasks SET wake_at = $1 WHERE wake_at > $1";
                    const LOOK: &str = "UPDATE attempts SET look_at = $1 WHERE look_at > $1";
                    on!(&mut conn, c => sqlx::query(WAKE).bind(now.0).execute(c).await.map(drop))?;
                    on!(&mut conn, c => sqlx::query(LOOK).bind(now.0).execute(c).await.map(drop))?;
                    Ok(())
                })
            })
            .await
    }

    /// What owes work.
    pub async fn owing(&self) -> Result<Owing, StoreError> {
        type Row =
            (Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<i64>);
        let now = self.clock.now();
        let row: Row = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(OWING).bind(now.0).fetch_one(c).await)?;
        let (started, saves, queued, later, late, start_by, straggler) = row;
        let first = |moments: &[Option<i64>]| moments.iter().flatten().min().copied().map(Millis);
        Ok(Owing {
            polls: first(&[started, late, start_by]),
            saves: first(&[saves]),
            queued: queued.is_some_and(|at| at <= now.0),
            later: first(&[later]),
            stragglers: first(&[straggler]),
        })
    }
}

/// Makes a task due that waits for its provider.
pub(super) fn wake(script: &mut Script, id: TaskId, now: Millis) {
    const WAKE: &str = "UPDATE tasks SET wake_at = $2 WHERE id = $1 AND wake_at > $2 \
         AND phase IN ('waiting', 'reconciling', 'gathering', 'storing')";
    script.add(WAKE).bind(id.to_string()).bind(now.0);
}

async fn lease(mut conn: Conn<'_>, claim: Claim, now: Millis) -> Result<Vec<Row>, StoreError> {
    let (until, now) = (claim.until.0, now.0);
    let mut rows: Vec<Row> = Vec::new();
    for ([sqlite, postgres], room) in [(LATE, claim.polls), (TO_POLL, claim.polls), (TO_SAVE, claim.saves)] {
        if room == 0 {
            continue;
        }
        let (sql, limit) = (conn.pick(sqlite, postgres), count(room));
        rows.extend::<Vec<Row>>(
            on!(&mut conn, c => sqlx::query_as(sql).bind(until).bind(now).bind(limit).fetch_all(c).await)?,
        );
    }
    for (lane, room) in claim.lanes {
        let sql = conn.pick(FIRST[0], FIRST[1]);
        let limit = count(room);
        rows.extend::<Vec<Row>>(
            on!(&mut conn, c => sqlx::query_as(sql).bind(until).bind(now).bind(limit).bind(lane).fetch_all(c).await)?,
        );
    }
    Ok(rows)
}

pub(super) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
