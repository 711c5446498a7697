//! Paid calls of unknown outcome. They are looked for, by the ids that callbacks give and the provider confirms, until a
//! window is over; they are sent again only where that cannot be charged twice.

use super::Inner;
use super::late::{BELIEVED_AFTER, LOOK_AFTER};
use super::pace::next_poll;
use super::results::reason;
use super::save::Step;
use crate::chaos::planted;
use crate::domain::attempt::{Attempt, AttemptState, Billing, Verdict};
use crate::domain::clock::Millis;
use crate::domain::code::Code;
use crate::domain::lane::Outcome;
use crate::domain::request::OnUnknown;
use crate::domain::task::{Event, Failure, Task};
use crate::providers::{Answered, Kind, Progress, ProviderError};
use crate::spool::Evidence;
use crate::store::StoreError;

impl Inner {
    /// The worker that was submitting is gone, and its answer with it.
    pub(super) async fn lost(&self, mut task: Box<Task>) {
        let Some(mut attempt) = self.attempt(&task).await else { return };
        if planted("resubmit_on_lease_expiry") {
            self.save(task, Step::new(Event::Retry, self.clock.now())).await;
            return;
        }
        // What had come of the answer may tell what became of the call.
        if let Some(evidence) = self.spool.left(&attempt.id.to_string()) {
            return Box::pin(self.answered_before(task, attempt, evidence)).await;
        }
        attempt.judge(Verdict::new(Billing::Unknown, "the gateway stopped while the call was under way"));
        tracing::warn!(task.id = %task.id, attempt.id = %attempt.id, "a paid call was interrupted; its outcome is unknown");
        task.state.reconcile_until = Some(self.window(&task, &attempt, None));
        self.lose(task, attempt).await;
    }

    /// A process was killed, or a worker panicked, between an answer and the commit of what it says: it is read again.
    async fn answered_before(&self, task: Box<Task>, attempt: Attempt, evidence: Evidence) {
        let outcome = self.read_evidence(&attempt, &task, &evidence).await;
        let Some((outcome, lane)) = outcome.zip(self.lane(&attempt.provider)) else {
            // Its provider is not configured at present: the answer waits.
            tracing::error!(task.id = %task.id, provider.id = attempt.provider, "the answer to a paid call cannot be read: its provider is not configured");
            return;
        };
        tracing::warn!(task.id = %task.id, attempt.id = %attempt.id, "the answer to an interrupted paid call was found in the spool");
        self.answered(&lane, task, attempt, Answered { outcome, evidence: Some(evidence) }).await;
    }

    /// An answer from which nobody can tell whether the provider accepted.
    pub(super) async fn unclear(&self, mut task: Box<Task>, mut attempt: Attempt, error: &ProviderError) {
        attempt.judge(error.verdict.clone());
        tracing::warn!(
            task.id = %task.id, provider.id = attempt.provider, attempt.n = attempt.number, error.kind = ?error.kind,
            http.status = error.words.http_status, "the outcome of a paid call is unknown"
        );
        // What a provider answers can hold the prompt.
        tracing::debug!(task.id = %task.id, %error, "its answer");
        task.state.reconcile_until = Some(self.window(&task, &attempt, Some(error)));
        self.lose(task, attempt).await;
    }

    async fn lose(&self, mut task: Box<Task>, mut attempt: Attempt) {
        attempt.state = AttemptState::Unknown;
        task.state.slot_until = Some(self.clock.now() + self.longest(&attempt.provider));
        self.note(&attempt.provider, &attempt.provider_model, Outcome::Neutral).await;
        if let Some(task) = self.save(task, Step::leased(Event::Lose).with(attempt)).await {
            // What turns up may lead here again.
            Box::pin(self.reconcile(task)).await;
        }
    }

    /// Until when the submission is looked for.
    fn window(&self, task: &Task, attempt: &Attempt, error: Option<&ProviderError>) -> Millis {
        let now = self.clock.now();
        // Without an address to ring at nothing can turn up.
        if attempt.token_hash.is_none() || task.request.routing.on_unknown == Some(OnUnknown::Fail) {
            return now;
        }
        let usual = self.lane(&attempt.provider).map(|lane| lane.provider.pace().reconcile);
        let window = error.and_then(|error| error.window).or(usual).unwrap_or_default();
        (now + window).min(task.deadline_at)
    }

    /// Looks for a submission of unknown outcome until its window is over.
    pub(super) async fn reconcile(&self, task: Box<Task>) {
        let now = self.clock.now();
        let Some(mut attempt) = self.attempt(&task).await else { return };
        let hint = match self.store.hint(attempt.id).await {
            Ok(hint) => hint,
            Err(error) => {
                tracing::error!(task.id = %task.id, %error, "cannot read what a callback said; trying again when the lease ends");
                return;
            }
        };
        // A job that another attempt has is not ours, whatever the callback says; who cannot be asked is asked again. One that
        // our own call's answer named, which another process had and has read since, is.
        let hint = match self.unless_taken(&attempt, hint).await {
            Ok(hint) => hint,
            Err(error) => {
                tracing::error!(task.id = %task.id, %error, "cannot look up whose job a callback named; trying again when the lease ends");
                return;
            }
        };
        let until = task.state.reconcile_until.unwrap_or(now);
        let Some((handle, lane)) = attempt.handle.clone().or(hint).zip(self.lane(&attempt.provider)) else {
            if now < until {
                self.wait_for_news(task, until).await;
            } else {
                self.give_up_looking(task, attempt).await;
            }
            return;
        };
        let answered = self.check(&lane, &attempt, &handle, &task.request).await;
        let kept = reason(&answered).zip(answered.evidence);
        match answered.outcome {
            Ok(Progress::Pending(_)) => {
                attempt.handle = Some(handle);
                attempt.state = AttemptState::Accepted;
                attempt.judge(Verdict::new(
                    Billing::Unknown,
                    "found by its callback; what it costs is known at the end",
                ));
                let pace = lane.provider.pace();
                self.save(task, Step::new(Event::Accept, now + pace.poll_after).with(attempt)).await;
            }
            Ok(Progress::Done(done)) => {
                attempt.handle = Some(handle);
                self.keep_evidence(&task, &attempt, kept).await;
                self.produce(task, attempt, done).await;
            }
            // A job that is found failed is ours, and is asked once more whether it stays with that.
            Ok(Progress::Failed(error)) if error.kind != Kind::Contract && !error.settled => {
                attempt.handle = Some(handle);
                attempt.state = AttemptState::Accepted;
                attempt.judge(Verdict::new(
                    Billing::Unknown,
                    "found by its callback, failed and not yet believed",
                ));
                self.save(task, Step::new(Event::Accept, now + BELIEVED_AFTER).with(attempt)).await;
            }
            Ok(Progress::Failed(error)) if error.kind != Kind::Contract => {
                attempt.handle = Some(handle);
                attempt.look_at = Some(now + LOOK_AFTER);
                self.over(task, attempt, AttemptState::Failed, error).await;
            }
            // Not ours, not known there, or no answer: the hint alone proves nothing.
            _ if now < until => {
                let soon = now + next_poll(&lane.provider.pace(), task.state.tries);
                self.wait_for_news(task, soon.min(until)).await;
            }
            _ => {
                // The hint is followed further, though no longer by the task.
                attempt.look_at = Some(now + LOOK_AFTER);
                self.give_up_looking(task, attempt).await;
            }
        }
    }

    /// The job that a callback named, unless it is another attempt's.
    pub(super) async fn unless_taken(
        &self,
        attempt: &Attempt,
        hint: Option<String>,
    ) -> Result<Option<String>, StoreError> {
        let Some(hint) = hint else { return Ok(None) };
        let owner = self.store.attempt_by_job(&attempt.upstream, &hint).await?;
        Ok(Some(hint).filter(|_| owner.is_none_or(|owner| owner.id == attempt.id)))
    }

    async fn wait_for_news(&self, mut task: Box<Task>, until: Millis) {
        task.state.tries += 1;
        self.save(task, Step::new(Event::Stay(None), until)).await;
    }

    /// The window is over: another attempt where that is allowed, else the honest answer.
    async fn give_up_looking(&self, task: Box<Task>, mut attempt: Attempt) {
        let now = self.clock.now();
        let by_the_hour = self.lane(&attempt.provider).is_some_and(|lane| lane.provider.pace().by_the_hour);
        let verdict = if by_the_hour {
            Verdict::new(Billing::No, format!("{}; the server is paid by the hour", attempt.evidence))
        } else {
            Verdict::new(Billing::Unknown, attempt.evidence.clone())
        };
        attempt.close(AttemptState::Lost, verdict, now);
        let mut booked = task.clone();
        booked.book(&attempt);
        if self.may_resubmit(&booked, &attempt, by_the_hour) {
            tracing::warn!(task.id = %task.id, provider.id = attempt.provider, "sent again: what became of the first call is not known");
            self.save(task, Step::new(Event::Retry, now).closing(attempt)).await;
            return;
        }
        let failure = Failure {
            code: Code::OutcomeUnknown,
            detail: format!("{}: {}; it was not sent again", attempt.provider, attempt.evidence),
            billed: attempt.billed,
            provider: attempt.failure.as_ref().and_then(|failure| failure.provider.clone()),
        };
        self.save(task, Step::new(Event::Fail(failure), now).closing(attempt)).await;
    }

    /// Whether a task may be sent once more although nobody knows what became of its last call.
    fn may_resubmit(&self, task: &Task, attempt: &Attempt, by_the_hour: bool) -> bool {
        let Some(sends) = task.state.in_hand().map(|candidate| candidate.sends) else { return false };
        let wanted = match task.request.routing.on_unknown {
            Some(OnUnknown::Resubmit) => sends < 3,
            Some(OnUnknown::Hold | OnUnknown::Fail) => false,
            None => by_the_hour && sends < 2,
        };
        wanted && self.clock.now() < task.start_by && super::spend::may_spend(task, attempt.possible_charge)
    }
}
