//! Named values the gateway made for itself, such as the key its links are signed with.

use super::backend::on;
use super::{Store, StoreError};

impl Store {
    /// The value kept under `name`; `fresh` becomes it when there is none, for all replicas alike.
    pub async fn setting(&self, name: &'static str, fresh: String) -> Result<String, StoreError> {
        const KEEP: &str = "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
        const READ: &str = "SELECT value FROM settings WHERE name = $1";
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    on!(&mut conn, c => sqlx::query(KEEP).bind(name).bind(fresh).execute(c).await.map(drop))?;
                    Ok(on!(&mut conn, c => sqlx::query_scalar(READ).bind(name).fetch_one(c).await)?)
                })
            })
            .await
    }
}
