//! Counts what was committed: how tasks and attempts ended, what they cost, what was kept.

use metrics::{counter, histogram};

use super::Inner;
use super::save::Step;
use crate::domain::attempt::{Attempt, AttemptState, Billing};
use crate::domain::clock::Millis;
use crate::domain::meter;
use crate::domain::task::{Event, Phase, Task};
use crate::providers::{Progress, ProviderError};

impl Inner {
    /// A step is durable.
    pub(super) fn tally(&self, task: &Task, step: &Step) {
        let now = self.clock.now();
        match &step.event {
            Event::Submit { route, .. } => {
                let provider = route.provider.clone();
                counter!(meter::SUBMISSIONS, "provider" => provider.clone()).increment(1);
                if task.state.attempts <= 1 {
                    let waited = now.since(task.created_at);
                    histogram!(meter::QUEUE_WAIT, "provider" => provider).record(waited);
                }
            }
            Event::Lose => {
                let provider = step.attempt.as_ref().map_or("", |attempt| &attempt.provider);
                counter!(meter::UNKNOWN_OUTCOMES, "provider" => provider.to_owned()).increment(1);
            }
            _ => {}
        }
        if let Some(attempt) = step.attempt.as_ref().filter(|_| step.book) {
            over(attempt);
        }
        // The pictures of a divided task were counted as its parts'.
        if task.state.parts == 0 {
            kept(step.images.iter().map(|image| image.bytes));
        }
    }
}

/// A task has ended.
pub(super) fn ended(task: &Task, now: Millis) {
    let code = task.state.failure.as_ref().map_or("none", |error| error.code.as_str());
    let (billed, seconds) = (task.billed().as_str(), now.since(task.created_at).as_secs());
    if task.phase == Phase::Failed {
        tracing::info!(task.id = %task.id, code, billed, seconds, "a task failed");
    } else {
        tracing::debug!(task.id = %task.id, billed, seconds, "a task ended: {}", task.phase.as_str());
    }
    let status = task.phase.as_str();
    counter!(meter::TASKS_FINISHED, "status" => status, "code" => code).increment(1);
    histogram!(meter::TASK_SECONDS, "status" => status).record(now.since(task.created_at));
}

/// What became of an attempt was learned after its task had gone on without it.
pub(super) fn late(attempt: &Attempt, sizes: impl Iterator<Item = u64>) {
    let (provider, billed) = (attempt.provider.clone(), attempt.billed.as_str());
    counter!(meter::LATE, "provider" => provider, "billed" => billed).increment(1);
    if attempt.billed == Billing::Yes {
        cost(attempt);
    }
    kept(sizes);
}

/// Pictures are in custody.
fn kept(sizes: impl Iterator<Item = u64>) {
    let (mut count, mut bytes) = (0, 0);
    for size in sizes {
        count += 1;
        bytes += size;
    }
    if count > 0 {
        counter!(meter::PICTURES).increment(count);
        counter!(meter::PICTURE_BYTES).increment(bytes);
    }
}

/// An attempt is over.
fn over(attempt: &Attempt) {
    let provider = attempt.provider.clone();
    let failure = attempt.failure.as_ref().filter(|_| attempt.state != AttemptState::Succeeded);
    let error = failure.map_or("none", |failure| failure.code.as_str());
    let (outcome, billed) = (attempt.state.as_str(), attempt.billed.as_str());
    counter!(
        meter::ATTEMPTS, "provider" => provider, "outcome" => outcome, "error" => error, "billed" => billed
    )
    .increment(1);
    cost(attempt);
}

/// What it cost, or may have.
fn cost(attempt: &Attempt) {
    let money = match attempt.billed {
        Billing::No => None,
        Billing::Yes => attempt.charged,
        Billing::Unknown => attempt.possible_charge,
    };
    let nanos = money.and_then(|money| u64::try_from(money.nanos()).ok()).unwrap_or(0);
    if nanos > 0 {
        let (provider, billed) = (attempt.provider.clone(), attempt.billed.as_str());
        counter!(meter::COST, "provider" => provider, "billed" => billed).increment(nanos);
    }
}

/// A provider was asked about a job.
pub(super) fn asked(provider: &str, answer: &Result<Progress, ProviderError>) {
    let answer = match answer {
        Ok(Progress::Pending(_)) => "pending",
        Ok(Progress::Done(_)) => "done",
        Ok(Progress::Failed(_)) => "failed",
        Err(_) => "error",
    };
    counter!(meter::POLLS, "provider" => provider.to_owned(), "answer" => answer).increment(1);
}
