//! What a key may have at once and in a minute, counted over all replicas: places for open tasks, exactly, and requests a
//! minute, handed out to replicas in portions.

use super::backend::{Conn, on};
use super::script::Script;
use super::{Store, StoreError};

impl Store {
    /// Takes up to `portion` of a key's requests in `minute` (minutes since the epoch), of which it has `most`; how many it
    /// got, and how many are left for everybody. The portions that replicas take in one minute never add up to more.
    pub async fn take_requests(
        &self,
        key: &str,
        minute: i64,
        portion: u32,
        most: u32,
    ) -> Result<(u32, u32), StoreError> {
        // A replica whose clock is behind takes from the minute the others are in.
        const SQL: &str = "INSERT INTO key_minutes (key_name, minute, taken) VALUES ($1, $2, $3) \
             ON CONFLICT (key_name) DO UPDATE SET \
             taken = CASE WHEN key_minutes.minute < excluded.minute THEN excluded.taken ELSE key_minutes.taken + excluded.taken END, \
             minute = CASE WHEN key_minutes.minute < excluded.minute THEN excluded.minute ELSE key_minutes.minute END \
             RETURNING taken";
        let key = key.to_owned();
        let work = self.db.write(move |mut conn| {
            Box::pin(async move {
                let taken: i64 = on!(&mut conn, c => sqlx::query_scalar(SQL)
                    .bind(key).bind(minute).bind(i64::from(portion)).fetch_one(c).await)?;
                Ok(taken)
            })
        });
        let left = i64::from(most) - work.await?;
        let got = u32::try_from(i64::from(portion) + left.min(0)).unwrap_or(0);
        Ok((got, u32::try_from(left).unwrap_or(0)))
    }
}

/// How many tasks of a key are open.
pub(super) const OPEN: &str =
    "SELECT COUNT(*) FROM tasks WHERE key_name = $1 AND finished_at IS NULL AND parent_id IS NULL";

/// After a task of `key` was inserted: fails, which undoes the insert, when more than `most` of the key's tasks are open.
pub(super) async fn keep_within(conn: &mut Conn<'_>, key: &str, most: u32) -> Result<(), StoreError> {
    let open: i64 = on!(conn, c => sqlx::query_scalar(OPEN).bind(key).fetch_one(c).await)?;
    if open > i64::from(most) { Err(StoreError::Full) } else { Ok(()) }
}

/// Before a task of `key` is inserted: waits for others that are taking places of this key, so that each counts the other.
pub(super) fn stand_in_line(script: &mut Script, key: &str) {
    const SQL: &str = "INSERT INTO key_places (key_name, passed) VALUES ($1, 1) \
         ON CONFLICT (key_name) DO UPDATE SET passed = key_places.passed + 1";
    script.add(SQL).bind(key);
}
