//! The gateway's database, seen beside the gateway.

use crate::harness::Gateway;

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
