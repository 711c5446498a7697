//! Pictures in custody as rows; their bytes lie in the blob store.

use sqlx::FromRow;

use super::backend::{Conn, on};
use super::{Store, StoreError};
use crate::domain::id::TaskId;
use crate::domain::image::{ImageKind, StoredImage};

#[derive(FromRow)]
struct Row {
    position: i64,
    sha256: String,
    media_type: String,
    width: i64,
    height: i64,
    bytes: i64,
    kind: String,
    late: bool,
    gone: bool,
}

impl TryFrom<Row> for StoredImage {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let bad = |_| StoreError::Unreadable(format!("image {}", row.sha256));
        let word = |text: &str| serde_json::Value::from(text);
        Ok(Self {
            index: u32::try_from(row.position).unwrap_or_default(),
            media_type: serde_json::from_value(word(&row.media_type)).map_err(bad)?,
            width: u32::try_from(row.width).unwrap_or_default(),
            height: u32::try_from(row.height).unwrap_or_default(),
            bytes: u64::try_from(row.bytes).unwrap_or_default(),
            kind: serde_json::from_value(word(&row.kind)).map_err(bad)?,
            late: row.late,
            gone: row.gone,
            sha256: row.sha256,
        })
    }
}

/// Writes one picture of a task.
pub(super) async fn put(conn: &mut Conn<'_>, task: &str, image: &StoredImage) -> Result<(), StoreError> {
    const PUT: &str = "INSERT INTO images (task_id, position, sha256, media_type, width, height, bytes, kind, late) \
         VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9) ON CONFLICT (task_id, position) DO NOTHING";
    let kind = match image.kind {
        ImageKind::Output => "output",
        ImageKind::Preprocessed => "preprocessed",
    };
    on!(conn, c => sqlx::query(PUT)
        .bind(task).bind(i64::from(image.index)).bind(&image.sha256).bind(image.media_type.as_str())
        .bind(i64::from(image.width)).bind(i64::from(image.height))
        .bind(i64::try_from(image.bytes).unwrap_or(i64::MAX)).bind(kind).bind(image.late)
        .execute(c).await.map(drop))?;
    Ok(())
}

impl Store {
    /// A task's pictures, in order.
    pub async fn images(&self, task: TaskId) -> Result<Vec<StoredImage>, StoreError> {
        const SQL: &str = "SELECT position, sha256, media_type, width, height, bytes, kind, late, gone FROM images \
             WHERE task_id = $1 ORDER BY position";
        let id = task.to_string();
        let rows: Vec<Row> =
            on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(SQL).bind(id).fetch_all(c).await)?;
        rows.into_iter().map(StoredImage::try_from).collect()
    }
}
