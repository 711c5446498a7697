//! Brings a provider's pictures here, apart from all generation: each that has come is remembered, the rest is tried again.

use std::time::Duration;

use super::Inner;
use super::pace::backoff;
use super::save::Step;
use crate::blobs::{BlobError, Saved};
use crate::chaos::crash;
use crate::domain::attempt::{AttemptState, Billing, Verdict};
use crate::domain::code::Code;
use crate::domain::image::{ImageKind, NotAPicture, StoredImage};
use crate::domain::task::{Event, Failure, Source, Task};
use crate::net::guarded::FetchError;
use crate::providers::{MadeSource, Progress};

/// How long a picture that exists is tried for.
const ASSET_WINDOW: Duration = Duration::from_hours(24);
/// What gives no picture this often is none.
const NO_PICTURE: u32 = 8;

impl Inner {
    /// Brings the pictures here. Each that has come is remembered; the rest is tried again, apart from all generation.
    pub(super) async fn bring(&self, mut task: Box<Task>) {
        let now = self.clock.now();
        let mut here: Vec<Option<Saved>> = Vec::new();
        let mut lacking = None;
        for output in &mut task.state.outputs {
            let fetched = match &output.source {
                Source::Blob(sha256) => self.blobs.describe(sha256).await,
                Source::Url(url) | Source::Preview(url) => self.blobs.fetch(&self.net.guarded, url).await,
            };
            match fetched {
                Ok(saved) => {
                    output.source = Source::Blob(saved.sha256.clone());
                    here.push(Some(saved));
                }
                Err(error) => {
                    tracing::warn!(task.id = %task.id, %error, "a picture has not come");
                    // With any that may yet come, none is given up.
                    if lacking.as_ref().is_none_or(|before| hopeless(before, task.state.tries)) {
                        lacking = Some(error);
                    }
                    here.push(None);
                }
            }
        }
        let since = task.state.since.unwrap_or(now);
        let preview = preview_alone(&task);
        match lacking {
            None => self.keep(task, here).await,
            Some(error)
                if now.since(since) >= ASSET_WINDOW
                    || hopeless(&error, task.state.tries)
                    || (preview && !matches!(error, BlobError::Storage(_))) =>
            {
                self.give_up(task, here, &error).await;
            }
            Some(_) => {
                self.freshen(&mut task).await;
                let pause = backoff(Duration::from_secs(1), task.state.tries, Duration::from_mins(10));
                self.stay(task, None, now + pause).await;
            }
        }
    }

    /// Asks the provider for its links once more: those it gave may have died in the meantime.
    async fn freshen(&self, task: &mut Task) {
        let Some(attempt) = self.attempt(task).await else { return };
        let Some((lane, handle)) = self.lane(&attempt.provider).zip(attempt.handle.as_deref()) else {
            return;
        };
        let Ok(Progress::Done(done)) = self.check(&lane, &attempt, handle, &task.request).await else {
            return;
        };
        if done.images.len() != task.state.outputs.len() {
            return;
        }
        for (output, made) in task.state.outputs.iter_mut().zip(done.images) {
            if let (Source::Url(old), MadeSource::Url(fresh)) = (&mut output.source, made.source) {
                *old = fresh;
            }
        }
    }

    async fn keep(&self, mut task: Box<Task>, here: Vec<Option<Saved>>) {
        let (here, let_go) = self.convert(&mut task, here).await;
        // In hand until the rows are committed.
        let _held = here.clone();
        let kinds = task.state.outputs.iter().map(|output| output.kind);
        let images = pictures(here.into_iter().zip(kinds), 0, false);
        let partial = images.len() < task.state.outputs.len() || images.len() < task.request.count() as usize;
        let saved = Step::new(Event::Save { partial }, self.clock.now());
        let Some(step) = self.closing(&task, saved).await else { return };
        crash("bytes.stored");
        self.save(task, Step { images, let_go, ..step }).await;
        crash("end.committed");
    }

    /// The step, with the attempt's books closed if its worker was killed before it could; `None` when the attempt cannot be
    /// read: then all of it is done again when the lease ends.
    async fn closing(&self, task: &Task, step: Step) -> Option<Step> {
        if task.state.booked || task.state.attempt.is_none() {
            return Some(step);
        }
        let mut attempt = self.attempt(task).await?;
        let verdict = Verdict::new(Billing::Yes, "its picture's link came");
        attempt.close(AttemptState::Succeeded, verdict, self.clock.now());
        Some(step.closing(attempt))
    }

    /// Some pictures will not come: what is here counts, and with none the task has failed.
    async fn give_up(&self, task: Box<Task>, here: Vec<Option<Saved>>, error: &BlobError) {
        if here.iter().any(Option::is_some) {
            return self.keep(task, here).await;
        }
        let preview = preview_alone(&task);
        let code = match error {
            _ if preview => Code::NoImageReturned,
            BlobError::Storage(_) | BlobError::Open { .. } => Code::StorageFailed,
            error if hopeless(error, task.state.tries) => Code::AssetRejected,
            _ => Code::AssetUnavailable,
        };
        let detail = format!("the provider made a picture that could not be kept: {error}");
        let billed = if task.state.booked { task.billed() } else { Billing::Yes };
        let failure = Failure { code, detail, billed, provider: None };
        let failed = Step::new(Event::Fail(failure), self.clock.now());
        let Some(step) = self.closing(&task, failed).await else { return };
        self.save(task, step).await;
    }
}

/// Those of a provider's pictures that are here, numbered from `first`.
pub(super) fn pictures(
    here: impl Iterator<Item = (Option<Saved>, ImageKind)>,
    first: u32,
    late: bool,
) -> Vec<StoredImage> {
    let here = here.filter_map(|(saved, kind)| Some((saved?, kind)));
    let image = |((saved, kind), index): ((Saved, ImageKind), u32)| StoredImage {
        index,
        media_type: saved.header.media_type,
        width: saved.header.width,
        height: saved.header.height,
        bytes: saved.bytes,
        sha256: saved.sha256,
        kind,
        gone: false,
        late,
    };
    here.zip(first..).map(image).collect()
}

/// Whether what was given may be no more than a preview's link.
fn preview_alone(task: &Task) -> bool {
    task.state.outputs.iter().any(|output| matches!(output.source, Source::Preview(_)))
}

/// Whether trying again cannot help: the address is closed to us, or what it has given so often is no picture. An empty
/// body or an error page may yet become one.
pub(super) fn hopeless(error: &BlobError, tries: u32) -> bool {
    match error {
        BlobError::NotAPicture(NotAPicture::TooLarge { .. })
        | BlobError::Fetch(FetchError::Refused(_) | FetchError::TooLarge(_)) => true,
        BlobError::NotAPicture(_) | BlobError::Fetch(FetchError::TooManyRedirects) => tries >= NO_PICTURE,
        _ => false,
    }
}
