//! Saves steps. A step that holds what is known of a paid call is never dropped: not when the database is away for a
//! while, and not when another worker has declared the call lost in the meantime.

use std::time::Duration;

use futures_util::future::BoxFuture;
use metrics::counter;

use super::pace::backoff;
use super::retry::failure;
use super::submit::LOOK_AGAIN;
use super::{Inner, Work};
use crate::chaos::planted;
use crate::domain::attempt::{Attempt, Billing, Verdict};
use crate::domain::clock::Millis;
use crate::domain::image::StoredImage;
use crate::domain::meter;
use crate::domain::task::{Event, Phase, Task};
use crate::providers::{Kind, ProviderError};
use crate::store::{Change, Gate, StoreError};

/// One step of a task: what happened, and what is written with it.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// What happened.
    pub event: Event,
    /// The attempt, when it changed.
    pub attempt: Option<Attempt>,
    /// Whether the attempt is over and enters the task's books.
    pub book: bool,
    /// Pictures that are durable.
    pub images: Vec<StoredImage>,
    /// Hashes of bytes that the task does not need any more.
    pub let_go: Vec<String>,
    /// When the task next owes work.
    pub wake_at: Option<Millis>,
    /// The lane that must have room for it.
    pub gate: Option<Gate>,
    /// Whether this worker keeps the task for as long as a lease holds.
    pub leased: bool,
    /// Whether it tells how an attempt ended, beyond doubt.
    pub certain: bool,
}

impl Step {
    /// A step that changes the task alone.
    pub fn new(event: Event, wake_at: Millis) -> Self {
        Self {
            event,
            attempt: None,
            book: false,
            images: Vec::new(),
            let_go: Vec::new(),
            wake_at: Some(wake_at),
            gate: None,
            leased: false,
            certain: false,
        }
    }

    /// A step after which this worker goes on with the task.
    pub fn leased(event: Event) -> Self {
        Self { leased: true, ..Self::new(event, Millis(0)) }
    }

    /// The same step, said beyond doubt.
    pub fn certain(self) -> Self {
        Self { certain: true, ..self }
    }

    /// The same step with an attempt that changed.
    pub fn with(self, attempt: Attempt) -> Self {
        Self { attempt: Some(attempt), ..self }
    }

    /// The same step with an attempt that is over.
    pub fn closing(self, attempt: Attempt) -> Self {
        Self { attempt: Some(attempt), book: true, ..self }
    }

    /// The same step, if the lane has room.
    pub fn through(self, gate: Gate) -> Self {
        Self { gate: Some(gate), ..self }
    }

    /// Whether it tells of something the provider did, and must outlive a lost lease. What was gathered from parts is
    /// none: it can be looked at again, and its sums are the task's own.
    fn is_knowledge(&self) -> bool {
        self.attempt.is_some() && matches!(self.event, Event::Accept | Event::Produce(_))
    }
}

impl Inner {
    /// Saves a step and answers with the task as it is now; `None` when the task is another worker's, or the step may not
    /// follow: then this worker has nothing more to do.
    pub(super) fn save(&self, task: Box<Task>, step: Step) -> BoxFuture<'_, Option<Box<Task>>> {
        Box::pin(self.save_until_done(task, step))
    }

    async fn save_until_done(&self, mut task: Box<Task>, step: Step) -> Option<Box<Task>> {
        let mut tries = 0;
        loop {
            let mut next = task.clone();
            let told = match next.apply(step.event.clone(), self.clock.now()) {
                Ok(told) => told,
                Err(illegal) => {
                    tracing::warn!(task.id = %task.id, %illegal, "a step came too late");
                    return None;
                }
            };
            // Once, however often the step is saved: an answer to a commit can be lost.
            let closed = step.attempt.as_ref().filter(|_| step.book && !next.state.booked);
            let entries: Vec<_> = closed.map(|attempt| next.book(attempt)).into_iter().collect();
            let books = closed.is_some();
            if !next.phase.terminal() {
                // A lease begins when it is written, not when it was thought of.
                next.wake_at =
                    if step.leased { Some(self.clock.now() + self.settings.lease) } else { step.wake_at };
            }
            let change = Change {
                task: next,
                attempt: step.attempt.clone(),
                other: None,
                verdict: None,
                images: step.images.clone(),
                let_go: step.let_go.clone(),
                notices: told.into_iter().collect(),
                gate: step.gate.clone(),
                entries,
                whole: None,
                audit: None,
            };
            if planted("webhook_before_commit") {
                self.send_too_early(&change).await;
            }
            match self.store.save(change).await {
                Ok(saved) => {
                    self.tally(&saved, &step);
                    if let Some(attempt) = step.attempt.as_ref().filter(|_| books) {
                        self.tell_attempt(&saved, attempt);
                    }
                    self.saved(&saved);
                    return Some(saved);
                }
                Err(StoreError::Closed(until)) => return self.turned_back(task, &step, until).await,
                Err(StoreError::Bound) => return self.bound_elsewhere(task, &step).await,
                Err(StoreError::Stale) => task = self.reread(&task, &step).await?,
                Err(error) => {
                    tries += 1;
                    tracing::error!(task.id = %task.id, %error, tries, "cannot save a step; trying again");
                    tokio::time::sleep(backoff(Duration::from_millis(200), tries, Duration::from_secs(5)))
                        .await;
                }
            }
        }
    }

    /// Another task took the last room, perhaps on another replica: this one stays in line.
    async fn turned_back(&self, mut task: Box<Task>, step: &Step, until: Millis) -> Option<Box<Task>> {
        if let Some(gate) = &step.gate {
            task.enter_line(gate.lane.clone());
        }
        let until = until.max(self.clock.now() + LOOK_AGAIN).min(task.start_by);
        self.save(task, Step::new(Event::Stay(None), until)).await;
        None
    }

    /// The job that an answer named is another attempt's: nothing of the answer is believed. If that attempt is an earlier one
    /// of the same task, what it makes is the task's; anything else is a mistake of the provider's, or worse.
    async fn bound_elsewhere(&self, task: Box<Task>, step: &Step) -> Option<Box<Task>> {
        let mut attempt = step.attempt.clone()?;
        let mut tries = 0;
        let mut done = self.job_taken(&attempt).await;
        while let Err(error) = done {
            tries += 1;
            tracing::error!(task.id = %task.id, %error, tries, "cannot look up whose job it is; trying again");
            tokio::time::sleep(backoff(Duration::from_millis(200), tries, Duration::from_secs(5))).await;
            done = self.job_taken(&attempt).await;
        }
        let verdict = Verdict::new(Billing::Unknown, "answered with the id of another attempt's job");
        let error = ProviderError::new(Kind::Contract, verdict, "the provider named another attempt's job");
        (attempt.handle, attempt.finished_at, attempt.failure) = (None, None, Some(failure(&error)));
        match task.phase {
            Phase::Submitting => self.unclear(task, attempt, &error).await,
            // What a callback named is no news; what else is known of the task stands.
            _ => self.stay(task, None, self.clock.now() + LOOK_AGAIN * 20).await,
        }
        None
    }

    /// Tells of a job that another attempt has already, and wakes that one if it is of the same task.
    pub(super) async fn job_taken(&self, attempt: &Attempt) -> Result<(), StoreError> {
        let handle = attempt.handle.as_deref().unwrap_or_default();
        let Some(owner) = self.store.attempt_by_job(&attempt.upstream, handle).await? else { return Ok(()) };
        let same_task = owner.task == attempt.task;
        tracing::error!(
            attempt.id = %attempt.id, provider.id = attempt.provider, handle, owner = %owner.id, same_task,
            "the provider named a job that is another attempt's; nothing of it is delivered"
        );
        counter!(meter::JOB_CONFLICTS, "provider" => attempt.provider.clone()).increment(1);
        if same_task {
            self.store.knock(owner.id, None, None).await?;
        }
        Ok(())
    }

    /// The task as another writer left it, when the step still belongs to it. What the provider said of an attempt that the
    /// task no longer waits for is left with the attempt, to be looked after.
    async fn reread(&self, task: &Task, step: &Step) -> Option<Box<Task>> {
        let mut tries = 0;
        let now = loop {
            match self.store.task(task.id).await {
                Ok(now) => break Box::new(now?),
                Err(error) => {
                    tries += 1;
                    tracing::error!(task.id = %task.id, %error, tries, "cannot read a task again; trying again");
                    tokio::time::sleep(backoff(Duration::from_millis(200), tries, Duration::from_secs(5)))
                        .await;
                }
            }
        };
        let mine = now.state.attempt == task.state.attempt && !now.phase.terminal();
        if mine && (step.is_knowledge() || (step.certain && !now.state.booked)) {
            return Some(now);
        }
        if let Some(mut attempt) = step.attempt.clone().filter(|_| step.is_knowledge()) {
            let made = if let Event::Produce(outputs) = &step.event { outputs.clone() } else { Vec::new() };
            attempt.made_verdict = (!made.is_empty()).then(|| attempt.verdict());
            self.leave_behind(attempt, made).await;
        }
        tracing::warn!(task.id = %task.id, event = step.event.name(), "another worker has taken the task over");
        None
    }

    /// From now on the task is held by its new version, and its row says where it is.
    pub(super) fn saved(&self, task: &Task) {
        if let Some(held) = self.held().get_mut(&task.id) {
            held.version = task.version;
            held.starting = None;
            if task.phase == Phase::Storing {
                held.work = Work::Save;
            }
        }
        if task.phase.terminal() {
            self.tell_task(task);
        }
        if task.phase.terminal() && task.parent.is_none() {
            self.crowd.left(&task.tenant);
            super::tally::ended(task, self.clock.now());
        }
    }
}
