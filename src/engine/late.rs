//! Attempts whose task has ended without them: still at work when the deadline passed, or found by a callback after they
//! had been given up. What they make is brought here as a late result, and the books are set right.

use std::time::Duration;

use super::Inner;
use super::bring::{hopeless, pictures};
use super::gather::add_up;
use super::pace::backoff;
use super::retry::failure;
use crate::blobs::{BlobError, Saved};
use crate::chaos::crash;
use crate::domain::attempt::{Attempt, AttemptState, Billing, Verdict};
use crate::domain::code::Code;
use crate::domain::id::TaskId;
use crate::domain::image::{ImageKind, StoredImage};
use crate::domain::ledger::EntryKind;
use crate::domain::task::{Event, Failure, Late, Output, Source, Task};
use crate::providers::{Done, Kind, MadeSource, Progress};
use crate::store::{Change, StoreError, Straggler};

/// A job that outlived its task is asked about this often…
pub(super) const LOOK_AFTER: Duration = Duration::from_mins(1);
/// …one the provider denies knowing, this often…
pub(super) const LOOK_RARELY: Duration = Duration::from_hours(1);
/// …and for so long after it was sent.
const LOOK_FOR: Duration = Duration::from_hours(24);
/// When some of its pictures are here, the others are waited for no longer than this.
const WAIT_FOR_OTHERS: Duration = Duration::from_mins(10);
/// Late pictures are numbered from here, by attempt, so that they never take the place of others.
const NUMBERED_FROM: u32 = 100;

/// What became of a look.
enum Found {
    /// Nothing yet; look again after this.
    Nothing(Duration),
    /// Some of its pictures have not come yet.
    Lacking(Box<Attempt>),
    /// It has ended, with or without pictures.
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
        let looked = match self.find_in_its_trace(&straggler).await {
            Ok(Some(Found::End(attempt, pictures))) => self.enter_late(*attempt, &pictures).await,
            Ok(Some(Found::Nothing(pause))) if now.since(straggler.attempt.started_at) < LOOK_FOR => {
                self.store.look_again(id, straggler.leased_until, Some(now + pause)).await
            }
            Ok(Some(Found::Lacking(mut attempt))) => {
                attempt.look_at = Some(now + LOOK_AFTER);
                self.store.leave_behind(*attempt).await
            }
            Ok(Some(Found::Nothing(_)) | None) => {
                self.store.look_again(id, straggler.leased_until, None).await
            }
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
        if attempt.state.told() || task.state.erased_at.is_some() {
            return Ok(None);
        }
        if !task.phase.terminal() {
            if attempt.state == AttemptState::Accepted && task.state.attempt == Some(attempt.id) {
                // It looks itself.
                return Ok(None);
            }
            return Ok(Some(Found::Nothing(Duration::from_secs(5))));
        }
        if !attempt.made.is_empty() {
            return Ok(Some(self.made_behind(attempt.clone()).await));
        }
        let hint = match straggler.hint.clone() {
            Some(hint) if self.is_bound(attempt, &hint).await => None,
            hint => hint,
        };
        let handle = attempt.handle.clone().or(hint);
        let Some((handle, lane)) = handle.zip(self.lane(&attempt.provider)) else { return Ok(None) };
        let mut attempt = attempt.clone();
        let found = match self.check(&lane, &attempt, &handle, &task.request).await {
            Ok(Progress::Done(done)) => {
                attempt.handle = Some(handle);
                self.late_pictures(attempt, done).await
            }
            Ok(Progress::Failed(error)) if error.kind == Kind::Contract => return Ok(None),
            Ok(Progress::Failed(error)) => {
                attempt.handle = Some(handle);
                attempt.failure = Some(failure(&error));
                attempt.close(AttemptState::Failed, error.verdict, self.clock.now());
                Found::End(Box::new(attempt), Vec::new())
            }
            Err(error) if error.kind == Kind::Missing => Found::Nothing(LOOK_RARELY),
            Ok(Progress::Pending(_)) | Err(_) => Found::Nothing(LOOK_AFTER),
        };
        Ok(Some(found))
    }

    async fn late_pictures(&self, attempt: Attempt, done: Done) -> Found {
        let mut here = Vec::with_capacity(done.images.len());
        for made in done.images {
            let saved = match made.source {
                MadeSource::Url(url) | MadeSource::Preview(url) => {
                    self.blobs.fetch(&self.net.guarded, &url).await
                }
                MadeSource::Bytes(bytes) => self.blobs.put(bytes).await,
            };
            here.push((saved, made.kind));
        }
        self.settle(attempt, here, done.verdict)
    }

    /// The same for what was left with the attempt.
    async fn made_behind(&self, attempt: Attempt) -> Found {
        let mut here = Vec::with_capacity(attempt.made.len());
        for output in &attempt.made {
            let saved = match &output.source {
                Source::Url(url) | Source::Preview(url) => self.blobs.fetch(&self.net.guarded, url).await,
                Source::Blob(sha256) => self.blobs.describe(sha256).await,
            };
            here.push((saved, output.kind));
        }
        let verdict = Verdict::new(Billing::Yes, "its pictures came when its task had gone on without it");
        self.settle(attempt, here, verdict)
    }

    /// What has come of its pictures. Links may heal or be renewed, so those that do not come are waited for a while; then the
    /// others are delivered without them. When the time to look is over, what it cost is entered with or without pictures.
    fn settle(
        &self,
        mut attempt: Attempt,
        fetched: Vec<(Result<Saved, BlobError>, ImageKind)>,
        verdict: Verdict,
    ) -> Found {
        let now = self.clock.now();
        let (mut here, mut lacking, mut hope) = (Vec::with_capacity(fetched.len()), None, false);
        for (saved, kind) in fetched {
            match saved {
                Ok(saved) => here.push((saved, kind)),
                Err(error) => {
                    tracing::warn!(attempt.id = %attempt.id, %error, "a late picture has not come");
                    hope |= !hopeless(&error, 0);
                    lacking = Some(error);
                }
            }
        }
        if let Some(error) = lacking {
            let since = *attempt.lacking_since.get_or_insert(now);
            let patience = if here.is_empty() { LOOK_FOR } else { WAIT_FOR_OTHERS };
            let over = now.since(attempt.started_at) + LOOK_AFTER >= LOOK_FOR;
            if hope && !over && now.since(since) < patience {
                return Found::Lacking(Box::new(attempt));
            }
            if here.is_empty() {
                let detail = format!("the provider made a picture that could not be kept: {error}");
                attempt.failure = Some(Failure {
                    code: Code::AssetUnavailable,
                    detail,
                    billed: verdict.billed,
                    provider: None,
                });
            }
        } else {
            attempt.made.clear();
        }
        attempt.close(AttemptState::Succeeded, verdict, now);
        Found::End(Box::new(attempt), here)
    }

    /// Enters a late end into the books of its task, and of the task it is a part of.
    async fn enter_late(
        &self,
        mut after: Attempt,
        pictures: &[(Saved, ImageKind)],
    ) -> Result<(), StoreError> {
        after.look_at = None;
        let Some(task) = self.store.task(after.task).await? else { return Ok(()) };
        crash("late.found");
        // The whole first: should this process end in between, the attempt is looked for again and the whole knows it.
        if let Some(whole) = task.parent {
            self.attach(whole, &after, pictures, false).await?;
        }
        self.attach(task.id, &after, pictures, true).await?;
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
        after: &Attempt,
        here: &[(Saved, ImageKind)],
        closes: bool,
    ) -> Result<(), StoreError> {
        loop {
            let Some(mut task) = self.store.task(id).await? else { return Ok(()) };
            // As it is by now: an operator may have said in the meantime whether it was charged.
            let Some(before) = self.store.attempt(after.id).await?.filter(|now| !now.state.told()) else {
                // Another look was quicker.
                return Ok(());
            };
            // What was erased stays erased; what was paid is booked all the same.
            let here = if task.state.erased_at.is_some() { &[] } else { here };
            let known = task.state.late.iter().any(|late| late.attempt == after.id);
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
            if !known && !here.is_empty() {
                images = numbered(&task, here);
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
                saved => return saved.map(drop),
            }
        }
    }
}

fn numbered(task: &Task, here: &[(Saved, ImageKind)]) -> Vec<StoredImage> {
    let before: u32 = task.state.late.iter().map(|late| late.images).sum();
    let here = here.iter().map(|(saved, kind)| (Some(saved.clone()), *kind));
    pictures(here, NUMBERED_FROM + before, true)
}
