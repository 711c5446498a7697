//! One step of one task: phase → effect → event → `step()` → save. Each function performs the one effect its phase calls
//! for and says what came of it; what may follow is decided by the domain.

use std::time::Duration;

use metrics::counter;

use super::late::{BELIEVED_AFTER, LOOK_AFTER, LOOK_RARELY};
use super::pace::{backoff, next_poll};
use super::results::reason;
use super::retry::failure;
use super::save::Step;
use super::{Inner, Lane, spans};
use crate::blobs::{BlobError, Saved};
use crate::chaos::crash;
use crate::domain::attempt::{Attempt, AttemptState, Billing, Verdict};
use crate::domain::clock::Millis;
use crate::domain::code::Code;
use crate::domain::lane::Outcome;
use crate::domain::meter;
use crate::domain::request::GenerateRequest;
use crate::domain::task::{Event, Failure, Output, Phase, Source, Stopping, Task};
use crate::providers::{Answered, Asked, Done, ImageSource, InlineImage, Kind, Progress, ProviderError};
use crate::trace;

/// A provider that has done its work without a picture is asked again this often before it is believed.
const ASK_AGAIN: u32 = 3;
/// The longest rest between polls that a provider can ask for: its job may be done at any moment.
const POLL_REST: Duration = Duration::from_secs(30);
/// How long a provider may deny knowing a job it accepted.
const MISSING_FOR: Duration = Duration::from_mins(10);

/// Performs what the task's phase calls for.
pub(super) async fn run(engine: &Inner, task: Box<Task>) {
    let span = engine.step(&task);
    // Boxed each: a worker is as large as the phase it is in, not as the largest of them.
    let step = async {
        match task.phase {
            Phase::Queued => Box::pin(engine.start(task)).await,
            Phase::Submitting => Box::pin(engine.lost(task)).await,
            Phase::Waiting => Box::pin(engine.poll(task)).await,
            Phase::Reconciling => Box::pin(engine.reconcile(task)).await,
            Phase::Gathering => Box::pin(engine.gather(task)).await,
            Phase::Storing => Box::pin(engine.bring(task)).await,
            Phase::Succeeded | Phase::Failed | Phase::Canceled => {}
        }
    };
    span.around(step).await;
}

/// Whether a failure that cost nothing has been told long enough ago for the first time.
fn believed(attempt: &Attempt, error: &ProviderError, now: Millis) -> bool {
    let told = attempt.failed_since.is_some_and(|since| now.since(since) >= BELIEVED_AFTER);
    told && error.verdict.billed == Billing::No
}

impl Inner {
    /// Asks how an accepted job stands.
    async fn poll(&self, task: Box<Task>) {
        let now = self.clock.now();
        let Some(mut attempt) = self.attempt(&task).await else { return };
        if now >= task.deadline_at {
            return self.out_of_time(task, attempt).await;
        }
        let Some((lane, handle)) = self.lane(&attempt.provider).zip(attempt.handle.clone()) else {
            tracing::error!(task.id = %task.id, provider.id = attempt.provider, "the provider of a task at work is no longer configured");
            let later = now + Duration::from_mins(1);
            self.stay(task, None, later).await;
            return;
        };
        let pace = lane.provider.pace();
        let next = (now + next_poll(&pace, task.state.tries)).min(task.deadline_at);
        let mut task = task;
        if task.state.stopping == Some(Stopping::Wanted) {
            self.ask_to_stop(&mut task, &lane, &handle).await;
        }
        let answered = self.check(&lane, &attempt, &handle, &task.request).await;
        crash("poll.answered");
        let silent = matches!(&answered.outcome, Err(error) if error.kind != Kind::Missing);
        task.state.unanswered = if silent { task.state.unanswered + 1 } else { 0 };
        // One that cannot be asked about takes nobody's place for longer than it can run.
        let runs_until = task.state.slot_until.unwrap_or(now + self.longest(&attempt.provider));
        task.state.slot_until = silent.then_some(runs_until);
        let kept = reason(&answered).zip(answered.evidence);
        match answered.outcome {
            Ok(Progress::Pending(pending)) => self.stay(task, pending.progress, next).await,
            Ok(Progress::Done(done)) => {
                self.keep_evidence(&task, &attempt, kept).await;
                // What could not be read can be asked for again.
                self.produce(task, attempt, done).await;
            }
            Ok(Progress::Failed(error)) if task.state.stopping.is_some() => {
                attempt.failure = Some(failure(&error));
                // It may have done its work all the same, and say so later.
                attempt.look_at = Some(now + LOOK_AFTER);
                attempt.close(AttemptState::Failed, error.verdict, now);
                self.note(&attempt.provider, &attempt.provider_model, Outcome::Neutral).await;
                self.save(task, Step::new(Event::Cancel, now).closing(attempt).certain()).await;
            }
            // Links may lag behind the word "completed".
            Ok(Progress::Failed(error))
                if error.kind == Kind::NoImage && task.state.empty_handed < ASK_AGAIN =>
            {
                task.state.empty_handed += 1;
                self.stay(task, None, now + Duration::from_secs(20)).await;
            }
            // What cost nothing, or not yet, may yet be done.
            Ok(Progress::Failed(error)) if !error.settled && !believed(&attempt, &error, now) => {
                let since = if error.verdict.billed == Billing::No {
                    attempt.failed_since.or(Some(now))
                } else {
                    None
                };
                let step = Step::new(Event::Stay(None), next.max(now + BELIEVED_AFTER).min(task.deadline_at));
                let attempt = Attempt { failed_since: since, ..attempt };
                self.save(task, step.with(attempt)).await;
            }
            Ok(Progress::Failed(error)) => {
                let state =
                    if error.kind == Kind::NoImage { AttemptState::NoImage } else { AttemptState::Failed };
                if state == AttemptState::NoImage {
                    self.keep_evidence(&task, &attempt, kept).await;
                }
                // It may change its mind: then what it makes is brought here all the same.
                attempt.look_at = Some(now + LOOK_AFTER);
                self.over(task, attempt, state, error).await;
            }
            Err(error) if error.kind == Kind::Missing => {
                let since = task.state.since.unwrap_or(task.created_at);
                if now.since(since) > MISSING_FOR {
                    attempt.look_at = Some(now + LOOK_RARELY);
                    self.over(task, attempt, AttemptState::Lost, error).await;
                } else {
                    self.stay(task, None, next).await;
                }
            }
            // A poll is free and proves nothing: it is asked again.
            Err(error) => {
                // A provider that is away for a night is told of now and then, and its answers can hold the prompt.
                if task.state.unanswered.is_power_of_two() {
                    tracing::warn!(
                        task.id = %task.id, provider.id = attempt.provider, error.kind = ?error.kind,
                        http.status = error.words.http_status, failed = task.state.unanswered, "a poll failed; asking again"
                    );
                }
                tracing::debug!(task.id = %task.id, %error, "its answer");
                let rest = error.retry_after.unwrap_or_default().min(POLL_REST);
                self.stay(task, None, next.max(now + rest)).await;
            }
        }
    }

    /// Asks a provider about a job. One that only a callback named must also show the address we planted.
    pub(super) async fn check(
        &self,
        lane: &Lane,
        attempt: &Attempt,
        handle: &str,
        request: &GenerateRequest,
    ) -> Answered {
        let hinted = attempt.handle.as_deref() != Some(handle) && attempt.token_hash.is_some();
        let hook = hinted.then(|| self.links.hook(&attempt.provider, attempt.id));
        let callback = hook.as_ref().map(|hook| hook.url.as_str());
        let span = Self::calling(&trace::here(), "provider.check", &attempt.provider);
        let (provider_model, sent) = (attempt.provider_model.as_str(), attempt.sent.as_slice());
        let asked = Asked { handle, request, provider_model, sent, callback };
        let answered = span.around(lane.provider.check(&asked)).await;
        spans::answered(&span, &answered.outcome);
        super::tally::asked(&attempt.provider, &answered.outcome);
        answered
    }

    /// Passes a caller's wish to the provider, once. Whatever it answers, the next look tells what became of the job.
    async fn ask_to_stop(&self, task: &mut Task, lane: &Lane, handle: &str) {
        task.state.stopping = Some(Stopping::Asked);
        let span = Self::calling(&trace::here(), "provider.cancel", &task.lane);
        match span.around(lane.provider.cancel(handle)).await {
            Ok(agreed) => tracing::info!(task.id = %task.id, agreed, "the provider was asked to stop"),
            Err(error) => {
                spans::refused(&span, &error);
                let kind = error.kind;
                tracing::warn!(task.id = %task.id, error.kind = ?kind, "the provider could not be asked to stop");
            }
        }
    }

    async fn out_of_time(&self, task: Box<Task>, mut attempt: Attempt) {
        self.note(&attempt.provider, &attempt.provider_model, Outcome::Neutral).await;
        // The task is over, the job is not: what it makes is still brought here.
        attempt.look_at = Some(self.clock.now() + LOOK_AFTER);
        let verdict = Verdict::new(Billing::Unknown, "still at work when the deadline passed");
        attempt.close(AttemptState::Lost, verdict, self.clock.now());
        let failure = Failure {
            code: Code::DeadlineExceeded,
            detail: format!("{} was still at work when the deadline passed", attempt.provider),
            billed: Billing::Unknown,
            provider: None,
        };
        let now = self.clock.now();
        self.save(task, Step::new(Event::Fail(failure), now).closing(attempt)).await;
    }

    pub(super) async fn stay(&self, mut task: Box<Task>, progress: Option<f32>, wake_at: Millis) {
        task.state.tries += 1;
        self.save(task, Step::new(Event::Stay(progress), wake_at)).await;
    }

    /// Keeps a picture that came inside an answer, however long the store refuses: nobody can be asked for it again.
    async fn put(&self, task: &Task, image: &InlineImage) -> Result<Saved, BlobError> {
        let mut tries = 0;
        loop {
            match self.keep_image(image).await {
                Err(BlobError::Storage(error)) => {
                    tries += 1;
                    tracing::error!(task.id = %task.id, %error, tries, "a paid picture cannot be written; trying again");
                    tokio::time::sleep(backoff(Duration::from_millis(200), tries, Duration::from_secs(5)))
                        .await;
                }
                put => return put,
            }
        }
    }

    /// The provider has made pictures: what came inside the answer is kept at once, links are committed, then fetched. Whether
    /// all of them could be read.
    pub(super) async fn produce(&self, task: Box<Task>, mut attempt: Attempt, done: Done) -> bool {
        let count = done.images.len();
        let now = self.clock.now();
        let mut outputs = Vec::with_capacity(done.images.len());
        // In hand until the row that names them is committed.
        let mut held = Vec::new();
        for made in done.images {
            let source = match made.source {
                ImageSource::Url(url) => Source::Url(url),
                ImageSource::Inline(image) => match self.put(&task, &image).await {
                    Ok(saved) => {
                        held.push(saved.hold);
                        Source::Blob(saved.sha256)
                    }
                    Err(error) => {
                        tracing::error!(task.id = %task.id, %error, "a picture inside an answer could not be kept");
                        continue;
                    }
                },
            };
            outputs.push(Output::new(source, made.kind));
        }
        if attempt.state != AttemptState::Succeeded {
            self.observed.succeeded(&attempt.provider, now.since(attempt.started_at));
            self.note(&attempt.provider, &attempt.provider_model, Outcome::Good).await;
        }
        attempt.handle = done.handle.or(attempt.handle);
        Self::note_absurd(&attempt, &done.verdict);
        attempt.close(AttemptState::Succeeded, done.verdict, now);
        if outputs.is_empty() {
            let error = ProviderError::new(
                Kind::NoImage,
                Verdict {
                    evidence: attempt.evidence.clone(),
                    charged: attempt.charged,
                    ..Verdict::new(attempt.billed, "")
                },
                "the answer's pictures could not be read",
            );
            self.over(task, attempt, AttemptState::NoImage, error).await;
            return false;
        }
        let all = outputs.len() == count;
        let of_job = attempt.handle.is_some().then(|| attempt.clone());
        let saved = self.save(task, Step::leased(Event::Produce(outputs)).closing(attempt)).await;
        drop(held);
        if let Some(attempt) = of_job.filter(|_| saved.is_none()) {
            // What came for a job that is another attempt's was not taken.
            let hint = attempt.handle.clone();
            return all && matches!(self.unless_taken(&attempt, hint).await, Ok(Some(_)));
        }
        if let Some(task) = saved {
            crash("links.committed");
            trace::span("task.save").around(self.bring(task)).await;
        }
        all
    }

    /// A charge far beyond the price is not believed, and somebody should look at it.
    pub(super) fn note_absurd(attempt: &Attempt, verdict: &Verdict) {
        if attempt.is_absurd(verdict) {
            let charged = verdict.charged.map(|usd| usd.to_string());
            tracing::error!(
                attempt.id = %attempt.id, provider.id = attempt.provider, charged_usd = charged,
                "a provider reports a charge far beyond the price; it is held as unknown"
            );
            counter!(meter::ABSURD_CHARGES, "provider" => attempt.provider.clone()).increment(1);
        }
    }

    /// The attempt in hand.
    pub(super) async fn attempt(&self, task: &Task) -> Option<Attempt> {
        match self.store.attempt(task.state.attempt?).await {
            Ok(attempt) => attempt,
            Err(error) => {
                tracing::error!(task.id = %task.id, %error, "cannot read the attempt in hand; trying again when the lease ends");
                None
            }
        }
    }
}
