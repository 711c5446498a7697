//! Moves a gateway's whole database from a SQLite file to an empty Postgres, in one transaction, and compares what arrived
//! with what was there. Knows no table by name: the schema is portable (TEXT, BIGINT, BOOLEAN), so every table is copied
//! column by column.

use std::str::FromStr as _;

use futures_util::TryStreamExt as _;
use sha2::{Digest, Sha256};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _, SqliteConnection};

use super::StoreError;
use super::backend::{Db, Exclusive, Reader};

/// Rows that are on their way at once.
const BATCH: usize = 1_000;

/// A table that was moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Its name.
    pub table: String,
    /// How many rows it has.
    pub rows: u64,
    /// SHA-256 over all of its values in the order of its key, equal on both sides.
    pub sha256: String,
}

/// Moves everything from `sqlite://…` to `postgres://…`. Both are brought up to date first. The source must not be in use
/// and keeps what it has; the target must be empty, and stays empty when anything goes wrong.
pub async fn transfer(from: &str, to: &str) -> Result<Vec<Moved>, StoreError> {
    if !from.starts_with("sqlite:") || !to.starts_with("postgres") {
        return Err(StoreError::NotMoved(
            "--from takes a sqlite:// address and --to a postgres:// one".to_owned(),
        ));
    }
    let there = SqliteConnectOptions::from_str(from).is_ok_and(|options| options.get_filename().exists());
    if !there {
        return Err(StoreError::NotMoved(format!("there is no database at {from}")));
    }
    let (source, target) =
        (Db::open(from, Exclusive::Yes, true).await?, Db::open(to, Exclusive::No, true).await?);
    let moved = copy(&source, &target).await;
    source.close().await;
    target.close().await;
    moved
}

async fn copy(source: &Db, target: &Db) -> Result<Vec<Moved>, StoreError> {
    let (Reader::Sqlite(mut from, _), Reader::Postgres(mut to)) =
        (source.reader().await?, target.reader().await?)
    else {
        return Err(StoreError::NotMoved("from SQLite to Postgres, not the other way".to_owned()));
    };
    let mut transaction = to.begin().await?;
    // A large table takes longer than a statement of the gateway's may.
    sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *transaction).await?;
    let mut moved = Vec::new();
    for table in tables(&mut from).await? {
        let empty = AssertSqlSafe(format!("SELECT NOT EXISTS (SELECT 1 FROM {})", table.name));
        let lock = AssertSqlSafe(format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", table.name));
        sqlx::query(lock).execute(&mut *transaction).await?;
        if !sqlx::query_scalar::<_, bool>(empty).fetch_one(&mut *transaction).await? {
            return Err(StoreError::NotMoved(format!("the target is not empty: {} has rows", table.name)));
        }
        let sent = table.send(&mut from, &mut transaction).await?;
        let arrived = table.arrived(&mut transaction).await?;
        if sent != arrived {
            return Err(StoreError::NotMoved(format!("{} arrived otherwise than it was sent", table.name)));
        }
        moved.push(sent);
    }
    transaction.commit().await?;
    Ok(moved)
}

async fn tables(from: &mut SqliteConnection) -> Result<Vec<Table>, StoreError> {
    const TABLES: &str = "SELECT name FROM sqlite_master WHERE type = 'table' \
         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name <> '_sqlx_migrations' ORDER BY name";
    const COLUMNS: &str = "SELECT name, type, pk FROM pragma_table_info($1) ORDER BY cid";
    let names: Vec<String> = sqlx::query_scalar(TABLES).fetch_all(&mut *from).await?;
    let mut tables = Vec::with_capacity(names.len());
    for name in names {
        let rows: Vec<(String, String, i64)> =
            sqlx::query_as(COLUMNS).bind(&name).fetch_all(&mut *from).await?;
        let mut key: Vec<(i64, usize)> =
            rows.iter().enumerate().filter(|(_, row)| row.2 > 0).map(|(at, row)| (row.2, at)).collect();
        key.sort_unstable();
        let columns = rows.into_iter().map(|(column, kind, _)| match kind.as_str() {
            "TEXT" => Ok((column, Kind::Text)),
            "BIGINT" => Ok((column, Kind::Number)),
            "BOOLEAN" => Ok((column, Kind::Truth)),
            other => Err(StoreError::NotMoved(format!("{name}.{column} is of the type {other}"))),
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let key = if key.is_empty() {
            (0..columns.len()).collect()
        } else {
            key.into_iter().map(|(_, at)| at).collect()
        };
        tables.push(Table { name, columns, key });
    }
    Ok(tables)
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
    Truth,
}

struct Table {
    name: String,
    columns: Vec<(String, Kind)>,
    /// The columns that order it.
    key: Vec<usize>,
}

/// One column of the rows that are on their way.
enum Values {
    Text(Vec<Option<String>>),
    Number(Vec<Option<i64>>),
    Truth(Vec<Option<bool>>),
}

impl Table {
    fn select(&self, collation: &str) -> AssertSqlSafe<String> {
        let columns: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        let order = self.key.iter().map(|at| match &self.columns[*at] {
            (name, Kind::Text) => format!("{name}{collation}"),
            (name, _) => name.clone(),
        });
        let order: Vec<String> = order.collect();
        AssertSqlSafe(format!(
            "SELECT {} FROM {} ORDER BY {}",
            columns.join(", "),
            self.name,
            order.join(", ")
        ))
    }

    fn insert(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        let arrays = self.columns.iter().enumerate().map(|(at, (_, kind))| {
            let kind = match kind {
                Kind::Text => "text",
                Kind::Number => "bigint",
                Kind::Truth => "boolean",
            };
            format!("${}::{kind}[]", at + 1)
        });
        let arrays: Vec<String> = arrays.collect();
        format!(
            "INSERT INTO {} ({}) SELECT * FROM UNNEST({})",
            self.name,
            names.join(", "),
            arrays.join(", ")
        )
    }

    fn none(&self) -> Vec<Values> {
        let column = |(_, kind): &(String, Kind)| match kind {
            Kind::Text => Values::Text(Vec::new()),
            Kind::Number => Values::Number(Vec::new()),
            Kind::Truth => Values::Truth(Vec::new()),
        };
        self.columns.iter().map(column).collect()
    }

    async fn send(&self, from: &mut SqliteConnection, to: &mut PgConnection) -> Result<Moved, StoreError> {
        let (mut seal, mut batch) = (Seal::default(), self.none());
        let mut rows = sqlx::query(self.select("")).fetch(from);
        let mut waiting = 0;
        while let Some(row) = rows.try_next().await? {
            for (at, values) in batch.iter_mut().enumerate() {
                match values {
                    Values::Text(all) => all.push(seal.text(row.try_get(at)?)),
                    Values::Number(all) => all.push(seal.number(row.try_get(at)?)),
                    Values::Truth(all) => all.push(seal.truth(row.try_get(at)?)),
                }
            }
            seal.rows += 1;
            waiting += 1;
            if waiting == BATCH {
                self.write(std::mem::replace(&mut batch, self.none()), to).await?;
                waiting = 0;
            }
        }
        if waiting > 0 {
            self.write(batch, to).await?;
        }
        Ok(seal.of(&self.name))
    }

    async fn write(&self, batch: Vec<Values>, to: &mut PgConnection) -> Result<(), StoreError> {
        let insert = sqlx::query(AssertSqlSafe(self.insert()));
        let insert = batch.into_iter().fold(insert, |insert, values| match values {
            Values::Text(all) => insert.bind(all),
            Values::Number(all) => insert.bind(all),
            Values::Truth(all) => insert.bind(all),
        });
        insert.execute(to).await?;
        Ok(())
    }

    /// What is there now, read as it was sent.
    async fn arrived(&self, to: &mut PgConnection) -> Result<Moved, StoreError> {
        let mut seal = Seal::default();
        // Both sides in the order of the bytes.
        let mut rows = sqlx::query(self.select(" COLLATE \"C\"")).fetch(to);
        while let Some(row) = rows.try_next().await? {
            for (at, (_, kind)) in self.columns.iter().enumerate() {
                match kind {
                    Kind::Text => _ = seal.text(row.try_get(at)?),
                    Kind::Number => _ = seal.number(row.try_get(at)?),
                    Kind::Truth => _ = seal.truth(row.try_get(at)?),
                }
            }
            seal.rows += 1;
        }
        Ok(seal.of(&self.name))
    }
}

/// A running digest of values, each with its kind and length.
#[derive(Default)]
struct Seal {
    digest: Sha256,
    rows: u64,
}

impl Seal {
    fn text(&mut self, value: Option<String>) -> Option<String> {
        self.take(b't', value.as_deref().map(str::as_bytes));
        value
    }

    fn number(&mut self, value: Option<i64>) -> Option<i64> {
        self.take(b'n', value.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
        value
    }

    fn truth(&mut self, value: Option<bool>) -> Option<bool> {
        self.take(b'b', value.map(|value| [u8::from(value)]).as_ref().map(<[u8; 1]>::as_slice));
        value
    }

    fn take(&mut self, kind: u8, bytes: Option<&[u8]>) {
        let length = bytes.map_or(u64::MAX, |bytes| bytes.len() as u64);
        self.digest.update([kind]);
        self.digest.update(length.to_be_bytes());
        self.digest.update(bytes.unwrap_or_default());
    }

    fn of(self, table: &str) -> Moved {
        Moved { table: table.to_owned(), rows: self.rows, sha256: hex::encode(self.digest.finalize()) }
    }
}
