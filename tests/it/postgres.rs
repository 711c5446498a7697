//! A Postgres server of a test's own, for what is done to a whole server: `script/pg`.

use std::process::Command;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use url::Url;

pub struct Server {
    folder: TempDir,
    admin: Url,
}

impl Server {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let admin = script("start", &folder).trim().parse().unwrap();
        Self { folder, admin }
    }

    /// The address of one of its databases, for its administrator.
    pub fn url(&self, database: &str) -> Url {
        let mut url = self.admin.clone();
        url.set_path(database);
        url
    }

    /// Ends it as a power cut would.
    pub fn crash(&self) {
        script("crash", &self.folder);
    }

    /// Starts it anew at the same address.
    pub fn again(&self) {
        script("again", &self.folder);
    }

    /// Runs a statement as its administrator.
    pub async fn sql(&self, statement: impl Into<String>) {
        let mut conn = PgConnection::connect(self.admin.as_str()).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(statement.into())).execute(&mut conn).await.unwrap();
    }

    /// Writes a file in its data folder by its own hand, which makes it the server's and nobody else's to read.
    pub async fn put(&self, file: &str, text: &str) {
        let rows = format!("SELECT unnest(string_to_array('{}', E'\\n'))", text.trim_end());
        self.sql(format!("COPY ({rows}) TO PROGRAM 'umask 077; cat > {file}'")).await;
    }

    /// Every row of every table of a database.
    pub async fn dump(&self, database: &str) -> String {
        const TABLES: &str = "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'";
        let mut conn = PgConnection::connect(self.url(database).as_str()).await.unwrap();
        let tables: Vec<String> = sqlx::query_scalar(TABLES).fetch_all(&mut conn).await.unwrap();
        let mut dump = String::new();
        for table in tables {
            let rows = AssertSqlSafe(format!("SELECT row::text FROM {table} row"));
            let rows: Vec<String> = sqlx::query_scalar(rows).fetch_all(&mut conn).await.unwrap();
            dump.push_str(&rows.join("\n"));
        }
        dump
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        script("stop", &self.folder);
    }
}

/// What `script/pg` prints.
fn script(act: &str, folder: &TempDir) -> String {
    let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/script/pg"));
    let done = script.arg(act).arg(folder.path()).output().unwrap();
    assert!(done.status.success(), "script/pg {act}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}
