//! Attempts that their task does not wait for: still at work when the deadline passed, found by a callback after they had
//! been given up, failed and perhaps about to change their mind, or with images that have not come yet. What they make is
//! brought here as a late result, or ends a task whose next attempt has not been sent; and the books are set right.

use std::time::Duration;

use super::Inner;
use super::bring::{hopeless, pictures};
use super::gather::add_up;
use super::pace::backoff;
use super::results::reason;
use super::retry::failure;
use crate::blobs::Saved;
use crate::chaos::crash;
use crate::domain::attempt::{Attempt, AttemptState, Billing, Verdict};
use crate::domain::code::Code;
use crate::domain::id::TaskId;
use crate::domain::image::{ImageKind, StoredImage};
use crate::domain::ledger::EntryKind;
use crate::domain::quarantine::QuarantineKind;
use crate::domain::task::{Event, Failure, Late, Output, Phase, RouteTaken, Source, Task};
use crate::providers::{Done, ImageSource, Kind, Progress, ProviderError};
use crate::spool::Evidence;
use crate::store::{Change, StoreError, Straggler};

/// A job that outlived its task is asked about this often…
pub(super) const LOOK_AFTER: Duration = Duration::from_mins(1);
/// …one the provider denies knowing, this often…
pub(super) const LOOK_RARELY: Duration = Duration::from_hours(1);
/// …and for so long after it was sent.
const LOOK_FOR: Duration = Duration::from_hours(24);
/// While its task is at another attempt it is looked at this often.
const LOOK_MEANWHILE: Duration = Duration::from_secs(30);
/// When some of its pictures are here, the others are waited for no longer than this.
pub(super) const WAIT_FOR_OTHERS: Duration = Duration::from_mins(9);
/// A failure that cost nothing is believed when it is told again after this time.
pub(super) const BELIEVED_AFTER: Duration = Duration::from_secs(10);
/// Late pictures are numbered from here, by attempt, so that they never take the place of others.
const NUMBERED_FROM: u32 = 100;

/// What became of a look.
enum Found {
    /// Nothing yet; look again after this.
    Nothing(Duration),
    /// It is to be looked at again, and is to be written as it is.
    Lacking(Box<Attempt>),
    /// It has ended, with or without pictures; with when it is looked at once more, if it is.
    End(Box<Attempt>, Vec<(Saved, ImageKind)>),
}

impl Inner {
    /// Leaves what a provider said of an attempt with the attempt, when its task has gone on without it: the handle, the
    /// links or the bytes, to be looked after from now on.
    pub(super) async fn leave_behind(&self, mut attempt: Attempt, made: Vec<Output>) {
        attempt.state = AttemptState::Lost;
        attempt.made = made;
        attempt.look_at = Some(self.clock.now());
        let mut tries = 0;
        while let Err(error) = self.store.leave_behind(attempt.clone()).await {
            tries += 1;
            tracing::error!(attempt.id = %attempt.id, %error, tries, "cannot keep what a provider said; trying again");
            tokio::time::sleep(backoff(Duration::from_millis(200), tries, Duration::from_secs(5))).await;
        }
    }

    /// Looks for a straggler, and saves what is found.
    pub(super) async fn look_for(&self, straggler: Straggler) {
        let (now, id) = (self.clock.now(), straggler.attempt.id);
        let again = |at| self.store.look_again(id, straggler.leased_until, at);
        let looked = match self.find_in_its_trace(&straggler).await {
            Ok(Some(Found::End(attempt, pictures))) => {
                match self.enter_end(&straggler.attempt, *attempt, &pictures).await {
                    // Its task is under way: what was found is entered when that has ended.
                    Ok(false) => again(Some(now + LOOK_MEANWHILE)).await,
                    entered => entered.map(drop),
                }
            }
            Ok(Some(Found::Nothing(pause))) if now.since(straggler.attempt.started_at) < LOOK_FOR => {
                again(Some(now + pause)).await
            }
            Ok(Some(Found::Lacking(attempt))) => self.store.leave_behind(*attempt).await,
            Ok(Some(Found::Nothing(_)) | None) => again(None).await,
            Err(error) => Err(error),
        };
        if let Err(error) = looked {
            tracing::error!(attempt.id = %id, %error, "cannot look for a late result; trying again when the lease ends");
        }
    }

    async fn find_in_its_trace(&self, straggler: &Straggler) -> Result<Option<Found>, StoreError> {
        let Some(task) = self.store.task(straggler.attempt.task).await? else { return Ok(None) };
        let place = self.traces.beneath(task.state.trace.as_ref(), &straggler.attempt.id.to_string());
        place.span("task.late").around(self.find(straggler, task)).await
    }

    /// `None`: there is nothing to look for.
    async fn find(&self, straggler: &Straggler, task: Task) -> Result<Option<Found>, StoreError> {
        let attempt = &straggler.attempt;
        if task.state.erased_at.is_some() {
            return Ok(None);
        }
        if !attempt.made.is_empty() {
            let ready = task.phase.terminal() || adoptable(&task);
            return Ok(Some(if ready {
                self.made_behind(&task, attempt.clone()).await
            } else {
                Found::Nothing(LOOK_MEANWHILE)
            }));
        }
        // One that succeeded has nothing more to give; one that failed may yet change its mind.
        if attempt.state == AttemptState::Succeeded || (attempt.state.told() && attempt.handle.is_none()) {
            return Ok(None);
        }
        if !task.phase.terminal() && task.state.attempt == Some(attempt.id) && !attempt.state.told() {
            // Its task looks itself.
            let waits = attempt.state == AttemptState::Accepted;
            return Ok((!waits).then_some(Found::Nothing(Duration::from_secs(5))));
        }
        let hint = self.unless_taken(attempt, straggler.hint.clone()).await?;
        let handle = attempt.handle.clone().or(hint);
        let Some((handle, lane)) = handle.zip(self.lane(&attempt.provider)) else { return Ok(None) };
        let mut attempt = attempt.clone();
        let answered = self.check(&lane, &attempt, &handle, &task.request).await;
        let kept = reason(&answered).zip(answered.evidence.clone());
        let found = match answered.outcome {
            Ok(Progress::Done(done)) => {
                attempt.handle = Some(handle);
                self.keep_evidence(&task, &attempt, kept).await;
                self.late_pictures(&task, attempt, done).await
            }
            Ok(Progress::Failed(error)) if error.kind == Kind::Contract => return Ok(None),
            Ok(Progress::Failed(error)) => {
                self.keep_evidence(&task, &attempt, kept).await;
                self.late_failure(attempt, handle, &error)
            }
            Err(error) if error.kind == Kind::Missing => Found::Nothing(LOOK_RARELY),
            Ok(Progress::Pending(_)) | Err(_) => Found::Nothing(self.rarer(&attempt)),
        };
        Ok(Some(found))
    }

    /// The longer ago an attempt was made, the rarer it is looked at.
    fn rarer(&self, attempt: &Attempt) -> Duration {
        if attempt.state.told() {
            (self.clock.now().since(attempt.started_at) / 2).clamp(LOOK_AFTER, LOOK_RARELY)
        } else {
            LOOK_AFTER
        }
    }

    /// Its provider says that it failed. What is known already changes nothing; what costs nothing is believed when it is
    /// told twice.
    fn late_failure(&self, mut attempt: Attempt, handle: String, error: &ProviderError) -> Found {
        let now = self.clock.now();
        if attempt.state.told() && (attempt.billed == error.verdict.billed || !error.settled) {
            return Found::Nothing(self.rarer(&attempt));
        }
        attempt.handle = Some(handle);
        let since = *attempt.failed_since.get_or_insert(now);
        if !error.settled && (error.verdict.billed != Billing::No || now.since(since) < BELIEVED_AFTER) {
            attempt.look_at = Some(now + BELIEVED_AFTER);
            return Found::Lacking(Box::new(attempt));
        }
        attempt.failure = Some(failure(error));
        attempt.close(AttemptState::Failed, error.verdict.clone(), now);
        attempt.look_at = Some(now + self.rarer(&attempt));
        Found::End(Box::new(attempt), Vec::new())
    }

    pub(super) async fn keep_evidence(
        &self,
        task: &Task,
        attempt: &Attempt,
        kept: Option<(String, Evidence)>,
    ) {
        if let Some((reason, evidence)) = kept {
            self.quarantine(task, attempt, QuarantineKind::Answer, &reason, Some(&evidence)).await;
        }
    }

    async fn late_pictures(&self, task: &Task, mut attempt: Attempt, done: Done) -> Found {
        let verdict = done.verdict.clone();
        let mut fetched = Vec::with_capacity(done.images.len());
        for image in done.images {
            let output = match image.source {
                ImageSource::Url(link) => Source::Url(link),
                ImageSource::Inline(inline) => match self.keep_image(&inline).await {
                    Ok(saved) => Source::Blob(saved.sha256.clone()),
                    Err(error) => {
                        tracing::error!(attempt.id = %attempt.id, %error, "a late picture could not be kept; asking again");
                        return Found::Nothing(LOOK_AFTER);
                    }
                },
            };
            fetched.push(Output { source: output, kind: image.kind });
        }
        attempt.made = fetched;
        attempt.made_verdict = Some(verdict);
        self.made_behind(task, attempt).await
    }

    /// Brings what is left with an attempt. Links may heal or be renewed, so those that do not come are waited for a while; then
    /// the others are delivered without them. When the time to look is over, what it cost is entered with or without pictures.
    async fn made_behind(&self, task: &Task, mut attempt: Attempt) -> Found {
        let now = self.clock.now();
        let (mut here, mut hope, mut lacking) = (Vec::new(), false, Vec::new());
        let outputs = std::mem::take(&mut attempt.made);
        for (at, output) in outputs.into_iter().enumerate() {
            let saved = match &output.source {
                Source::Url(url) => match self.download(url, &attempt).await {
                    Ok(saved) => Ok(saved),
                    Err(not_here) => {
                        self.keep_oddity(task, &attempt, &not_here).await;
                        Err(not_here.error)
                    }
                },
                Source::Blob(sha256) => self.blobs.describe(sha256).await,
            };
            match saved {
                Ok(saved) => here.push((saved, output.kind)),
                Err(error) => {
                    tracing::warn!(attempt.id = %attempt.id, at, %error, "a late picture has not come");
                    hope |= !hopeless(&error);
                    lacking.push((output, error));
                }
            }
        }
        let verdict = attempt.made_verdict.clone().unwrap_or_else(|| {
            Verdict::new(Billing::Yes, "its pictures came when its task had gone on without it")
        });
        let Some((_, error)) = lacking.first() else {
            (attempt.look_at, attempt.lacking_since) = (None, None);
            self.close_late(&mut attempt, verdict);
            return Found::End(Box::new(attempt), here);
        };
        let since = *attempt.lacking_since.get_or_insert(now);
        let patience = if here.is_empty() { LOOK_FOR } else { WAIT_FOR_OTHERS };
        let over = now.since(attempt.started_at) + LOOK_AFTER >= LOOK_FOR;
        let detail = format!("the provider made a picture that could not be kept: {error}");
        if hope && !over && now.since(since) < patience {
            // Those that are here stay; the links of the others may be renewed.
            attempt.made = here
                .iter()
                .map(|(saved, kind)| Output { source: Source::Blob(saved.sha256.clone()), kind: *kind })
                .collect();
            attempt.made.extend(
                self.renewed(&attempt, lacking.into_iter().map(|(output, _)| output).collect(), task).await,
            );
            attempt.made_verdict = Some(verdict);
            attempt.look_at = Some(now + LOOK_AFTER);
            return Found::Lacking(Box::new(attempt));
        }
        attempt.made = lacking.into_iter().map(|(output, _)| output).collect();
        attempt.look_at = (!over && hope).then(|| now + LOOK_AFTER);
        if here.is_empty() {
            self.quarantine(task, &attempt, QuarantineKind::Download, &detail, None).await;
            let billed = verdict.billed;
            attempt.failure = Some(Failure { code: Code::AssetUnavailable, detail, billed, provider: None });
        }
        self.close_late(&mut attempt, verdict);
        Found::End(Box::new(attempt), here)
    }

    /// One whose end was told before has its books already.
    fn close_late(&self, attempt: &mut Attempt, verdict: Verdict) {
        if attempt.state == AttemptState::Succeeded && attempt.billed == verdict.billed {
            return;
        }
        self.note_absurd(attempt, &verdict);
        attempt.close(AttemptState::Succeeded, verdict, self.clock.now());
    }

    /// Fresh links for outputs whose links are dead, where the provider gives any.
    async fn renewed(&self, attempt: &Attempt, lacking: Vec<Output>, task: &Task) -> Vec<Output> {
        let Some((lane, handle)) = self.lane(&attempt.provider).zip(attempt.handle.as_deref()) else {
            return lacking;
        };
        let Ok(Progress::Done(done)) = self.check(&lane, attempt, handle, &task.request).await.outcome else {
            return lacking;
        };
        super::bring::renew(lacking, done)
    }

    /// Enters an end: into the task that it ends, or as a late result of one that has ended. Whether it could be entered.
    async fn enter_end(
        &self,
        before: &Attempt,
        after: Attempt,
        pictures: &[(Saved, ImageKind)],
    ) -> Result<bool, StoreError> {
        let Some(task) = self.store.task(after.task).await? else { return Ok(true) };
        crash("late.found");
        if task.phase.terminal() {
            self.enter_late(before, after, pictures).await?;
        } else if pictures.is_empty() {
            return Ok(false);
        } else {
            self.adopt(Box::new(task), before, after, pictures).await?;
        }
        Ok(true)
    }

    /// Ends a task with what an earlier attempt of it has made after all: its next attempt is not sent, or nobody knows
    /// whether it was accepted. One that is under way is waited for, and the pictures become a late result.
    async fn adopt(
        &self,
        mut task: Box<Task>,
        before: &Attempt,
        after: Attempt,
        here: &[(Saved, ImageKind)],
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        let made = here
            .iter()
            .map(|(saved, kind)| Output { source: Source::Blob(saved.sha256.clone()), kind: *kind });
        let outputs: Vec<Output> = made.collect();
        if !adoptable(&task) {
            let Attempt { billed, charged, units, evidence, handle, made, .. } = after;
            return self
                .store
                .leave_behind(Attempt {
                    made: outputs.into_iter().chain(made).collect(),
                    made_verdict: Some(Verdict { billed, charged, units, evidence }),
                    look_at: Some(now + LOOK_MEANWHILE),
                    handle,
                    ..before.clone()
                })
                .await;
        }
        let (mut entries, mut other) = (Vec::new(), None);
        if task.phase == Phase::Reconciling {
            let mut later = self.attempt(&task).await.ok_or(StoreError::Stale)?;
            let evidence = format!("{}; an earlier attempt gave the picture", later.evidence);
            later.close(AttemptState::Lost, Verdict::new(Billing::Unknown, evidence), now);
            later.look_at = Some(now + LOOK_AFTER);
            entries.push(task.book(&later));
            other = Some(later);
        }
        entries.extend(task.rebook(before, &after, EntryKind::Late));
        task.state.attempt = Some(after.id);
        task.state.booked = true;
        task.state.route = Some(RouteTaken {
            provider: after.provider.clone(),
            provider_model: after.provider_model.clone(),
            reason: "an earlier attempt that was given up gave the picture".to_owned(),
        });
        let told = task.apply(Event::Produce(outputs), now).map_err(|_| StoreError::Stale)?;
        task.wake_at = Some(now);
        tracing::warn!(
            task.id = %task.id, attempt.id = %after.id, provider.id = after.provider,
            "an attempt that had been given up gave its picture after all; the next one is not sent"
        );
        let notices = told.into_iter().collect();
        let change = Change { attempt: Some(after), other, entries, notices, ..Change::of(task) };
        self.store.save(change).await.map(drop)
    }

    /// Enters a late end into the books of its task, and of the task it is a part of.
    async fn enter_late(
        &self,
        before: &Attempt,
        after: Attempt,
        pictures: &[(Saved, ImageKind)],
    ) -> Result<(), StoreError> {
        let Some(task) = self.store.task(after.task).await? else { return Ok(()) };
        // The whole first: should this process end in between, the attempt is looked for again and the whole knows it.
        if let Some(whole) = task.parent {
            self.attach(whole, before, &after, pictures, false).await?;
        }
        self.attach(task.id, before, &after, pictures, true).await?;
        super::tally::late(&after, pictures.iter().map(|(saved, _)| saved.bytes));
        tracing::warn!(
            task.id = %task.id, provider.id = after.provider, images = pictures.len(), billed = after.billed.as_str(),
            "what became of an attempt was learned after its task had ended"
        );
        Ok(())
    }

    async fn attach(
        &self,
        id: TaskId,
        seen: &Attempt,
        after: &Attempt,
        here: &[(Saved, ImageKind)],
        closes: bool,
    ) -> Result<(), StoreError> {
        loop {
            let Some(mut task) = self.store.task(id).await? else { return Ok(()) };
            // As it is by now: an operator may have said in the meantime whether it was charged.
            let now = self.store.attempt(after.id).await?;
            let Some(before) = now.filter(|now| now.state == seen.state && now.made == seen.made) else {
                // Another look was quicker.
                return Ok(());
            };
            // What was erased stays erased; what was paid is booked all the same.
            let erased = task.state.erased_at.is_some();
            let known: Vec<String> =
                self.store.images(id).await?.into_iter().map(|image| image.sha256).collect();
            let new = here.iter().filter(|(saved, _)| !erased && !known.contains(&saved.sha256)).cloned();
            let here: Vec<(Saved, ImageKind)> = new.collect();
            let kind = if after.billed == Billing::No { EntryKind::Refund } else { EntryKind::Late };
            let (mut images, mut told, mut entries) = (Vec::new(), None, Vec::new());
            if closes {
                entries.extend(task.rebook(&before, after, kind));
            } else {
                let mut parts = self.store.parts(id).await?;
                for part in parts.iter_mut().filter(|part| part.id == after.task) {
                    part.rebook(&before, after, kind);
                }
                add_up(&mut task, &parts);
            }
            if !here.is_empty() {
                images = numbered(&task, &here);
                let count = u32::try_from(here.len()).unwrap_or(u32::MAX);
                let late = Late {
                    attempt: after.id,
                    provider: after.provider.clone(),
                    at: self.clock.now(),
                    images: count,
                };
                // Legal in every phase a task can end in; until its whole has ended, too, it is looked for again.
                let Ok(notice) = task.apply(Event::Late(late), self.clock.now()) else {
                    return Err(StoreError::Stale);
                };
                told = notice;
            }
            let attempt = closes.then(|| after.clone());
            let change = Change {
                attempt,
                images,
                entries,
                notices: told.into_iter().collect(),
                ..Change::of(Box::new(task))
            };
            match self.store.save(change).await {
                Err(StoreError::Stale) => {}
                // The job that a callback named is another attempt's.
                Err(StoreError::Bound) => return self.job_taken(after).await,
                saved => return saved.map(drop),
            }
        }
    }
}

/// Whether an earlier attempt's pictures may end the task: none is under way that could bring others.
fn adoptable(task: &Task) -> bool {
    matches!(task.phase, Phase::Queued | Phase::Reconciling)
}

fn numbered(task: &Task, here: &[(Saved, ImageKind)]) -> Vec<StoredImage> {
    let before: u32 = task.state.late.iter().map(|late| late.images).sum();
    let here = here.iter().map(|(saved, kind)| (Some(saved.clone()), *kind));
    pictures(here, NUMBERED_FROM + before, true)
}
