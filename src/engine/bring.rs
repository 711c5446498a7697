//! Brings a provider's images here, apart from all generation: each that has come is remembered, the rest is tried again for
//! as long as it may heal. When some are here and others do not come, those that are here are not kept waiting.

use std::time::Duration;

use super::Inner;
use super::late::{LAST_CHANCE, LOOK_AFTER, WAIT_FOR_OTHERS};
use super::pace::{backoff, spread};
use super::results::NotHere;
use super::save::Step;
use crate::blobs::{BlobError, Saved};
use crate::chaos::crash;
use crate::domain::attempt::{Attempt, AttemptState, Billing, Verdict};
use crate::domain::code::Code;
use crate::domain::image::{ImageKind, NotAPicture, StoredImage};
use crate::domain::quarantine::QuarantineKind;
use crate::domain::task::{Event, Failure, Output, Source, Task};
use crate::net::guarded::FetchError;
use crate::net::policy::Refused;
use crate::providers::{Done, GeneratedImage, ImageSource, Progress};

/// Fewer bytes than this are no image and hold none.
const NO_IMAGE: usize = 64;
/// How long an image that exists is tried for.
const ASSET_WINDOW: Duration = Duration::from_hours(24);

impl Inner {
    /// Brings the images here. Each that has come is remembered; the rest is tried again, apart from all generation.
    pub(super) async fn bring(&self, mut task: Box<Task>) {
        let now = self.clock.now();
        // A task that gathers its parts has no attempt of its own, and no links.
        let attempt = match task.state.attempt {
            Some(_) => match self.attempt(&task).await {
                Some(attempt) => Some(attempt),
                None => return,
            },
            None => None,
        };
        if let Some(attempt) = &attempt {
            take_recovered(&mut task.state.outputs, &attempt.made);
        }
        let mut here: Vec<Option<Saved>> = Vec::new();
        let (mut not_here, mut not_asked): (Option<NotHere>, Option<Duration>) = (None, None);
        let waited = now.since(task.state.since.unwrap_or(now));
        let rest = WAIT_FOR_OTHERS.saturating_sub(waited).max(LAST_CHANCE);
        let brought = self.bring_here(&task.state.outputs, attempt.as_ref(), rest).await;
        for (at, brought) in brought.into_iter().enumerate() {
            match brought {
                Ok(saved) => {
                    task.state.outputs[at].source = Source::Blob(saved.sha256.clone());
                    here.push(Some(saved));
                }
                Err(NotHere { later: Some(later), .. }) => {
                    not_asked = Some(not_asked.map_or(later, |before: Duration| before.min(later)));
                    here.push(None);
                }
                Err(this) => {
                    tracing::warn!(task.id = %task.id, at, error = %this.error, "a picture has not come");
                    if let Some(attempt) = &attempt {
                        self.keep_oddity(&task, attempt, &this).await;
                    }
                    // With any that may yet come, none is given up.
                    if not_here.as_ref().is_none_or(|before| hopeless(&before.error)) {
                        not_here = Some(this);
                    }
                    here.push(None);
                }
            }
        }
        let Some(not_here) = not_here else {
            return match not_asked {
                None => self.keep(task, here, None).await,
                // Nobody was asked, so nothing has failed: in a moment it is this one's turn.
                Some(later) => {
                    let wake_at = now + spread(later);
                    self.save(task, Step::new(Event::Stay(None), wake_at)).await;
                }
            };
        };
        let waited = self.clock.now().since(task.state.since.unwrap_or(now));
        // Fresh links may help where these cannot.
        let hopeless = hopeless(&not_here.error) && task.state.tries > 0 && not_asked.is_none();
        if waited >= ASSET_WINDOW || hopeless {
            return self.give_up(task, attempt, here, not_here).await;
        }
        let some = here.iter().any(Option::is_some);
        let attempt = match attempt {
            Some(attempt) if some && waited >= WAIT_FOR_OTHERS => {
                return self.keep_some(task, attempt, here).await;
            }
            attempt => attempt,
        };
        if let Some(attempt) = &attempt {
            let mut outputs = std::mem::take(&mut task.state.outputs);
            self.renew(attempt, &mut outputs, &task).await;
            task.state.outputs = outputs;
        }
        let pause = backoff(Duration::from_secs(1), task.state.tries, Duration::from_mins(10));
        // One whose turn it was not is looked at again before what a host asks for is over.
        let pause = not_asked.unwrap_or(pause.max(not_here.retry_after()));
        let pause = if some { pause.min(WAIT_FOR_OTHERS.saturating_sub(waited)) } else { pause };
        self.stay(task, None, now + pause).await;
    }

    /// Keeps what a link gave in place of an image, when it is nothing that passes: a page or an error may be gone in a minute,
    /// bytes nobody can read may never come again.
    pub(super) async fn keep_oddity(&self, task: &Task, attempt: &Attempt, not_here: &NotHere) {
        // The beginning of an image is no oddity: all of it may come.
        let cut = matches!(&not_here.error, BlobError::Truncated | BlobError::Fetch(FetchError::Broken(_)));
        let Some(evidence) = not_here.evidence.as_ref().filter(|_| !cut) else { return };
        let Ok(head) = evidence.body.head(512).await else { return };
        // The first bytes may end inside a character.
        let text = std::str::from_utf8(&head).map_or_else(|not| not.error_len().is_none(), |_| true);
        if head.len() >= NO_IMAGE && !text {
            let reason = not_here.error.to_string();
            self.quarantine(task, attempt, QuarantineKind::Download, &reason, Some(evidence)).await;
        }
    }

    /// Asks the provider for its links once more: those it gave may have died in the meantime.
    pub(super) async fn renew(&self, attempt: &Attempt, outputs: &mut [Output], task: &Task) {
        let Some((lane, handle)) = self.lane(&attempt.provider).zip(attempt.handle.as_deref()) else {
            return;
        };
        if let Ok(Progress::Done(done)) = self.check(&lane, attempt, handle, &task.request).await.outcome {
            renew(outputs, &done);
        }
    }

    /// Some have waited long enough for the others: the task ends with them, and the others follow as a late result.
    async fn keep_some(&self, task: Box<Task>, mut attempt: Attempt, here: Vec<Option<Saved>>) {
        attempt.await_links(lacking(&task, &here));
        attempt.look_at = Some(self.clock.now() + LOOK_AFTER);
        self.keep(task, here, Some(attempt)).await;
    }

    /// Ends the task with what is here; `attempt` is written with it, when more is to come.
    async fn keep(&self, mut task: Box<Task>, here: Vec<Option<Saved>>, attempt: Option<Attempt>) {
        let (here, let_go) = self.convert(&mut task, here).await;
        // In hand until the rows are committed.
        let _held = here.clone();
        let kinds = task.state.outputs.iter().map(|output| output.kind);
        let images = pictures(here.into_iter().zip(kinds), 0, false);
        let partial = images.len() < task.state.outputs.len() || images.len() < task.request.count() as usize;
        let saved = Step::new(Event::Save { partial }, self.clock.now());
        let Some(step) = self.closing(&task, saved, attempt).await else { return };
        crash("bytes.stored");
        self.save(task, Step { images, let_go, ..step }).await;
        crash("end.committed");
    }

    /// The step, with the attempt's books closed if its worker was killed before it could; `None` when the attempt cannot be
    /// read: then all of it is done again when the lease ends.
    async fn closing(&self, task: &Task, step: Step, attempt: Option<Attempt>) -> Option<Step> {
        if task.state.booked || task.state.attempt.is_none() {
            return Some(Step { attempt, ..step });
        }
        let mut attempt = match attempt {
            Some(attempt) => attempt,
            None => self.attempt(task).await?,
        };
        let verdict = Verdict::new(Billing::Yes, "its picture's link came");
        attempt.close(AttemptState::Succeeded, verdict, self.clock.now());
        Some(step.closing(attempt))
    }

    /// Some images will not come: what is here counts, and with none the task has failed. What came in their place is kept,
    /// and if nothing did, their links, for an operator who can help.
    async fn give_up(
        &self,
        task: Box<Task>,
        attempt: Option<Attempt>,
        here: Vec<Option<Saved>>,
        not_here: NotHere,
    ) {
        let NotHere { error, evidence, .. } = not_here;
        let detail = format!("the provider made a picture that could not be kept: {error}");
        let mut attempt = attempt;
        if let Some(attempt) = &mut attempt {
            let evidence = evidence.as_ref();
            self.quarantine(&task, attempt, QuarantineKind::Download, &error.to_string(), evidence).await;
            attempt.await_links(lacking(&task, &here));
        }
        if here.iter().any(Option::is_some) {
            return self.keep(task, here, attempt).await;
        }
        let code = match error {
            BlobError::NotAPicture(NotAPicture::Input) => Code::NoImageReturned,
            BlobError::Storage(_) | BlobError::Open { .. } => Code::StorageFailed,
            error if hopeless(&error) => Code::AssetRejected,
            _ => Code::AssetUnavailable,
        };
        let billed = if task.state.booked { task.billed() } else { Billing::Yes };
        let failure = Failure { code, detail, billed, provider: None };
        let failed = Step::new(Event::Fail(failure), self.clock.now());
        let Some(step) = self.closing(&task, failed, attempt).await else { return };
        self.save(task, step).await;
    }
}

/// Puts images that were recovered for an attempt in the place of its links, if as many came as links wait.
fn take_recovered(outputs: &mut [Output], made: &[Output]) {
    let there = |source: &Source| outputs.iter().any(|output| output.source == *source);
    let recovered: Vec<Source> = made
        .iter()
        .map(|output| output.source.clone())
        .filter(|source| matches!(source, Source::Blob(_)) && !there(source))
        .collect();
    let waiting: Vec<&mut Output> =
        outputs.iter_mut().filter(|output| matches!(output.source, Source::Url(_))).collect();
    if waiting.len() == recovered.len() {
        waiting.into_iter().zip(recovered).for_each(|(output, source)| output.source = source);
    }
}

/// The outputs that are not here.
fn lacking(task: &Task, here: &[Option<Saved>]) -> Vec<Output> {
    let outputs = task.state.outputs.iter().zip(here).enumerate();
    let lacking = outputs.filter(|(_, (_, here))| here.is_none());
    lacking.map(|(at, (output, _))| Output { place: Some(at), ..output.clone() }).collect()
}

/// Gives outputs that are still links the fresh links to the same images: one that differs from the old one in its query alone,
/// or the one in the same place.
fn renew(outputs: &mut [Output], done: &Done) {
    let link = |image: &GeneratedImage| match &image.source {
        ImageSource::Url(url) => Some(url.clone()),
        ImageSource::Inline(_) => None,
    };
    let fresh: Vec<Option<String>> = done.images.iter().map(link).collect();
    let path = |url: &str| url.split(['?', '#']).next().unwrap_or(url).to_owned();
    for (at, output) in outputs.iter_mut().enumerate() {
        let place = output.place.unwrap_or(at);
        let Source::Url(old) = &mut output.source else { continue };
        if fresh.iter().flatten().any(|url| url == old) {
            continue;
        }
        let mut signed_anew = fresh.iter().flatten().filter(|url| path(url) == path(old));
        let same = signed_anew.next().filter(|_| signed_anew.next().is_none());
        if let Some(url) = same.or(fresh.get(place).and_then(Option::as_ref)) {
            old.clone_from(url);
        }
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

/// Whether trying again cannot help: the address itself is closed to us, what it gives is larger than any image that is kept, or it
/// is one of our own. An empty body, a page or an error may yet become an image.
pub(super) fn hopeless(error: &BlobError) -> bool {
    matches!(
        error,
        BlobError::NotAPicture(NotAPicture::TooLarge { .. } | NotAPicture::Input)
            | BlobError::Fetch(FetchError::Refused(Refused::Syntax(_)) | FetchError::TooLarge(_))
    )
}
