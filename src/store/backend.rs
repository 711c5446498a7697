//! What differs between the two databases: opening them, taking a connection, and how writes share a commit. Queries do
//! not live here; [`on`] type-checks one query against both drivers.

use std::fs::File;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection, Executor, PgConnection, Postgres, Sqlite, SqliteConnection};

use super::StoreError;
use super::known::Known;
use super::load::Load;
use super::reach::Pool;
use super::schema::prepare;
use super::script::Script;
use super::tasks::Look;
use super::writer::Writer;
use crate::chaos::planted;
use crate::trace;

/// More than there are queries, so that each is prepared once.
const STATEMENTS: usize = 512;

/// Of each SQLite connection, in KiB (negative: pages otherwise). The pages that every step touches are not read again.
const CACHE_KIB: &str = "-8192";
/// The write-ahead log is carried over into the database after so many pages of 4 KiB: a page that changes with every
/// step is carried over once.
const CHECKPOINT_PAGES: &str = "4000";

/// Runs one query body against whichever database `$conn` is: `on!(conn, c => sqlx::query(SQL).execute(c).await)`.
macro_rules! on {
    ($conn:expr, $c:ident => $body:expr) => {
        match $conn {
            $crate::store::backend::Conn::Sqlite($c, opening) => {
                if let Some(opening) = opening.take() {
                    sqlx::Executor::execute(&mut **$c, opening.text).await?;
                }
                let $c = &mut **$c;
                $body
            }
            $crate::store::backend::Conn::Postgres($c) => {
                let $c = &mut **$c;
                $body
            }
        }
    };
}
pub(super) use on;

/// What must run before the next statement of a connection, with which it travels if it can.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub text: &'static str,
    /// How many statements that is.
    pub statements: usize,
}

impl Opening {
    pub fn of(text: &'static str) -> Self {
        Self { text, statements: text.split(';').count() }
    }
}

/// A borrowed connection to either database.
pub(super) enum Conn<'c> {
    Sqlite(&'c mut SqliteConnection, &'c mut Option<Opening>),
    Postgres(&'c mut PgConnection),
}

impl Conn<'_> {
    /// The text for this database, where one word of SQL differs.
    pub fn pick(&self, sqlite: &'static str, postgres: &'static str) -> &'static str {
        match self {
            Self::Sqlite(..) => sqlite,
            Self::Postgres(_) => postgres,
        }
    }
}

/// A connection for reading.
pub(super) enum Reader {
    Sqlite(PoolConnection<Sqlite>, Option<Opening>),
    Postgres(PoolConnection<Postgres>),
}

impl Reader {
    pub fn conn(&mut self) -> Conn<'_> {
        match self {
            Self::Sqlite(conn, opening) => Conn::Sqlite(conn, opening),
            Self::Postgres(conn) => Conn::Postgres(conn),
        }
    }
}

/// Whether this process must be the only one on a SQLite file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusive {
    /// A gateway: it leases tasks, and SQLite has no clock to lease by but its own.
    Yes,
    /// A command that reads or writes a few rows.
    No,
}

/// Either database.
#[derive(Clone)]
pub(super) enum Db {
    /// Readers that never wait for the one writer, who shares each commit among all who wait.
    Sqlite {
        readers: SqlitePool,
        writer: Arc<Writer>,
        known: Arc<Known<Arc<Look>>>,
        load: Arc<Load>,
        _lock: Option<Arc<File>>,
    },
    /// One pool; Postgres groups the commits of its sessions itself.
    Postgres { pool: Pool, load: Arc<Load> },
}

impl Db {
    pub async fn open(url: &str, exclusive: Exclusive, migrate: bool) -> Result<Self, StoreError> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            open_postgres(url, migrate).await
        } else if url.starts_with("sqlite:") {
            open_sqlite(url, exclusive, migrate).await
        } else {
            // Taken for a file's name it would become one, whatever password is in it.
            let reason = "neither sqlite:// nor postgres://".to_owned();
            Err(StoreError::Open { url: without_credentials(url), reason })
        }
    }

    /// How busy it is.
    pub fn load(&self) -> &Load {
        let (Self::Sqlite { load, .. } | Self::Postgres { load, .. }) = self;
        load
    }

    /// Tasks that need not be read again.
    pub fn known(&self) -> Option<&Known<Arc<Look>>> {
        match self {
            Self::Sqlite { known, .. } => Some(known),
            Self::Postgres { .. } => None,
        }
    }

    pub async fn reader(&self) -> Result<Reader, StoreError> {
        let _operation = self.load().begin();
        let reader = match self {
            Self::Sqlite { readers, .. } => readers.acquire().await.map(|conn| Reader::Sqlite(conn, None)),
            Self::Postgres { pool, .. } => pool.acquire().await.map(Reader::Postgres),
        };
        Ok(reader.inspect_err(|error| self.load().failed(error))?)
    }

    /// Runs `work` in a transaction and answers once it is committed durably. An error undoes all of it.
    pub async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        F: for<'c> FnOnce(Conn<'c>) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static,
        T: Send + 'static,
    {
        let (_operation, began) = (self.load().begin(), Instant::now());
        let span = trace::call("store.write");
        let outcome = match self {
            Self::Sqlite { writer, .. } => {
                span.set("db.system.name", "sqlite");
                let done = writer.run(work).await;
                done.and_then(|(outcome, jobs)| {
                    span.set("store.jobs", i64::try_from(jobs).unwrap_or(i64::MAX));
                    outcome
                })
            }
            Self::Postgres { pool, .. } => {
                span.set("db.system.name", "postgresql");
                transact(pool, work).await
            }
        };
        if matches!(outcome, Err(StoreError::Unavailable(_))) {
            span.fail("unavailable");
        }
        self.load().wrote(began, &outcome);
        outcome
    }

    /// Runs these statements in a transaction of their own.
    pub async fn run(&self, mut script: Script) -> Result<(), StoreError> {
        self.write(move |mut conn| Box::pin(async move { script.run(&mut conn).await })).await
    }

    pub async fn ping(&self) -> Result<(), StoreError> {
        on!(&mut self.reader().await?.conn(), c => c.execute("SELECT 1").await.map(|_| ()))?;
        Ok(())
    }

    pub async fn close(&self) {
        match self {
            Self::Sqlite { readers, writer, .. } => {
                writer.close().await;
                readers.close().await;
            }
            Self::Postgres { pool, .. } => pool.close().await,
        }
    }
}

async fn transact<T, F>(pool: &Pool, work: F) -> Result<T, StoreError>
where
    F: for<'c> FnOnce(Conn<'c>) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static,
{
    let mut conn = pool.acquire().await?;
    let mut transaction = conn.begin().await?;
    let done = work(Conn::Postgres(&mut transaction)).await?;
    transaction.commit().await?;
    Ok(done)
}

async fn open_sqlite(url: &str, exclusive: Exclusive, migrate: bool) -> Result<Db, StoreError> {
    let failed = |reason: String| StoreError::Open { url: url.to_owned(), reason };
    let options = SqliteConnectOptions::from_str(url).map_err(|e| failed(e.to_string()))?;
    let path = options.get_filename().to_owned();
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|e| failed(format!("{}: {e}", folder.display())))?;
    }
    let lock = if exclusive == Exclusive::Yes { Some(Arc::new(lock(&path)?)) } else { None };
    // Durability is the product: NORMAL would lose acknowledged tasks at a power cut.
    let synchronous =
        if planted("synchronous_off") { SqliteSynchronous::Off } else { SqliteSynchronous::Full };
    let options = options
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(synchronous)
        .foreign_keys(true)
        .pragma("cache_size", CACHE_KIB)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        .statement_cache_capacity(STATEMENTS)
        .busy_timeout(Duration::from_secs(5));
    let mut writing = SqliteConnection::connect_with(&options).await.map_err(|e| failed(e.to_string()))?;
    check_version(&mut writing).await.map_err(failed)?;
    prepare(&mut writing, migrate).await.map_err(|e| e.named(url))?;
    // What savepoints keep aside is small and many times written. Not for readers, who sort as much as they are asked to.
    writing.execute("PRAGMA temp_store = memory").await.map_err(|e| failed(e.to_string()))?;
    let readers = SqlitePoolOptions::new()
        .max_connections(4)
        .acquire_timeout(Duration::from_secs(5))
        // A file does not hang up.
        .test_before_acquire(false)
        .connect_with(options.read_only(true).create_if_missing(false))
        .await
        .map_err(|e| failed(e.to_string()))?;
    let known = Arc::new(Known::nothing());
    known.follow(&mut writing).await.map_err(|e| failed(e.to_string()))?;
    let writer = Arc::new(Writer::start(writing, Arc::clone(&known)));
    Ok(Db::Sqlite { readers, writer, known, load: Arc::default(), _lock: lock })
}

/// Takes the lock file beside the database; the system gives it back when the process ends, however it ends.
fn lock(database: &Path) -> Result<File, StoreError> {
    let name = database.display().to_string();
    let failed = |reason: std::io::Error| StoreError::Open {
        url: format!("sqlite://{name}"),
        reason: reason.to_string(),
    };
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    let file = File::create(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::InUse(name)),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// SQLite before 3.51.3 can corrupt a database when a WAL is reset (fixed 2025); the bundled one is newer.
async fn check_version(conn: &mut SqliteConnection) -> Result<(), String> {
    let version: String =
        sqlx::query_scalar("SELECT sqlite_version()").fetch_one(conn).await.map_err(|e| e.to_string())?;
    let parts: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
    if parts >= vec![3, 51, 3] { Ok(()) } else { Err(format!("SQLite {version} is older than 3.51.3")) }
}

async fn open_postgres(url: &str, migrate: bool) -> Result<Db, StoreError> {
    let failed = |reason: String| StoreError::Open { url: without_credentials(url), reason };
    let options = PgConnectOptions::from_str(url).map_err(|e| failed(e.to_string()))?;
    let options = options.statement_cache_capacity(STATEMENTS).options([
        ("synchronous_commit", "on"),
        ("statement_timeout", "30s"),
        ("lock_timeout", "5s"),
        ("idle_in_transaction_session_timeout", "30s"),
    ]);
    let pool = PgPoolOptions::new()
        .max_connections(16)
        .acquire_timeout(Duration::from_secs(5))
        // One that served a moment ago is not asked again whether it lives: that would be a journey for each query.
        .test_before_acquire(false)
        .before_acquire(|conn, meta| {
            Box::pin(async move { Ok(meta.idle_for < Duration::from_secs(1) || conn.ping().await.is_ok()) })
        })
        .connect_with(options)
        .await
        .map_err(|e| failed(e.to_string()))?;
    let mut conn = pool.acquire().await?;
    prepare(&mut *conn, migrate).await.map_err(|e| e.named(&without_credentials(url)))?;
    drop(conn);
    Ok(Db::Postgres { pool: Pool::of(pool), load: Arc::default() })
}

/// An address fit for logs.
fn without_credentials(url: &str) -> String {
    match url::Url::parse(url) {
        // A password with a slash that is not encoded reads as a path, with the @ that was to end it.
        Ok(mut url) if !url.path().contains('@') => {
            let _ = (url.set_password(None), url.set_username(""));
            url.set_query(None);
            url.set_fragment(None);
            url.to_string()
        }
        _ => "postgres://…".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_shown_holds_no_password() {
        for (url, shown) in [
            ("postgres://easel:secret@db:5433/easel?password=secret", "postgres://db:5433/easel"),
            ("postgres://easel:1/secret@db/easel", "postgres://…"),
            ("postgres://easel:1#secret@db/easel", "postgres://easel:1"),
            ("postgres://easel:se/cret@db/easel", "postgres://…"),
        ] {
            assert_eq!(without_credentials(url), shown, "{url}");
        }
    }
}
