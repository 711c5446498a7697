//! The gateway's database: a fresh one for each test, and what is in it, seen beside the gateway.

use tempfile::TempDir;

use crate::harness::{Db, Gateway};

impl Gateway {
    /// Runs a statement on the gateway's database, beside it.
    pub async fn sql(&self, statement: &'static str) {
        use sqlx::Connection;
        let url = self.store_url();
        if url.starts_with("postgres") {
            let mut conn = sqlx::PgConnection::connect(url).await.unwrap();
            sqlx::raw_sql(statement).execute(&mut conn).await.unwrap();
        } else {
            let mut conn = sqlx::SqliteConnection::connect(url).await.unwrap();
            sqlx::raw_sql(statement).execute(&mut conn).await.unwrap();
        }
    }

    /// What a query for one text column finds in the gateway's database.
    pub async fn texts(&self, query: &'static str) -> Vec<String> {
        use sqlx::Connection;
        let url = self.store_url();
        if url.starts_with("postgres") {
            let mut conn = sqlx::PgConnection::connect(url).await.unwrap();
            sqlx::query_scalar(query).fetch_all(&mut conn).await.unwrap()
        } else {
            let mut conn = sqlx::SqliteConnection::connect(url).await.unwrap();
            sqlx::query_scalar(query).fetch_all(&mut conn).await.unwrap()
        }
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
    let mut admin =
        <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.expect("TEST_POSTGRES_URL answers");
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await.unwrap();
    let mut url = url::Url::parse(&url).unwrap();
    url.set_path(&name);
    url.to_string()
}
