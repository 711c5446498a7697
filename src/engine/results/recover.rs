//! Interprets what lies in quarantine once more: by itself after an upgrade, or with a link or a file that an operator
//! supplies. What it yields becomes the task's late result, with the books set right and its caller told.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};

use super::super::accept::Refusal;
use super::super::late::given_up;
use super::super::{Engine, Inner};
use super::quarantine::reason;
use crate::blobs::{BlobError, Hold, Saved};
use crate::chaos::crash;
use crate::domain::attempt::{Attempt, AttemptState, Billing, Verdict};
use crate::domain::audit::{Actor, Entry, Outcome};
use crate::domain::code::Code;
use crate::domain::id::{QuarantineId, TaskId};
use crate::domain::image::ImageKind;
use crate::domain::quarantine::{QuarantineItem, QuarantineKind};
use crate::domain::task::{Output, Phase, Source, Task};
use crate::providers::reader::download;
use crate::providers::{About, Answered, Done, ImageSource, Kind, On, Own, Progress, ProviderError};
use crate::spool::{Evidence, Head, Spooled};
use crate::store::{StoreError, Straggler};

/// Once some images are here, the others are waited for until this time is over.
const RECOVER_WITHIN: Duration = Duration::from_mins(1);

/// What an operator adds.
pub enum Supplied {
    /// Nothing: what is kept is read again.
    Nothing,
    /// A link to the image; it goes through the policy for providers' links.
    Link(String),
    /// The image itself.
    File(Bytes),
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The item.
    pub item: QuarantineItem,
    /// The task its images went to.
    pub task: TaskId,
    /// How many images it gave.
    pub images: u32,
}

impl Engine {
    /// Interprets an item again and brings what it yields to its task.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] when there is no such item or its task was erased; [`Refusal::TooLate`] when it still gives no
    /// image, or none that the task does not have.
    pub async fn recover(
        &self,
        id: QuarantineId,
        supplied: Supplied,
        who: Actor,
    ) -> Result<Recovered, Refusal> {
        // Apart from the caller's connection: what it began is ended.
        let inner = Arc::clone(&self.inner);
        let recovering =
            self.inner.tracker.spawn(async move { Box::pin(inner.recover(id, supplied, who)).await });
        match recovering.await {
            Ok(recovered) => recovered,
            Err(error) => Err(unreadable(&format!("reading it failed: {error}"))),
        }
    }

    /// The bytes of an item.
    pub async fn quarantined(
        &self,
        item: &QuarantineItem,
    ) -> Result<impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> + Send + use<>, Refusal> {
        let body = self.inner.blobs.quarantined(item.id).await.map_err(|error| {
            tracing::warn!(quarantine.id = %item.id, %error, "the bytes of an item cannot be read");
            Refusal::NotFound
        })?;
        Ok(body.map(|piece| piece.map_err(std::io::Error::other)))
    }
}

impl Inner {
    async fn recover(&self, id: QuarantineId, supplied: Supplied, who: Actor) -> Result<Recovered, Refusal> {
        let item = self.store.quarantined(id).await?.ok_or(Refusal::NotFound)?;
        let attempt = self.store.attempt(item.attempt).await?.ok_or(Refusal::NotFound)?;
        let task = self.store.task(attempt.task).await?.ok_or(Refusal::NotFound)?;
        if task.state.erased_at.is_some() {
            return Err(Refusal::NotFound);
        }
        let with = match &supplied {
            Supplied::Nothing => "nothing",
            Supplied::Link(_) => "link",
            Supplied::File(_) => "file",
        };
        // In hand until the row that names them is committed.
        let mut held = Vec::new();
        let (mut outputs, verdict) = self.read_anew(&item, &attempt, &task, supplied, &mut held).await?;
        let not_here = self.fetch_links(&mut outputs, &attempt, &mut held).await;
        let known: Vec<String> =
            self.store.images(item.task).await?.into_iter().map(|image| image.sha256).collect();
        outputs.retain(|output| !matches!(&output.source, Source::Blob(sha256) if known.contains(sha256)));
        let here = outputs.iter().filter(|output| matches!(output.source, Source::Blob(_))).count();
        match not_here {
            _ if outputs.is_empty() => return Err(unreadable("its images are the task's already")),
            // Nobody would look for them any more.
            Some(error) if here == 0 && given_up(&attempt, self.clock.now()) => {
                return Err(unreadable(&format!("its link gives none: {error}")));
            }
            _ => {}
        }
        let images = u32::try_from(if here > 0 { here } else { outputs.len() }).unwrap_or(u32::MAX);
        // Leased to us: should this process end in between, somebody else goes on.
        let leased_until = self.clock.now() + self.settings.lease;
        let entry = Entry::new(self.clock.as_ref(), who, "quarantine.recover", id.to_string(), Outcome::Done)
            .with("task", item.task.to_string())
            .with("with", with)
            .with("images", images);
        // An answer read again gives all that its call made, and what is recovered for a download is what its link leads to; but
        // what an operator supplies for an answer may be another image than those that wait.
        let made = (outputs, verdict, with == "nothing" || item.kind == QuarantineKind::Download);
        let left = self.store.recovered(&item, made, leased_until, entry).await?;
        let attempt = left.ok_or(Refusal::NotFound)?;
        drop(held);
        crash("recover.committed");
        if task.phase == Phase::Storing
            && let Err(error) = self.store.wake(task.id).await
        {
            tracing::warn!(task.id = %task.id, %error, "a task that waits for an image cannot be told that it is here; its own time will come");
        }
        self.look_for(Straggler { attempt, hint: None, leased_until }).await;
        Ok(Recovered { task: item.task, item, images })
    }

    /// Reads answers to paid calls that a killed process had received and not acted on, where their tasks have gone on without
    /// them: what they give is brought to the task, and what gives nothing is kept.
    pub(in crate::engine) async fn read_what_was_left(&self) {
        for name in self.spool.names_left() {
            if let Err(error) = self.read_left(&name).await {
                tracing::warn!(name, %error, "an answer in the spool could not be acted on; trying again");
            }
        }
    }

    async fn read_left(&self, name: &str) -> Result<(), StoreError> {
        let mut attempt = match name.parse() {
            Ok(id) => self.store.attempt(id).await?,
            Err(_) => None,
        };
        let task = match &attempt {
            Some(attempt) => self.store.task(attempt.task).await?,
            None => None,
        };
        // Once more: what the task's row tells of its attempt may have been written in between.
        if let Some(id) = attempt.as_ref().map(|attempt| attempt.id) {
            attempt = self.store.attempt(id).await?;
        }
        let Some((attempt, task)) = attempt.zip(task) else {
            // Its row is gone, and whoever it was for with it; or it is another database's, which must not lose it.
            return Ok(());
        };
        let in_hand = task.state.attempt == Some(attempt.id);
        if in_hand && matches!(task.phase, Phase::Submitting | Phase::Storing) {
            // Whoever takes the task up reads it, or brings what its first links lead to; the rest comes after that.
            return Ok(());
        }
        let Some(evidence) = self.spool.left(name) else { return Ok(()) };
        if task.state.erased_at.is_some() {
            evidence.body.acted_on();
            return Ok(());
        }
        let Some(outcome) = self.read_evidence(&attempt, &task, &evidence).await else { return Ok(()) };
        let answered = Answered { outcome, evidence: Some(evidence.clone()) };
        if let Some(reason) = reason(&answered)
            && !self.quarantine(&task, &attempt, QuarantineKind::Answer, &reason, Some(&evidence)).await
        {
            return Ok(());
        }
        let known = if in_hand { self.known_of(&task, &attempt).await? } else { 0 };
        let believed = match answered.outcome {
            // A stream's first images may be all that was committed of it.
            Ok(Progress::Done(done)) if !attempt.state.told() || done.images.len() > known => {
                let (made_verdict, handle) =
                    (Some(done.verdict.clone()), done.handle.clone().or(attempt.handle.clone()));
                let mut held = Vec::new();
                let Ok(made) = self.outputs_of(done, &mut held).await else { return Ok(()) };
                self.leave_behind(Attempt { handle, made_verdict, ..attempt.clone() }, made).await
            }
            Ok(Progress::Pending(pending)) if attempt.handle.is_none() && !attempt.state.told() => {
                let handle = Some(pending.handle);
                let believed = self.leave_behind(Attempt { handle, ..attempt.clone() }, Vec::new()).await;
                // Whoever looks for the call knows its job now.
                if task.phase == Phase::Reconciling {
                    self.store.wake(task.id).await?;
                }
                believed
            }
            _ => true,
        };
        let taken = "it names a job that is another attempt's";
        if believed || self.quarantine(&task, &attempt, QuarantineKind::Answer, taken, Some(&evidence)).await
        {
            evidence.body.acted_on();
        }
        Ok(())
    }

    /// How many images the attempt in hand has given so far, whatever became of them.
    async fn known_of(&self, task: &Task, attempt: &Attempt) -> Result<usize, StoreError> {
        let stored = self.store.images(task.id).await?.iter().filter(|image| !image.late).count();
        Ok((stored + attempt.made.len()).max(task.state.outputs.len()))
    }

    /// The images, and what is known of their billing. Those that are here are held.
    async fn read_anew(
        &self,
        item: &QuarantineItem,
        attempt: &Attempt,
        task: &Task,
        supplied: Supplied,
        held: &mut Vec<Hold>,
    ) -> Result<(Vec<Output>, Verdict), Refusal> {
        let by_the_hour = self.lane(&attempt.provider).is_some_and(|lane| lane.provider.pace().by_the_hour);
        let billed = |how: &str| {
            let evidence = format!("recovered from quarantine {how}");
            if by_the_hour {
                return Verdict::new(Billing::No, format!("{evidence}; the server is paid by the hour"));
            }
            // The image says that it was charged; how much, where that is known, it does not change.
            let known = attempt.state == AttemptState::Succeeded && attempt.billed == Billing::Yes;
            let charged = attempt.charged.filter(|_| known);
            Verdict { charged, ..Verdict::new(Billing::Yes, evidence) }
        };
        let (saved, verdict) = match supplied {
            Supplied::Link(link) => {
                // Somebody waits for it and knows best: the host is asked, rested or not.
                let saved = self.download_now(&link, attempt).await;
                let saved = saved.map_err(|not| unreadable(&not.error.to_string()))?;
                (saved, billed("by a link that an operator supplied"))
            }
            Supplied::File(bytes) => {
                let ok = Head { status: 200, ..Head::default() };
                let saved = self.image_in(ok, Spooled::of(bytes, &self.spool), attempt).await?;
                (saved, billed("by a file that an operator supplied"))
            }
            Supplied::Nothing => {
                let evidence = self.evidence(item).await?;
                match item.kind {
                    QuarantineKind::Download => {
                        let saved = self.image_in(evidence.head, evidence.body, attempt).await?;
                        (saved, billed("as it was downloaded"))
                    }
                    QuarantineKind::Answer => return self.interpret(attempt, task, &evidence, held).await,
                }
            }
        };
        held.push(saved.hold);
        Ok((vec![Output::new(Source::Blob(saved.sha256), ImageKind::Output)], verdict))
    }

    /// Fetches what links lead to, so that what is called recovered is here; why one of them gave nothing, if one did. It stays a
    /// link, and is tried for as long as late results are looked for.
    async fn fetch_links(
        &self,
        outputs: &mut [Output],
        attempt: &Attempt,
        held: &mut Vec<Hold>,
    ) -> Option<BlobError> {
        let mut not_here = None;
        let brought = self.bring_here(outputs, Some(attempt), RECOVER_WITHIN).await;
        for (output, brought) in outputs.iter_mut().zip(brought) {
            match brought {
                Ok(saved) => {
                    output.source = Source::Blob(saved.sha256);
                    held.push(saved.hold);
                }
                Err(not) => not_here = Some(not.error),
            }
        }
        not_here
    }

    /// The answer to a paid call, interpreted by the adapter as it is today.
    async fn interpret(
        &self,
        attempt: &Attempt,
        task: &Task,
        evidence: &Evidence,
        held: &mut Vec<Hold>,
    ) -> Result<(Vec<Output>, Verdict), Refusal> {
        let done = match self.read_evidence(attempt, task, evidence).await {
            Some(Ok(Progress::Done(done))) => done,
            Some(Ok(Progress::Pending(pending))) => {
                if attempt.handle.is_none() && !attempt.state.told() {
                    let handle = Some(pending.handle);
                    self.leave_behind(Attempt { handle, ..attempt.clone() }, Vec::new()).await;
                }
                return Err(unreadable("it says that the job is under way; its provider is asked about it"));
            }
            Some(Ok(Progress::Failed(error)) | Err(error)) => return Err(unreadable(&error.detail)),
            None => return Err(unreadable(&format!("{} is not configured", attempt.provider))),
        };
        let verdict = done.verdict.clone();
        Ok((self.outputs_of(done, held).await?, verdict))
    }

    /// What an answer that was kept comes to; `None` when its provider is not configured.
    pub(in crate::engine) async fn read_evidence(
        &self,
        attempt: &Attempt,
        task: &Task,
        evidence: &Evidence,
    ) -> Option<Result<Progress, ProviderError>> {
        let lane = self.lane(&attempt.provider)?;
        let mut about = About::kept(&task.request, &attempt.provider_model, &attempt.sent);
        if let Some(handle) = &attempt.handle {
            (about.on, about.handle) = (On::Check, Some(handle.as_str()));
        }
        // What made one process fail must not make the next one fail, too.
        let reading = AssertUnwindSafe(lane.provider.read_again(&about, evidence)).catch_unwind();
        Some(reading.await.unwrap_or_else(|_| {
            let verdict = Verdict::new(Billing::Unknown, "reading the answer failed");
            Err(ProviderError::new(Kind::Garbled, verdict, "reading the answer failed"))
        }))
    }

    /// An answer's images, those inside it kept and held.
    pub(in crate::engine) async fn outputs_of(
        &self,
        done: Done,
        held: &mut Vec<Hold>,
    ) -> Result<Vec<Output>, Refusal> {
        let mut outputs = Vec::with_capacity(done.images.len());
        for image in done.images {
            let source = match image.source {
                ImageSource::Url(link) => Source::Url(link),
                ImageSource::Inline(inline) => {
                    let saved =
                        self.keep_image(&inline).await.map_err(|error| unreadable(&error.to_string()))?;
                    held.push(saved.hold);
                    Source::Blob(saved.sha256)
                }
            };
            outputs.push(Output::new(source, image.kind));
        }
        Ok(outputs)
    }

    async fn image_in(&self, head: Head, body: Spooled, attempt: &Attempt) -> Result<Saved, Refusal> {
        let body = body.stream().map(|piece| piece.map_err(|error| error.to_string()));
        let (image, ..) = download((head, Box::pin(body)), &self.spool).await;
        let image = image.map_err(|broken| unreadable(&format!("it holds no whole image ({broken:?})")))?;
        if Own::default().with(&attempt.sent).has_bytes(&image.sha256) {
            return Err(unreadable("it is one of the task's own inputs"));
        }
        self.keep_image(&image).await.map_err(|error| unreadable(&error.to_string()))
    }

    /// An item as it came.
    async fn evidence(&self, item: &QuarantineItem) -> Result<Evidence, Refusal> {
        let lost = |error: &dyn std::fmt::Display| unreadable(&format!("its bytes cannot be read: {error}"));
        let mut body = self.blobs.quarantined(item.id).await.map_err(|error| lost(&error))?;
        let mut buffer = self.spool.buffer();
        while let Some(piece) = body.next().await {
            buffer.push(&piece.map_err(|error| lost(&error))?);
            buffer.settle().await;
        }
        let detail = &item.detail;
        // What was decoded when it came is not encoded any more.
        let headers = detail.headers.iter().filter(|(name, _)| name != "content-encoding").cloned().collect();
        let head = Head { status: detail.http_status, headers, retry_after: None };
        Ok(Evidence { head, body: buffer.finish().await, whole: detail.whole })
    }
}

fn unreadable(why: &str) -> Refusal {
    Refusal::TooLate(Code::StillUnreadable, format!("it gives no image: {why}"))
}
