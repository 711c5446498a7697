//! Databases of their own on one Postgres server.

use anyhow::{Context, Result};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// A fresh database beside the one that `url` names.
pub async fn fresh(url: &str) -> Result<String> {
    let name = format!("easel_{}", fastrand::u64(..));
    let mut admin = PgConnection::connect(url).await.context("Postgres does not answer")?;
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await?;
    let mut url = url::Url::parse(url)?;
    url.set_path(&name);
    Ok(url.into())
}
