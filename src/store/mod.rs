//! Floor 2: rows. [`Store`] speaks in tasks, attempts and images; every query is written once and runs on SQLite and
//! Postgres alike (`backend.rs` holds what differs). What a write has answered for is durable.

mod accept;
mod attempts;
mod audit;
mod backend;
mod backlog;
mod backup;
mod changes;
mod claim;
mod deliveries;
mod erase;
mod erasures;
mod events;
mod expire;
mod files;
mod gather;
mod images;
mod keys;
mod known;
mod lanes;
mod ledger;
mod list;
mod load;
mod news;
mod outbox;
mod owner;
mod places;
#[cfg(test)]
mod plans;
mod quarantine;
mod queue;
mod reach;
mod schema;
mod script;
mod settings;
mod tasks;
mod time;
mod transfer;
mod unresolved;
mod usage;
mod webhooks;
mod writer;

use std::sync::Arc;

pub use accept::Accepted;
pub use attempts::Straggler;
pub use audit::AuditFilter;
pub use backend::Exclusive;
pub use backlog::Backlog;
pub use changes::{Changes, Watch};
pub use claim::{Claim, Owing};
pub use deliveries::{DeliveryFilter, Due, Leased};
pub use erase::Erasure;
pub use events::EventRow;
pub use lanes::Gate;
pub use list::{Page, TaskFilter};
pub use load::Load;
pub use quarantine::QuarantineFilter;
pub use tasks::{Change, Look};
pub use transfer::{Moved, transfer};
pub use unresolved::Judged;
pub use usage::{Grouping, Usage, UsageFilter};
pub use webhooks::Endpoint;

use gather::Gather;

use crate::domain::budget::Short;
use crate::domain::clock::{Clock, Millis};
use crate::domain::link::Links;
use backend::Db;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another writer has the task: the caller's copy is old and nothing was written.
    #[error("another writer has taken the task over")]
    Stale,
    /// Another attempt at the same upstream has the provider's job; nothing was written.
    #[error("another attempt has the provider's job already")]
    Bound,
    /// The lane takes no task at present; look again at this moment.
    #[error("the lane takes no task at present")]
    Closed(Millis),
    /// The key has as many open tasks as it may; nothing was written.
    #[error("the key has as many open tasks as it may")]
    Full,
    /// A budget of the key does not cover the task; nothing was written.
    #[error("{0}")]
    OverBudget(Short),
    /// The database did not answer, or refused to make the write durable. Nothing is promised.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// A row does not read as what this version writes.
    #[error("unreadable row: {0}")]
    Unreadable(String),
    /// Another process holds this SQLite database.
    #[error("{0} is in use by another easel process; one SQLite file serves one process")]
    InUse(String),
    /// The database cannot be opened.
    #[error("cannot open the database {url}: {reason}")]
    Open {
        /// Its address, without credentials.
        url: String,
        /// What came in the way.
        reason: String,
    },
    /// One database could not be moved into another; nothing was written.
    #[error("nothing was moved: {0}")]
    NotMoved(String),
    /// The database lacks migrations, and was not to be migrated.
    #[error(
        "the database needs {0} migration(s); run `easel migrate`, or `easel serve` without --no-migrate"
    )]
    NeedsMigration(usize),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error() {
            Some(found) if found.is_unique_violation() && attempts::is_job_taken(found) => Self::Bound,
            _ => Self::Unavailable(Arc::new(error)),
        }
    }
}

impl From<Arc<sqlx::Error>> for StoreError {
    fn from(error: Arc<sqlx::Error>) -> Self {
        Self::Unavailable(error)
    }
}

/// The database.
#[derive(Clone)]
pub struct Store {
    db: Db,
    clock: Arc<dyn Clock>,
    changes: Arc<Changes>,
    news: Arc<news::News>,
    endpoints: Arc<webhooks::Endpoints>,
    lines: Arc<queue::Lines>,
    rows: Arc<Rows>,
    /// How links in webhooks are made; without it none are written.
    links: Option<Links>,
}

/// Single rows that many ask for at once.
struct Rows {
    tasks: Arc<Gather<tasks::Row>>,
    images: Arc<Gather<Vec<images::Row>>>,
    attempts: Arc<Gather<String>>,
    ahead: Arc<Gather<i64>>,
}

impl Default for Rows {
    fn default() -> Self {
        Self {
            tasks: Gather::by(tasks::read),
            images: Gather::by(images::read),
            attempts: Gather::by(attempts::details),
            ahead: Gather::by(queue::near),
        }
    }
}

impl Store {
    /// Opens `sqlite://PATH` or `postgres://…`. `migrate` brings it up to date first; otherwise a database that is behind
    /// is an error.
    pub async fn open(
        url: &str,
        exclusive: Exclusive,
        migrate: bool,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let db = Db::open(url, exclusive, migrate).await?;
        if let Db::Postgres { pool, .. } = &db {
            time::ask(pool, &clock).await?;
        }
        let (changes, news, endpoints) = (Arc::default(), Arc::default(), Arc::default());
        Ok(Self {
            db,
            clock,
            changes,
            news,
            endpoints,
            lines: Arc::default(),
            rows: Arc::default(),
            links: None,
        })
    }

    /// Where to hear of tasks that changed and of work that fell due.
    pub fn changes(&self) -> &Arc<Changes> {
        &self.changes
    }

    /// How busy the database is.
    pub fn load(&self) -> &Load {
        self.db.load()
    }

    /// Whether the database answers, for readiness.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.db.ping().await
    }

    /// Finishes what is being written and closes.
    pub async fn close(&self) {
        self.news.close().await;
        self.rows.tasks.close().await;
        self.rows.images.close().await;
        self.rows.attempts.close().await;
        self.rows.ahead.close().await;
        self.db.close().await;
    }
}
