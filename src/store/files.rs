//! Input images as rows; their bytes lie in the blob store.

use std::collections::BTreeSet;

use sqlx::FromRow;

use super::backend::on;
use super::script::Script;
use super::{Store, StoreError, erasures};
use crate::domain::clock::Millis;
use crate::domain::file::StoredFile;
use crate::domain::id::{FileId, TaskId};
use crate::domain::image::Header;
use crate::domain::task::Task;

#[derive(FromRow)]
struct Row {
    id: String,
    tenant: String,
    sha256: String,
    media_type: String,
    width: i64,
    height: i64,
    bytes: i64,
    created_at: i64,
}

impl TryFrom<Row> for StoredFile {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let bad = || StoreError::Unreadable(format!("file {}", row.id));
        let media_type = serde_json::from_value(row.media_type.as_str().into()).map_err(|_| bad())?;
        let pixels = |side: i64| u32::try_from(side).map_err(|_| bad());
        Ok(Self {
            id: row.id.parse().map_err(|_| bad())?,
            header: Header { media_type, width: pixels(row.width)?, height: pixels(row.height)? },
            bytes: u64::try_from(row.bytes).unwrap_or_default(),
            created_at: Millis(row.created_at),
            tenant: row.tenant,
            sha256: row.sha256,
        })
    }
}

/// Notes which files a new task names: their time begins anew.
pub(super) fn used(script: &mut Script, task: &Task) {
    const USED: &str = "UPDATE files SET used_at = $3 WHERE id = $1 AND tenant = $2";
    let named = task.request.inputs().into_iter().filter_map(|(_, input)| input.file_id);
    // In one order for all: two tasks that name the same files would lock each other out.
    let named: BTreeSet<_> = named.map(|id| id.to_string()).collect();
    for id in named {
        script.add(USED).bind(id).bind(&task.tenant).bind(task.created_at.0);
    }
}

/// Notes which files came in with a new task: they go with its content.
pub(super) fn bind(script: &mut Script, task: &Task, files: &[FileId]) {
    const BIND: &str = "UPDATE files SET task_id = $2 WHERE id = $1 AND task_id IS NULL";
    for id in files {
        script.add(BIND).bind(id.to_string()).bind(task.id.to_string());
    }
}

impl Store {
    /// Writes a file down; one that was made for a task goes with the task's content.
    pub async fn put_file(&self, file: StoredFile, task: Option<TaskId>) -> Result<(), StoreError> {
        const PUT: &str = "INSERT INTO files (id, tenant, sha256, media_type, width, height, bytes, created_at, task_id) \
             VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9)";
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    on!(&mut conn, c => sqlx::query(PUT)
                        .bind(file.id.to_string()).bind(file.tenant).bind(file.sha256)
                        .bind(file.header.media_type.as_str())
                        .bind(i64::from(file.header.width)).bind(i64::from(file.header.height))
                        .bind(i64::try_from(file.bytes).unwrap_or(i64::MAX)).bind(file.created_at.0)
                        .bind(task.map(|task| task.to_string()))
                        .execute(c).await.map(drop))?;
                    Ok(())
                })
            })
            .await
    }

    /// One file, whoever's it is.
    pub async fn file(&self, id: FileId) -> Result<Option<StoredFile>, StoreError> {
        const SQL: &str = "SELECT id, tenant, sha256, media_type, width, height, bytes, created_at FROM files WHERE id = $1";
        let id = id.to_string();
        let row: Option<Row> = on!(&mut self.db.reader().await?.conn(), c => sqlx::query_as(SQL).bind(id).fetch_optional(c).await)?;
        row.map(StoredFile::try_from).transpose()
    }

    /// Forgets a file of a tenant; whether there was one. Its bytes are collected later, if nothing else needs them.
    pub async fn delete_file(&self, tenant: String, id: FileId) -> Result<bool, StoreError> {
        const SQL: &str = "DELETE FROM files WHERE id = $1 AND tenant = $2 RETURNING sha256";
        let now = self.clock.now();
        self.db
            .write(move |mut conn| {
                Box::pin(async move {
                    let id = id.to_string();
                    let gone: Option<String> = on!(&mut conn, c =>
                        sqlx::query_scalar(SQL).bind(id).bind(tenant).fetch_optional(c).await)?;
                    let there = gone.is_some();
                    erasures::noted(&mut conn, gone, now).await?;
                    Ok(there)
                })
            })
            .await
    }
}
