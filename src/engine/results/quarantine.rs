//! Keeps what was paid for and could not be turned into an image: the body as it came, with secrets of ours overwritten, as
//! an item of the task it was bought for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use metrics::counter;
use sha2::{Digest, Sha256};

use super::super::Inner;
use super::super::pace::backoff;
use super::scrub::{scrubbed, scrubbed_text};
use crate::chaos::crash;
use crate::domain::attempt::{Attempt, Billing};
use crate::domain::delivery::tenant_signer;
use crate::domain::id::QuarantineId;
use crate::domain::meter;
use crate::domain::quarantine::{QuarantineDetail, QuarantineItem, QuarantineKind, QuarantineState};
use crate::domain::task::Task;
use crate::domain::webhook::Secret;
use crate::providers::{Answered, Kind, Progress};
use crate::spool::{Evidence, Head, Spooled};
use crate::store::StoreError;

/// How often the store is tried, at up to 5 s each, before the body is left to the spool.
const TRIES: u32 = 300;
/// Downloads of one attempt that are kept at most: a host that shows another page each time is no news.
const PER_ATTEMPT: i64 = 8;

/// Why the answer to a paid call is kept, when it is: it may hold an image, or tell what became of one.
pub(in crate::engine) fn reason(answered: &Answered) -> Option<String> {
    let evidence = answered.evidence.as_ref().filter(|evidence| !evidence.body.is_empty())?;
    match &answered.outcome {
        Ok(Progress::Done(done)) if done.doubtful => {
            Some("it may hold more images than were found".to_owned())
        }
        Ok(Progress::Done(_) | Progress::Pending(_)) => None,
        // What is proven to have cost nothing was no purchase; but where time is paid for, a job that was done was one.
        Ok(Progress::Failed(error)) | Err(error)
            if error.verdict.billed == Billing::No && error.kind != Kind::NoImage =>
        {
            None
        }
        Ok(Progress::Failed(error)) | Err(error) => {
            let cut = if evidence.whole { "" } else { ", and it was cut" };
            Some(format!("{:?}: {}{cut}", error.kind, error.verdict.evidence))
        }
    }
}

impl Inner {
    /// Keeps what came of an attempt, and says whether it could: the store is tried for minutes. What it does not take by then
    /// stays in the spool, where it is found again.
    pub(in crate::engine) async fn quarantine(
        &self,
        task: &Task,
        attempt: &Attempt,
        kind: QuarantineKind,
        reason: &str,
        evidence: Option<&Evidence>,
    ) -> bool {
        let nothing =
            Evidence { head: Head::default(), body: Spooled::of(Bytes::new(), &self.spool), whole: false };
        let evidence = evidence.unwrap_or(&nothing);
        let mut tries = 0;
        // Once: what an earlier try has written is written again, and not left beside it.
        let id = QuarantineId::mint(self.clock.as_ref());
        while let Err(error) = self.put_in_quarantine(id, task, attempt, kind, reason, evidence).await {
            tries += 1;
            tracing::error!(task.id = %task.id, attempt.id = %attempt.id, %error, tries, "an answer that was paid for cannot be kept; trying again");
            if tries >= TRIES {
                return false;
            }
            tokio::time::sleep(backoff(Duration::from_millis(200), tries, Duration::from_secs(5))).await;
        }
        crash("quarantine.committed");
        true
    }

    async fn put_in_quarantine(
        &self,
        id: QuarantineId,
        task: &Task,
        attempt: &Attempt,
        kind: QuarantineKind,
        reason: &str,
        evidence: &Evidence,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if kind == QuarantineKind::Download && self.store.quarantined_of(attempt, kind).await? >= PER_ATTEMPT
        {
            return Ok(());
        }
        let now = self.clock.now();
        let (redacted, digest) =
            (Arc::new(AtomicU64::new(0)), Arc::new(std::sync::Mutex::new(Sha256::new())));
        let hashing = Arc::clone(&digest);
        let secrets = self.secrets(task, attempt).await?;
        let headers = evidence.head.headers.iter();
        let headers = headers.map(|(name, value)| (name.clone(), scrubbed_text(value, &secrets))).collect();
        let body = scrubbed(evidence.body.stream(), secrets, Arc::clone(&redacted));
        let body = body.inspect(move |piece| {
            if let (Ok(piece), Ok(mut digest)) = (piece, hashing.lock()) {
                digest.update(piece);
            }
        });
        let bytes = self.blobs.quarantine(id, body).await?;
        crash("quarantine.stored");
        let sha256 = digest.lock().map(|digest| hex::encode(digest.clone().finalize())).unwrap_or_default();
        let item = QuarantineItem {
            id,
            attempt: attempt.id,
            task: task.parent.unwrap_or(task.id),
            tenant: task.tenant.clone(),
            provider: attempt.provider.clone(),
            kind,
            state: QuarantineState::Open,
            sha256,
            bytes,
            created_at: now,
            expires_at: now + self.settings.keeping.quarantine,
            detail: QuarantineDetail {
                reason: reason.to_owned(),
                http_status: evidence.head.status,
                headers,
                whole: evidence.whole,
                redacted: redacted.load(Ordering::Relaxed),
            },
        };
        if self.store.put_quarantined(item).await? {
            tracing::warn!(
                task.id = %task.id, attempt.id = %attempt.id, provider.id = attempt.provider, quarantine.id = %id, bytes,
                reason, "what was paid for could not be turned into an image; it is kept in quarantine"
            );
            counter!(meter::QUARANTINED, "provider" => attempt.provider.clone(), "kind" => kind.as_str())
                .increment(1);
        } else {
            // The attempt has the very same bytes there, or its task was erased.
            self.blobs.remove_quarantined(id).await?;
        }
        Ok(())
    }

    /// What must not be read by whoever looks into quarantine.
    async fn secrets(&self, task: &Task, attempt: &Attempt) -> Result<Vec<String>, StoreError> {
        let mut secrets = self
            .offered
            .load()
            .lanes
            .values()
            .map(|lane| lane.provider.account().secret())
            .collect::<Vec<_>>();
        let hook = self.links.hook(&attempt.provider, attempt.id);
        let token = hook.url.rsplit('/').next().unwrap_or_default().to_owned();
        secrets.extend([hook.secret, token]);
        let (key, now) = (&self.settings.webhooks.key, self.clock.now());
        secrets.extend(std::str::from_utf8(key).map(str::to_owned));
        let endpoints = self.store.endpoints(&task.tenant).await?.into_iter().map(|one| one.id.to_string());
        for owner in endpoints.chain([tenant_signer(&task.tenant)]) {
            let rotation = self.store.rotation(&owner).await?;
            secrets.extend(rotation.secrets(key, &owner, now).iter().map(Secret::reveal));
        }
        // As some write a slash in JSON.
        let escaped: Vec<String> = secrets.iter().map(|secret| secret.replace('/', "\\/")).collect();
        secrets.extend(escaped);
        secrets.sort_unstable();
        secrets.dedup();
        Ok(secrets)
    }
}
