//! The gateway's database, read with the suite's own SQL: tasks, attempts, images, events, and every text in it.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, FromRow, PgPool, SqlitePool};

/// A task's row.
#[derive(Debug, Clone, Default, FromRow)]
pub struct TaskRow {
    pub id: String,
    pub parent_id: Option<String>,
    pub idempotency_key: Option<String>,
    pub phase: String,
    pub request: String,
    pub state: String,
    pub wake_at: Option<i64>,
    pub finished_at: Option<i64>,
}

/// An attempt's row.
#[derive(Debug, Clone, Default, FromRow)]
pub struct AttemptRow {
    pub id: String,
    pub task_id: String,
    pub provider: String,
    pub state: String,
    pub handle: Option<String>,
    pub started_at: i64,
    pub detail: String,
}

/// A stored picture's row.
#[derive(Debug, Clone, Default, FromRow)]
pub struct ImageRow {
    pub task_id: String,
    pub sha256: String,
}

/// Something in quarantine.
#[derive(Debug, Clone, Default, FromRow)]
pub struct QuarantineRow {
    pub id: String,
    pub attempt_id: String,
    pub state: String,
    pub sha256: String,
    pub bytes: i64,
}

/// A line of a task's history.
#[derive(Debug, Clone, Default, FromRow)]
pub struct EventRow {
    pub task_id: String,
    pub seq: i64,
    pub name: String,
}

/// What the ledger's lines of a task come to, in nano-dollars.
#[derive(Debug, Clone, Default, FromRow)]
pub struct BookRow {
    pub task_id: String,
    pub reserved: i64,
    pub unresolved: i64,
    pub settled: i64,
}

/// Everything the checker wants from the database.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    pub tasks: Vec<TaskRow>,
    pub attempts: Vec<AttemptRow>,
    pub images: Vec<ImageRow>,
    pub quarantined: Vec<QuarantineRow>,
    pub events: Vec<EventRow>,
    pub books: Vec<BookRow>,
    /// Hashes of callers' input images.
    pub files: Vec<String>,
    /// What the database's own check of itself found wrong.
    pub unsound: Vec<String>,
}

impl TaskRow {
    /// Its state, which the gateway's own queries never look into.
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.state).unwrap_or_default()
    }

    /// The token in its prompt.
    pub fn token(&self) -> Option<String> {
        let request: Value = serde_json::from_str(&self.request).ok()?;
        crate::ledger::token(request["prompt"].as_str()?)
    }

    /// Whether it has ended.
    pub fn terminal(&self) -> bool {
        matches!(self.phase.as_str(), "succeeded" | "failed" | "canceled")
    }
}

impl AttemptRow {
    /// The rest of the row.
    pub fn detail(&self) -> Value {
        serde_json::from_str(&self.detail).unwrap_or_default()
    }

    /// Whether the provider may still be at work on it.
    pub fn open(&self) -> bool {
        matches!(self.state.as_str(), "intent" | "accepted" | "unknown")
    }
}

/// Either database.
#[derive(Clone)]
pub enum Db {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// Runs one query body against whichever database it is.
macro_rules! on {
    ($db:expr, $pool:ident => $body:expr) => {
        match $db {
            Db::Sqlite($pool) => $body.await?,
            Db::Postgres($pool) => $body.await?,
        }
    };
}

impl Db {
    /// Connects beside the gateway, or after it.
    pub async fn open(url: &str) -> Result<Self> {
        if url.starts_with("postgres") {
            let pool = PgPoolOptions::new().max_connections(2).acquire_timeout(Duration::from_secs(10));
            return Ok(Self::Postgres(pool.connect(url).await?));
        }
        let options = SqliteConnectOptions::from_str(url)?.busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new().max_connections(2);
        Ok(Self::Sqlite(pool.connect_with(options).await?))
    }

    /// Opens a copy of a SQLite database, so that its write-ahead log is left for the gateway to recover from; Postgres
    /// is asked itself.
    pub async fn open_copy(url: &str, to: &Path) -> Result<Self> {
        let Some(path) = url.strip_prefix("sqlite://") else { return Self::open(url).await };
        // A name of its own each time: a connection to the last copy may close a moment after its pool, and takes the log
        // beside that name with it.
        let folder = to.join("copies").join(fastrand::u64(..).to_string());
        let _ = std::fs::remove_dir_all(to.join("copies"));
        std::fs::create_dir_all(&folder)?;
        let copy = folder.join("easel.db");
        for end in ["", "-wal"] {
            let (from, to) = (format!("{path}{end}"), format!("{}{end}", copy.display()));
            if Path::new(&from).exists() {
                std::fs::copy(&from, &to).with_context(|| from.clone())?;
            }
        }
        Self::open(&format!("sqlite://{}", copy.display())).await
    }

    /// Reads everything.
    pub async fn read(&self) -> Result<Rows> {
        const TASKS: &str = "SELECT id, parent_id, idempotency_key, phase, request, state, wake_at, finished_at \
             FROM tasks ORDER BY created_at, id";
        const ATTEMPTS: &str = "SELECT id, task_id, provider, state, handle, started_at, detail FROM attempts \
             ORDER BY started_at, id";
        const IMAGES: &str = "SELECT task_id, sha256 FROM images ORDER BY task_id, position";
        const QUARANTINED: &str = "SELECT id, attempt_id, state, sha256, bytes FROM quarantine ORDER BY id";
        const EVENTS: &str = "SELECT task_id, seq, name FROM events ORDER BY task_id, seq";
        const BOOKS: &str = "SELECT task_id, CAST(SUM(reserved) AS BIGINT) AS reserved, \
             CAST(SUM(unresolved) AS BIGINT) AS unresolved, CAST(SUM(settled) AS BIGINT) AS settled \
             FROM ledger GROUP BY task_id";
        Ok(Rows {
            tasks: on!(self, pool => sqlx::query_as(TASKS).fetch_all(pool)),
            attempts: on!(self, pool => sqlx::query_as(ATTEMPTS).fetch_all(pool)),
            images: on!(self, pool => sqlx::query_as(IMAGES).fetch_all(pool)),
            quarantined: on!(self, pool => sqlx::query_as(QUARANTINED).fetch_all(pool)),
            events: on!(self, pool => sqlx::query_as(EVENTS).fetch_all(pool)),
            books: on!(self, pool => sqlx::query_as(BOOKS).fetch_all(pool)),
            files: on!(self, pool => sqlx::query_scalar("SELECT sha256 FROM files").fetch_all(pool)),
            unsound: self.unsound().await?,
        })
    }

    /// How many tasks stand in each phase.
    pub async fn phases(&self) -> Result<Vec<(String, i64)>> {
        const SQL: &str = "SELECT phase, COUNT(*) FROM tasks GROUP BY phase ORDER BY phase";
        Ok(on!(self, pool => sqlx::query_as(SQL).fetch_all(pool)))
    }

    /// A task's phase, by its id.
    pub async fn phase(&self, id: &str) -> Result<Option<String>> {
        const SQL: &str = "SELECT phase FROM tasks WHERE id = $1";
        Ok(on!(self, pool => sqlx::query_scalar(SQL).bind(id).fetch_optional(pool)))
    }

    /// Every table's every row as text, for the search for secrets.
    pub async fn texts(&self) -> Result<Vec<String>> {
        const SQLITE: &str = "SELECT name FROM sqlite_master WHERE type = 'table'";
        const POSTGRES: &str = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'";
        match self {
            // The file itself holds what every row says, rows that were deleted included.
            Self::Sqlite(pool) => {
                let tables: Vec<String> = sqlx::query_scalar(SQLITE).fetch_all(pool).await?;
                let mut texts = Vec::new();
                for table in tables {
                    const COLUMNS: &str =
                        "SELECT group_concat('quote(\"' || name || '\")', ' || ') FROM pragma_table_info($1)";
                    let columns: String = sqlx::query_scalar(COLUMNS).bind(&table).fetch_one(pool).await?;
                    let sql = AssertSqlSafe(format!("SELECT {columns} FROM \"{table}\""));
                    texts.extend(sqlx::query_scalar::<_, String>(sql).fetch_all(pool).await?);
                }
                Ok(texts)
            }
            Self::Postgres(pool) => {
                let tables: Vec<String> = sqlx::query_scalar(POSTGRES).fetch_all(pool).await?;
                let mut texts = Vec::new();
                for table in tables {
                    let sql = AssertSqlSafe(format!("SELECT t::text FROM \"{table}\" t"));
                    texts.extend(sqlx::query_scalar::<_, String>(sql).fetch_all(pool).await?);
                }
                Ok(texts)
            }
        }
    }

    async fn unsound(&self) -> Result<Vec<String>> {
        const CHECK: &str = "SELECT count(bt_index_check(c.oid)) FROM pg_class c JOIN pg_am a ON a.oid = c.relam \
                     JOIN pg_namespace n ON n.oid = c.relnamespace \
                     WHERE a.amname = 'btree' AND n.nspname = 'public' AND c.relkind = 'i'";
        match self {
            Self::Sqlite(pool) => {
                let said: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check").fetch_all(pool).await?;
                Ok(said.into_iter().filter(|line| line != "ok").collect())
            }
            Self::Postgres(pool) => {
                // amcheck raises an error for the first index it finds unsound.
                sqlx::raw_sql("CREATE EXTENSION IF NOT EXISTS amcheck").execute(pool).await?;
                let checked = sqlx::query_scalar::<_, i64>(CHECK).fetch_one(pool).await;
                Ok(checked.err().map(|error| error.to_string()).into_iter().collect())
            }
        }
    }

    /// Keeps every writer out until the answer is dropped or closed.
    pub async fn lock_writers(&self) -> Result<Lock> {
        match self {
            Self::Sqlite(pool) => {
                let mut held = pool.acquire().await?;
                sqlx::query("BEGIN IMMEDIATE").execute(&mut *held).await?;
                Ok(Lock::Sqlite(held))
            }
            Self::Postgres(pool) => {
                let mut held = pool.acquire().await?;
                sqlx::query("BEGIN").execute(&mut *held).await?;
                sqlx::query("LOCK TABLE tasks IN EXCLUSIVE MODE").execute(&mut *held).await?;
                Ok(Lock::Postgres(held))
            }
        }
    }

    /// Lets go of the database.
    pub async fn close(self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

/// A database that nobody else can write to.
pub enum Lock {
    Sqlite(sqlx::pool::PoolConnection<sqlx::Sqlite>),
    Postgres(sqlx::pool::PoolConnection<sqlx::Postgres>),
}

impl Lock {
    /// Lets the others write again.
    pub async fn release(self) -> Result<()> {
        match self {
            Self::Sqlite(mut held) => sqlx::query("ROLLBACK").execute(&mut *held).await.map(drop)?,
            Self::Postgres(mut held) => sqlx::query("ROLLBACK").execute(&mut *held).await.map(drop)?,
        }
        Ok(())
    }
}
