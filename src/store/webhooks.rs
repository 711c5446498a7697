//! Registered webhook endpoints as rows, and how often signing secrets were exchanged. The endpoints that are switched on
//! are also kept in memory, because every step of every task asks for them: they are re-read when they change.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use sqlx::FromRow;

use super::backend::{Conn, on};
use super::list::readable;
use super::tasks::json;
use super::{Store, StoreError, audit};
use crate::domain::audit::Entry;
use crate::domain::clock::Millis;
use crate::domain::id::WebhookId;
use crate::domain::webhook::{EventName, Rotation};

/// A registered endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its id.
    pub id: WebhookId,
    /// Whose it is.
    pub tenant: String,
    /// Where letters go.
    pub url: String,
    /// Which events; none: the default ones.
    pub events: Vec<EventName>,
    /// When it was registered.
    pub created_at: Millis,
    /// Since when no letter is written for it, and why.
    pub disabled: Option<(Millis, String)>,
}

#[derive(FromRow)]
struct Row {
    id: String,
    tenant: String,
    url: String,
    events: String,
    created_at: i64,
    disabled_at: Option<i64>,
    disabled_reason: Option<String>,
}

impl TryFrom<Row> for Endpoint {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let names: Vec<String> = serde_json::from_str(&row.events).unwrap_or_default();
        Ok(Self {
            id: row.id.parse().map_err(|_| StoreError::Unreadable(format!("webhook {}", row.id)))?,
            tenant: row.tenant,
            url: row.url,
            // An event of a newer version is none of this one's.
            events: names.iter().filter_map(|name| EventName::parse(name)).collect(),
            created_at: Millis(row.created_at),
            disabled: row.disabled_at.map(|at| (Millis(at), row.disabled_reason.unwrap_or_default())),
        })
    }
}

/// The endpoints that are switched on, by tenant.
#[derive(Default)]
pub(super) struct Endpoints {
    known: RwLock<HashMap<String, Arc<[Endpoint]>>>,
    reading: tokio::sync::Mutex<()>,
}

impl Endpoints {
    /// A tenant's.
    pub fn of(&self, tenant: &str) -> Option<Arc<[Endpoint]>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned()
    }

    fn set(&self, tenant: &str, endpoints: Vec<Endpoint>) {
        let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let on: Arc<[Endpoint]> = endpoints.into_iter().filter(|one| one.disabled.is_none()).collect();
        if on.is_empty() {
            all.remove(tenant);
        } else {
            all.insert(tenant.to_owned(), on);
        }
    }

    fn replace(&self, endpoints: Vec<Endpoint>) {
        let mut all: HashMap<String, Vec<Endpoint>> = HashMap::new();
        for endpoint in endpoints.into_iter().filter(|one| one.disabled.is_none()) {
            all.entry(endpoint.tenant.clone()).or_default().push(endpoint);
        }
        let all = all.into_iter().map(|(tenant, endpoints)| (tenant, endpoints.into())).collect();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = all;
    }
}

const ALL: &str = "SELECT id, tenant, url, events, created_at, disabled_at, disabled_reason FROM webhooks";
const OF_TENANT: &str = "SELECT id, tenant, url, events, created_at, disabled_at, disabled_reason FROM webhooks \
     WHERE tenant = $1 ORDER BY id";
const BY_ID: &str =
    "SELECT id, tenant, url, events, created_at, disabled_at, disabled_reason FROM webhooks WHERE id = $1";

impl Store {
    /// Reads all endpoints into memory.
    pub(super) async fn load_endpoints(&self) -> Result<(), StoreError> {
        let rows: Vec<Row> =
            on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(ALL).fetch_all(c).await)?;
        self.endpoints.replace(readable(rows.into_iter().map(Endpoint::try_from)));
        Ok(())
    }

    /// Reads a tenant's endpoints into memory.
    pub(super) async fn reload_endpoints(&self, tenant: &str) -> Result<(), StoreError> {
        // One at a time: an older reading must not come to stand over a newer one.
        let _reading = self.endpoints.reading.lock().await;
        self.endpoints.set(tenant, self.endpoints(tenant).await?);
        Ok(())
    }

    async fn endpoints_changed(&self, tenant: &str) -> Result<(), StoreError> {
        self.news.endpoints_changed(tenant);
        self.reload_endpoints(tenant).await
    }

    /// A tenant's endpoints, oldest first.
    pub async fn endpoints(&self, tenant: &str) -> Result<Vec<Endpoint>, StoreError> {
        let rows: Vec<Row> = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(OF_TENANT).bind(tenant).fetch_all(c).await)?;
        Ok(readable(rows.into_iter().map(Endpoint::try_from)))
    }

    /// One endpoint, whoever's it is.
    pub async fn endpoint(&self, id: WebhookId) -> Result<Option<Endpoint>, StoreError> {
        let id = id.to_string();
        let row: Option<Row> = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(BY_ID).bind(id).fetch_optional(c).await)?;
        row.map(Endpoint::try_from).transpose()
    }

    /// Registers an endpoint, unless its tenant has `most` already; whether it did.
    pub async fn register(&self, endpoint: Endpoint, most: usize) -> Result<bool, StoreError> {
        const COUNT: &str = "SELECT COUNT(*) FROM webhooks WHERE tenant = $1";
        const PUT: &str =
            "INSERT INTO webhooks (id, tenant, url, events, created_at) VALUES ($1,$2,$3,$4,$5)";
        let tenant = endpoint.tenant.clone();
        let work = self.db.write(move |mut conn| {
            Box::pin(async move {
                let there: i64 =
                    on!(&mut conn, c => sqlx::query_scalar(COUNT).bind(&endpoint.tenant).fetch_one(c).await)?;
                if usize::try_from(there).unwrap_or(0) >= most {
                    return Ok(false);
                }
                on!(&mut conn, c => sqlx::query(PUT)
                    .bind(endpoint.id.to_string()).bind(&endpoint.tenant).bind(&endpoint.url)
                    .bind(json(&endpoint.events)).bind(endpoint.created_at.0).execute(c).await.map(drop))?;
                Ok(true)
            })
        });
        let registered = work.await?;
        self.endpoints_changed(&tenant).await?;
        Ok(registered)
    }

    /// Removes an endpoint; what was still owed to it is not sent.
    pub async fn remove_endpoint(&self, endpoint: &Endpoint, entry: Entry) -> Result<(), StoreError> {
        let (id, now) = (endpoint.id.to_string(), self.clock.now());
        let work = self.db.write(move |mut conn| {
            Box::pin(async move {
                for sql in
                    ["DELETE FROM webhooks WHERE id = $1", "DELETE FROM webhook_secrets WHERE owner = $1"]
                {
                    on!(&mut conn, c => sqlx::query(sql).bind(&id).execute(c).await.map(drop))?;
                }
                close_pending(&mut conn, &id, now).await?;
                audit::enter(&mut conn, &entry).await?;
                Ok(entry)
            })
        });
        audit::log(&work.await?);
        self.endpoints_changed(&endpoint.tenant).await
    }

    /// Writes no more letters for an endpoint and closes those that are owed; or the other way round, without `reason`,
    /// switches it on again.
    pub async fn switch_endpoint(
        &self,
        id: WebhookId,
        tenant: &str,
        reason: Option<String>,
    ) -> Result<(), StoreError> {
        const SWITCH: &str = "UPDATE webhooks SET disabled_at = $2, disabled_reason = $3 WHERE id = $1";
        let (id, now) = (id.to_string(), self.clock.now());
        let work = self.db.write(move |mut conn| {
            Box::pin(async move {
                let at = reason.as_ref().map(|_| now.0);
                on!(&mut conn, c => sqlx::query(SWITCH).bind(&id).bind(at).bind(&reason).execute(c).await.map(drop))?;
                if reason.is_some() {
                    close_pending(&mut conn, &id, now).await?;
                }
                Ok(())
            })
        });
        work.await?;
        self.endpoints_changed(tenant).await
    }

    /// How often the secret of `owner` was exchanged.
    pub async fn rotation(&self, owner: &str) -> Result<Rotation, StoreError> {
        const SQL: &str = "SELECT generation, overlap_until FROM webhook_secrets WHERE owner = $1";
        let row: Option<(i64, Option<i64>)> = on!(&mut self.db.reader().await?.conn(), c =>
            sqlx::query_as(SQL).bind(owner).fetch_optional(c).await)?;
        Ok(row.map_or_else(Rotation::default, rotation))
    }

    /// Exchanges the secret of `owner`; the one before counts until `overlap_until`.
    pub async fn rotate(
        &self,
        owner: String,
        overlap_until: Millis,
        entry: Entry,
    ) -> Result<Rotation, StoreError> {
        const SQL: &str = "INSERT INTO webhook_secrets (owner, generation, overlap_until) VALUES ($1, 1, $2) \
             ON CONFLICT (owner) DO UPDATE SET generation = webhook_secrets.generation + 1, \
             overlap_until = excluded.overlap_until RETURNING generation, overlap_until";
        let work = self.db.write(move |mut conn| {
            Box::pin(async move {
                let row: (i64, Option<i64>) = on!(&mut conn, c => sqlx::query_as(SQL)
                    .bind(owner).bind(overlap_until.0).fetch_one(c).await)?;
                audit::enter(&mut conn, &entry).await?;
                Ok((rotation(row), entry))
            })
        });
        let (rotation, entry) = work.await?;
        audit::log(&entry);
        Ok(rotation)
    }
}

pub(super) fn rotation((generation, until): (i64, Option<i64>)) -> Rotation {
    Rotation { generation, overlap_until: until.map(Millis) }
}

/// Closes what is owed to an endpoint that wants nothing any more.
async fn close_pending(conn: &mut Conn<'_>, webhook: &str, now: Millis) -> Result<(), StoreError> {
    const CLOSE: &str = "UPDATE deliveries SET state = 'disabled', wake_at = NULL, finished_at = $2, version = version + 1 \
         WHERE webhook_id = $1 AND state = 'pending'";
    on!(conn, c => sqlx::query(CLOSE).bind(webhook).bind(now.0).execute(c).await.map(drop))?;
    Ok(())
}
