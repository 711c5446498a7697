//! Whose a thing is, by its public id alone. For the audit; callers are never told.

use super::backend::on;
use super::{Store, StoreError};

/// Where things of each kind lie, by the prefix of their ids.
const PLACES: [(&str, &str); 4] = [
    ("task_", "SELECT tenant FROM tasks WHERE id = $1"),
    ("file_", "SELECT tenant FROM files WHERE id = $1"),
    ("wh_", "SELECT tenant FROM webhooks WHERE id = $1"),
    ("evt_", "SELECT tenant FROM deliveries WHERE id = $1"),
];

impl Store {
    /// Whether a text begins like the id of something a tenant can own.
    pub fn could_be_owned(id: &str) -> bool {
        id.len() < 40 && PLACES.iter().any(|(prefix, _)| id.starts_with(prefix))
    }

    /// The tenant that owns what this id names, if it names anything.
    pub async fn owner(&self, id: &str) -> Result<Option<String>, StoreError> {
        let Some((_, sql)) = PLACES.iter().find(|(prefix, _)| id.starts_with(prefix)) else {
            return Ok(None);
        };
        Ok(
            on!(&mut self.db.reader().await?.conn(), c => sqlx::query_scalar(*sql).bind(id).fetch_optional(c).await)?,
        )
    }
}
