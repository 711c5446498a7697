//! Lets go of what has had its time, and removes bytes nobody needs any more. In small batches on a timer, on every replica
//! alike: each batch is a transaction that can be repeated.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Engine, Inner};
use crate::blobs::{BlobError, Erased};
use crate::domain::clock::Millis;
use crate::domain::id::TaskId;
use crate::domain::secret::random_bytes;
use crate::store::{Erasure, StoreError};

/// The loop looks this often.
const EVERY: Duration = Duration::from_mins(1);
/// Answers that a killed process left in the spool are looked after this often, while there are any.
const LEFT_EVERY: Duration = Duration::from_secs(2);
/// How many tasks, files, pictures or entries a batch has.
const BATCH: usize = 100;
/// How many batches of a kind follow each other before the loop rests: tidying is never in a hurry.
const BATCHES: usize = 20;
/// On a store shared by replicas, bytes written within this time stay for now.
const SETTLED: Duration = Duration::from_hours(1);
/// Bytes that cannot go yet are looked at again after this.
const ASK_AGAIN: Duration = Duration::from_mins(1);
/// When so many removals in a row fail it is the store that fails, not what lies there: the rest of the batch waits.
const FAILURES: usize = 3;
/// Bytes without a row are orphans when they are older than this…
const FORGOTTEN: Duration = Duration::from_hours(72);
/// …and are looked for by the first byte of their hash, one each time, all of them in about a day.
const ORPHANS_EVERY: Duration = Duration::from_secs(337);
/// How many old files are looked at in one go: more than a byte's share of any store that one gateway fills.
const ORPHANS: usize = 100_000;

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
    // Not always the same: a process may not live for a day.
    let [mut first] = random_bytes::<1>();
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

/// Acts on what killed processes left in the spool, until told to stop.
pub(super) async fn read_left(engine: Arc<Inner>) {
    loop {
        engine.read_what_was_left().await;
        tokio::select! {
            () = tokio::time::sleep(LEFT_EVERY) => {}
            () = engine.stop.cancelled() => return,
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

    /// Erases what a task was asked for and what came of it. Its bytes go at once unless another task needs the same ones or,
    /// on a store that replicas share, they were written within the last hour.
    pub async fn erase(&self, tenant: &str, id: TaskId) -> Result<Erasure, StoreError> {
        let erased = self.inner.store.erase_task(tenant.to_owned(), id).await?;
        if erased == Erasure::Done {
            // Apart from the caller's connection: half an erasing, given up, could remove what was written after it.
            let engine = Arc::clone(&self.inner);
            let erasing = self.inner.tracker.spawn(async move {
                let erased = engine.erase_quarantined(BATCH).await;
                if let Err(error) = erased.and(engine.erase_bytes(BATCH).await) {
                    tracing::warn!(task.id = %id, %error, "the bytes of an erased task could not be removed yet; trying again");
                }
            });
            // One that panicked has been logged.
            let _ = erasing.await;
        }
        Ok(erased)
    }
}

impl Inner {
    async fn tidy(&self) -> Result<(), TidyError> {
        let (now, keeping) = (self.clock.now(), self.settings.keeping);
        self.read_what_was_left().await;
        self.store.bound_moments().await?;
        let mut counts = [0; 6];
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
            count(4, self.store.trim_audit(now - self.settings.audit_keep, BATCH).await?);
            count(5, self.store.expire_quarantine(BATCH).await?);
            self.erase_quarantined(BATCH).await?;
            // Last: a row that cannot be read, and may need any bytes, holds up nothing else.
            count(3, self.erase_bytes(BATCH).await?);
            if !more || self.stop.is_cancelled() {
                break;
            }
        }
        let [media, records, files, blobs, audit, quarantine] = counts;
        if counts.iter().any(|count| *count > 0) {
            tracing::info!(
                media,
                records,
                files,
                blobs,
                audit,
                quarantine,
                "tidied up: tasks without pictures, tasks, input files, bytes, entries of the audit, items of quarantine"
            );
        }
        Ok(())
    }

    /// Removes the bytes of items whose rows are gone.
    async fn erase_quarantined(&self, limit: usize) -> Result<(), TidyError> {
        for id in self.store.quarantine_deletions(limit).await? {
            self.blobs.remove_quarantined(id).await?;
            self.store.quarantine_deleted(id).await?;
        }
        Ok(())
    }

    /// Removes bytes that rows have let go of; of how many it is known what became of them.
    async fn erase_bytes(&self, limit: usize) -> Result<usize, TidyError> {
        let due = self.store.erasures(limit).await?;
        let since = self.settings.shared.then(|| self.clock.now() - SETTLED);
        let hashes: Vec<String> = due.iter().map(|(sha256, _)| sha256.clone()).collect();
        let mut settled = self.erase_unneeded(&hashes, since).await?;
        let count = settled.len();
        for (sha256, due_at) in due {
            if let Some(later) = settled.remove(&sha256) {
                self.store.settle_erasure(sha256, due_at, later).await?;
            }
        }
        Ok(count)
    }

    // The race it must not lose: a task lets go of bytes while another is given the very same ones, which are kept once. So rows
    // are the truth, and they are asked while the bytes are marked: what is in hand in this process (`blobs/hand.rs`) is never
    // marked, what is marked is waited for and then written anew, and a row committed before the mark is seen. Other replicas'
    // hands are not seen from here, but whoever relies on bytes writes them anew: on a shared store nothing goes that was
    // written within SETTLED. Bytes that never had a row are left for FORGOTTEN, far longer than any row takes.

    /// Removes those of these bytes that nothing needs, unless they were written after that moment; answers with when each is
    /// to be asked for again, `None` where all is settled. Those not in the answer were not looked at.
    async fn erase_unneeded(
        &self,
        hashes: &[String],
        untouched_since: Option<Millis>,
    ) -> Result<HashMap<String, Option<Millis>>, TidyError> {
        let soon = self.clock.now() + ASK_AGAIN;
        let mut settled = HashMap::with_capacity(hashes.len());
        let mut condemned = Vec::with_capacity(hashes.len());
        // Marked before the rows are asked: a row that was committed before is seen, one that comes later waits.
        for sha256 in hashes {
            match self.blobs.condemn(sha256) {
                Some(marked) => condemned.push(marked),
                None => _ = settled.insert(sha256.clone(), Some(soon)),
            }
        }
        let needed = self.store.needed(hashes).await?;
        let mut failures = 0;
        for marked in condemned {
            let sha256 = marked.sha256().to_owned();
            if needed.contains(&sha256) {
                settled.insert(sha256, None);
                continue;
            }
            if failures >= FAILURES {
                continue;
            }
            let later = match self.blobs.erase(marked, untouched_since).await {
                Ok(Erased::Gone) => None,
                // Whatever a clock says: not at once, and not much later than the others.
                Ok(Erased::TooYoung(written)) => Some((written + SETTLED).clamp(soon, soon + SETTLED)),
                Err(error) => {
                    tracing::warn!(sha256, %error, "bytes that nobody needs cannot be removed; trying again");
                    failures += 1;
                    settled.insert(sha256, Some(soon));
                    continue;
                }
            };
            failures = 0;
            settled.insert(sha256, later);
        }
        Ok(settled)
    }

    /// Removes old bytes in quarantine that have no row; how many.
    async fn collect_quarantine(&self, before: Millis) -> Result<usize, TidyError> {
        let mut gone = 0;
        for id in self.blobs.old_quarantined(before, ORPHANS).await? {
            if !self.store.has_quarantined(id).await? {
                self.blobs.remove_quarantined(id).await?;
                gone += 1;
            }
        }
        Ok(gone)
    }

    /// Removes old bytes whose hash begins with this byte and that have no row: a process was killed between writing the
    /// one and the other. How many.
    async fn collect_orphans(&self, first: u8) -> Result<usize, TidyError> {
        let before = self.clock.now() - FORGOTTEN;
        let old = self.blobs.old(first, before, ORPHANS).await?;
        // Items have ids and no hashes, and are few: all of them at once.
        let mut gone = if first == 0 { self.collect_quarantine(before).await? } else { 0 };
        for some in old.chunks(BATCH) {
            // Most are needed, and need not be marked to know it.
            let needed = self.store.needed(some).await?;
            let orphans: Vec<String> =
                some.iter().filter(|sha256| !needed.contains(*sha256)).cloned().collect();
            if !orphans.is_empty() {
                let settled = self.erase_unneeded(&orphans, Some(before)).await?;
                gone += settled.values().filter(|later| later.is_none()).count();
            }
        }
        if gone > 0 {
            tracing::info!(gone, "bytes that no row knows are removed");
        }
        Ok(gone)
    }
}
