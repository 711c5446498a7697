//! The ledger as rows: lines are only ever added, in the transaction of the fact that moved the money, and the balances of
//! keys with a budget move with them. A budget is checked on the balance as it is after the task, under the row's lock.

use std::ops::Range;

use super::backend::{Conn, on};
use super::script::{Came, Script};
use super::{Store, StoreError};
use crate::domain::attempt::Billing;
use crate::domain::clock::Millis;
use crate::domain::day::Day;
use crate::domain::id::EntryId;
use crate::domain::key::Limits;
use crate::domain::ledger::{Balance, Entry};
use crate::domain::money::Usd;
use crate::domain::task::Task;

/// The row of all days together.
const ALL_DAYS: Day = Day(-1);

/// A line with what it takes from its task.
#[derive(Debug)]
pub(super) struct Line {
    id: EntryId,
    task: String,
    task_at: Millis,
    tenant: String,
    key: String,
    model: String,
    entry: Entry,
}

/// A key's sums after lines were added; `None` where no budget ever asked for them.
#[derive(Debug, Default)]
pub(super) struct Sums {
    total: Option<Balance>,
    today: Option<Balance>,
}

impl Store {
    /// The lines for these entries of a task.
    pub(super) fn lines(&self, task: &Task, entries: impl IntoIterator<Item = Entry>) -> Vec<Line> {
        let line = |entry| Line {
            id: EntryId::mint(self.clock.as_ref()),
            task: task.id.to_string(),
            task_at: task.created_at,
            tenant: task.tenant.clone(),
            key: task.key.clone(),
            model: task.model.clone(),
            entry,
        };
        entries.into_iter().map(line).collect()
    }

    /// Sees to it that the key's balances exist, from what the ledger says so far. Once for each key and day; of the ledger
    /// as a whole once for each key.
    pub(super) async fn open_balances(&self, key: &str, day: Day) -> Result<(), StoreError> {
        const KNOWN: &str = "SELECT day FROM balances WHERE key_name = $1 AND day IN ($2, $3)";
        const OPEN: &str = "INSERT INTO balances (key_name, day, reserved, unresolved, settled) \
             SELECT CAST($1 AS TEXT), CAST($2 AS BIGINT), CAST(COALESCE(SUM(reserved), 0) AS BIGINT), \
             CAST(COALESCE(SUM(unresolved), 0) AS BIGINT), CAST(COALESCE(SUM(settled), 0) AS BIGINT) \
             FROM ledger WHERE key_name = $1 AND task_at >= $3 AND task_at < $4 \
             ON CONFLICT (key_name, day) DO NOTHING";
        let known: Vec<i64> = on!(&mut self.db.reader().await?.conn(), c =>
            sqlx::query_scalar(KNOWN).bind(key).bind(ALL_DAYS.0).bind(day.0).fetch_all(c).await)?;
        let mut missing = vec![(ALL_DAYS, Millis(0), Millis(i64::MAX)), (day, day.start(), day.end())];
        missing.retain(|(day, ..)| !known.contains(&day.0));
        if missing.is_empty() {
            return Ok(());
        }
        let key = key.to_owned();
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    if let Conn::Postgres(conn) = &mut conn {
                        // A line that is being written at this moment would be in neither the sum nor the row.
                        const LOCK: &str = "LOCK TABLE ledger IN SHARE MODE";
                        sqlx::query(LOCK).execute(&mut **conn).await?;
                    }
                    for (day, from, to) in missing {
                        on!(&mut conn, c => sqlx::query(OPEN)
                            .bind(&key).bind(day.0).bind(from.0).bind(to.0).execute(c).await.map(drop))?;
                    }
                    Ok(())
                })
            })
            .await
    }
}

/// Lines in a script, and the balances they move.
pub(super) struct Entered {
    lines: Range<usize>,
    moves: bool,
}

/// Adds lines of one key and one day, and moves that key's balances, the total always first: two transactions that did it
/// in different order would lock each other out. What came of it is for [`Entered::settled`].
pub(super) fn enter(script: &mut Script, lines: &[Line], at: Millis) -> Entered {
    const PUT: &str = "INSERT INTO ledger (id, at, tenant, key_name, task_id, task_at, attempt_id, about, kind, provider, \
             model, billed, estimated, reserved, unresolved, settled) \
         VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16) ON CONFLICT (task_id, about, kind) DO NOTHING";
    let begin = script.len();
    for line in lines {
        let (entry, change) = (&line.entry, line.entry.change);
        let attempt = entry.attempt.map(|id| id.to_string());
        script.add(PUT);
        script.bind(line.id.to_string()).bind(at.0).bind(&line.tenant).bind(&line.key).bind(&line.task);
        script.bind(line.task_at.0).bind(&attempt).bind(attempt.as_ref().unwrap_or(&line.task));
        script.bind(entry.kind.as_str()).bind(&entry.provider).bind(&line.model);
        script.bind(entry.billed.map(Billing::as_str)).bind(entry.estimated.map(Usd::nanos));
        script.bind(change.reserved.nanos()).bind(change.unresolved.nanos()).bind(change.settled.nanos());
    }
    let range = begin..script.len();
    let sum = lines.iter().fold(Balance::default(), |sum, line| sum + line.entry.change);
    let moves = !sum.is_zero();
    if let Some(line) = lines.first().filter(|_| moves) {
        shift(script, line, sum);
    }
    Entered { lines: range, moves }
}

/// Moves the balances of a line's key, the total and its day's, where they are.
fn shift(script: &mut Script, line: &Line, by: Balance) {
    const SHIFT: &str = "UPDATE balances SET reserved = reserved + $3, unresolved = unresolved + $4, \
         settled = settled + $5 WHERE key_name = $1 AND day = $2 RETURNING reserved, unresolved, settled";
    for day in [ALL_DAYS, Day::of(line.task_at)] {
        script.add(SHIFT).bind(&line.key).bind(day.0);
        script.bind(by.reserved.nanos()).bind(by.unresolved.nanos()).bind(by.settled.nanos());
    }
}

impl Entered {
    /// The balances after the script that the lines were in has run. A line that was there already moves nothing a second
    /// time: what its script moved is moved back.
    pub async fn settled(
        self,
        conn: &mut Conn<'_>,
        lines: &[Line],
        came: &[Came],
    ) -> Result<Sums, StoreError> {
        let mut twice = Balance::default();
        for (line, came) in lines.iter().zip(&came[self.lines.clone()]) {
            if came.rows == 0 {
                let kind = line.entry.kind.as_str();
                tracing::error!(task.id = line.task, kind, "a line of the ledger was there already");
                twice = twice + line.entry.change;
            }
        }
        let mut back = Script::default();
        if let Some(line) = lines.first().filter(|_| !twice.is_zero()) {
            shift(&mut back, line, Balance::default() - twice);
            back.run(conn).await?;
        }
        let moved = if back.came().is_empty() { &came[self.lines.end..] } else { back.came() };
        let mut moved =
            moved.iter().take(if self.moves { 2 } else { 0 }).map(|came| match came.returned.as_deref() {
                Some([reserved, unresolved, settled]) => Some(balance(*reserved, *unresolved, *settled)),
                _ => None,
            });
        Ok(Sums { total: moved.next().flatten(), today: moved.next().flatten() })
    }
}

/// Whether the key's budgets cover the task that these lines open: else nothing of it is to be kept.
pub(super) fn covered(limits: &Limits, lines: &[Line], sums: &Sums) -> Result<(), StoreError> {
    let needed = lines.iter().map(|line| line.entry.change.reserved).sum();
    if !limits.budgeted() || needed == Usd::ZERO {
        return Ok(());
    }
    let (Some(today), Some(total)) = (sums.today, sums.total) else {
        return Err(StoreError::Unreadable("the balances of a key with a budget are not there".to_owned()));
    };
    limits.short(today, total, needed).map_or(Ok(()), |short| Err(StoreError::OverBudget(short)))
}

fn balance(reserved: i64, unresolved: i64, settled: i64) -> Balance {
    Balance {
        reserved: Usd::from_nanos(reserved),
        unresolved: Usd::from_nanos(unresolved),
        settled: Usd::from_nanos(settled),
    }
}
