//! Lets go of what has had its time, and removes bytes nobody needs any more. In small batches on a timer, on every replica
//! alike: each batch is a transaction that can be repeated.
//!
//! The race it must not lose: a task lets go of bytes while another is given the very same ones, which are kept once. So rows
//! are the truth, and they are asked while the bytes are marked: what is in hand in this process (`blobs/hand.rs`) is never
//! marked, what is marked is waited for and then written anew, and a row committed before the mark is seen. Other replicas'
//! hands are not seen from here, but whoever relies on bytes writes them anew: on a shared store nothing goes that was written
//! within [`SETTLED`]. Bytes that never had a row are left for [`FORGOTTEN`], far longer than any row takes.

use std::sync::Arc;
use std::time::Duration;

use super::{Engine, Inner};
use crate::blobs::{BlobError, Erased};
use crate::domain::clock::Millis;
use crate::domain::id::TaskId;
use crate::store::{Erasure, StoreError};

/// The loop looks this often.
const EVERY: Duration = Duration::from_mins(1);
/// How many tasks, files or pictures a batch has.
const BATCH: usize = 100;
/// How many batches of a kind follow each other before the loop rests: tidying is never in a hurry.
const BATCHES: usize = 20;
/// On a store shared by replicas, bytes written within this time stay for now.
const SETTLED: Duration = Duration::from_hours(1);
/// Bytes that cannot go yet are looked at again after this.
const ASK_AGAIN: Duration = Duration::from_mins(10);
/// Bytes without a row are orphans when they are older than this…
const FORGOTTEN: Duration = Duration::from_hours(72);
/// …and are looked for by the first byte of their hash, one each time, all of them in about a day.
const ORPHANS_EVERY: Duration = Duration::from_secs(337);
/// How many orphans are looked at in one go.
const ORPHANS: usize = 10_000;

/// Why tidying stopped; it goes on next time.
#[derive(Debug, thiserror::Error)]
pub enum TidyError {
    /// The database did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blob store did not.
    #[error(transparent)]
    Blobs(#[from] BlobError),
}

/// Tidies until told to stop.
pub(super) async fn serve(engine: Arc<Inner>) {
    let mut orphans = tokio::time::Instant::now() + ORPHANS_EVERY;
    let mut first = 0u8;
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = engine.stop.cancelled() => return,
        }
        let mut tidied = engine.tidy().await;
        if tidied.is_ok() && tokio::time::Instant::now() >= orphans {
            orphans = tokio::time::Instant::now() + ORPHANS_EVERY;
            tidied = engine.collect_orphans(first).await.map(|_| ());
            first = first.wrapping_add(1);
        }
        if let Err(error) = tidied {
            tracing::warn!(%error, "tidying up stopped; trying again in a minute");
        }
    }
}

impl Engine {
    /// Lets go of what has had its time by the clock. The loop does this by itself; tests do it when they have moved the clock.
    pub async fn tidy(&self) -> Result<(), TidyError> {
        self.inner.tidy().await
    }

    /// Removes all bytes without a row that are old enough; how many.
    pub async fn collect_orphans(&self) -> Result<usize, TidyError> {
        let mut gone = 0;
        for first in 0..=u8::MAX {
            gone += self.inner.collect_orphans(first).await?;
        }
        Ok(gone)
    }

    /// Erases what a task was asked for and what came of it. Its bytes go at once unless another task needs the same ones.
    pub async fn erase(&self, tenant: &str, id: TaskId) -> Result<Erasure, StoreError> {
        let erased = self.inner.store.erase_task(tenant.to_owned(), id).await?;
        if erased == Erasure::Done
            && let Err(error) = self.inner.erase_bytes(BATCH).await
        {
            tracing::warn!(task.id = %id, %error, "the bytes of an erased task could not be removed yet; trying again");
        }
        Ok(erased)
    }
}

impl Inner {
    async fn tidy(&self) -> Result<(), TidyError> {
        let (now, keeping) = (self.clock.now(), self.settings.keeping);
        let mut counts = [0; 4];
        for _ in 0..BATCHES {
            let mut more = false;
            let mut count = |at: usize, done: usize| {
                counts[at] += done;
                more |= done >= BATCH;
            };
            count(0, self.store.expire_media(BATCH).await?);
            if let Some(record) = keeping.record {
                count(1, self.store.expire_records(now - record, BATCH).await?);
            }
            if let Some(files) = keeping.files {
                count(2, self.store.expire_files(now - files, BATCH).await?);
            }
            count(3, self.erase_bytes(BATCH).await?);
            if !more || self.stop.is_cancelled() {
                break;
            }
        }
        let [media, records, files, blobs] = counts;
        if counts.iter().any(|count| *count > 0) {
            tracing::info!(
                media,
                records,
                files,
                blobs,
                "tidied up: tasks without pictures, tasks, input files, bytes"
            );
        }
        Ok(())
    }

    /// Removes bytes that rows have let go of; how many were looked at.
    async fn erase_bytes(&self, limit: usize) -> Result<usize, TidyError> {
        let due = self.store.erasures(limit).await?;
        for sha256 in &due {
            let later = self.erase_one(sha256, None).await?.then(|| self.clock.now() + ASK_AGAIN);
            self.store.settle_erasure(sha256.clone(), later).await?;
        }
        Ok(due.len())
    }

    /// Removes bytes unless something needs them; whether to ask again.
    async fn erase_one(&self, sha256: &str, written_before: Option<Millis>) -> Result<bool, TidyError> {
        // Marked before the rows are asked: a row that was committed before is seen, one that comes later waits.
        let Some(condemned) = self.blobs.condemn(sha256) else { return Ok(true) };
        if !self.store.needed(&[sha256.to_owned()]).await?.is_empty() {
            return Ok(false);
        }
        let settled = self.settings.shared.then(|| self.clock.now() - SETTLED);
        let erased = self.blobs.erase(condemned, written_before.or(settled)).await?;
        Ok(erased == Erased::TooYoung)
    }

    /// Removes old bytes whose hash begins with this byte and that have no row: a process was killed between writing the
    /// one and the other. How many.
    async fn collect_orphans(&self, first: u8) -> Result<usize, TidyError> {
        let before = self.clock.now() - FORGOTTEN;
        let old = self.blobs.old(first, before, ORPHANS).await?;
        let mut gone = 0;
        for some in old.chunks(BATCH) {
            // Rows are asked after the files were listed, so none is too new to be known.
            let needed = self.store.needed(some).await?;
            for sha256 in some.iter().filter(|sha256| !needed.contains(*sha256)) {
                gone += usize::from(!self.erase_one(sha256, Some(before)).await?);
            }
        }
        if gone > 0 {
            tracing::info!(gone, "bytes that no row knows are removed");
        }
        Ok(gone)
    }
}
