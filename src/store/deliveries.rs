//! Webhooks owed, as rows: written with what they tell, leased like tasks, closed with what became of them.

use std::collections::HashMap;

use serde::Deserialize;
use sqlx::{AssertSqlSafe, FromRow};

use super::backend::{Conn, on};
use super::claim::count;
use super::list::Page;
use super::script::Script;
use super::tasks::json;
use super::{Store, StoreError, audit, webhooks};
use crate::domain::audit::Entry;
use crate::domain::clock::Millis;
use crate::domain::delivery::{Delivery, DeliveryState, Sequel};
use crate::domain::id::{EventId, TaskId, WebhookId};
use crate::domain::trace::Trace;
use crate::domain::webhook::Rotation;

macro_rules! columns {
    () => {
        "id, tenant, task_id, webhook_id, url, seq, event, body, state, tries, version, wake_at, \
         created_at, finished_at, log"
    };
}

const BY_ID: &str = concat!("SELECT ", columns!(), " FROM deliveries d WHERE d.id = $1");
/// No earlier letter of the same line is owed.
const NEXT_IN_LINE: &str =
    "NOT EXISTS (SELECT 1 FROM deliveries e WHERE e.line = d.line AND e.state = 'pending' AND e.seq < d.seq)";

#[derive(FromRow)]
struct Row {
    id: String,
    tenant: String,
    task_id: Option<String>,
    webhook_id: Option<String>,
    url: String,
    seq: i64,
    event: String,
    body: String,
    state: String,
    tries: i64,
    version: i64,
    wake_at: Option<i64>,
    created_at: i64,
    finished_at: Option<i64>,
    log: String,
    #[sqlx(default)]
    task_state: Option<String>,
}

/// The one thing in a task's state that its letters need.
#[derive(Deserialize)]
struct Traced {
    trace: Option<Trace>,
}

impl TryFrom<Row> for Delivery {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let bad = || StoreError::Unreadable(format!("delivery {}", row.id));
        Ok(Self {
            id: row.id.parse().map_err(|_| bad())?,
            task: row.task_id.as_deref().map(str::parse).transpose().map_err(|_| bad())?,
            webhook: row.webhook_id.as_deref().map(str::parse).transpose().map_err(|_| bad())?,
            state: DeliveryState::parse(&row.state).ok_or_else(bad)?,
            log: serde_json::from_str(&row.log).map_err(|_| bad())?,
            tries: u32::try_from(row.tries).unwrap_or_default(),
            wake_at: row.wake_at.map(Millis),
            created_at: Millis(row.created_at),
            finished_at: row.finished_at.map(Millis),
            tenant: row.tenant,
            url: row.url,
            event: row.event,
            seq: row.seq,
            body: row.body,
        })
    }
}

/// A letter that is due, not yet leased.
#[derive(Debug, Clone, FromRow)]
pub struct Due {
    /// Its id.
    pub id: String,
    /// Where it goes.
    pub host: String,
}

/// A letter this process may send.
#[derive(Debug)]
pub struct Leased {
    /// The letter.
    pub delivery: Delivery,
    /// The version it is held by.
    pub version: i64,
    /// Its signer's secrets.
    pub rotation: Rotation,
    /// Its task's place in a trace.
    pub trace: Option<Trace>,
}

/// Which deliveries to list; absent fields match all.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    /// Whose.
    pub tenant: String,
    /// To this registered endpoint.
    pub webhook: Option<WebhookId>,
    /// About this task.
    pub task: Option<TaskId>,
    /// In this state.
    pub state: Option<DeliveryState>,
    /// Older than this one: where the last page ended.
    pub cursor: Option<EventId>,
}

/// Writes a letter that is owed from now on.
pub(super) fn put(script: &mut Script, owed: &Delivery) {
    // Behind a letter of its line that waits for its next try it is due no sooner than that one, so that nobody looks at it
    // in vain. One that is on its way may be closed this very moment, unseen from here: behind it, it is due now.
    const PUT: &str = "INSERT INTO deliveries (id, tenant, task_id, webhook_id, url, host, line, seq, event, body, state, troubled, \
         tries, version, leased, created_at, log, wake_at) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,1,$12,$14,'[]', \
         COALESCE((SELECT MAX(e.wake_at) FROM deliveries e WHERE e.line = $7 AND e.state = 'pending' AND e.leased = $12 AND e.wake_at > $15), $15))";
    script.add(PUT);
    script.bind(owed.id.to_string()).bind(&owed.tenant).bind(owed.task.map(|id| id.to_string()));
    script.bind(owed.webhook.map(|id| id.to_string())).bind(&owed.url).bind(owed.host()).bind(owed.line());
    script.bind(owed.seq).bind(&owed.event).bind(&owed.body).bind(owed.state.as_str()).bind(false);
    script.bind(i64::from(owed.tries)).bind(owed.created_at.0).bind(owed.wake_at.map(|at| at.0));
}

/// Letters that are due and first in their line, without those of so many hosts.
pub(super) fn due(full: usize) -> String {
    let places: Vec<String> = (4..4 + full).map(|place| format!("${place}")).collect();
    let but = if full == 0 { String::new() } else { format!("AND d.host NOT IN ({}) ", places.join(",")) };
    format!(
        "SELECT d.id, d.host FROM deliveries d WHERE d.state = 'pending' AND d.troubled = $1 AND d.wake_at <= $2 \
         {but}AND {NEXT_IN_LINE} ORDER BY d.wake_at LIMIT $3"
    )
}

impl Store {
    /// Owes one letter that belongs to no task's step: a test.
    pub async fn owe(&self, owed: Delivery) -> Result<(), StoreError> {
        self.db.run(Script::of(|script| put(script, &owed))).await?;
        self.changes.mail_due();
        Ok(())
    }

    /// Ends all leases. Only for a process that is alone: those it finds are of one that was killed.
    pub(super) async fn end_leases(&self) -> Result<(), StoreError> {
        const END: &str =
            "UPDATE deliveries SET wake_at = $1, leased = $2 WHERE state = 'pending' AND leased = $3";
        let now = self.clock.now();
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    on!(&mut conn, c => sqlx::query(END).bind(now.0).bind(false).bind(true).execute(c).await.map(drop))?;
                    Ok(())
                })
            })
            .await
    }

    /// Letters that are due and first in their line, longest due first: those in trouble, or all others. Hosts in `full`
    /// are left out.
    pub async fn due(&self, troubled: bool, full: &[String], limit: usize) -> Result<Vec<Due>, StoreError> {
        let sql = due(full.len());
        let now = self.clock.now().0;
        Ok(on!(&mut self.db.reader().await?.conn(), c => {
            // The text holds nothing but numbered places.
            let mut query = sqlx::query_as(AssertSqlSafe(sql)).bind(troubled).bind(now).bind(count(limit));
            for host in full {
                query = query.bind(host);
            }
            query.fetch_all(c).await
        })?)
    }

    /// Leases `take`, those of it that are still due and first in their line; moves `demote` among those in trouble.
    pub async fn lease_deliveries(
        &self,
        take: Vec<String>,
        demote: Vec<String>,
        until: Millis,
    ) -> Result<Vec<Leased>, StoreError> {
        let now = self.clock.now();
        let leased = self.db.write(move |conn| Box::pin(lease(conn, take, demote, until, now))).await?;
        // Read here, where nobody waits for the transaction.
        let traced = leased.into_iter().map(|(leased, state)| {
            let traced = state.and_then(|state| serde_json::from_str::<Traced>(&state).ok());
            Leased { trace: traced.and_then(|traced| traced.trace), ..leased }
        });
        Ok(traced.collect())
    }

    /// Saves what became of a leased letter. Nothing happens when the lease was lost: then another has it.
    pub async fn close_delivery(&self, leased: Leased, sequel: Sequel) -> Result<(), StoreError> {
        let now = self.clock.now();
        let gone = leased.delivery.webhook.filter(|_| sequel == Sequel::Gone);
        let tenant = leased.delivery.tenant.clone();
        match self.db.write(move |conn| Box::pin(close(conn, leased, sequel, now))).await {
            // Another has it; what the receiver said of itself counts all the same.
            Ok(()) | Err(StoreError::Stale) => {}
            Err(error) => return Err(error),
        }
        if let Some(webhook) = gone {
            self.switch_endpoint(webhook, &tenant, Some("the receiver answered 410 Gone".into())).await?;
        }
        self.changes.mail_due();
        Ok(())
    }

    /// Closes a leased letter whose endpoint is no longer there.
    pub async fn drop_delivery(&self, id: EventId) -> Result<(), StoreError> {
        const DROP: &str = "UPDATE deliveries SET state = 'disabled', wake_at = NULL, finished_at = $2, version = version + 1 \
             WHERE id = $1 AND state = 'pending'";
        let (id, now) = (id.to_string(), self.clock.now());
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    on!(&mut conn, c => sqlx::query(DROP).bind(id).bind(now.0).execute(c).await.map(drop))?;
                    Ok(())
                })
            })
            .await
    }

    /// Owes a letter once more, word for word; whether it was one of the tenant's.
    pub async fn redeliver(&self, tenant: String, id: EventId, entry: Entry) -> Result<bool, StoreError> {
        const AGAIN: &str = "UPDATE deliveries SET state = 'pending', tries = 0, troubled = $4, wake_at = $3, finished_at = NULL, \
             leased = $4, version = version + 1 WHERE id = $1 AND tenant = $2";
        let (id, now) = (id.to_string(), self.clock.now());
        let work = self.db.write(move |mut conn| {
            Box::pin(async move {
                let changed = on!(&mut conn, c => sqlx::query(AGAIN).bind(id).bind(tenant).bind(now.0).bind(false)
                    .execute(c).await.map(|done| done.rows_affected()))?;
                if changed > 0 {
                    audit::enter(&mut conn, &entry).await?;
                }
                Ok((changed > 0).then_some(entry))
            })
        });
        let there = work.await?.as_ref().inspect(|entry| audit::log(entry)).is_some();
        self.changes.mail_due();
        Ok(there)
    }

    /// One letter, whoever's it is.
    pub async fn delivery(&self, id: EventId) -> Result<Option<Delivery>, StoreError> {
        let id = id.to_string();
        let row: Option<Row> = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(BY_ID).bind(id).fetch_optional(c).await)?;
        row.map(Delivery::try_from).transpose()
    }

    /// A page of a tenant's letters, newest first.
    pub async fn deliveries(
        &self,
        filter: DeliveryFilter,
        limit: usize,
    ) -> Result<Page<Delivery, EventId>, StoreError> {
        const LIST: &str = concat!(
            "SELECT ",
            columns!(),
            " FROM deliveries d WHERE d.tenant = $1 AND d.id < $2 AND ($3 IS NULL OR d.webhook_id = $3) \
             AND ($4 IS NULL OR d.task_id = $4) AND ($5 IS NULL OR d.state = $5) ORDER BY d.id DESC LIMIT $6"
        );
        let below = filter.cursor.map_or_else(|| "evt_~".to_owned(), |id| id.to_string());
        let rows: Vec<Row> = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(LIST)
            .bind(&filter.tenant).bind(below).bind(filter.webhook.map(|id| id.to_string()))
            .bind(filter.task.map(|id| id.to_string())).bind(filter.state.map(DeliveryState::as_str))
            .bind(count(limit + 1)).fetch_all(c).await)?;
        Ok(Page::of(rows, limit, |row| &row.id, Delivery::try_from))
    }

    /// The next moment at which a letter falls due or a lease on one ends.
    pub async fn next_delivery(&self) -> Result<Option<Millis>, StoreError> {
        const NEXT: &str = "SELECT MIN(wake_at) FROM deliveries WHERE state = 'pending' AND troubled = $1";
        let mut reader = self.db.reader().await?;
        let mut next = Vec::new();
        for troubled in [false, true] {
            let at: Option<i64> =
                on!(&mut reader.conn(), c => sqlx::query_scalar(NEXT).bind(troubled).fetch_one(c).await)?;
            next.extend(at);
        }
        Ok(next.into_iter().min().map(Millis))
    }
}

/// The letters that are ours now, each with what its task's state holds.
async fn lease(
    mut conn: Conn<'_>,
    take: Vec<String>,
    demote: Vec<String>,
    until: Millis,
    now: Millis,
) -> Result<Vec<(Leased, Option<String>)>, StoreError> {
    const DEMOTE: &str = "UPDATE deliveries SET troubled = $2 WHERE id = $1 AND state = 'pending'";
    const TAKE: &str = concat!(
        "UPDATE deliveries SET wake_at = $2, leased = $4, version = version + 1 \
         WHERE id = $1 AND state = 'pending' AND wake_at <= $3 RETURNING ",
        columns!(),
        ", (SELECT t.state FROM tasks t WHERE t.id = deliveries.task_id) AS task_state"
    );
    const SIGNED: &str = "SELECT generation, overlap_until FROM webhook_secrets WHERE owner = $1";
    for id in demote {
        on!(&mut conn, c => sqlx::query(DEMOTE).bind(id).bind(true).execute(c).await.map(drop))?;
    }
    let (mut leased, mut rotations) = (Vec::with_capacity(take.len()), HashMap::new());
    for id in take {
        let row: Option<Row> = on!(&mut conn, c => sqlx::query_as(TAKE)
            .bind(id).bind(until.0).bind(now.0).bind(true).fetch_optional(c).await)?;
        let Some(mut row) = row else { continue };
        let version = row.version;
        let state = row.task_state.take();
        let delivery = Delivery::try_from(row)?;
        let owner = delivery.signer();
        let known = rotations.get(&owner).copied();
        let rotation = if let Some(known) = known {
            known
        } else {
            let row: Option<(i64, Option<i64>)> = on!(&mut conn, c => sqlx::query_as(SIGNED)
                .bind(&owner).fetch_optional(c).await)?;
            let rotation = row.map_or_else(Rotation::default, webhooks::rotation);
            rotations.insert(owner, rotation);
            rotation
        };
        leased.push((Leased { delivery, version, rotation, trace: None }, state));
    }
    Ok(leased)
}

async fn close(mut conn: Conn<'_>, leased: Leased, sequel: Sequel, now: Millis) -> Result<(), StoreError> {
    const CLOSE: &str = "UPDATE deliveries SET state = $3, tries = $4, wake_at = $5, finished_at = $6, log = $7, troubled = $8, \
         leased = $9, version = version + 1 WHERE id = $1 AND version = $2";
    // Those behind it wait as long as it does, so that nobody looks at them in vain.
    const LATER: &str = "UPDATE deliveries SET wake_at = $3 WHERE line = $1 AND state = 'pending' AND seq > $2 AND wake_at < $3";
    const FREE: &str = "UPDATE deliveries SET wake_at = $3 WHERE line = $1 AND state = 'pending' AND seq > $2 AND wake_at > $3";
    const GONE: &str = "UPDATE deliveries SET state = 'disabled', wake_at = NULL, finished_at = $3, version = version + 1 \
         WHERE line = $1 AND state = 'pending' AND seq > $2";
    let one = leased.delivery;
    let troubled = matches!(sequel, Sequel::Again(_));
    let mut script = Script::default();
    script.add(CLOSE);
    script.bind(one.id.to_string()).bind(leased.version).bind(one.state.as_str()).bind(i64::from(one.tries));
    script.bind(one.wake_at.map(|at| at.0)).bind(one.finished_at.map(|at| at.0)).bind(json(&one.log));
    script.bind(troubled).bind(false).must();
    let (sql, at) = match sequel {
        Sequel::Again(at) => (LATER, at),
        Sequel::Delivered | Sequel::Dead => (FREE, now),
        Sequel::Gone => (GONE, now),
    };
    script.add(sql).bind(one.line()).bind(one.seq).bind(at.0);
    script.run(&mut conn).await
}
