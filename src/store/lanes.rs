//! Provider accounts as rows: what is known of each, shared by all replicas, and the gate a task passes in the very
//! transaction that writes its intent.

use std::collections::{BTreeMap, HashMap};

use super::backend::{Conn, on};
use super::script::Script;
use super::tasks::json;
use super::{Store, StoreError};
use crate::domain::audit;
use crate::domain::clock::Millis;
use crate::domain::lane::{Admission, LaneState};

/// The lane a task is to be sent on.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Provider id.
    pub lane: String,
    /// The model's name there.
    pub model: String,
    /// How many tasks may be there at once, as configured.
    pub configured: u32,
}

/// How many tasks each lane has at its provider. One of unknown outcome counts for as long as a job can run.
pub(super) const IN_FLIGHT: &str = "SELECT lane, COUNT(*) FROM tasks \
     WHERE phase IN ('submitting', 'waiting', 'reconciling') AND (slot_until IS NULL OR slot_until > $1) GROUP BY lane";
/// How many one lane has.
pub(super) const AT_WORK: &str = "SELECT COUNT(*) FROM tasks WHERE lane = $1 \
     AND phase IN ('submitting', 'waiting', 'reconciling') AND (slot_until IS NULL OR slot_until > $2)";

impl Store {
    /// How many tasks each lane has at its provider.
    pub async fn in_flight(&self) -> Result<HashMap<String, i64>, StoreError> {
        let now = self.clock.now();
        let counts: Vec<(String, i64)> = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(IN_FLIGHT).bind(now.0).fetch_all(c).await)?;
        Ok(counts.into_iter().collect())
    }

    /// What is known of every account that has been noted.
    pub async fn lanes(&self) -> Result<BTreeMap<String, LaneState>, StoreError> {
        const SQL: &str = "SELECT id, state FROM lanes";
        let rows: Vec<(String, String)> =
            on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(SQL).fetch_all(c).await)?;
        let now = self.clock.now();
        rows.into_iter().map(|(id, state)| Ok((id, read(&state, now)?))).collect()
    }

    /// Changes what is known of an account, and answers with it.
    pub async fn note_lane<F>(&self, id: &str, note: F) -> Result<LaneState, StoreError>
    where
        F: FnOnce(&mut LaneState) + Send + 'static,
    {
        let (id, now) = (id.to_owned(), self.clock.now());
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    let before = lock(&mut conn, &id, now).await?;
                    let mut state = before.clone();
                    note(&mut state);
                    if state != before {
                        put(&mut conn, &id, &state).await?;
                    }
                    Ok(state)
                })
            })
            .await
    }
}

impl Store {
    /// Forgets what is held against an account, with who wanted it.
    pub async fn reset_lane(&self, id: &str, entry: audit::Entry) -> Result<(), StoreError> {
        let (id, now, written) = (id.to_owned(), self.clock.now(), entry.clone());
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    lock(&mut conn, &id, now).await?;
                    put(&mut conn, &id, &LaneState::default()).await?;
                    Script::of(|script| super::audit::put(script, &entry)).run(&mut conn).await
                })
            })
            .await?;
        super::audit::log(&written);
        self.changes.work_due();
        Ok(())
    }
}

/// Writes down the bounds of moments that a clock which was ahead has left with accounts: read alone, they would move on with
/// the time.
pub(super) async fn bound(conn: &mut Conn<'_>, now: Millis) -> Result<u64, StoreError> {
    const SQL: &str = "SELECT id, state FROM lanes";
    let rows: Vec<(String, String)> = on!(conn, c => sqlx::query_as(SQL).fetch_all(c).await)?;
    let mut bounded = 0;
    for (id, state) in rows {
        // Read again under its lock; one that cannot be read keeps the others from nothing.
        if serde_json::from_str::<LaneState>(&state).is_ok_and(|state| state.clone().bounded(now) != state) {
            let state = lock(conn, &id, now).await?;
            put(conn, &id, &state).await?;
            bounded += 1;
        }
    }
    Ok(bounded)
}

/// Lets one more task through, or says when to look again. Whoever asks next sees this one counted.
pub(super) async fn pass(conn: &mut Conn<'_>, gate: &Gate, now: Millis) -> Result<(), StoreError> {
    let mut state = lock(conn, &gate.lane, now).await?;
    let admission = state.admit(&gate.model, now);
    if let Admission::Closed(until) = admission {
        return Err(StoreError::Closed(until));
    }
    let at_work: i64 =
        on!(conn, c => sqlx::query_scalar(AT_WORK).bind(&gate.lane).bind(now.0).fetch_one(c).await)?;
    if at_work >= i64::from(state.limit(gate.configured, now)) {
        return Err(StoreError::Closed(now));
    }
    if admission == Admission::Probe {
        state.probe(&gate.model, now);
        put(conn, &gate.lane, &state).await?;
    }
    Ok(())
}

/// Reads an account and keeps other replicas from changing it until the transaction ends.
async fn lock(conn: &mut Conn<'_>, id: &str, now: Millis) -> Result<LaneState, StoreError> {
    const FIRST: &str = "INSERT INTO lanes (id, state) VALUES ($1, '{}') ON CONFLICT (id) DO NOTHING";
    let sql = conn
        .pick("SELECT state FROM lanes WHERE id = $1", "SELECT state FROM lanes WHERE id = $1 FOR UPDATE");
    for _ in 0..2 {
        let state: Option<String> = on!(conn, c => sqlx::query_scalar(sql).bind(id).fetch_optional(c).await)?;
        if let Some(state) = state {
            return read(&state, now);
        }
        on!(conn, c => sqlx::query(FIRST).bind(id).execute(c).await.map(drop))?;
    }
    Ok(LaneState::default())
}

async fn put(conn: &mut Conn<'_>, id: &str, state: &LaneState) -> Result<(), StoreError> {
    const PUT: &str = "UPDATE lanes SET state = $2 WHERE id = $1";
    on!(conn, c => sqlx::query(PUT).bind(id).bind(json(state)).execute(c).await.map(drop))?;
    Ok(())
}

fn read(state: &str, now: Millis) -> Result<LaneState, StoreError> {
    let state: LaneState =
        serde_json::from_str(state).map_err(|e| StoreError::Unreadable(format!("lane: {e}")))?;
    Ok(state.bounded(now))
}
