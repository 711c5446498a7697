//! A copy of a SQLite database that is in use, and whether the schema is the one this program knows.

use std::path::Path;

use sqlx::{AssertSqlSafe, Executor};

use super::backend::{Conn, on};
use super::schema::known_migrations;
use super::{Store, StoreError};

impl Store {
    /// Writes the whole database into a new file, as of one moment, while others go on reading and writing it. The copy is
    /// synced to disk before this answers. Only SQLite can: `None` on Postgres, which has tools of its own.
    pub async fn copy_to(&self, file: &Path) -> Result<Option<()>, StoreError> {
        let mut reader = self.db.reader().await?;
        let Conn::Sqlite(conn, _) = reader.conn() else { return Ok(None) };
        let into = file.display().to_string().replace('\'', "''");
        conn.execute(AssertSqlSafe(format!("VACUUM INTO '{into}'"))).await?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for path in [file, folder] {
            // The folder, too: else a power cut may take the name away.
            std::fs::File::open(path).and_then(|open| open.sync_all()).map_err(sqlx::Error::Io)?;
        }
        Ok(Some(()))
    }

    /// How many migrations the database lacks, and how many it has that this program does not know: those of a newer one.
    pub async fn migrations_apart(&self) -> Result<(usize, usize), StoreError> {
        const APPLIED: &str = "SELECT version FROM _sqlx_migrations WHERE success";
        let applied: Vec<i64> =
            on!(&mut self.db.reader().await?.conn(), c => sqlx::query_scalar(APPLIED).fetch_all(c).await)?;
        let known = known_migrations();
        let lacking = known.iter().filter(|version| !applied.contains(version)).count();
        let newer = applied.iter().filter(|version| !known.contains(version)).count();
        Ok((lacking, newer))
    }
}
