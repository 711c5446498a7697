//! The gateway's database: a fresh one for each test, and what is in it, seen beside the gateway.

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection, SqliteConnection};
use tempfile::TempDir;

use crate::harness::{Db, Gateway};

impl Gateway {
    /// Runs a statement on the gateway's database, beside it.
    pub async fn sql(&self, statement: &'static str) {
        self.execute(statement).await;
    }

    /// The same for a statement that names what the test has made.
    pub async fn execute(&self, statement: &str) {
        let (url, statement) = (self.store_url(), AssertSqlSafe(statement.to_owned()));
        if url.starts_with("postgres") {
            let mut conn = PgConnection::connect(url).await.unwrap();
            sqlx::raw_sql(statement).execute(&mut conn).await.unwrap();
        } else {
            let mut conn = SqliteConnection::connect(url).await.unwrap();
            sqlx::raw_sql(statement).execute(&mut conn).await.unwrap();
        }
    }

    /// What a query for one text column finds in the gateway's database.
    pub async fn texts(&self, query: &str) -> Vec<String> {
        rows::<(String,)>(self, query).await.into_iter().map(|(text,)| text).collect()
    }
}

/// Rows of the gateway's database, read beside it.
pub async fn rows<T>(gateway: &Gateway, sql: &str) -> Vec<T>
where
    T: Send + Unpin + for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow>,
{
    let (url, sql) = (gateway.store_url(), AssertSqlSafe(sql.to_owned()));
    if url.starts_with("postgres") {
        let mut conn = PgConnection::connect(url).await.unwrap();
        sqlx::query_as(sql).fetch_all(&mut conn).await.unwrap()
    } else {
        let mut conn = SqliteConnection::connect(url).await.unwrap();
        sqlx::query_as(sql).fetch_all(&mut conn).await.unwrap()
    }
}

/// A fresh database.
pub async fn store_url(db: Db, folder: &TempDir) -> String {
    match db {
        Db::Sqlite => format!("sqlite://{}/easel.db", folder.path().display()),
        Db::Postgres => fresh_postgres().await,
        Db::At(url) => url.to_owned(),
    }
}

#[expect(clippy::disallowed_methods, reason = "the test runner names the database here")]
pub async fn fresh_postgres() -> String {
    let url = std::env::var("TEST_POSTGRES_URL").expect(
        "TEST_POSTGRES_URL is not set: run script/test, which brings a Postgres of its own. A suite that quietly skips a database is a defect.",
    );
    let name = format!("easel_{}", easel::domain::secret::token());
    let mut admin = PgConnection::connect(&url).await.expect("TEST_POSTGRES_URL answers");
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await.unwrap();
    let mut url = url::Url::parse(&url).unwrap();
    url.set_path(&name);
    url.to_string()
}
