//! The audit as rows: added, read page by page, and cleared when they are old; never changed.

use sqlx::FromRow;

use super::backend::{Conn, on};
use super::claim::count;
use super::list::Page;
use super::script::Script;
use super::tasks::json;
use super::{Store, StoreError};
use crate::domain::audit::{Entry, Outcome};
use crate::domain::clock::Millis;
use crate::domain::id::AuditId;

#[derive(FromRow)]
struct Row {
    id: String,
    at: i64,
    key_name: String,
    tenant: String,
    act: String,
    subject: String,
    outcome: String,
    details: String,
}

impl TryFrom<Row> for Entry {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let all = [Outcome::Done, Outcome::Refused, Outcome::Failed];
        Ok(Self {
            id: row.id.parse().map_err(|_| StoreError::Unreadable(format!("audit {}", row.id)))?,
            at: Millis(row.at),
            key: row.key_name,
            tenant: row.tenant,
            act: row.act,
            subject: row.subject,
            outcome: all.into_iter().find(|one| one.as_str() == row.outcome).unwrap_or(Outcome::Failed),
            details: serde_json::from_str(&row.details).unwrap_or_default(),
        })
    }
}

/// Which entries to list; absent fields match all.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Of this act.
    pub act: Option<String>,
    /// By this key.
    pub key: Option<String>,
    /// To this subject.
    pub subject: Option<String>,
    /// Older than this entry: where the last page ended.
    pub cursor: Option<AuditId>,
}

impl Store {
    /// Adds an entry.
    pub async fn audit(&self, entry: Entry) -> Result<(), StoreError> {
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    enter(&mut conn, &entry).await?;
                    Ok(entry)
                })
            })
            .await
            .map(|entry| log(&entry))
    }

    /// A page of the audit, newest first.
    pub async fn audit_entries(
        &self,
        filter: AuditFilter,
        limit: usize,
    ) -> Result<Page<Entry, AuditId>, StoreError> {
        const SQL: &str = "SELECT id, at, key_name, tenant, act, subject, outcome, details FROM audit \
             WHERE id < $1 AND ($2 IS NULL OR act = $2) AND ($3 IS NULL OR key_name = $3) \
             AND ($4 IS NULL OR subject = $4) ORDER BY id DESC LIMIT $5";
        let below = filter.cursor.map_or_else(|| "aud_~".to_owned(), |id| id.to_string());
        let rows: Vec<Row> = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(SQL)
            .bind(below).bind(&filter.act).bind(&filter.key).bind(&filter.subject).bind(count(limit + 1))
            .fetch_all(c).await)?;
        Ok(Page::of(rows, limit, |row| &row.id, Entry::try_from))
    }

    /// Clears up to `limit` entries from before this moment; how many.
    pub async fn trim_audit(&self, before: Millis, limit: usize) -> Result<usize, StoreError> {
        const SQL: &str = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < $1 LIMIT $2)";
        let work = self.db.write(move |mut conn| {
            Box::pin(async move {
                Ok(on!(&mut conn, c => sqlx::query(SQL).bind(before.0).bind(count(limit)).execute(c).await
                    .map(|done| done.rows_affected()))?)
            })
        });
        Ok(usize::try_from(work.await?).unwrap_or(usize::MAX))
    }
}

/// Adds an entry within somebody's transaction: what it tells and the telling are one.
pub(super) fn put(script: &mut Script, entry: &Entry) {
    const SQL: &str = "INSERT INTO audit (id, at, key_name, tenant, act, subject, outcome, details) \
         VALUES ($1,$2,$3,$4,$5,$6,$7,$8)";
    script.add(SQL);
    script.bind(entry.id.to_string()).bind(entry.at.0).bind(&entry.key).bind(&entry.tenant).bind(&entry.act);
    script.bind(&entry.subject).bind(entry.outcome.as_str()).bind(json(&entry.details));
}

/// The same at once.
pub(super) async fn enter(conn: &mut Conn<'_>, entry: &Entry) -> Result<(), StoreError> {
    Script::of(|script| put(script, entry)).run(conn).await
}

/// Tells the log what the audit was told.
pub(super) fn log(entry: &Entry) {
    tracing::info!(
        audit.id = %entry.id, key.name = entry.key, tenant = entry.tenant, act = entry.act,
        subject = entry.subject, outcome = entry.outcome.as_str(), "audit"
    );
}
