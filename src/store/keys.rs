//! Managed API keys as rows. Every change moves a counter, so that replicas can ask often whether there is anything new and
//! read the keys only when there is; and it is written together with its entry in the audit.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use super::backend::{Conn, on};
use super::list::readable;
use super::tasks::json;
use super::{Store, StoreError, audit};
use crate::domain::audit::Entry;
use crate::domain::clock::Millis;
use crate::domain::id::KeyId;
use crate::domain::key::{Key, Limits, ManagedKey, Role};
use crate::domain::money::Usd;

#[derive(FromRow)]
struct Row {
    id: String,
    name: String,
    tenant: String,
    role: String,
    limits: String,
    expires_at: Option<i64>,
    hash: String,
    previous_hash: Option<String>,
    previous_until: Option<i64>,
    created_at: i64,
    rotated_at: Option<i64>,
    revoked_at: Option<i64>,
}

/// Limits as their row holds them.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    models: Vec<String>,
    rpm: Option<u32>,
    concurrent_tasks: Option<u32>,
    daily_budget_nanos: Option<i64>,
    budget_nanos: Option<i64>,
}

impl Kept {
    fn of(limits: &Limits) -> Self {
        Self {
            models: limits.models.clone(),
            rpm: limits.rpm,
            concurrent_tasks: limits.concurrent_tasks,
            daily_budget_nanos: limits.daily_budget.map(Usd::nanos),
            budget_nanos: limits.budget.map(Usd::nanos),
        }
    }

    fn limits(self, expires_at: Option<Millis>) -> Limits {
        Limits {
            models: self.models,
            rpm: self.rpm,
            concurrent_tasks: self.concurrent_tasks,
            daily_budget: self.daily_budget_nanos.map(Usd::from_nanos),
            budget: self.budget_nanos.map(Usd::from_nanos),
            expires_at,
        }
    }
}

impl TryFrom<Row> for ManagedKey {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let bad = |what: &str| StoreError::Unreadable(format!("key {}: {what}", row.id));
        // A limit that cannot be read must not become no limit.
        let kept: Kept = serde_json::from_str(&row.limits).map_err(|_| bad("limits"))?;
        let limits = kept.limits(row.expires_at.map(Millis));
        let role: Role = serde_json::from_value(row.role.as_str().into()).map_err(|_| bad("role"))?;
        Ok(Self {
            id: row.id.parse().map_err(|_| bad("id"))?,
            key: Key { name: row.name, tenant: row.tenant, role, limits: Arc::new(limits) },
            hash: row.hash,
            previous: row.previous_hash.zip(row.previous_until.map(Millis)),
            created_at: Millis(row.created_at),
            rotated_at: row.rotated_at.map(Millis),
            revoked_at: row.revoked_at.map(Millis),
        })
    }
}

macro_rules! columns {
    () => {
        "id, name, tenant, role, limits, expires_at, hash, previous_hash, previous_until, created_at, rotated_at, revoked_at"
    };
}

impl Store {
    /// All managed keys, oldest first, revoked ones too.
    pub async fn keys(&self) -> Result<Vec<ManagedKey>, StoreError> {
        const SQL: &str = concat!("SELECT ", columns!(), " FROM api_keys ORDER BY id");
        let rows: Vec<Row> =
            on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(SQL).fetch_all(c).await)?;
        Ok(readable(rows.into_iter().map(ManagedKey::try_from)))
    }

    /// How often the managed keys have changed.
    pub async fn key_changes(&self) -> Result<i64, StoreError> {
        const SQL: &str = "SELECT count FROM key_changes WHERE one = 1";
        let count: Option<i64> =
            on!(&mut self.db.reader().await?.conn(), c => sqlx::query_scalar(SQL).fetch_optional(c).await)?;
        Ok(count.unwrap_or(0))
    }

    /// Stores a new key; whether it did: no two keys, revoked or not, have one name.
    pub async fn create_key(&self, key: ManagedKey, entry: Entry) -> Result<bool, StoreError> {
        const SQL: &str = "INSERT INTO api_keys (id, name, tenant, role, limits, expires_at, hash, created_at) \
             VALUES ($1,$2,$3,$4,$5,$6,$7,$8) ON CONFLICT (name) DO NOTHING";
        let work = self.db.write(move |mut conn| {
            Box::pin(async move {
                let limits = json(&Kept::of(&key.key.limits));
                let role = serde_json::to_value(key.key.role).unwrap_or_default();
                let made = on!(&mut conn, c => sqlx::query(SQL)
                    .bind(key.id.to_string()).bind(&key.key.name).bind(&key.key.tenant).bind(role.as_str())
                    .bind(limits).bind(key.key.limits.expires_at.map(|at| at.0)).bind(&key.hash).bind(key.created_at.0)
                    .execute(c).await.map(|done| done.rows_affected()))?;
                if made > 0 {
                    told(&mut conn, &entry).await?;
                }
                Ok((made > 0).then_some(entry))
            })
        });
        Ok(work.await?.as_ref().inspect(|entry| audit::log(entry)).is_some())
    }

    /// Exchanges a key's secret for the one with this hash; the one before opens until `overlap_until`. The key as it is
    /// now; `None` when there is no such key, or it is revoked.
    pub async fn rotate_key(
        &self,
        id: KeyId,
        hash: String,
        overlap_until: Millis,
        entry: Entry,
    ) -> Result<Option<ManagedKey>, StoreError> {
        const SQL: &str = "UPDATE api_keys SET previous_hash = hash, previous_until = $3, hash = $2, rotated_at = $4 \
             WHERE id = $1 AND revoked_at IS NULL";
        let now = self.clock.now();
        let work = self.db.write(move |mut conn| {
            Box::pin(async move {
                let changed = on!(&mut conn, c => sqlx::query(SQL)
                    .bind(id.to_string()).bind(hash).bind(overlap_until.0).bind(now.0)
                    .execute(c).await.map(|done| done.rows_affected()))?;
                changed_key(&mut conn, id, changed > 0, entry).await
            })
        });
        Ok(work.await?.map(logged))
    }

    /// Lets a key open nothing any more. The key as it is now; `None` when there is no such key, or it is revoked already.
    pub async fn revoke_key(&self, id: KeyId, entry: Entry) -> Result<Option<ManagedKey>, StoreError> {
        const SQL: &str = "UPDATE api_keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL";
        let now = self.clock.now();
        let work = self.db.write(move |mut conn| {
            Box::pin(async move {
                let changed = on!(&mut conn, c => sqlx::query(SQL).bind(id.to_string()).bind(now.0)
                    .execute(c).await.map(|done| done.rows_affected()))?;
                changed_key(&mut conn, id, changed > 0, entry).await
            })
        });
        Ok(work.await?.map(logged))
    }
}

async fn changed_key(
    conn: &mut Conn<'_>,
    id: KeyId,
    changed: bool,
    entry: Entry,
) -> Result<Option<(ManagedKey, Entry)>, StoreError> {
    const SQL: &str = concat!("SELECT ", columns!(), " FROM api_keys WHERE id = $1");
    if !changed {
        return Ok(None);
    }
    told(conn, &entry).await?;
    let row: Row = on!(conn, c => sqlx::query_as(SQL).bind(id.to_string()).fetch_one(c).await)?;
    Ok(Some((ManagedKey::try_from(row)?, entry)))
}

/// The log hears of it once it is committed.
fn logged((key, entry): (ManagedKey, Entry)) -> ManagedKey {
    audit::log(&entry);
    key
}

/// Lets the replicas see that something changed, and the audit who changed it.
async fn told(conn: &mut Conn<'_>, entry: &Entry) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO key_changes (one, count) VALUES (1, 1) \
         ON CONFLICT (one) DO UPDATE SET count = key_changes.count + 1";
    on!(conn, c => sqlx::query(SQL).execute(c).await.map(drop))?;
    audit::enter(conn, entry).await
}
