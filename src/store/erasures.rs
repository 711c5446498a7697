//! Bytes that rows have let go of, until they are removed; and which bytes are still needed. A row is all there is to need
//! bytes by: a picture's, a file's, or that of a task or an attempt whose outputs are on their way here.

use std::collections::{BTreeSet, HashSet};

use super::backend::{Conn, on};
use super::claim::count;
use super::script::Script;
use super::{Store, StoreError, attempts};
use crate::domain::clock::Millis;
use crate::domain::task::{Output, Source, State};

/// Notes that bytes may go.
pub(super) fn note(script: &mut Script, hashes: impl IntoIterator<Item = String>, now: Millis) {
    const NOTE: &str = "INSERT INTO erasures (sha256, due_at) VALUES ($1, $2) ON CONFLICT (sha256) DO UPDATE SET due_at = $2";
    // In one order for all, so that two who let go of the same bytes do not lock each other out.
    let hashes: BTreeSet<String> = hashes.into_iter().collect();
    for sha256 in hashes {
        script.add(NOTE).bind(sha256).bind(now.0);
    }
}

/// The same at once.
pub(super) async fn noted(
    conn: &mut Conn<'_>,
    hashes: impl IntoIterator<Item = String>,
    now: Millis,
) -> Result<(), StoreError> {
    Script::of(|script| note(script, hashes, now)).run(conn).await
}

impl Store {
    /// Bytes that may go now and since when, longest due first.
    pub async fn erasures(&self, limit: usize) -> Result<Vec<(String, Millis)>, StoreError> {
        const SQL: &str = "SELECT sha256, due_at FROM erasures WHERE due_at <= $1 ORDER BY due_at LIMIT $2";
        let now = self.clock.now().0;
        let due: Vec<(String, i64)> = on!(&mut self.db.reader().await?.conn(), c =>
            sqlx::query_as(SQL).bind(now).bind(count(limit)).fetch_all(c).await)?;
        Ok(due.into_iter().map(|(sha256, due_at)| (sha256, Millis(due_at))).collect())
    }

    /// Settles one: its bytes are gone or needed, or are to be looked at again at `later`. Not when another row has let go of
    /// them since it was read.
    pub async fn settle_erasure(
        &self,
        sha256: String,
        due_at: Millis,
        later: Option<Millis>,
    ) -> Result<(), StoreError> {
        const DONE: &str = "DELETE FROM erasures WHERE sha256 = $1 AND due_at = $2";
        const LATER: &str = "UPDATE erasures SET due_at = $3 WHERE sha256 = $1 AND due_at = $2";
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    on!(&mut conn, c => match later {
                        None => sqlx::query(DONE).bind(sha256).bind(due_at.0).execute(c).await,
                        Some(later) => sqlx::query(LATER).bind(sha256).bind(due_at.0).bind(later.0).execute(c).await,
                    }.map(drop))?;
                    Ok(())
                })
            })
            .await
    }

    /// Those of `hashes` that a row still needs.
    pub async fn needed(&self, hashes: &[String]) -> Result<HashSet<String>, StoreError> {
        if hashes.is_empty() {
            return Ok(HashSet::new());
        }
        // Documents before rows: what is on its way becomes a row, never the other way round.
        let mut needed = self.on_their_way().await?;
        needed.retain(|sha256| hashes.contains(sha256));
        needed.extend(self.with_rows(hashes).await?);
        Ok(needed)
    }

    /// Those of `hashes` that a picture or a file has.
    async fn with_rows(&self, hashes: &[String]) -> Result<HashSet<String>, StoreError> {
        const HAS: &str = "SELECT COUNT(*) FROM (SELECT 1 FROM images WHERE sha256 = $1 AND gone = FALSE \
             UNION ALL SELECT 1 FROM files WHERE sha256 = $1) AS having_it";
        let mut reader = self.db.reader().await?;
        let mut with_rows = HashSet::new();
        for sha256 in hashes {
            let rows: i64 =
                on!(&mut reader.conn(), c => sqlx::query_scalar(HAS).bind(sha256).fetch_one(c).await)?;
            if rows > 0 {
                with_rows.insert(sha256.clone());
            }
        }
        Ok(with_rows)
    }

    /// The bytes in custody that tasks and attempts name whose pictures have no rows yet.
    async fn on_their_way(&self) -> Result<HashSet<String>, StoreError> {
        // What is on its way is named in documents only: few enough at any moment to be read.
        const STORING: &str = "SELECT state FROM tasks WHERE phase = 'storing'";
        const MADE: &str = "SELECT detail FROM attempts WHERE look_at IS NOT NULL";
        let mut reader = self.db.reader().await?;
        let storing: Vec<String> =
            on!(&mut reader.conn(), c => sqlx::query_scalar(STORING).fetch_all(c).await)?;
        let made: Vec<String> = on!(&mut reader.conn(), c => sqlx::query_scalar(MADE).fetch_all(c).await)?;
        let mut on_their_way = HashSet::new();
        let mut note = |outputs: Vec<Output>| {
            on_their_way.extend(outputs.into_iter().filter_map(|output| match output.source {
                Source::Blob(sha256) => Some(sha256),
                Source::Url(_) => None,
            }));
        };
        for state in storing {
            // One that cannot be read may need anything.
            let state: State = serde_json::from_str(&state)
                .map_err(|e| StoreError::Unreadable(format!("a task's state: {e}")))?;
            note(state.outputs);
        }
        for detail in made {
            note(attempts::read(&detail)?.made);
        }
        Ok(on_their_way)
    }
}
