//! What the rows owe, in counts: the figures of `GET /metrics` that hold over all replicas, each from a small index.

use super::backend::on;
use super::{Store, StoreError};
use crate::domain::clock::Millis;

/// What is owed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Tasks whose pictures are being brought here, and when the oldest was started.
    pub saving: (i64, Option<Millis>),
    /// Tasks of unknown outcome, likewise.
    pub reconciling: (i64, Option<Millis>),
    /// Attempts that are looked for without their task.
    pub stragglers: i64,
    /// Webhooks owed, and when the first of them is or was due.
    pub letters: (i64, Option<Millis>),
    /// The same for those that failed before.
    pub retries: (i64, Option<Millis>),
}

impl Store {
    /// What is owed at the moment.
    pub async fn backlog(&self) -> Result<Backlog, StoreError> {
        const SAVING: &str = "SELECT COUNT(*), MIN(started_at) FROM tasks WHERE phase = 'storing'";
        const RECONCILING: &str = "SELECT COUNT(*), MIN(started_at) FROM tasks WHERE phase = 'reconciling'";
        const STRAGGLERS: &str = "SELECT COUNT(*) FROM attempts WHERE look_at IS NOT NULL";
        const LETTERS: &str =
            "SELECT COUNT(*), MIN(wake_at) FROM deliveries WHERE state = 'pending' AND troubled = $1";
        type Row = (i64, Option<i64>);
        let mut reader = self.db.reader().await?;
        let mut conn = reader.conn();
        let saving: Row = on!(&mut conn, c => sqlx::query_as(SAVING).fetch_one(c).await)?;
        let reconciling: Row = on!(&mut conn, c => sqlx::query_as(RECONCILING).fetch_one(c).await)?;
        let stragglers: i64 = on!(&mut conn, c => sqlx::query_scalar(STRAGGLERS).fetch_one(c).await)?;
        let letters: Row = on!(&mut conn, c => sqlx::query_as(LETTERS).bind(false).fetch_one(c).await)?;
        let retries: Row = on!(&mut conn, c => sqlx::query_as(LETTERS).bind(true).fetch_one(c).await)?;
        let since = |(count, at): Row| (count, at.map(Millis));
        Ok(Backlog {
            saving: since(saving),
            reconciling: since(reconciling),
            stragglers,
            letters: since(letters),
            retries: since(retries),
        })
    }
}
