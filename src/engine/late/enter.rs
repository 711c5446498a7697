//! Enters the late end of an attempt: into the task that it ends, or as a late result of one that has ended; with the books.

use super::super::Inner;
use super::super::bring::pictures;
use super::super::gather::add_up;
use super::{LOOK_AFTER, LOOK_MEANWHILE, NUMBERED_FROM, adoptable};
use crate::blobs::Saved;
use crate::chaos::crash;
use crate::domain::attempt::{Attempt, AttemptState, Billing, Verdict};
use crate::domain::id::TaskId;
use crate::domain::image::{ImageKind, StoredImage};
use crate::domain::ledger::EntryKind;
use crate::domain::task::{Event, Late, Output, Phase, RouteTaken, Source, Task};
use crate::store::{Change, StoreError};

impl Inner {
    /// Enters an end: into the task that it ends, or as a late result of one that has ended. Whether it could be entered.
    pub(super) async fn enter_end(
        &self,
        before: &Attempt,
        after: Attempt,
        pictures: &[(Saved, ImageKind)],
    ) -> Result<bool, StoreError> {
        let Some(task) = self.store.task(after.task).await? else { return Ok(true) };
        crash("late.found");
        if task.phase.terminal() {
            Box::pin(self.enter_late(before, after, pictures)).await?;
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
        let made = here.iter().map(|(saved, kind)| Output::new(Source::Blob(saved.sha256.clone()), *kind));
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
        if task.phase == Phase::Reconciling && task.state.attempt == Some(after.id) {
            // It is the very call that was looked for.
            entries.push(task.book(&after));
        } else {
            if task.phase == Phase::Reconciling {
                let mut later = self.attempt(&task).await.ok_or(StoreError::Stale)?;
                let evidence = format!("{}; an earlier attempt gave the picture", later.evidence);
                later.close(AttemptState::Lost, Verdict::new(Billing::Unknown, evidence), now);
                later.look_at = Some(now + LOOK_AFTER);
                entries.push(task.book(&later));
                other = Some(later);
            }
            entries.extend(task.rebook(before, &after, EntryKind::Late));
        }
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
        super::super::tally::late(&after, pictures.iter().map(|(saved, _)| saved.bytes));
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
            let mut after = after.clone();
            if erased {
                after.erase();
                after.look_at = None;
            }
            let after = &after;
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

fn numbered(task: &Task, here: &[(Saved, ImageKind)]) -> Vec<StoredImage> {
    let before: u32 = task.state.late.iter().map(|late| late.images).sum();
    let here = here.iter().map(|(saved, kind)| (Some(saved.clone()), *kind));
    pictures(here, NUMBERED_FROM + before, true)
}
